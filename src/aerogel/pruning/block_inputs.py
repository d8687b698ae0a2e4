"""Capture the inputs of each transformer block on the calibration text."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import ModelError, PruningError
from aerogel.models import evaluating, head_kind
from aerogel.pruning.batches import Batch

IN_MEMORY = 2 * 1024**3  # bytes of activations that stay in memory; the rest goes to disk
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """How a block is called on one batch, apart from its hidden states.

    Attributes:
        arguments: the positional arguments after the hidden states.
        keywords: the keyword arguments.
        tokens: (batch, sequence), False at padding.
        encoder_hidden_states: (batch, sequence, d), the input of cross-attention, `None` without it.
        encoder_tokens: (batch, sequence), False at the padding of `encoder_hidden_states`.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tokens: Tensor
    encoder_hidden_states: Tensor | None
    encoder_tokens: Tensor | None

    def run(self, block: nn.Module, states: Tensor) -> Tensor:
        states = states.to(self.tokens.device)  # from a memory-mapped file
        if "hidden_states" in self.keywords:
            output = block(*self.arguments, **self.keywords | {"hidden_states": states})
        else:
            output = block(states, *self.arguments, **self.keywords)
        return first_tensor(output)

    def without_padding(self, inputs: Tensor) -> Tensor:
        """The inputs of a linear layer at the tokens, (tokens, d_in).

        Inputs that are not of the text, such as DeBERTa's relative positions, have no padding.
        """
        states = self.encoder_hidden_states
        from_encoder = states is not None and inputs.data_ptr() == states.data_ptr()
        tokens = self.encoder_tokens if from_encoder else self.tokens
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        assert tokens is not None
        if tokens.numel() != len(flat):
            if len(inputs) == len(tokens) > 1:
                raise PruningError(f"its input has {len(flat)} positions, expected the {tokens.numel()} of the text")
            return flat
        return flat if tokens.all() else flat[tokens.flatten()]


def capture(
    model: PreTrainedModel, name: str, blocks: nn.ModuleList, batches: Sequence[Batch], store: ActivationStore
) -> tuple[list[Tensor], list[list[Call]]]:
    """The hidden states that enter the first block, by batch, and how every block is called: `calls[block][batch]`.

    Raises `ModelError` for a model that can't be pruned block by block: see `_record_calls`.
    """
    states: list[Tensor] = []
    calls: list[list[Call]] = [[] for _ in blocks]
    encoder = model.base_model.get_encoder() if model.config.is_encoder_decoder else None
    in_encoder = encoder is not None and any(module is blocks for module in encoder.modules())
    encoder_takes = () if encoder is None else inspect.signature(encoder.forward).parameters
    runner = model_to_run(model)
    if encoder is not None and in_encoder and model.main_input_name in encoder_takes:  # DETR's takes embeddings
        runner = encoder
    for batch in batches:
        encoder_inputs = {key: values for key, values in batch.items() if key in encoder_takes}
        recorded = _record_calls(runner, name, blocks, encoder_inputs if runner is encoder else batch)
        tokens = _tokens(batch, in_encoder or encoder is None, _split(*recorded[0])[0])
        for index, (arguments, keywords) in enumerate(recorded):
            hidden, rest = _split(arguments, keywords)
            if hidden.shape[:2] != tokens.shape:
                raise ModelError(
                    f"block {name}.{index} gets hidden states of shape {tuple(hidden.shape)} on inputs of shape "
                    f"{tuple(tokens.shape)}: calibration block by block needs (batch, sequence, d)"
                )
            others = (value for value in chain(rest, keywords.values()) if _like_states(value, hidden))
            cross = next(others, None)
            cross_tokens = None if cross is None else _tokens(batch, True, cross)
            calls[index].append(Call(rest, keywords, tokens, cross, cross_tokens))
            if index == 0:
                states.append(store.keep(hidden))
    return states, calls


