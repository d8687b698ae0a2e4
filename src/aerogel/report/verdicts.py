"""Verdicts: which variants keep the score of the dense model, and the best variant of each model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aerogel.report.estimate import percent, significant
from aerogel.report.findings import Cost, Findings, Scored
from aerogel.report.names import metric_name
from aerogel.study.variant import Variant

TOLERANCE = 0.01
"""A variant keeps the score of the dense model if it loses at most this share of it."""
ROUNDING = 1e-9  # a loss of exactly the tolerance is allowed

DenseRows = dict[tuple[str, str, str | None], Scored]
"""The dense models by task, model and recovery."""


@dataclass(frozen=True)
class Option:
    """A variant of a model at one sparsity, with its score on each task that the dense model has learned.

    `keeps` says whether this and every lower sparsity stay within the tolerance on all of them.
    """

    model: str
    variant: Variant
    sparsity: float
    rows: tuple[Scored, ...]
    cost: Cost | None
    keeps: bool

    @property
    def worst(self) -> float:
        """The lowest share that is kept on any task, and minus infinity if one is NaN."""
        kept = [row.kept.mean for row in self.rows if row.kept]
        return -math.inf if any(map(math.isnan, kept)) else min(kept)

    @property
    def speed(self) -> float | None:
        return self.cost.speedup if self.cost else None


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
    """All variants and sparsities that are scored on every task that their model has learned, in ascending order."""
    learned = [key for key, dense in dense_rows(findings).items() if problem(dense) is None]
    return [
        option
        for model in findings.spec.models
        for variant in findings.spec.scored_variants
        for option in _options(findings, model, variant, {task for task, name, _ in learned if name == model})
        if all((row.task, model, variant.recovery) in learned for row in option.rows)
    ]


def _options(findings: Findings, model: str, variant: Variant, tasks: set[str]) -> list[Option]:
    rows, several, keeps = compared(findings, model, variant), [], True
    for sparsity in sorted({row.sparsity for row in rows}):
        same = tuple(row for row in rows if row.sparsity == sparsity and row.task in tasks)
        if same and {row.task for row in same} == tasks:
            keeps = keeps and all(map(is_kept, same))
            several.append(Option(model, variant, sparsity, same, findings.cost(same[0]), keeps))
    return several


def compared(findings: Findings, model: str, variant: Variant) -> list[Scored]:
    """The scores of a variant that are compared with the dense ones, with smaller or rounded models at sparsity 0."""
    variants = variant, variant.unpruned
    rows = [row for row in findings.scores if row.model == model and row.variant in variants and row.kept]
    return sorted(rows, key=lambda row: row.sparsity)


def choices(options: Sequence[Option]) -> dict[str, Option]:
    """For each model the fastest option that keeps its scores, or the sparsest one if no time was measured.

    If no option keeps them, the one that keeps the most. Models that have learned no task are left out.
    """

    def rank(option: Option) -> tuple[bool, float, float]:
        return option.keeps, (option.speed or 0.0) if option.keeps else option.worst, option.sparsity

    best: dict[str, Option] = {}
    for option in options:
        if option.model not in best or rank(option) > rank(best[option.model]):
            best[option.model] = option
    return best


def certainty(rows: Sequence[Scored], wanted_seeds: int) -> str:
    """How certain it is that these scores are kept."""
    fewest = min(len(row.seeds) for row in rows)
    lows = [row.kept.low if row.kept else None for row in rows]
    certain = [low for low in lows if low is not None]
    if len(certain) < len(lows):
        remarks = ["a single seed has no interval"]
    elif min(certain) >= 1 - TOLERANCE - ROUNDING:
        remarks = [f"the 95% interval over seeds is within {percent(TOLERANCE)}"]
    else:
        remarks = [f"the 95% interval over seeds does not exclude a loss above {percent(TOLERANCE)}"]
    if fewest < wanted_seeds:
        remarks.append(f"{fewest} of {wanted_seeds} seeds")
    remarks += [
        f"the same prediction for all examples with {row.one_answer} of {len(row.seeds)} seeds on {row.task}"
        for row in rows
        if row.one_answer
    ]
    return "; ".join(remarks)
