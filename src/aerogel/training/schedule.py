"""How sparse a model is, and how fast it learns, at each step of a training."""

from __future__ import annotations

from dataclasses import dataclass

from aerogel.errors import PruningError

WARM_UP = 0.06  # of the steps: the learning rate rises, and scores that look at gradients see their first
RISE = 0.5  # of the steps after that: the sparsity rises; the rest is recovery
PRUNINGS = 5  # of a gradual rise
LOW = 0.1  # of the peak: the learning rate at the end of each cycle but the last, which goes to zero
SCHEDULES = ("constant", "gradual")


@dataclass(frozen=True)
class Schedule:
    """The course of a training of `steps` optimizer steps towards `sparsity`.

    After the warm-up weights are pruned, "constant" at once, "gradual" in five prunings at even distances, over half of
    what remains. Their sparsities rise cubically (Zhu & Gupta 2017, arXiv:1710.01878, equation 1) from a high start:
    the square root of the density at the end, 68% for 90%. With each pruning the learning rate is back at its peak
    and falls linearly to a tenth (the restarts of Kurtic et al. 2022, arXiv:2203.07259); after the last it falls to
    zero.
    """

    steps: int
    sparsity: float
    prunings: int = PRUNINGS

    def __post_init__(self) -> None:
        if len(set(self.times)) < self.prunings:
            raise PruningError(
                f"{self.steps} steps are too few to prune {self.prunings} times: train for more epochs, or in smaller "
                "batches"
            )

    @property
    def warm_up(self) -> int:
        return round(WARM_UP * self.steps)

    @property
    def times(self) -> list[int]:
        """The steps before which weights are pruned."""
        rise = RISE * (self.steps - self.warm_up)
        return [self.warm_up + round(rise * place / max(1, self.prunings - 1)) for place in range(self.prunings)]

    def sparsity_at(self, pruning: int) -> float:
        """The sparsity after that pruning, counted from 0."""
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
