"""What the numbers mean: which sparsities keep a task's metric."""

from collections.abc import Sequence
from dataclasses import dataclass

from aerogel.report.estimate import Estimate
from aerogel.report.findings import Findings, Scored
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
    def is_meaningful(self) -> bool:
        """Whether the dense model has anything to lose: it predicts several classes, and better than the commonest."""
        if self.dense is None or not self.is_judged:
            return False
        accuracy, majority = self.dense.metrics.get("accuracy"), self.dense.majority
        is_better = accuracy is None or majority is None or not accuracy.mean <= majority
        return is_better and self.dense.one_answer < len(self.dense.seeds)

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
    """The verdict on one model and variant on one task; with a structure, sparsity 0 is judged like the others."""

    task: str
    model: str
    variant: Variant
    verdict: Verdict

    @property
    def allowed(self) -> Scored | None:
        """The score at the allowed sparsity, and `None` where the verdict is not meaningful."""
        return self.verdict.allowed if self.verdict.is_meaningful else None

    @property
    def beyond(self) -> Scored | None:
        """That at the first sparsity beyond it, likewise."""
        return self.verdict.beyond if self.verdict.is_meaningful else None


def answers(findings: Findings) -> list[Answer]:
    """One for each model, variant and task, in the order of the specification."""
    return [
        _answer(findings, task, model, variant)
        for model in findings.spec.models
        for variant in findings.spec.scored_variants
        if variant.structure or any(findings.spec.sparsities)
        for task in findings.spec.tasks
    ]


def _answer(findings: Findings, task: str, model: str, variant: Variant) -> Answer:
    rows = [row for row in findings.scores if (row.task, row.model) == (task, model)]
    dense = [row for row in rows if row.variant == variant.dense and not row.sparsity]
    alike = [row for row in rows if row.variant in (variant, variant.unpruned)]
    pruned = [row for row in alike if row.sparsity or row.variant.structure]
    return Answer(task, model, variant, judge(dense[0] if dense else None, pruned, findings.spec.sparsities))


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
