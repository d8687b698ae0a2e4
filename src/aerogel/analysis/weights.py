"""What the weights of a model look like: whole, by layer, by kind of matrix, and one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from aerogel import progress
from aerogel.errors import ModelError
from aerogel.models import PrunableWeight, parameter_count, prunable_weights

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 101  # odd, so that zero lies in the middle of a bin
REACH = 0.9995  # the histogram spans the smallest interval around zero that holds this share of the weights


@dataclass(frozen=True)
class WeightStatistics:
    """What is known of one group of weights.

    `zeros`, `below_1e_3` and `below_1e_2` are shares of the group in [0, 1]; `kurtosis` is the excess
    (0 for a normal distribution); `quantiles` are those of |w| at `QUANTILES`; `histogram` counts the weights
    that are not zero in `BINS` equal bins over the report's `span`, clipped into the outermost bins.
    """

    name: str
    count: int
    mean: float
    std: float
    kurtosis: float
    quantiles: tuple[float, ...]
    below_1e_3: float
    below_1e_2: float
    zeros: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class WeightReport:
    """The weights of a model, described: `whole`, and by `layers`, `kinds` and single `matrices`.

    `sparsity` is the share of zeros among the prunable weights, `model_sparsity` the same zeros over all
    `parameters` of the model; `span` is the histograms' (low, high).
    """

    model: str
    parameters: int
    prunable: int
    sparsity: float
    model_sparsity: float
    span: tuple[float, float]
    whole: WeightStatistics
    layers: tuple[WeightStatistics, ...]
    kinds: tuple[WeightStatistics, ...]
    matrices: tuple[WeightStatistics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, fit for JSON."""
        return asdict(self)


def inspect(model: nn.Module, name: str = "", targets: Collection[str] = ("blocks",)) -> WeightReport:
    """Describes the prunable weights of a model, in one pass over them.

    Raises `ModelError` where it has none, or one holds values that are not finite.
    """
    weights = prunable_weights(model, targets, to_read=True)
    whole = _Summary()
    groups: dict[str, dict[str, _Summary]] = {"layer": {}, "kind": {}, "name": {}}
    for weight in progress.track(weights, "describing weights"):
        summary = _Summary.of(weight)
        whole.add(summary)
        for by, members in groups.items():
            members.setdefault(getattr(weight, by), _Summary()).add(summary)
    reach = whole.quantile(REACH) or 1.0
    span = (-reach, reach)
    layers, kinds, matrices = (
        tuple(summary.statistics(group, span) for group, summary in members.items()) for members in groups.values()
    )
    parameters = parameter_count(model)
    return WeightReport(
        model=name or type(model).__name__,
        parameters=parameters,
        prunable=whole.count,
        sparsity=whole.zeros / whole.count,
        model_sparsity=whole.zeros / parameters,
        span=span,
        whole=whole.statistics("all prunable weights", span),
        layers=layers,
        kinds=kinds,
        matrices=matrices,
    )


SHIFT = 13  # bits of a float32 that the counts leave out: bins of 0.1% of their value
VALUES = ((np.arange(2 ** (32 - SHIFT), dtype=np.uint32) << SHIFT) | (1 << (SHIFT - 1))).view(np.float32)
HALF = len(VALUES) // 2  # positive floats come first, in rising order; then the negative ones


class _Summary:
    """Sums that can be added up over matrices: moments, and how many weights share their leading bits.

    Counting by the leading bits of the float sorts without sorting: quantiles and histograms follow
    to 0.1% of the value, from one fast pass.
    """

    def __init__(self) -> None:
        self.powers = np.zeros(5)  # sums of w^0 to w^4
        self.below = np.zeros(3, dtype=np.int64)  # zeros, |w| < 1e-3, |w| < 1e-2
        self.bits = np.zeros(len(VALUES), dtype=np.int64)

    @classmethod
    def of(cls, weight: PrunableWeight) -> _Summary:
        values = np.ascontiguousarray(weight.matrix.float().cpu().numpy()).ravel()
        if not np.isfinite(values).all():
            raise ModelError(f"layer {weight.name}: its weights are not all finite numbers")
        summary = cls()
        exact = values.astype(np.float64)
        square = exact * exact
        summary.powers += np.array([len(exact), exact.sum(), square.sum(), exact @ square, square @ square])
        magnitudes = np.abs(values)
        summary.below += np.array([int(weight.zeros.sum()), (magnitudes < 1e-3).sum(), (magnitudes < 1e-2).sum()])
        summary.bits += np.bincount(values.view(np.uint32) >> SHIFT, minlength=len(VALUES))
        return summary

    def add(self, other: _Summary) -> None:
        self.powers += other.powers
        self.below += other.below
        self.bits += other.bits

    @property
    def count(self) -> int:
        return int(self.powers[0])

    @property
    def zeros(self) -> int:
        return int(self.below[0])

    def quantile(self, share: float) -> float:
        """The quantile of |w|."""
        cumulative = (self.bits[:HALF] + self.bits[HALF:]).cumsum()
        place = int(np.searchsorted(cumulative, share * cumulative[-1]))
        return float(VALUES[place]) if place else 0.0

    def statistics(self, name: str, span: tuple[float, float]) -> WeightStatistics:
        mean, second, third, fourth = self.powers[1:] / self.count
        variance = max(second - mean**2, 0.0)
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        counts = self.bits.copy()
        counts[0], counts[HALF] = counts[0] + counts[HALF] - self.zeros, 0  # zeros have a number of their own
        used = np.flatnonzero(counts)
        histogram, _ = np.histogram(np.clip(VALUES[used], *span), BINS, span, weights=counts[used])
        zeros, below_1e_3, below_1e_2 = self.below / self.count
        return WeightStatistics(
            name=name,
            count=self.count,
            mean=float(mean),
            std=float(variance**0.5),
            # of weights that are all but alike, rounding leaves nothing to tell
            kurtosis=float(central / variance**2 - 3) if variance > 1e-6 * second else 0.0,
            quantiles=tuple(self.quantile(share) for share in QUANTILES),
            below_1e_3=float(below_1e_3),
            below_1e_2=float(below_1e_2),
            zeros=float(zeros),
            histogram=tuple(map(int, histogram)),
        )
