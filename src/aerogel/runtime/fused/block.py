"""The base class of fused blocks: it finds the arguments of a call under the names of any version of transformers."""

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from aerogel.runtime.torch_private import changes_call, forward_hooks, inner_modules
from aerogel.runtime.transformers_private import OUTPUT_CAPTURING

CACHE_NAMES = ("cache", "past_key_values")  # from transformers 5.24 on, and before
# These do not change what a block of the families here computes: positions are in `position_embeddings` or in the
# hidden states, and a block uses a cache whenever it gets one.
WITHOUT_EFFECT = ("use_cache", "position_ids", "cache_position", "output_hidden_states", "num_items_in_batch")


@dataclass(frozen=True)
class BlockArguments:
    """The arguments of one call of a transformer block.

    Attributes:
        hidden_states: (batch, length, features).
        attention_mask: (batch or 1, heads or 1, length or 1, keys), boolean or additive.
        encoder_hidden_states: (batch, encoder length, features), with `encoder_attention_mask` like `attention_mask`.
        cache: keys and values of earlier calls, to be extended.
        position_embeddings: cosine and sine of rotary positions, each (batch or 1, length, head size).
        position_bias: (batch or 1, heads, length, keys), added to the scores; `encoder_decoder_position_bias` likewise.
        relative_pos: (1, length, length), the bucket of query - key, an index of `rel_embeddings` (buckets, features).
        others: arguments without effect, under their original names, for the family's own modules.
    """

    hidden_states: Tensor
    attention_mask: Tensor | None = None
    encoder_hidden_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    cache: Cache | None = None
    position_embeddings: tuple[Tensor, Tensor] | None = None
    position_bias: Tensor | None = None
    encoder_decoder_position_bias: Tensor | None = None
    relative_pos: Tensor | None = None
    rel_embeddings: Tensor | None = None
    others: dict[str, Any] = field(default_factory=dict)


NAMES = set(BlockArguments.__dataclass_fields__) - {"cache", "others"}


class BlocksTogether(Protocol):
    """One forward pass of a model whose blocks may be computed together, by the first of them: see stack.py."""

    result: Tensor | None

    def output(self, block: "FusedBlock", call: BlockArguments) -> Tensor | None:
        """The output of the last block, or `None` where `block` has to compute its own."""


CURRENT_PASS: ContextVar[BlocksTogether | None] = ContextVar("current_pass", default=None)


class FusedBlock(nn.Module):
    """A mixin for a block of transformers: `fused` computes the calls that it can, the family's own code all others.

    These are calls with an unknown argument or with a cache that is not transformers' own, and calls of blocks whose
    inner modules have hooks or replaced forwards, which fused operators would not call.
    """

    parameter_names: tuple[str, ...]  # of the family's own forward, without self
    cache_name: str | None  # that of the cache among them
    takes_empty = False  # whether it fuses what is left of a block without heads, or without neurons

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        family: Any = cls.__bases__[-1]
        parameters = inspect.signature(family.forward).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        cls.parameter_names = tuple(parameter.name for parameter in parameters if parameter.kind in kinds)[1:]
        cls.cache_name = cache_name(cls.parameter_names)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        stack = None if torch.compiler.is_compiling() else CURRENT_PASS.get()
        if stack and stack.result is not None and (arguments or (keywords.get("hidden_states"),))[0] is stack.result:
            return stack.result
        call = None if self.training or has_inner_hooks(self) else self.read_arguments(arguments, keywords)
        output = None if call is None or stack is None else stack.output(self, call)
        if call is not None and output is None:
            output = self.fused(call)
        return super().forward(*arguments, **keywords) if output is None else output

    def fused(self, call: BlockArguments) -> Any:
        """What the family's own forward returns, or `None` where the fused operators can't compute it."""
        raise NotImplementedError

    def cache_argument(self, call: BlockArguments) -> dict[str, Cache]:
        """The cache as an argument of the family's own attention, under the name in this version of transformers."""
        return {} if call.cache is None or self.cache_name is None else {self.cache_name: call.cache}

    def read_arguments(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> BlockArguments | None:
        """The arguments of a call by their meaning, or `None` if one is unknown."""
        if len(arguments) > len(self.parameter_names):
            return None
        known: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in (*zip(self.parameter_names, arguments, strict=False), *keywords.items()):
            if name == self.cache_name:
                known["cache"] = value
            elif name in NAMES and name in self.parameter_names:
                known[name] = value
            elif name in WITHOUT_EFFECT or (name == "output_attentions" and not value):
                others[name] = value
            elif value is not None:
                return None
        if not isinstance(known.get("cache"), Cache | None) or "hidden_states" not in known:
            return None
        return BlockArguments(**known, others=others)


def cache_name(parameters: tuple[str, ...]) -> str | None:
    """The name of the cache among the parameters of a forward."""
    return next((name for name in CACHE_NAMES if name in parameters), None)


def has_inner_hooks(block: nn.Module) -> bool:
    """Whether a module inside the block has a hook that does more than collect outputs, or a replaced forward."""
    for module in inner_modules(block):
        if changes_call(module):
            return True
        # transformers never removes its own after a call that returned attentions or hidden states
        if (hooks := forward_hooks(module)) and any(
            getattr(hook, "__module__", "") != OUTPUT_CAPTURING for hook in hooks.values()
        ):
            return True
    return False
