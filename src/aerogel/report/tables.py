"""The tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from statistics import fmean, median
from typing import Any, TypeVar

from aerogel.analysis.plot import short
from aerogel.pruning import PruneConfig
from aerogel.report.breakeven import BreakEven, break_evens
from aerogel.report.estimate import Estimate, change, megabytes, minus, percent, significant, with_interval
from aerogel.report.figures import panels
from aerogel.report.findings import Cost, Findings, Realised, Scored
from aerogel.report.names import RECOVERY_NAMES, metric_digits, metric_name
from aerogel.report.table import Column, Table
from aerogel.study.trial import Scoring

Row = TypeVar("Row", Scored, Cost, Realised, BreakEven)


def _times(value: float) -> str:
    return f"{value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.2f}%"


def _of_dense(bytes_of: Callable[[Any], int]) -> Callable[[Cost], float | None]:
    """The share of the dense model's bytes; stored dense, a pruned model has all of them."""
    return lambda cost: bytes_of(cost.own) / bytes_of(cost.dense) if cost.dense and cost.own.compressed else None


COSTS = (
    Column("file_bytes", "on disk, MB", attrgetter("own.file_bytes"), megabytes),
    Column("file_share", "of dense", _of_dense(attrgetter("file_bytes")), "{:.0%}".format),
    Column("parameter_bytes", "weights in memory, MB", attrgetter("own.parameter_bytes"), megabytes),
    Column("parameter_share", "of dense", _of_dense(attrgetter("parameter_bytes")), "{:.0%}".format),
    Column("inference_memory_bytes", "peak in inference, MB", attrgetter("own.inference_memory"), megabytes),
    Column("training_memory_bytes", "peak in training, MB", attrgetter("own.training_memory"), megabytes),
    Column("inference_median_seconds", "inference, s", attrgetter("own.median"), significant),
    Column("inference_p90_seconds", "its p90, s", attrgetter("own.p90"), significant),
    Column("training_step_seconds", "training step, s", attrgetter("own.training_median"), significant),
    Column(
        "dense_median_seconds",
        "dense beside it, s",
        lambda cost: cost.dense.median if cost.dense else None,
        significant,
    ),
    Column("speedup", "times as fast", attrgetter("speedup"), _times),
    Column("speedup_low", "lowest round", lambda cost: min(cost.speedups, default=None), _times),
    Column("speedup_high", "highest round", lambda cost: max(cost.speedups, default=None), _times),
)
FLIPS = (  # of predictions, means over seeds, and the median of the seeds' p
    Column("kl", "KL to dense", attrgetter("kl"), lambda value: significant(value.mean)),
    Column("lost", "right, now wrong", lambda row: _over_seeds(row, "lost", fmean), "{:.1f}".format),
    Column("gained", "wrong, now right", lambda row: _over_seeds(row, "gained", fmean), "{:.1f}".format),
    Column("mcnemar_p", "McNemar's p", lambda row: _over_seeds(row, "p", median), significant),
)
WEIGHTS = (
    Column("model", "model", lambda item: item[0].model),
    Column("group", "weights", lambda item: item[1].name, lambda name: short(name) if "." in name else name),
    Column("count", "count", lambda item: item[1].count, "{:,}".format),
    Column("mean", "mean", lambda item: item[1].mean, lambda value: significant(value, 2)),
    Column("std", "std", lambda item: item[1].std, significant),
    Column("kurtosis", "kurtosis", lambda item: item[1].kurtosis, lambda value: minus(f"{value:+.2f}")),
    Column("median_magnitude", "median |w|", lambda item: item[1].quantiles[3], significant),
    Column("below_1e-3", "|w| < 0.001", lambda item: item[1].below_1e_3, "{:.1%}".format),
    Column("below_1e-2", "|w| < 0.01", lambda item: item[1].below_1e_2, "{:.1%}".format),
)


def _over_seeds(row: Scored, name: str, mean: Callable[[Iterable[float]], float]) -> float | None:
    return mean([getattr(flips, name) for flips in row.flips]) if row.flips else None


def scores(findings: Findings, task: str) -> list[Table]:
    """One for each main metric of a task, so that no table has two kinds of perplexity."""
    by_metric = panels(findings.scores, task)
    return [
        _scores(findings, f"Scores: {task}" + (f", {metric_name(main)}" if len(by_metric) > 1 else ""), rows)
        for main, rows in by_metric.items()
    ]


def _scores(findings: Findings, title: str, rows: Sequence[Scored]) -> Table:
    metrics, recovered = list(rows[0].metrics), bool(findings.spec.recoveries)
    columns = [
        *_setting(findings, rows),
        Column("seeds", "seeds", lambda row: len(row.seeds)),
        *(Column(name, metric_name(name), partial(_metric, name), _estimate) for name in metrics),
        Column(
            "change",
            f"change of {metric_name(metrics[0])}" if len(metrics) > 1 else "change",
            attrgetter("change"),
            lambda value: change(value.mean),
        ),
        Column("agreement", "agreement", attrgetter("agreement"), lambda share: f"{100 * share.mean:.1f}%"),
        *(FLIPS if any(row.flips for row in rows) else ()),
    ]
    if recovered:
        columns.append(Column("dense_seconds", "dense training, s", attrgetter("dense_seconds"), with_interval))
    training = "recovery, s" if recovered else "training, s"
    columns.append(Column("training_seconds", training, attrgetter("training_seconds"), with_interval))
    return Table.of(title, columns, _in_order(findings, rows))


def _metric(name: str, row: Scored) -> Estimate:
    return row.metrics[name]


def _estimate(value: Estimate) -> str:
    return with_interval(value, metric_digits(value.mean))


