"""Compares fused blocks with their families' own code, with the installed versions, when a model is compressed."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aerogel.errors import AerogelWarning, ModelError, first_line
from aerogel.models import evaluating
from aerogel.runtime.fused.block import CURRENT_PASS, FusedBlock, cache_name
from aerogel.runtime.fused.stack import DecoderStack, StackPass, stack_blocks, stack_of
from aerogel.runtime.layers import sparse_layers

BATCH, LENGTH, PADDING = 2, 5, 2  # sequences, tokens, and the padding tokens that the first sequence begins with
# Difference of a block's outputs, relative to what it adds to its input: rounding causes about 1e-5 in float32 and 1e-2
# in the shorter types and int8, and a cache or mask that is ignored far more.
EXACT, ROUNDED = 1e-3, 5e-2
# The share of the output that counts as added at least, since rounding also grows with the input: by dtype.
RESIDUAL = {torch.float32: 1e-2}


def check_blocks(model: nn.Module) -> None:
    """Unfuses the blocks whose results differ from those of their family's own code, with an `AerogelWarning`.

    Each part of a model that owns fused blocks (a `LlamaModel`, a `BartDecoder`) runs on random states with left
    padding, and if it has a cache on one more token. Every block computes its output both ways from the same inputs,
    since the layers after it would amplify the rounding of int8.
    """
    for owner in model.modules():
        blocks = _owned(owner) if isinstance(owner, PreTrainedModel) else []
        if blocks and (reason := _difference(owner, blocks)):
            family = type(blocks[0]).__bases__[-1].__name__
            unfuse_blocks(blocks)
            warnings.warn(
                f"fused blocks of {family} {reason} (transformers {transformers.__version__}, torch "
                f"{torch.__version__}): this model runs without them, correct but slower",
                AerogelWarning,
                stacklevel=4,
            )
        elif blocks:
            stack_blocks(owner, blocks)


def unfuse_blocks(blocks: list[FusedBlock]) -> None:
    """Restores the family's class of each block."""
    for block in blocks:
        block.__class__ = type(block).__bases__[-1]


def _owned(owner: PreTrainedModel) -> list[FusedBlock]:
    """The fused blocks inside `owner` and not inside a model within it."""
    blocks: list[FusedBlock] = []
    stack = [owner.children()]
    while stack:
        for module in stack.pop():
            if isinstance(module, FusedBlock):
                blocks.append(module)
            elif not isinstance(module, PreTrainedModel):
                stack.append(module.children())
    return blocks


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes with one thread.

    OpenMP then starts no others. Where a process that has some forks, as servers do after they load a model, its child
    waits forever for the threads that it does not have.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _difference(owner: PreTrainedModel, blocks: list[FusedBlock]) -> str:
    """The largest error of the fused blocks in words, or an empty text."""
    comparison = _Comparison(owner)
    try:
        for block in blocks:
            block.forward = partial(comparison.forward, block)  # type: ignore[method-assign]
        with _one_thread():
            _run(owner)
    except Exception as failure:  # a change in transformers can raise anything
        return f"could not be compared with its own code: {first_line(failure)}"
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
    is_int8 = any(layer.values.dtype == torch.int8 for _, layer in sparse_layers(owner))
    tolerance = EXACT if owner.dtype == torch.float32 and not is_int8 else ROUNDED
    return "" if comparison.error <= tolerance else f"differ from its own code by {comparison.error:.1g}"


