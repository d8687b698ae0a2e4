"""What the numbers mean: which sparsities keep a task's metric, which recovery is better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from aerogel.report.estimate import Estimate
from aerogel.report.findings import Findings, Realised, Scored
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS

TOLERANCE = 0.01
"""The largest loss of the main metric, as a share of the dense model's, at which a sparsity counts as allowed."""
ROUNDING = 1e-9  # a loss of exactly the tolerance is allowed


@dataclass(frozen=True)
class Verdict:
    """How one model, pruned one way, does on one task.

    Attributes:
        allowed: the highest sparsity at which this and every lower one that was scored stays within the tolerance.
        beyond: the first that does not, and `again` those above it that do.
        missing: sparsities without a score to compare.
    """

    dense: Scored | None
    pruned: tuple[Scored, ...]
    allowed: Scored | None = None
    beyond: Scored | None = None
    again: tuple[Scored, ...] = ()
    missing: tuple[float, ...] = ()

    @property
    def is_judged(self) -> bool:
        return self.allowed is not None or self.beyond is not None

    @property
    def is_no_better_than_majority(self) -> bool:
        accuracy = self.dense.metrics.get("accuracy") if self.dense else None
        majority = self.dense.majority if self.dense else None
        return accuracy is not None and majority is not None and accuracy.mean <= majority

    @property
    def is_meaningful(self) -> bool:
        """Whether the dense model has anything to lose."""
        if self.dense is None or not self.is_judged:
            return False
        return self.dense.one_answer < len(self.dense.seeds) and not self.is_no_better_than_majority

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval over seeds at the allowed sparsity is within the tolerance."""
        worst = loss(self.allowed).high if self.allowed else None
        return worst is not None and worst <= TOLERANCE + ROUNDING

    @property
    def may_go_beyond(self) -> bool:
        """Whether the interval at the first sparsity beyond the allowed one reaches into the tolerance."""
        best = loss(self.beyond).low if self.beyond else None
        return best is not None and best <= TOLERANCE


@dataclass(frozen=True)
class Answer:
    """The verdicts on one model and variant, by task."""

    model: str
    variant: Variant
    verdicts: dict[str, Verdict]

    @property
    def meaningful(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts.values() if verdict.is_meaningful]

    @property
    def allowed(self) -> float | None:
        """The highest sparsity that all tasks allow, 0 where one allows none, `None` where no verdict is meaningful."""
        return min((of.allowed.sparsity if of.allowed else 0.0 for of in self.meaningful), default=None)


def answers(findings: Findings) -> list[Answer]:
    """One for each model and variant, in the order of the specification."""
    rows = {(row.task, row.model, row.variant, row.sparsity): row for row in findings.scores}

    def verdict(task: str, model: str, variant: Variant) -> Verdict:
        pruned = [row for key, row in rows.items() if key[:3] == (task, model, variant) and row.sparsity]
        return judge(rows.get((task, model, variant.dense, 0.0)), pruned, findings.spec.sparsities)

    return [
        Answer(model, variant, {task: verdict(task, model, variant) for task in findings.spec.tasks})
        for model in findings.spec.models
        for variant in findings.spec.scored_variants
    ]


def judge(dense: Scored | None, pruned: Sequence[Scored], sparsities: Sequence[float]) -> Verdict:
    """Goes up the sparsities until the main metric has lost more than the tolerance."""
    pruned = tuple(sorted(pruned, key=lambda row: row.sparsity))
    compared = [row for row in pruned if row.change]
    known = {row.sparsity for row in compared}
    first = next((index for index, row in enumerate(compared) if not is_kept(row)), len(compared))
    return Verdict(
        dense,
        pruned,
        allowed=compared[first - 1] if first else None,
        beyond=compared[first] if first < len(compared) else None,
        again=tuple(row for row in compared[first:] if is_kept(row)),
        missing=tuple(sparsity for sparsity in sorted(sparsities) if sparsity and sparsity not in known),
    )


def loss(row: Scored) -> Estimate:
    """The change of the main metric for the worse, as a share: above zero is worse."""
    assert row.change
    return Estimate.of(-value for value in row.change.values) if METRICS[row.main].higher_is_better else row.change


def is_kept(row: Scored) -> bool:
    return loss(row).mean <= TOLERANCE + ROUNDING


def ranks(rows: Sequence[Scored]) -> list[list[Scored]]:
    """From best to worst, together where the intervals of their main metrics overlap."""
    sign = 1 if METRICS[rows[0].main].higher_is_better else -1
    ends = {
        row.variant: sorted(sign * end for end in (row.value.low, row.value.high) if end is not None) or [-inf, inf]
        for row in rows
    }
    rows = sorted(rows, key=lambda row: -sign * row.value.mean)
    ranked: list[list[Scored]] = [[]]
    for index, row in enumerate(rows):
        worst_before = min((ends[before.variant][0] for before in rows[:index]), default=-inf)
        if worst_before > max(ends[after.variant][1] for after in rows[index:]):
            ranked.append([])
        ranked[-1].append(row)
    return ranked


def unequal_zeros(findings: Findings) -> list[tuple[Realised, Realised]]:
    """The variants with the most and the fewest zeros of a model at a sparsity, where these differ."""
    groups: dict[tuple[str, float], list[Realised]] = defaultdict(list)
    for row in findings.realised:
        if row.sparsity:
            groups[row.model, row.sparsity].append(row)
    ends = [
        (max(rows, key=lambda row: row.prunable), min(rows, key=lambda row: row.prunable)) for rows in groups.values()
    ]
    return [(most, fewest) for most, fewest in ends if most.prunable != fewest.prunable]
