"""The numbers of structures that minimise the error of a model within a budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aerogel import progress
from aerogel.errors import PruningError

STATES = 4096  # partial sums of costs that are held at a time
TRIALS = 32  # of the local search
SHARE, SPREAD = 0.3, 0.7  # of the choices whose errors a trial scales, and the deviation of the scales' logarithm


@dataclass(frozen=True)
class Choice:
    """What one sub-layer may keep: numbers of structures, with the error and the cost of each, float64."""

    counts: Sequence[int]
    errors: Tensor
    costs: Tensor


def allocate(choices: Sequence[Choice], budget: float, scales: Sequence[float] | None = None) -> list[int]:
    """For each choice the index of a count, so that the sum of costs is at most `budget` and that of errors minimal.

    Dynamic programming over the sub-layers, exact up to 4096 different sums. `scales` multiply the errors of the
    choices. Raises `PruningError` if the lowest costs exceed the budget.

    >>> costs = torch.tensor([0.0, 1.0, 2.0])
    >>> allocate([Choice([0, 1, 2], torch.tensor([9.0, 1.0, 0.0]), costs)] * 2, budget=3)
    [1, 2]
    """
    least = [float(choice.costs.min()) for choice in choices]
    remaining = sum(least)
    if remaining > budget:
        raise PruningError(f"a budget of {budget:g} is below the lowest cost, {remaining:g}")
    slack = 1e-12 * abs(budget)  # sums in another order differ in the last bits
    costs = errors = torch.zeros(1, dtype=torch.float64)
    steps: list[tuple[Tensor, Tensor]] = []
    for index, choice in enumerate(choices):
        remaining -= least[index]
        scale = scales[index] if scales else 1.0
        all_costs = (costs[:, None] + choice.costs).flatten()
        all_errors = (errors[:, None] + scale * choice.errors).flatten()
        best = _undominated(all_costs, all_errors, budget - remaining + slack)
        costs, errors = all_costs[best], all_errors[best]
        levels = len(choice.counts)
        steps.append((best // levels, best % levels))
    state, chosen = int(errors.argmin()), []
    for before, level in reversed(steps):
        chosen.append(int(level[state]))
        state = int(before[state])
    return chosen[::-1]


def _undominated(costs: Tensor, errors: Tensor, budget: float) -> Tensor:
    """Indices by increasing cost with decreasing error: at most one in each of `STATES` intervals of the cost."""
    order = torch.argsort(errors, stable=True)
    order = order[torch.argsort(costs[order], stable=True)]
    order = order[costs[order] <= budget]
    falling = torch.ones(len(order), dtype=torch.bool)
    falling[1:] = errors[order][1:] < errors[order].cummin(0).values[:-1]
    order = order[falling]
    if len(order) <= STATES:
        return order
    low, high = costs[order[0]], costs[order[-1]]
    interval = ((costs[order] - low) / (high - low) * (STATES - 1)).long()
    last = torch.ones(len(order), dtype=torch.bool)  # of an interval: its lowest error
    last[:-1] = interval[1:] != interval[:-1]
    last[0] = True  # the lowest cost, so that the budget can be met
    return order[last]


def refine(choices: Sequence[Choice], budget: float, kl: Callable[[list[int]], float], seed: int) -> list[float]:
    """Scales of the errors, for `allocate`, whose allocation has a low KL divergence to the dense model.

    Local search: each trial scales the errors of some sub-layers and keeps the scales if `kl` falls (Frantar and
    Alistarh 2022, SPDY, section 3.3), so that every candidate meets the budget.
    """
    generator = random.Random(seed)
    scales = [1.0] * len(choices)
    chosen = allocate(choices, budget)
    lowest, seen = kl(chosen), {tuple(chosen)}
    for _ in progress.track(range(TRIALS), "searching the numbers of structures"):
        candidate = [
            scale * generator.lognormvariate(0, SPREAD) if generator.random() < SHARE else scale for scale in scales
        ]
        chosen = allocate(choices, budget, candidate)
        if tuple(chosen) in seen:
            continue
        seen.add(tuple(chosen))
        divergence = kl(chosen)
        if divergence < lowest:
            scales, lowest = candidate, divergence
    return scales
