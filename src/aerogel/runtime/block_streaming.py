"""Prunes blocks as a walk visits them: loads each from its files, and writes it when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from aerogel.models import PrunableWeight
from aerogel.pruning.block_inputs import ActivationStore, Call, model_to_run
from aerogel.pruning.blocks import Block, BlockLoader, advance, observed
from aerogel.pruning.plan import PrunePlan, check_values
from aerogel.pruning.rounding import round_block
from aerogel.pruning.smoothing import smooth
from aerogel.runtime.shards import Progress, ShardWriter
from aerogel.runtime.tensor_source import OUTSIDE, unit_of


class StreamingLoader(BlockLoader):
    """Holds one block in memory.

    The inputs of the next block are kept beside the output, so that an interrupted walk resumes there bit-exactly.

    Args:
        writer: writes the blocks.
        progress: of the blocks that are written.
        plan: what is pruned. Methods that look at the weights alone prune a block here when it is loaded.
        rounded: the weights that are rounded to int8, if any.
        in_memory: bytes of activations that stay in memory.
    """

    def __init__(
        self,
        writer: ShardWriter,
        progress: Progress,
        plan: PrunePlan,
        rounded: Sequence[PrunableWeight],
        in_memory: int,
    ) -> None:
        self.writer, self.source, self.progress, self.plan = writer, writer.source, progress, plan
        self.rounded, self.in_memory, self.scratch = rounded, in_memory, progress.path.parent
        self.by_weight = not plan.config.needs_calibration
        self.other_states: list[Tensor] = []  # inputs that the rounded blocks get, which differ from the pruned ones'

    @contextmanager
    def inputs(self, blocks: nn.ModuleList) -> Iterator[None]:
        model = self.source.model
        first = {id(parameter) for parameter in blocks[0].parameters()}
        used = {id(tensor) for tensor in (*model_to_run(model).parameters(), *model_to_run(model).buffers())}
        others = {id(parameter) for parameter in blocks.parameters()} - first
        names = [name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in used - others]
        self.source.load(names)
        yield
        self.source.release(names)

    def first(self, names: Sequence[str], states: Sequence[Tensor]) -> int:
        if self.rounded and not self.by_weight:
            store = ActivationStore(str(self.scratch), self.in_memory)
            self.other_states = [store.keep(hidden) for hidden in states]
        done = sum(name in self.progress.done for name in names)
        if 0 < done < len(names):
            with safe_open(self._states_after(names[done - 1]), framework="pt", backend="pread") as content:
                for index, hidden in enumerate([*states, *self.other_states]):
                    hidden.copy_(content.get_tensor(str(index)))
        return done

    @contextmanager
    def block(self, name: str, states: Sequence[Tensor], calls: Sequence[Call]) -> Iterator[None]:
        self.load(name)
        yield
        if self.other_states:
            weights = [weight for weight in self.rounded if unit_of(weight.name) == name]
            module, others = self.source.model.get_submodule(name), self.other_states
            smooth_and_round(observed(name, module, weights, others, list(calls), hessian=True))
            advance(module, others, calls)
        self.write(name, [*states, *self.other_states])

    def load(self, unit: str) -> None:
        """Loads a unit, and prunes it if the method looks at the weights alone."""
        inside = [weight for weight in self.plan.weights if unit_of(weight.name) == unit]
        names = [self.source.names[key] for key in self.source.keys[unit]]
        if unit == OUTSIDE:  # which may hold large matrices that nothing changes
            changed = {weight.name for weight in inside} | set(self.writer.packable)
            names = [name for name in names if name.removesuffix(".weight") in changed]
        self.source.load(names)
        check_values(inside)
        if self.by_weight:
            for weight in inside:
                self.plan.prune_alone(weight, self.plan.sparsity)

    def write(self, unit: str, states: Sequence[Tensor] = ()) -> None:
        """Writes and releases a unit; `states` are the inputs of the next block."""
        shard = self.writer.write(unit, self.plan.weights)
        kept = self._states_after(unit)
        if states:
            save_file({str(index): hidden.contiguous() for index, hidden in enumerate(states)}, kept)
        self.progress.add(shard)
        for earlier in set(self.progress.path.parent.glob("*.safetensors")) - {kept}:
            earlier.unlink()
        self.source.release(self.source.names[key] for key in self.source.keys[unit])

    def _states_after(self, unit: str) -> Path:
        return self.progress.path.with_name(f"{unit}.safetensors")


@torch.no_grad()
def smooth_and_round(block: Block) -> None:
    """Rounds a block to int8 in place."""
    smooth(block)
    round_block(block)
