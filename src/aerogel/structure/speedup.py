"""Numbers of structures with which a model is measured to be as fast as a target."""

import copy
import statistics
from collections.abc import Callable, Mapping

from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import PruningError
from aerogel.structure.latency import Measure
from aerogel.structure.shrink import shrink

CORRECTIONS = 6  # allocations that are measured
AIM, ABOVE = 1.01, 1.04  # times the target: where a correction aims, and the most that ends them
PAIRS = 3  # timings of the dense and the small model in turn


def meet_speedup(
    model: PreTrainedModel,
    target: float,
    measure: Measure,
    counts: Callable[[float], Mapping[str, int]],
    limit: float,
    dense: float,
) -> tuple[Mapping[str, int], float]:
    """The numbers of structures by sub-layer with a measured speed-up of at least `target`, and that speed-up.

    `counts` returns the best numbers within a budget of seconds, `limit` is the budget by timings of sub-layers, and
    `dense` are the seconds of the whole model. The budget changes by what each measurement misses. Raises
    `PruningError` if the target is not met.
    """
    speedups: dict[float, Mapping[str, int]] = {}
    for _ in progress.track(range(CORRECTIONS), "measuring the small model"):
        numbers = counts(limit)
        speedup = measured_speedup(model, numbers, measure)
        speedups[speedup] = numbers
        if target <= speedup <= ABOVE * target:
            break
        limit += dense * (1 / (AIM * target) - 1 / speedup)
    enough = [speedup for speedup in speedups if speedup >= target]
    if not enough:
        raise PruningError(
            f"speedup {target:g} is out of reach for {type(model).__name__}: the fastest small model was measured to "
            f"be {max(speedups):.2f} times as fast"
        )
    return speedups[min(enough)], min(enough)


def measured_speedup(model: PreTrainedModel, counts: Mapping[str, int], measure: Measure) -> float:
    """How many times faster the model is with these numbers of structures, whichever they are."""
    small = copy.deepcopy(model)
    shrink(small, {name: range(count) for name, count in counts.items()})
    return statistics.median(measure(model) / measure(small) for _ in range(PAIRS))