def model_to_run(model: PreTrainedModel) -> nn.Module:
    """The part of a model that is run to capture the inputs of its blocks, unless that is its encoder alone."""
    if head_kind(model) == "language-modelling":  # its head costs more than the rest of this pass
        base: nn.Module = model.base_model
        return base
    return model


def _record_calls(runner: nn.Module, name: str, blocks: nn.ModuleList, batch: Batch) -> list[Arguments]:
    """The arguments of each block in one pass.

    Only the first block runs, since its outputs may be arguments of the later ones (T5's position bias). The others
    return its output. Raises `ModelError` where a block does not run exactly once, or does not get the output of the
    block before it.
    """
    recorded: list[list[Arguments]] = [[] for _ in blocks]
    output: Any = None
    originals = [block.forward for block in blocks]
    overrides = [block.__dict__.get("forward") for block in blocks]  # set on the instance by someone else

    def recording(index: int) -> Callable[..., Any]:
        def forward(*arguments: Any, **keywords: Any) -> Any:
            nonlocal output
            recorded[index].append((arguments, keywords))
            if output is None:
                output = originals[index](*arguments, **keywords)
            elif not _equal_states(first_tensor(output), _split(arguments, keywords)[0]):
                raise ModelError(
                    f"block {name}.{index} does not get the previous block's output: use a method without calibration"
                )
            return output

        return forward

    try:
        for index, block in enumerate(blocks):
            block.forward = recording(index)  # on the instance, so that its attributes stay visible
        runner(**batch)
    finally:
        for block, override in zip(blocks, overrides, strict=True):
            block.__dict__.pop("forward", None)
            if override is not None:
                block.forward = override
    for index, passes in enumerate(recorded):
        if len(passes) != 1:
            raise ModelError(
                f"block {name}.{index} runs {len(passes)} times in one pass, not once: use a method without calibration"
            )
    return [arguments for [arguments] in recorded]


def _split(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
    """The hidden states of a call, and its other positional arguments."""
    if "hidden_states" in keywords:
        return keywords["hidden_states"], arguments
    return arguments[0], arguments[1:]


def first_tensor(output: Any) -> Tensor:
    """The hidden states in the output of a module, which may be a tuple of several things."""
    return output if isinstance(output, Tensor) else output[0]


def _equal_states(states: Tensor, others: Tensor) -> bool:
    return states is others or torch.equal(states, others)


def _like_states(value: Any, hidden: Tensor) -> bool:
    """Whether an argument of a block has the shape of the encoder's hidden states, (batch, sequence, d)."""
    return isinstance(value, Tensor) and value is not hidden and value.dim() == 3 and value.shape[0] == len(hidden)


def _tokens(batch: Batch, is_encoder: bool, states: Tensor) -> Tensor:
    """(batch, sequence), False at padding; without a mask, the states have none."""
    mask = batch.get("attention_mask" if is_encoder else "decoder_attention_mask")
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return mask.bool().reshape(-1, mask.shape[-1])  # the choices of a text are rows of their own


@contextmanager
def evaluating_without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, without the cache of generation. T5 has a configuration for each of its two stacks."""
    parts = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    configs = {id(part.config): part.config for part in parts if getattr(part.config, "use_cache", False)}
    try:
        for config in configs.values():
            config.use_cache = False
        with evaluating(model):
            yield
    finally:
        for config in configs.values():
            config.use_cache = True


@dataclass
class ActivationStore:
    """Keeps activations in memory up to a limit, then in memory-mapped files."""

    folder: str
    limit: int = IN_MEMORY
    used: int = 0

    def keep(self, states: Tensor) -> Tensor:
        self.used += states.nbytes
        if self.used <= self.limit:
            return states.detach().clone()
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            path = file.name
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would kill the process later
                os.posix_fallocate(file.fileno(), 0, states.nbytes)
        mapped = torch.from_file(path, shared=True, size=states.numel(), dtype=states.dtype).view(states.shape)
        return mapped.copy_(states.detach())