class _Comparison:
    """Computes blocks in each way; those that are not their family's own have caches of their own."""

    def __init__(self, owner: PreTrainedModel) -> None:
        self.owner = owner
        self.error = 0.0
        self.caches: dict[Any, Cache] = {}  # copies, by the way and the id of the model's

    def forward(self, block: FusedBlock, *arguments: Any, **keywords: Any) -> Any:
        """In place of a block's forward: the output of its family's own code."""
        replaced = vars(block).pop("forward")
        stack = stack_of(self.owner, [block])
        found = [self._fused(stack, block, arguments, keywords) for stack in {None, stack}]
        family: Any = type(block).__bases__[-1]
        own = family.forward(block, *arguments, **keywords)
        vars(block)["forward"] = replaced
        states = arguments[0] if arguments else keywords["hidden_states"]
        self.error = max(self.error, *[_error(fused, own, states) for fused in found])
        return own

    def _fused(self, stack: DecoderStack | None, block: FusedBlock, arguments: Any, keywords: Any) -> Any:
        """The block's output, as one of a stack of this block alone or by itself."""

        def with_own_cache(argument: Any) -> Any:
            if not isinstance(argument, Cache):
                return argument
            return self.caches.setdefault((bool(stack), id(argument)), copy.deepcopy(argument))

        keywords = {name: with_own_cache(value) for name, value in keywords.items()}
        token = CURRENT_PASS.set(StackPass(stack) if stack else None)
        try:
            return type(block).forward(block, *map(with_own_cache, arguments), **keywords)
        finally:
            CURRENT_PASS.reset(token)


def _error(fused: Any, own: Any, states: Tensor) -> float:
    """The largest difference of a token's outputs, relative to what the block adds to its states."""
    if isinstance(own, tuple) != isinstance(fused, tuple):
        raise ModelError(f"a fused block returns {type(fused).__name__}, not {type(own).__name__}")
    ours, theirs = (output[0] if isinstance(output, tuple) else output for output in (fused, own))
    residual = RESIDUAL.get(theirs.dtype, 1.0)
    ours, theirs, states = (torch.nan_to_num(x.float(), 0, 0, 0) for x in (ours, theirs, states))
    added = (theirs - states).norm(dim=-1) + residual * theirs.norm(dim=-1)
    errors = (ours - theirs).norm(dim=-1) / added.clamp_min(1e-30)
    if errors.shape[1] == LENGTH:
        errors[0, :PADDING] = 0
    return float(errors.max())


@torch.no_grad()
def _run(owner: PreTrainedModel) -> None:
    """One pass over random states or images, and if the model has a cache a second one over one more token."""
    generator = torch.Generator().manual_seed(0)
    parameters = tuple(inspect.signature(owner.forward).parameters)
    cache, config = cache_name(parameters), owner.config

    def states(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, generator=generator).to(owner.dtype)

    def text(length: int) -> dict[str, Tensor]:
        if "inputs_embeds" not in parameters:
            return {"input_ids": torch.randint(config.vocab_size, (BATCH, length), generator=generator)}
        embedding: Any = owner.get_input_embeddings()
        return {"inputs_embeds": states(length, embedding.weight.shape[-1])}  # not always the width of the blocks

    if owner.main_input_name == "pixel_values":
        sizes = config.image_size if isinstance(config.image_size, Sequence) else [config.image_size] * 2
        with evaluating(owner):
            owner(states(config.num_channels, *sizes))
        return
    mask = torch.ones(BATCH, LENGTH + 1, dtype=torch.long)
    mask[0, :PADDING] = 0
    crossing: dict[str, Any] = {}
    crosses = config.is_encoder_decoder or getattr(config, "add_cross_attention", False)  # not all have it
    if crosses and "encoder_hidden_states" in parameters:
        encoder = states(LENGTH, config.hidden_size)
        crossing = {"encoder_hidden_states": encoder, "encoder_attention_mask": mask[:, :LENGTH]}
    # the encoder of T5 has the argument for a cache, but refuses one
    caching: dict[str, Any] = {"use_cache": True} if cache and getattr(owner, "is_decoder", True) else {}
    with evaluating(owner):
        first = owner(**text(LENGTH), attention_mask=mask[:, :LENGTH], **crossing, **caching)
        if cache and getattr(first, cache, None) is not None:
            caching |= {cache: getattr(first, cache)}
            owner(**text(1), attention_mask=mask, **crossing, **caching)
