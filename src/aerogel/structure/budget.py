"""What structures cost, in the unit of a target, and how much all of them may cost together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from aerogel.errors import PruningError
from aerogel.structure.config import StructureConfig
from aerogel.structure.latency import LatencyTable
from aerogel.structure.sublayers import SubLayer

HEADER = 160  # bytes of a safetensors header for one tensor, about


@dataclass(frozen=True)
class Budget:
    """The most that all sub-layers may cost together, where `cost` is that of one with some number of structures.

    Costs are seconds for a speed-up, bytes for a size, and parameters otherwise.
    """

    cost: Callable[[SubLayer, int], float]
    limit: float

    @classmethod
    def of(
        cls,
        config: StructureConfig,
        model: PreTrainedModel,
        found: Sequence[SubLayer],
        table: LatencyTable | None = None,
    ) -> Budget:
        """The budget of a target; the `table` is for a speed-up.

        Raises `PruningError` for a target out of reach, which says what can be reached.
        """
        if config.speedup is not None:
            assert table is not None
            budget = cls(table.of, 0.0)
            rest = table.dense - budget.whole(found)
            fastest = table.dense / max(rest + budget.least(found), 1e-12 * table.dense)
            budget = cls(table.of, table.dense / config.speedup - rest)
            reachable = f"the fastest that it can be by timings is {fastest:.2f} times as fast as now"
        elif config.sparsity is not None:
            budget = cls(_parameters, 0.0)
            whole = budget.whole(found)
            budget = cls(_parameters, (1 - config.sparsity) * whole)
            reachable = f"at most {1 - budget.least(found) / whole:.3f} of its heads and neurons can be removed"
        else:
            cost, total = (_parameters, _total(model)) if config.parameters else (_bytes, _total_bytes(model))
            budget = cls(cost, 0.0)
            rest = total - budget.whole(found)
            budget = cls(cost, (config.parameters or config.size or 0) - rest)
            reachable = f"without its heads and neurons it has {rest + budget.least(found):,.0f}"
        if budget.least(found) > budget.limit:
            value = getattr(config, config.target)
            raise PruningError(f"{config.target} {value:,g} is out of reach for {type(model).__name__}: {reachable}")
        return budget

    def whole(self, found: Sequence[SubLayer]) -> float:
        return sum(self.cost(sublayer, sublayer.count) for sublayer in found)

    def least(self, found: Sequence[SubLayer]) -> float:
        return sum(self.cost(sublayer, sublayer.at_least) for sublayer in found)


def _parameters(sublayer: SubLayer, count: int) -> float:
    return sublayer.parameters * count


def _bytes(sublayer: SubLayer, count: int) -> float:
    return sublayer.parameters * count * sublayer.output.parameter.element_size()


def _total(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _total_bytes(model: PreTrainedModel) -> int:
    """An upper bound on the bytes of the weight file."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.nbytes + HEADER for tensor in tensors.values())
