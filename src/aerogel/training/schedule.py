"""The sparsity and the learning rate at each step of a training."""

from dataclasses import dataclass
from typing import Literal, get_args

from aerogel.errors import PruningError
from aerogel.tables import counted

WARM_UP = 0.06  # of the steps: the learning rate rises, and scores collect their first gradients
RISE = 0.5  # of the steps after the warm-up: the sparsity rises; the rest is recovery
PRUNINGS = 5  # of the schedule "gradual"
QUANTIZED = 0.25  # of the steps, the last ones: they compute with int8 values, where these are asked for
LOW = 0.1  # of the peak: the learning rate at the end of each cycle except the last, which falls to zero

ScheduleName = Literal["gradual", "constant"]
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)


def quantized_from(steps: int) -> int:
    """The optimizer step, counted from 0, from which a training of `steps` steps computes with int8 values."""
    return int((1 - QUANTIZED) * steps)


@dataclass(frozen=True)
class Schedule:
    """When a training of `steps` optimizer steps prunes on the way to `sparsity`, and its learning rate.

    Weights are pruned after the warm-up: "constant" once, "gradual" five times at even distances over half of the
    remaining steps. The sparsity rises cubically (Zhu & Gupta 2017, arXiv:1710.01878, equation 1) and starts where
    the density is the square root of the final density: 68% sparsity for 90%. At each pruning the learning rate
    returns to its peak and then falls linearly to a tenth (the restarts of Kurtic et al. 2022, arXiv:2203.07259);
    after the last pruning it falls to zero.

    >>> Schedule(steps=100, sparsity=0.9).times
    [6, 18, 30, 41, 53]
    """

    steps: int
    sparsity: float
    prunings: int = PRUNINGS

    def __post_init__(self) -> None:
        if len(set(self.times)) < self.prunings:
            raise PruningError(
                f"training has {counted(self.steps, 'step')}, too few to prune {self.prunings} times: "
                "use more epochs, or smaller batches"
            )

    @property
    def warm_up(self) -> int:
        return round(WARM_UP * self.steps)

    @property
    def times(self) -> list[int]:
        """The optimizer steps before which weights are pruned, counted from 0."""
        rise = RISE * (self.steps - self.warm_up)
        return [self.warm_up + round(rise * index / max(1, self.prunings - 1)) for index in range(self.prunings)]

    def sparsity_at(self, pruning: int) -> float:
        """The sparsity after the pruning of this index, counted from 0."""
        left = 1 - pruning / (self.prunings - 1) if self.prunings > 1 else 0
        start = 1 - (1 - self.sparsity) ** 0.5
        return self.sparsity - (self.sparsity - start) * left**3

    def learning_rate(self, step: int) -> float:
        """The learning rate as a share of its peak."""
        if step < self.warm_up:
            return step / self.warm_up
        times = self.times
        cycle = sum(time <= step for time in times) - 1
        if cycle + 1 < self.prunings:
            return 1 - (1 - LOW) * (step - times[cycle]) / (times[cycle + 1] - times[cycle])
        return max(0.0, (self.steps - step) / (self.steps - times[-1]))
