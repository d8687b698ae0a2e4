"""The next token through all blocks of a decoder in one call: their calls would take as long as their products.

While a decoder (a `LlamaModel`) computes a token with a cache, its first block computes all of them, and the others
return what they get. Whatever the stack can't do is left to the blocks, one by one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from aerogel.runtime.fused.block import CURRENT_PASS, BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import DecoderLayers, can_attend, native_block
from aerogel.runtime.fused.room import rooms, show
from aerogel.runtime.fused_operators import decode
from aerogel.runtime.layers import SparseLinear
from aerogel.runtime.torch_private import inner_modules, needs_dispatcher, remove_hooks

MOST_SEQUENCES = 2  # for more, the products of all tokens at a time are faster


@dataclass(eq=False)
class DecoderStack:
    """All blocks of a decoder.

    Attributes:
        owner: the decoder.
        layers: the list of its blocks in the decoder.
        blocks: what was in that list when the stack was made.
    """

    owner: nn.Module
    layers: nn.ModuleList
    blocks: list[Any]
    records: "_Records | None" = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"records": None}  # addresses: another process, or a copy, has others

    def enter(self, owner: nn.Module, arguments: Any) -> None:
        """A hook before the decoder's forward."""
        if not torch.compiler.is_compiling():
            CURRENT_PASS.set(StackPass(self))

    def leave(self, owner: nn.Module, arguments: Any, output: Any) -> None:
        """A hook after the decoder's forward, and after an error in it."""
        if not torch.compiler.is_compiling():
            CURRENT_PASS.set(None)

    def output(self, call: BlockArguments) -> Tensor | None:
        """The output of the last block, or `None` where the blocks have to compute it one by one."""
        x, cache = call.hidden_states, call.cache
        config: Any = self.owner.config
        if type(x) is not Tensor or x.dtype != torch.float32 or not x.is_cpu or needs_dispatcher():
            return None
        if cache is None or x.shape[0] > MOST_SEQUENCES or x.shape[1] != 1 or call.encoder_hidden_states is not None:
            return None
        if not can_attend(config, call.attention_mask) or config.num_hidden_layers != len(self.layers):
            return None
        if not self._is_ready():
            return None
        assert self.records
        numbers = self.records.cache_layers
        places = rooms(cache, numbers, len(x))
        if not places or bool(call.position_embeddings) != self.records.rotary:
            return None
        position, mask = places[0].length, call.attention_mask
        if mask is not None and (mask.shape[2] != 1 or mask.shape[3] <= position):
            return None
        result = decode(
            x,
            self.records.native,
            [room.native for room in places],
            position,
            None if mask is None else mask[..., : position + 1],
            call.position_embeddings,
            places[0].keys.shape[3],
        )
        show(cache, numbers, places)
        return result

    def _is_ready(self) -> bool:
        """Whether all blocks are as the records say, or the records could be made anew."""
        if self.records is None or not self.records.are_right():
            self.records = _records(self.layers, self.blocks)
        return self.records is not None


@dataclass
class StackPass:
    """One forward pass of the decoder, in one thread: what the stack gave, once it has."""

    stack: DecoderStack
    result: Tensor | None = None

    def output(self, block: FusedBlock, call: BlockArguments) -> Tensor | None:
        if self.result is None and call.cache is not None and block is self.stack.blocks[0]:
            self.result = self.stack.output(call)
            return self.result
        return None


def stack_of(owner: nn.Module, blocks: list[Any]) -> DecoderStack | None:
    """These blocks of a decoder, if they can compute the next token together."""
    lists = [child for child in owner.children() if isinstance(child, nn.ModuleList) and {*blocks} <= {*child}]
    kinds = getattr(owner.config, "layer_types", None)  # each with its own masks and angles
    if not lists or not hasattr(blocks[0], "decoder_layers") or (kinds and len(set(kinds)) > 1):
        return None
    return DecoderStack(owner, lists[0], blocks)


def stack_blocks(owner: nn.Module, blocks: list[Any]) -> None:
    """Lets all blocks of a decoder compute the next token together, if they can."""
    stack = stack_of(owner, blocks)
    if stack and [*stack.layers] == blocks:
        owner.register_forward_pre_hook(stack.enter)
        owner.register_forward_hook(stack.leave, always_call=True)


def unstack_blocks(owner: nn.Module) -> None:
    """The inverse of `stack_blocks`."""
    remove_hooks(owner, lambda hook: isinstance(getattr(hook, "__self__", None), DecoderStack))


def _records(layers: nn.ModuleList, blocks: list[Any]) -> "_Records | None":
    parts: list[DecoderLayers | None] = [block.decoder_layers() for block in blocks]
    found = [part for part in parts if part and part.feed_forward]
    if len(found) < len(blocks):
        return None
    records = _Records([part.core.layer_idx for part in found], found[0].rotary)
    records.watch([layers] if [*layers] == blocks else blocks)
    # norms and biases of another type would be converted to tensors that nobody keeps
    if records.are_right() and all(parameter.dtype == torch.float32 for parameter in records.parameters):
        records.native = [native_block(part) for part in found]
        return records
    return None


@dataclass
class _Records:
    """What the kernels are told of the blocks, and what it depends on."""

    cache_layers: list[int]
    rotary: bool
    native: list[Any] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)  # with its name and value, each at the same place
    names: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)  # which move in place, to another dtype for example
    addresses: list[int] = field(default_factory=list)
    hooks: list[dict[int, Any]] = field(default_factory=list)
    attributes: list[dict[str, Any]] = field(default_factory=list)

    def watch(self, modules: Iterable[nn.Module]) -> None:
        for top in modules:
            for module in (top, *inner_modules(top)):
                state = module.__dict__
                self.hooks += [state["_forward_hooks"], state["_forward_pre_hooks"]]
                self.attributes.append(state)
                for members in (state["_modules"], state["_parameters"]):
                    self._watch_members(members, members)
                if isinstance(module, SparseLinear):  # a packed weight is replaced as a whole
                    self._watch_members(state["_buffers"], ["values"])
        self.parameters = [value for value in self.values if isinstance(value, nn.Parameter)]
        self.addresses = list(map(Tensor.data_ptr, self.parameters))

    def _watch_members(self, members: dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            self.members.append(members)
            self.names.append(name)
            self.values.append(members[name])

    def are_right(self) -> bool:
        return (
            not any(self.hooks)
            and not any(map(dict.__contains__, self.attributes, repeat("forward")))
            and all(map(is_, map(dict.get, self.members, self.names), self.values))
            and list(map(Tensor.data_ptr, self.parameters)) == self.addresses
        )
