"""The base of fused blocks: it reads the arguments of a call whatever names the installed transformers gives them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

CACHE_NAMES = ("cache", "past_key_values")  # from transformers 5.24 on, and before
# These do not change what a block of the families here computes: its positions reach it as `position_embeddings` or in
# the hidden states, and whether it is given a cache says whether it uses one.
WITHOUT_EFFECT = ("use_cache", "position_ids", "cache_position", "output_hidden_states", "num_items_in_batch")


@dataclass(frozen=True)
class BlockArguments:
    """The arguments of one call of a transformer block.

    Attributes:
        hidden_states: (batch, length, features).
        attention_mask: (batch or 1, heads or 1, length or 1, keys), boolean or additive.
        encoder_hidden_states: (batch, encoder length, features), with `encoder_attention_mask` like `attention_mask`.
        cache: where keys and values are kept from one call to the next.
        position_embeddings: cosine and sine of rotary positions, each (batch or 1, length, head size).
        others: arguments without effect, under the names they came with, for the family's own modules.
    """

    hidden_states: Tensor
    attention_mask: Tensor | None = None
    encoder_hidden_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    cache: Cache | None = None
    position_embeddings: tuple[Tensor, Tensor] | None = None
    others: dict[str, Any] = field(default_factory=dict)


NAMES = set(BlockArguments.__dataclass_fields__) - {"cache", "others"}


class FusedBlock(nn.Module):
    """Mixed into a block of transformers: `fused` computes a call where it can, and the family's own code any other.

    That is a call with an argument that is unknown here, a cache of another kind than transformers' own, or hooks and
    replaced forwards of the modules inside the block, which fused operators would not call.
    """

    parameter_names: tuple[str, ...]  # of the family's own forward, in order, without self
    cache_name: str | None  # which of them is the cache

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        family: Any = cls.__bases__[-1]
        parameters = inspect.signature(family.forward).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        cls.parameter_names = tuple(parameter.name for parameter in parameters if parameter.kind in kinds)[1:]
        cls.cache_name = cache_name(cls.parameter_names)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        found = None if self.training or has_inner_hooks(self) else self.read_arguments(arguments, keywords)
        output = None if found is None else self.fused(found)
        return super().forward(*arguments, **keywords) if output is None else output

    def fused(self, call: BlockArguments) -> Tensor | None:
        """The block's output, or `None` where the fused operators don't compute what the family's code does."""
        raise NotImplementedError

    def cache_argument(self, call: BlockArguments) -> dict[str, Cache]:
        """The cache, for the family's own attention, under the name that this version of transformers uses."""
        return {} if call.cache is None or self.cache_name is None else {self.cache_name: call.cache}

    def read_arguments(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> BlockArguments | None:
        """The arguments of a call by their meaning, or `None` where one of them is unknown."""
        if len(arguments) > len(self.parameter_names):
            return None
        known: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in (*zip(self.parameter_names, arguments, strict=False), *keywords.items()):
            if name == self.cache_name:
                known["cache"] = value
            elif name in NAMES:
                known[name] = value
            elif name in WITHOUT_EFFECT or (name == "output_attentions" and not value):
                others[name] = value
            elif value is not None:
                return None
        if not isinstance(known.get("cache"), Cache | None) or "hidden_states" not in known:
            return None
        return BlockArguments(**known, others=others)


def cache_name(parameters: tuple[str, ...]) -> str | None:
    """The name of the cache among those of a forward's parameters."""
    return next((name for name in CACHE_NAMES if name in parameters), None)


def has_inner_hooks(block: nn.Module) -> bool:
    """Whether a module inside the block has a hook that does more than collect its outputs, or a forward of its own."""
    return any(
        module._forward_pre_hooks or "forward" in vars(module) or any(map(_acts, module._forward_hooks.values()))
        for module in block.modules()
        if module is not block
    )


def _acts(hook: Any) -> bool:
    # transformers leaves these on modules for good once a model was asked for its attentions or hidden states
    return getattr(hook, "__module__", "") != "transformers.utils.output_capturing"