def pruning(findings: Findings) -> list[Table]:
    """How each variant was pruned and trained, as its trials say."""
    columns = [
        Column("recovery", "recovery", lambda item: item[0], RECOVERY_NAMES.__getitem__),
        Column("method", "method", lambda item: item[1]),
        Column("pattern", "pattern", lambda item: item[2]),
        Column("scope", "scope", lambda item: item[3]),
        Column("allocation", "allocation", lambda item: item[4]),
        Column("epochs", "epochs of training", lambda item: item[5], "{:g}".format),
    ]
    items = dict.fromkeys(
        (run.trial.variant.recovery, *_pruned_by(run.trial), run.trial.epochs)
        for run in findings.runs
        if run.trial.sparsity
    )
    return [Table.of("How models were pruned", columns, items).without_empty_columns()] if items else []


def _pruned_by(trial: Scoring) -> tuple[str | None, ...]:
    """Method, pattern, scope and allocation of a trial."""
    pruning = trial.recovery.pruning
    assert pruning, "a sparse model was pruned"
    config = pruning.resolved() if isinstance(pruning, PruneConfig) else pruning.resolved
    return config.method, config.pattern, config.scope, config.allocation


def costs(findings: Findings) -> list[Table]:
    """Memory, time and size of models stored dense; of compressed ones; and their break-even sparsities."""
    evens = break_evens(findings)
    columns: tuple[Column, ...] = (
        *_setting(findings, evens)[:-1],
        Column(
            "break_even_sparsity",
            "break-even sparsity",
            attrgetter("sparsity"),
            lambda sparsity: f"{100 * sparsity:.0f}%",
        ),
        Column("not_faster_at", "not faster at", attrgetter("below"), percent),
        Column("faster_from", "faster from", attrgetter("above"), percent),
    )
    tables = [
        Table.of(
            f"Memory, time and size, {title}", (*_setting(findings, measured), *COSTS), _in_order(findings, measured)
        ).without_empty_columns()  # a compressed model is not trained
        for title, measured in (("stored dense", findings.costs), ("compressed", findings.compressed))
    ]
    tables.append(Table.of("Break-even sparsity of compressed models", columns, evens))
    return [table for table in tables if table.rows]


def realised(findings: Findings) -> list[Table]:
    columns = (
        *_setting(findings, findings.realised),
        Column("prunable_sparsity", "zeros of prunable", attrgetter("prunable"), _share),
        Column("model_sparsity", "zeros of all", attrgetter("whole"), _share),
    )
    rows = _in_order(findings, findings.realised)
    return [Table.of("Realised sparsity", columns, rows)] if rows else []


def layers(findings: Findings) -> Table:
    """The numbers of the layer maps, for the CSV."""
    columns = (
        *_setting(findings, findings.realised, lambda item: item[0]),
        Column("layer", "layer", lambda item: item[1]),
        Column("zeros", "zeros", lambda item: item[2]),
    )
    rows = _in_order(findings, findings.realised)
    items = [(row, layer, share) for row in rows for layer, share in row.layers.items()]
    return Table.of("Realised sparsity by layer", columns, items)


def weights(findings: Findings) -> list[Table]:
    items = [(report, group) for report in findings.weights.values() for group in (report.whole, *report.layers)]
    return [Table.of("Weights before pruning", WEIGHTS, items)] if items else []


def every_seed(findings: Findings) -> list[Table]:
    """One row for each scoring trial and metric, as in the store."""
    columns = (
        Column("task", "task", lambda item: item[0].trial.task),
        *_setting(findings, findings.scores, lambda item: item[0].trial),
        Column("seed", "seed", lambda item: item[0].seed),
        Column("metric", "metric", lambda item: item[1], metric_name),
        Column("value", "value", lambda item: item[2], lambda value: significant(value, 4)),
        Column("training_seconds", "training, s", lambda item: item[0].result.training.seconds, significant),
        Column("training_steps", "steps", lambda item: item[0].result.training.steps),
        Column("realised_sparsity", "zeros of prunable", lambda item: item[0].result.sparsity, _share),
    )
    items = [(run, metric, value) for run in findings.runs for metric, value in run.metrics.items()]
    return [Table.of("Every seed", columns, items)] if items else []


def _setting(findings: Findings, rows: Sequence[Row], row_of: Callable[[Any], Any] = lambda row: row) -> list[Column]:
    """The columns that tell rows apart: the method only where there are several, the recovery where there is one.

    `row_of` gives what has an item's model, variant and sparsity.
    """
    columns: list[Column] = [Column("model", "model", lambda item: row_of(item).model)]
    if len(findings.spec.methods) > 1:
        columns.append(Column("method", "method", lambda item: row_of(item).variant.method))
    if any(row.variant.recovery for row in rows):
        show = RECOVERY_NAMES.__getitem__
        columns.append(Column("recovery", "recovery", lambda item: row_of(item).variant.recovery, show))
    return [*columns, Column("sparsity", "sparsity", lambda item: row_of(item).sparsity, _sparsity)]


def _sparsity(sparsity: float) -> str:
    return percent(sparsity) if sparsity else "dense"


def _in_order(findings: Findings, rows: Sequence[Row]) -> list[Row]:
    """By model, recovery, method and sparsity, as the specification lists them."""
    models, methods, recoveries = findings.spec.models, findings.spec.methods, findings.spec.recoveries
    return sorted(
        rows,
        key=lambda row: (
            models.index(row.model),
            recoveries.index(row.variant.recovery) if row.variant.recovery else 0,
            methods.index(row.variant.method) if row.variant.method else -1,
            row.sparsity,
        ),
    )
