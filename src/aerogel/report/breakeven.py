"""From which sparsity on a compressed model is faster than the dense one, on the machine that measured it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from aerogel.report.collect import Cost, Findings
from aerogel.report.estimate import percent
from aerogel.report.variant import Variant, measured_variants


@dataclass(frozen=True)
class BreakEven:
    """Of one model and method: `below` is the highest sparsity that is not faster, and from `above`, the next, all are.

    Either is `None` where no such sparsity was measured. `sparsity` is where the straight line between their speeds
    crosses that of the dense model.
    """

    model: str
    way: Variant
    below: float | None
    above: float | None
    sparsity: float | None

    @property
    def start(self) -> str:
        """From where it is faster, to stand after the model's name or "faster than the dense one"."""
        if self.above is None:
            return f"not even at {percent(self.below or 0)}, the highest measured"
        if self.sparsity is None:
            return f"at every sparsity measured from {percent(self.above)}"
        return f"from about {100 * self.sparsity:.0f}%"

    @property
    def sentence(self) -> str:
        if self.above is None:
            return f"Compressed, it is not faster than the dense model {self.start.removeprefix('not even ')}."
        between = f", interpolated between {percent(self.below)} and {percent(self.above)}" if self.below else ""
        return f"Compressed, it is faster than the dense model {self.start}{between}."


def break_evens(findings: Findings) -> list[BreakEven]:
    """One for each model and method that was measured compressed, in the order of the specification."""
    found: dict[tuple[str, Variant], list[Cost]] = defaultdict(list)
    for cost in findings.compressed:
        found[cost.model, cost.way].append(cost)
    series = [(model, way) for model in findings.spec.models for way in measured_variants(findings.spec)]
    return [break_even(found[key]) for key in series if key in found]


def break_even(costs: list[Cost]) -> BreakEven:
    """By median times; `costs` are of one model and method, compressed."""
    speeds = {cost.sparsity: cost.speedup or 0.0 for cost in sorted(costs, key=lambda cost: cost.sparsity)}
    below = max((sparsity for sparsity, speed in speeds.items() if speed <= 1), default=None)
    above = next((sparsity for sparsity in speeds if below is None or sparsity > below), None)
    crossing = None
    if below is not None and above is not None:
        share = (1 - speeds[below]) / (speeds[above] - speeds[below])
        crossing = below + share * (above - below)
    return BreakEven(costs[0].model, costs[0].way, below, above, crossing)
