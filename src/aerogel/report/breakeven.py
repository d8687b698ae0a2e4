"""The sparsity from which a compressed model is faster than the dense one, on the machine that measured it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from aerogel.report.findings import Cost, Findings
from aerogel.study.variant import Variant


@dataclass(frozen=True)
class BreakEven:
    """The break-even of one model and variant.

    `below` is the highest sparsity that is not faster; from `above`, the next, all are. Either is `None` where no
    such sparsity was measured. `sparsity` is where the straight line between their speeds crosses the dense model's.
    """

    model: str
    variant: Variant
    below: float | None
    above: float | None
    sparsity: float | None


def break_evens(findings: Findings) -> list[BreakEven]:
    """One for each model and variant that was measured compressed, in the order of the specification."""
    costs: dict[tuple[str, Variant], list[Cost]] = defaultdict(list)
    for cost in findings.compressed:
        costs[cost.model, cost.variant].append(cost)
    series = [(model, variant) for model in findings.spec.models for variant in findings.spec.measured_variants]
    return [break_even(costs[key]) for key in series if key in costs]


def break_even(costs: list[Cost]) -> BreakEven:
    """By median times; `costs` are of one model and variant, compressed."""
    speeds = {cost.sparsity: cost.speedup or 0.0 for cost in sorted(costs, key=lambda cost: cost.sparsity)}
    below = max((sparsity for sparsity, speed in speeds.items() if speed <= 1), default=None)
    above = next((sparsity for sparsity in speeds if below is None or sparsity > below), None)
    crossing = None
    if below is not None and above is not None:
        share = (1 - speeds[below]) / (speeds[above] - speeds[below])
        crossing = below + share * (above - below)
    return BreakEven(costs[0].model, costs[0].variant, below, above, crossing)
