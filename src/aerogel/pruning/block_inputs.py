"""Entering a model's blocks: how each is called on the calibration text, found by calling them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import ModelError, PruningError
from aerogel.models import evaluating, head_kind
from aerogel.pruning.calibration import Batch

IN_MEMORY = 2 * 1024**3  # bytes of activations; what is more goes to disk


@dataclass(frozen=True)
class Call:
    """How a block was called on one batch, hidden states apart.

    `tokens` (batch, sequence) is False at padding; `beside` are the other side's states that cross-attention reads,
    with their own `beside_tokens`.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tokens: Tensor
    beside: Tensor | None
    beside_tokens: Tensor | None

    def run(self, block: nn.Module, states: Tensor) -> Tensor:
        if "hidden_states" in self.keywords:
            output = block(*self.arguments, **self.keywords | {"hidden_states": states})
        else:
            output = block(states, *self.arguments, **self.keywords)
        return output if isinstance(output, Tensor) else output[0]

    def inputs(self, given: Tensor) -> Tensor:
        """What a linear layer was given, without padding: (tokens, d_in).

        What is not of the texts, such as the relative positions of DeBERTa, comes whole.
        """
        crossing = self.beside is not None and given.data_ptr() == self.beside.data_ptr()
        tokens = self.beside_tokens if crossing else self.tokens
        flat = given.detach().reshape(-1, given.shape[-1]).float()
        assert tokens is not None
        if tokens.numel() != len(flat):
            if len(given) == len(tokens) > 1:
                raise PruningError(f"it is given {len(flat)} positions where the text has {tokens.numel()}")
            return flat
        return flat if tokens.all() else flat[tokens.flatten()]


def enter(
    model: PreTrainedModel, name: str, blocks: nn.ModuleList, batches: Sequence[Batch], shelf: ActivationStore
) -> tuple[list[Tensor], list[list[Call]]]:
    """The states that go into the first block, by batch, and how every block is called: `calls[block][batch]`.

    The first block runs, since what it returns may reach the later ones (T5's position bias); the others only note
    how they are called and hand on what the first one returned.
    """
    states: list[Tensor] = []
    calls: list[list[Call]] = [[] for _ in blocks]
    encoder = _encoder(model)
    in_encoder = encoder is not None and any(module is blocks for module in encoder.modules())
    # a language-model head over a large vocabulary costs more than all the rest of this pass
    runner: nn.Module
    runner = (
        encoder if in_encoder and encoder else model.base_model if head_kind(model) == "language-modelling" else model
    )
    for batch in batches:
        seen = _calls_of(runner, name, blocks, _for_encoder(batch) if in_encoder else batch)
        for place, found in enumerate(seen):
            if len(found) != 1:
                times = f"{len(found)} times" if found else "never"
                raise ModelError(
                    f"block {name}.{place} runs {times} in one pass over a text, and calibration block by block "
                    "follows models that run each block once"
                )
        tokens = _tokens(batch, in_encoder or encoder is None)
        for place, [(arguments, keywords)] in enumerate(seen):
            hidden, rest = _split(arguments, keywords)
            tokens = torch.ones(hidden.shape[:2], dtype=torch.bool) if tokens is None else tokens
            if hidden.shape[:2] != tokens.shape:
                raise ModelError(
                    f"block {name}.{place} is given states of shape {tuple(hidden.shape)} where the text is of shape "
                    f"{tuple(tokens.shape)}, and calibration block by block looks for (batch, sequence, d)"
                )
            beside = next((value for value in chain(rest, keywords.values()) if _like_states(value, hidden)), None)
            beside_tokens = None if beside is None else _tokens(batch, True)
            if beside is not None and beside_tokens is None:
                beside_tokens = torch.ones(beside.shape[:2], dtype=torch.bool)
            calls[place].append(Call(rest, keywords, tokens, beside, beside_tokens))
            if place == 0:
                states.append(shelf.keep(hidden))
    return states, calls


def _calls_of(
    runner: nn.Module, name: str, blocks: nn.ModuleList, batch: Batch
) -> list[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The arguments of each call of each block in one pass.

    Raises `ModelError` where one is given other states than the one before it returned.
    """
    seen: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in blocks]
    returned: Any = None
    originals = [block.forward for block in blocks]
    instances = [block.__dict__.get("forward") for block in blocks]  # what others put on the instance

    def noting(place: int) -> Any:
        def forward(*arguments: Any, **keywords: Any) -> Any:
            nonlocal returned
            seen[place].append((arguments, keywords))
            if returned is not None and not _handed_on(returned, _split(arguments, keywords)[0]):
                raise ModelError(
                    f"block {name}.{place} is given something else than the block before it returned, and calibration "
                    "block by block follows models whose blocks hand their states on as they are"
                )
            if returned is None:
                returned = originals[place](*arguments, **keywords)
            return returned

        return forward

    try:
        for place, block in enumerate(blocks):
            block.forward = noting(place)  # on the instance, so that its attributes stay in sight
        runner(**batch)
    finally:
        for block, before in zip(blocks, instances, strict=True):
            block.__dict__.pop("forward", None)
            if before is not None:
                block.forward = before
    return seen


def _split(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...]]:
    """The hidden states of a call, and its other positional arguments."""
    if "hidden_states" in keywords:
        return keywords["hidden_states"], arguments
    return arguments[0], arguments[1:]


def _handed_on(returned: Any, given: Tensor) -> bool:
    states = returned if isinstance(returned, Tensor) else returned[0]
    return given is states or torch.equal(given, states)


def _like_states(value: Any, hidden: Tensor) -> bool:
    """Whether an argument of a block is the other side's states: (batch, sequence, d), in floating point."""
    return isinstance(value, Tensor) and value is not hidden and value.dim() == 3 and value.shape[0] == len(hidden)


def _encoder(model: PreTrainedModel) -> nn.Module | None:
    return model.base_model.get_encoder() if model.config.is_encoder_decoder else None


def _for_encoder(batch: Batch) -> dict[str, Tensor]:
    return {name: values for name, values in batch.items() if name in ("input_ids", "attention_mask")}


def _tokens(batch: Batch, is_encoder: bool) -> Tensor | None:
    mask = batch.get("attention_mask" if is_encoder else "decoder_attention_mask")
    return None if mask is None else mask.bool()


@contextmanager
def plain(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, without the cache of generation; T5 has a configuration for each side."""
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
    """Keeps activations: in memory up to a limit, then in files that are mapped into it."""

    folder: str
    used: int = 0

    def keep(self, states: Tensor) -> Tensor:
        self.used += states.nbytes
        if self.used <= IN_MEMORY:
            return states.detach().clone()
        path = tempfile.NamedTemporaryFile(dir=self.folder, delete=False).name  # noqa: SIM115
        kept = torch.from_file(path, shared=True, size=states.numel(), dtype=states.dtype).view(states.shape)
        return kept.copy_(states.detach())
