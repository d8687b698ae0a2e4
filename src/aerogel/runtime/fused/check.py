"""Compares fused blocks with their families' own code, with the installed versions, when a model is compressed."""

import inspect
import warnings
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import AerogelWarning, first_line
from aerogel.models import evaluating
from aerogel.runtime.fused.block import FusedBlock, cache_name
from aerogel.runtime.layers import sparse_layers

BATCH, LENGTH, PADDING = 2, 5, 2  # sequences, tokens, and the padding tokens that the first sequence begins with
# Relative difference of hidden states: rounding causes about 1e-5 in float32 and 1e-2 in the shorter types and int8, and a
# cache or mask that is ignored far more.
EXACT, ROUNDED = 1e-3, 5e-2


def check_blocks(model: nn.Module) -> None:
    """Unfuses the blocks whose results differ from those of their family's own code, with an `AerogelWarning`.

    Each part of a model that owns fused blocks (a `LlamaModel`, a `BartDecoder`) runs on random states with left
    padding, and if it has a cache on one more token, fused and not.
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


def _difference(owner: PreTrainedModel, blocks: list[FusedBlock]) -> str:
    """The error of the fused blocks in words, or an empty text."""
    classes = [type(block) for block in blocks]
    try:
        fused = _states(owner)
        unfuse_blocks(blocks)
        own = _states(owner)
    except Exception as failure:  # a change in transformers can raise anything
        return f"could not be compared with its own code: {first_line(failure)}"
    finally:
        for block, kind in zip(blocks, classes, strict=True):
            block.__class__ = kind
    is_int8 = any(layer.values.dtype == torch.int8 for _, layer in sparse_layers(owner))
    tolerance = EXACT if own[0].dtype == torch.float32 and not is_int8 else ROUNDED
    for ours, theirs in zip(fused, own, strict=True):
        ours, theirs = (torch.nan_to_num(states.float(), 0, 0, 0) for states in (ours, theirs))
        error = float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-30)).max())
        if not error <= tolerance:
            return f"differ from its own code by {error:.1g}"
    return ""


@torch.no_grad()
def _states(owner: PreTrainedModel) -> list[Tensor]:
    """The last hidden states of all tokens but padding, (tokens, features), of the first pass and of a cached step."""
    generator = torch.Generator().manual_seed(0)
    parameters = tuple(inspect.signature(owner.forward).parameters)
    cache, config = cache_name(parameters), owner.config

    def states(length: int) -> Tensor:
        return torch.randn(BATCH, length, config.hidden_size, generator=generator).to(owner.dtype)

    mask = torch.ones(BATCH, LENGTH + 1, dtype=torch.long)
    mask[0, :PADDING] = 0
    crossing: dict[str, Any] = {}
    crosses = config.is_encoder_decoder or getattr(config, "add_cross_attention", False)  # not all have it
    if crosses and "encoder_hidden_states" in parameters:
        crossing = {"encoder_hidden_states": states(LENGTH), "encoder_attention_mask": mask[:, :LENGTH]}
    caching: dict[str, Any] = {"use_cache": True} if cache else {}
    with evaluating(owner):
        first = owner(inputs_embeds=states(LENGTH), attention_mask=mask[:, :LENGTH], **crossing, **caching)
        results = [first.last_hidden_state[mask[:, :LENGTH].bool()]]
        if cache and getattr(first, cache, None) is not None:
            caching |= {cache: getattr(first, cache)}
            second = owner(inputs_embeds=states(1), attention_mask=mask, **crossing, **caching)
            results.append(second.last_hidden_state[:, 0])
    return results
