"""Numbers of structures with which a model is measured to be as fast as a target."""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import PruningError
from aerogel.models.mode import on_cpu
from aerogel.structure.latency import Measure

Shrink = Callable[[PreTrainedModel, Mapping[str, Sequence[int]]], None]

CORRECTIONS = 6  # allocations that are measured
AIM, ABOVE = 1.01, 1.04  # times the target: where a correction aims, and the most that ends them
PAIRS = 3  # timings of the dense and the small model in turn


def meet_speedup(
    target: float,
    speedup: Callable[[Mapping[str, int]], float],
    counts: Callable[[float], Mapping[str, int]],
    limit: float,
    dense: float,
) -> tuple[Mapping[str, int], float]:
    """The numbers of structures by sub-layer with a measured speed-up of at least `target`, and that speed-up.

    `counts` returns the best numbers within a budget of seconds, and `speedup` measures them. `limit` is the budget by
    timings of sub-layers, and `dense` are the seconds of the whole model. The budget changes by what each measurement
    misses. Raises `PruningError` if the target is not met.
    """
    measured: dict[float, Mapping[str, int]] = {}
    for _ in progress.track(range(CORRECTIONS), "measuring the small model"):
        numbers = counts(limit)
        times_faster = speedup(numbers)
        measured[times_faster] = numbers
        if target <= times_faster <= ABOVE * target:
            break
        limit += dense * (1 / (AIM * target) - 1 / times_faster)
    enough = [times_faster for times_faster in measured if times_faster >= target]
    if not enough:
        raise PruningError(
            f"speedup {target:g} is out of reach: the fastest small model was measured to be {max(measured):.2f} times "
            "as fast"
        )
    return measured[min(enough)], min(enough)


def measured_speedup(model: PreTrainedModel, counts: Mapping[str, int], measure: Measure, shrink: Shrink) -> float:
    """How many times faster the model is on the CPU with these numbers of structures, whichever they are."""
    with on_cpu(model):
        small = copy.deepcopy(model)
        shrink(small, {name: range(count) for name, count in counts.items()})
        return statistics.median(measure(model) / measure(small) for _ in range(PAIRS))
