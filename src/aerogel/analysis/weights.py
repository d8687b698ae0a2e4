"""Statistics of a model's weights: all of them, by layer, by kind of matrix, and by matrix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from aerogel import progress
from aerogel.errors import ModelError
from aerogel.models import PrunableWeight, parameter_count, prunable_weights
from aerogel.tables import html_table

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 101  # odd: zero is the centre of a bin
COLUMNS = ("", "weights", "mean", "std", "kurtosis", "median |w|", "< 1e-3", "< 1e-2", "zeros")
REACH = 0.9995  # share of the weights inside the histogram's span, which is symmetric about zero


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of one group of weights.

    `zeros`, `below_1e_3` and `below_1e_2` are shares of the group in [0, 1]; `kurtosis` is excess kurtosis
    (0 for a normal distribution); `quantiles` are those of `|w|` at `QUANTILES`; `histogram` counts nonzero
    weights in `BINS` equal bins over the report's `span`, with values outside in the outermost bins.
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

    def row(self) -> tuple[str, ...]:
        """A row of a table with `COLUMNS`."""
        return (
            self.name,
            f"{self.count:,}",
            f"{self.mean:+.2e}",
            f"{self.std:.4f}",
            f"{self.kurtosis:+.2f}",
            f"{self.quantiles[3]:.4f}",
            f"{self.below_1e_3:.1%}",
            f"{self.below_1e_2:.1%}",
            f"{self.zeros:.2%}",
        )


@dataclass(frozen=True)
class WeightReport:
    """Statistics of a model's prunable weights: `whole`, by `layers`, by `kinds` and by `matrices`.

    `sparsity` is the share of zeros among the `prunable` weights, `model_sparsity` the same zeros divided by all
    `parameters` of the model; `span` is the (low, high) of the histograms. Notebooks show it as a table.

    >>> import aerogel
    >>> report = aerogel.inspect(aerogel.load("tiny-bert")[0])
    >>> report.layers[0].name, report.prunable, report.sparsity
    ('bert.encoder.layer.0', 786432, 0.0)
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
        """As numbers, lists and strings, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, [group.row() for group in (self.whole, *self.layers, *self.kinds)])


def inspect(model: nn.Module, name: str = "", targets: Collection[str] = ("blocks",)) -> WeightReport:
    """Compute statistics of a model's prunable weights in one pass.

    `targets` are those of `aerogel.prunable_weights`. Raises `ModelError` if the model has no prunable weights, or
    weights that are not finite.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-gpt2")
    >>> [kind.name for kind in inspect(model).kinds]
    ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj']
    """
    weights = prunable_weights(model, targets, to_read=True)
    whole = _Summary()
    groups: dict[str, dict[str, _Summary]] = {"layer": {}, "kind": {}, "name": {}}
    for weight in progress.track(weights, "inspecting weights"):
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


SHIFT = 13  # low bits of a float32 that the counts ignore, for bins of 0.1% of the value
VALUES = ((np.arange(2 ** (32 - SHIFT), dtype=np.uint32) << SHIFT) | (1 << (SHIFT - 1))).view(np.float32)
HALF = len(VALUES) // 2  # positive floats in rising order, then the negative ones


class _Summary:
    """Sums that can be added over matrices: moments, and counts of weights by the leading bits of the float.

    The counts give quantiles and histograms to within 0.1% of the value in one pass, without sorting.
    """

    def __init__(self) -> None:
        self.powers = np.zeros(5)  # sums of w^0 to w^4
        self.below = np.zeros(3, dtype=np.int64)  # zeros, |w| < 1e-3, |w| < 1e-2
        self.bits = np.zeros(len(VALUES), dtype=np.int64)

    @classmethod
    def of(cls, weight: PrunableWeight) -> _Summary:
        values = np.ascontiguousarray(weight.matrix.float().cpu().numpy()).ravel()
        if not np.isfinite(values).all():
            raise ModelError(f"layer {weight.name} has weights that are not finite")
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
        index = int(np.searchsorted(cumulative, share * cumulative[-1]))
        return float(VALUES[index]) if index else 0.0

    def statistics(self, name: str, span: tuple[float, float]) -> WeightStatistics:
        mean, second, third, fourth = self.powers[1:] / self.count
        variance = max(second - mean**2, 0.0)
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        counts = self.bits.copy()
        counts[0], counts[HALF] = counts[0] + counts[HALF] - self.zeros, 0  # zeros are counted apart
        used = np.flatnonzero(counts)
        histogram, _ = np.histogram(np.clip(VALUES[used], *span), BINS, span, weights=counts[used])
        zeros, below_1e_3, below_1e_2 = self.below / self.count
        return WeightStatistics(
            name=name,
            count=self.count,
            mean=float(mean),
            std=float(variance**0.5),
            # rounding errors dominate if the weights are almost equal
            kurtosis=float(central / variance**2 - 3) if variance > 1e-6 * second else 0.0,
            quantiles=tuple(self.quantile(share) for share in QUANTILES),
            below_1e_3=float(below_1e_3),
            below_1e_2=float(below_1e_2),
            zeros=float(zeros),
            histogram=tuple(map(int, histogram)),
        )
