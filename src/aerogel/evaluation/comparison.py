"""How a model's predictions differ from a reference model's: divergence, agreement and flips, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from aerogel.evaluation.scoring import Run
from aerogel.tasks import Score
from aerogel.tasks.predictions import sums_by_row

RESAMPLES = 2000
LEVEL = 0.95
Statistic = Callable[[np.ndarray, np.ndarray], float]


def _mean(sums: np.ndarray, counts: np.ndarray) -> float:
    return float(sums.sum() / counts.sum())


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval over texts."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, sums: np.ndarray, counts: np.ndarray, statistic: Statistic = _mean) -> Interval:
        """The `statistic`, by default the mean, of texts with `counts` answers each, which add up to `sums`.

        Texts are resampled, not answers, since those within a text are correlated (percentile bootstrap, Efron 1979).
        The same data gives the same interval.

        >>> Interval.of(np.array([2.0, 30.0]), np.array([1, 10])).mean == 32 / 11
        True
        """
        value = statistic(sums, counts)
        if len(sums) < 2:
            return cls(value, value, value)
        interval = bootstrap(
            (sums, counts),
            statistic,
            n_resamples=RESAMPLES,
            batch=50,  # all at once need too much memory
            vectorized=False,
            paired=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        return cls(value, float(interval.low), float(interval.high))

    def to_dict(self, name: str) -> dict[str, float]:
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Flips:
    """Predictions that differ from the reference's.

    Attributes:
        flipped: all that differ, also from one wrong class to another.
        lost: right in the reference, wrong in the model.
        gained: wrong in the reference, right in the model.
    """

    flipped: int
    lost: int
    gained: int

    @property
    def p(self) -> float:
        """McNemar's p, the probability of a split into lost and gained at least as uneven, if both models are right
        equally often (exact binomial test).
        """
        changed = self.lost + self.gained
        return float(binomtest(self.lost, changed).pvalue) if changed else 1.0

    @classmethod
    def of(cls, predictions: np.ndarray, dense: np.ndarray, references: np.ndarray) -> Flips:
        was, now = dense == references, predictions == references
        return cls(int((predictions != dense).sum()), int((was & ~now).sum()), int((now & ~was).sum()))

    def to_dict(self) -> dict[str, float]:
        return {"flipped": self.flipped, "lost": self.lost, "gained": self.gained, "mcnemar_p": self.p}


@dataclass(frozen=True)
class Comparison:
    """A model beside a dense reference model on a task.

    Attributes:
        reference: the reference's own score.
        kl: KL(reference ‖ model) of an answer, in nats.
        agreement: share of predictions equal to the reference's.
        flips: for classes.
        intervals: of the main metric, by name; for metrics of losses.
        loss_change: the loss of a prediction minus the reference's, in nats; for metrics of losses.
    """

    reference: Score
    kl: Interval
    agreement: Interval
    flips: Flips | None
    intervals: dict[str, Interval]
    loss_change: Interval | None = None

    @classmethod
    def of(cls, run: Run) -> Comparison:
        own, dense = run.predictions, run.reference
        assert dense, "the run has a reference"
        score = run.score(dense)
        main, intervals, change = run.task.metric(next(iter(score.metrics))), {}, None
        if main and main.of_losses:
            intervals[main.name] = Interval.of(*sums_by_row(own.losses, own.rows), main.function)
            change = Interval.of(*sums_by_row(own.losses - dense.losses, own.rows))
        return cls(
            score,
            Interval.of(*sums_by_row(run.divergences, run.rows)),
            Interval.of(*sums_by_row(own.values == dense.values, own.rows)),
            Flips.of(own.values, dense.values, own.references) if score.references else None,
            intervals,
            change,
        )

    def to_dict(self) -> dict[str, float]:
        """All numbers in one dictionary: `kl`, `kl_low`, `kl_high`, `dense_accuracy`, `flipped`, ..."""
        numbers: dict[str, float] = {}
        for name, interval in self.intervals.items():
            numbers |= interval.to_dict(name)
        # a loss is the logarithm of a perplexity, which is there
        numbers |= {f"dense_{name}": value for name, value in self.reference.metrics.items() if name != "loss"}
        numbers |= self.kl.to_dict("kl") | self.agreement.to_dict("agreement")
        return numbers | self.flips.to_dict() if self.flips else numbers
