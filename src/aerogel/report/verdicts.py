"""Verdicts: which variants keep the score of the dense model, and the best variant of each model on each task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from aerogel.report.estimate import percent, significant
from aerogel.report.findings import Cost, Findings, Scored
from aerogel.report.names import metric_name
from aerogel.study.variant import Variant

TOLERANCE = 0.01
"""A variant keeps the score of the dense model if it loses at most this share of it."""
ROUNDING = 1e-9  # a loss of exactly the tolerance is allowed
FASTER = 1.2
"""A variant counts as faster than the dense model from this ratio on: less may be noise."""

DenseRows = dict[tuple[str, str, str | None], Scored]
"""The dense models by task, model and recovery."""


@dataclass(frozen=True)
class Option:
    """A variant of a model at one sparsity, scored on a task that the dense model has learned.

    `variant` is that of the series, also where the row is its smaller or rounded model at sparsity 0. `keeps` says
    whether this and every lower sparsity stay within the tolerance.
    """

    variant: Variant
    row: Scored
    cost: Cost | None
    keeps: bool

    @property
    def kept(self) -> float:
        """The share of the score that is kept, and minus infinity if it is NaN."""
        mean = self.row.kept.mean if self.row.kept else math.nan
        return -math.inf if math.isnan(mean) else mean

    @property
    def speed(self) -> float | None:
        return self.cost.speedup if self.cost else None

    @property
    def is_faster(self) -> bool:
        """Whether it counts as faster than the dense model; true if no time was measured."""
        return self.speed is None or self.speed >= FASTER

    @property
    def gains(self) -> bool:
        return self.keeps and self.is_faster


def is_kept(row: Scored) -> bool:
    return row.kept is not None and row.kept.mean >= 1 - TOLERANCE - ROUNDING


def dense_rows(findings: Findings) -> DenseRows:
    """The dense models. For a recovery without a dense model of the same training, the fine-tuned one."""
    rows = {
        (row.task, row.model, row.variant.recovery): row
        for row in findings.scores
        if row.variant == row.variant.dense and not row.sparsity
    }
    for row in findings.scores:
        fine_tuned = rows.get((row.task, row.model, row.variant.fine_tuned.recovery))
        if fine_tuned:
            rows.setdefault((row.task, row.model, row.variant.recovery), fine_tuned)
    return rows


def problem(dense: Scored) -> str | None:
    """Why there is no verdict on models pruned from this dense model, or `None`."""
    if not dense.value.mean > 0:
        return f"the dense {metric_name(dense.main)} is not above 0"
    if dense.one_answer == len(dense.seeds):
        return "the dense model gives the same prediction for all examples; it has not learned this task"
    accuracy, majority = dense.metrics.get("accuracy"), dense.majority
    if accuracy and majority is not None and accuracy.mean <= majority:
        numbers = (
            f"{significant(accuracy.mean)} is not above {significant(majority)}, the share of the most frequent class"
        )
        return f"the dense accuracy {numbers}; the model has not learned this task"
    return None


def options(findings: Findings) -> list[Option]:
    """All variants and sparsities that are scored on a task that their model has learned, in ascending order."""
    learned = {key for key, dense in dense_rows(findings).items() if problem(dense) is None}
    return [
        option
        for task, model, variant in product(findings.spec.tasks, findings.spec.models, findings.spec.scored_variants)
        if (task, model, variant.recovery) in learned
        for option in _options(findings, task, model, variant)
    ]


def _options(findings: Findings, task: str, model: str, variant: Variant) -> list[Option]:
    several, keeps = [], True
    for row in compared(findings, task, model, variant):
        keeps = keeps and is_kept(row)
        several.append(Option(variant, row, findings.cost(row), keeps))
    return several


def compared(findings: Findings, task: str, model: str, variant: Variant) -> list[Scored]:
    """The scores of a variant that are compared with the dense one, with a smaller or rounded model at sparsity 0."""
    variants = variant, variant.unpruned
    rows = [row for row in findings.scores if (row.task, row.model) == (task, model) and row.variant in variants]
    return sorted((row for row in rows if row.kept), key=lambda row: row.sparsity)


def choices(options: Sequence[Option]) -> dict[tuple[str, str], Option]:
    """By task and model: the fastest option that keeps the score, or the sparsest one if no time was measured.

    If no option that is faster than the dense model keeps it, the one among them that keeps the most. Without the tasks
    that a model has not learned.
    """

    def rank(option: Option) -> tuple[bool, bool, float, float]:
        value = (option.speed or 0.0) if option.gains else option.kept
        return option.gains, option.is_faster, value, option.row.sparsity

    best: dict[tuple[str, str], Option] = {}
    for option in options:
        key = option.row.task, option.row.model
        if key not in best or rank(option) > rank(best[key]):
            best[key] = option
    return best


def certainty(row: Scored, wanted_seeds: int) -> str:
    """How certain it is that this score is kept. Empty for a study of one seed, which the page says once."""
    seeds, low = len(row.seeds), row.kept.low if row.kept else None
    if low is None:
        remarks = ["a single seed has no interval"] if wanted_seeds > 1 else []
    elif low >= 1 - TOLERANCE - ROUNDING:
        remarks = [f"the 95% interval over seeds is within {percent(TOLERANCE)}"]
    else:
        remarks = [f"the 95% interval over seeds does not exclude a loss above {percent(TOLERANCE)}"]
    if seeds < wanted_seeds:
        remarks.append(f"{seeds} of {wanted_seeds} seeds")
    if row.one_answer:
        remarks.append(f"the same prediction for all examples with {row.one_answer} of {seeds} seeds")
    return "; ".join(remarks)
