"""The tables of the report."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import attrgetter
from statistics import fmean, median
from typing import Any, TypeVar

from aerogel.analysis.plot import short
from aerogel.report.estimate import Estimate, change, megabytes, minus, percent, significant, with_interval
from aerogel.report.figures import panels
from aerogel.report.findings import Cost, Findings, Realised, Scored
from aerogel.report.names import RECOVERY_NAMES, metric_digits, metric_name, values_name
from aerogel.report.prose import remarks
from aerogel.report.table import Column, Table
from aerogel.report.verdicts import TOLERANCE, Answer
from aerogel.study.variant import Variant

Row = TypeVar("Row", Scored, Cost, Realised)


def _of_dense(bytes_of: Callable[[Any], int]) -> Callable[[Cost], float | None]:
    """The share of the dense model's bytes; stored dense, a pruned model has all of them."""
    return lambda cost: (
        bytes_of(cost.own) / bytes_of(cost.dense)
        if cost.dense and bytes_of(cost.dense) > 0 and cost.own.compressed
        else None
    )


COSTS = (
    Column("file_bytes", "on disk, MB", attrgetter("own.file_bytes"), megabytes),
    Column("file_share", "of dense", _of_dense(attrgetter("file_bytes")), "{:.0%}".format),
    Column("parameter_bytes", "weights in memory, MB", attrgetter("own.parameter_bytes"), megabytes),
    Column("parameter_share", "of dense", _of_dense(attrgetter("parameter_bytes")), "{:.0%}".format),
    Column("inference_memory_bytes", "peak in inference, MB", attrgetter("own.inference_memory"), megabytes),
    Column("inference_memory_share", "of dense", _of_dense(attrgetter("inference_memory")), "{:.0%}".format),
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
    Column("speedup", "times as fast", attrgetter("speedup"), "{:.2f}".format),
    Column("speedup_low", "lowest round", lambda cost: min(cost.speedups, default=None), "{:.2f}".format),
    Column("speedup_high", "highest round", lambda cost: max(cost.speedups, default=None), "{:.2f}".format),
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


def answers(findings: Findings, rows: Sequence[Answer]) -> Table:
    """The opening table: the highest allowed sparsity of each model, variant and task, and what it costs."""
    shown = {"speedup": "times as fast", "file_bytes": "file, MB", "file_share": "of dense"}
    shown |= {"inference_memory_bytes": "memory, MB", "inference_memory_share": "of dense"}
    columns = (
        *_setting(findings, rows)[:-1],
        Column("task", "task", attrgetter("task")),
        Column("sparsity", "sparsity", _allowed, lambda sparsity: percent(sparsity) if sparsity else "none"),
        Column("metric", "metric", lambda row: row.verdict.dense and row.verdict.dense.main, metric_name),
        Column("dense", "dense", lambda row: row.verdict.dense and row.verdict.dense.value, _mean),
        Column("sparse", "sparse", lambda row: row.allowed and row.allowed.value, _mean),
        Column("change", "change", lambda row: row.allowed and row.allowed.change, _change),
        *(
            replace(column, head=shown[column.name], value=partial(_cost, findings, column))
            for column in COSTS
            if column.name in shown
        ),
        Column("beyond", "next sparsity", lambda row: row.beyond and row.beyond.sparsity, percent),
        Column(
            "beyond_change",
            "its change",
            lambda row: row.beyond and row.beyond.change,
            lambda value: change(value.mean),
        ),
        Column("remarks", "how sure", lambda row: remarks(row.verdict, len(findings.spec.seeds))),
    )
    return Table.of(f"Highest sparsity within {percent(TOLERANCE)} of the dense model", columns, rows)


def _allowed(row: Answer) -> float | None:
    """0 where the lowest sparsity already loses too much, `None` without a verdict."""
    return row.allowed.sparsity if row.allowed else 0.0 if row.beyond else None


def _cost(findings: Findings, column: Column, row: Answer) -> Any:
    cost = findings.cost(row.allowed) if row.allowed else None
    return column.value(cost) if cost else None


def _mean(value: Estimate) -> str:
    return significant(value.mean, metric_digits(value.mean))


def _change(value: Estimate) -> str:
    half = "" if value.half is None else f" \N{PLUS-MINUS SIGN} {change(value.half).removeprefix('+')}"
    return change(value.mean) + half


def _over_seeds(row: Scored, name: str, mean: Callable[[Iterable[float]], float]) -> float | None:
    return mean([getattr(flips, name) for flips in row.flips]) if row.flips else None


def scores(findings: Findings, task: str) -> list[Table]:
    """One for each main metric of a task, so that no table has two kinds of perplexity."""
    by_metric = panels(row for row in findings.scores if row.task == task)
    return [
        _scores(findings, f"Scores: {task}" + (f", {metric_name(main)}" if len(by_metric) > 1 else ""), rows)
        for main, rows in by_metric.items()
    ]


def _scores(findings: Findings, title: str, rows: Sequence[Scored]) -> Table:
    metrics, recovered = list(rows[0].metrics), bool(findings.spec.recoveries)
    of_metric = f" of {metric_name(metrics[0])}" if len(metrics) > 1 else ""
    columns = [
        *_setting(findings, rows),
        Column("seeds", "seeds", lambda row: len(row.seeds)),
        *(Column(name, metric_name(name), partial(_metric, name), _estimate) for name in metrics),
        Column("change", f"change{of_metric}", attrgetter("change"), _change),
        Column("agreement", "agreement", attrgetter("agreement"), lambda share: f"{100 * share.mean:.1f}%"),
        *(FLIPS),
        Column("one_prediction", "seeds with one prediction", lambda row: row.one_answer or None),
        Column("dense_seconds", "dense training, s", attrgetter("dense_seconds"), with_interval),
        Column(
            "training_seconds",
            "recovery, s" if recovered else "training, s",
            attrgetter("training_seconds"),
            with_interval,
        ),
    ]
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
    resolved = [(run.trial, pruning.resolved()) for run in findings.runs if (pruning := run.trial.recovery.pruning)]
    items = dict.fromkeys(
        (trial.variant.recovery, config.method, config.pattern, config.scope, config.allocation, trial.epochs)
        for trial, config in resolved
    )
    return [Table.of("How models were pruned", columns, items)] if items else []


def costs(findings: Findings) -> list[Table]:
    measured = [*findings.costs, *findings.compressed]
    stored = Column("stored", "stored", lambda cost: "compressed" if cost.own.compressed else "dense")
    columns = (*_setting(findings, measured), stored, *COSTS)
    return [Table.of("Memory, time and size", columns, _in_order(findings, measured))] if measured else []


def rounded(findings: Findings) -> list[Table]:
    """A row for each scored model with rounded values: what differs from the one in float32."""
    scores = [item.row for item in findings.rounded]
    columns = (
        *_setting(findings, scores, attrgetter("row")),
        Column("task", "task", attrgetter("row.task")),
        Column("metric", "metric", attrgetter("row.main"), metric_name),
        Column("float32", "in float32", attrgetter("float32.value"), _mean),
        Column("rounded", "rounded", attrgetter("row.value"), _mean),
        Column("change", "change", attrgetter("row.change"), _change),
        Column("kl", "KL to float32", attrgetter("row.kl"), lambda value: significant(value.mean)),
        Column("speedup", "times as fast", findings.rounded_speedup, "{:.2f}".format),
    )
    return [Table.of("Rounded values beside float32", columns, findings.rounded)] if scores else []


def realised(findings: Findings) -> list[Table]:
    """A row for each model, variant and layer, a column for each sparsity."""
    series: dict[tuple[str, Variant], dict[float, Realised]] = defaultdict(dict)
    for row in _in_order(findings, [row for row in findings.realised if row.sparsity]):
        series[row.model, row.variant][row.sparsity] = row
    items = [
        (rows, layer)
        for rows in series.values()
        for layer in ("prunable", "all", *dict.fromkeys(chain(*(row.layers for row in rows.values()))))
    ]
    columns = (
        *_setting(findings, findings.realised, lambda item: next(iter(item[0].values())))[:-1],
        Column("weights", "weights", lambda item: item[1], lambda name: short(name) if "." in name else name),
        *(
            Column(f"sparsity_{sparsity:g}", percent(sparsity), partial(_zeros, sparsity), "{:.2%}".format)
            for sparsity in sorted(findings.spec.sparsities)
            if sparsity
        ),
    )
    return [Table.of("Realised sparsity", columns, items)] if items else []


def _zeros(sparsity: float, item: tuple[dict[float, Realised], str]) -> float | None:
    row = item[0].get(sparsity)
    return {"prunable": row.prunable, "all": row.whole, **row.layers}.get(item[1]) if row else None


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
        Column("realised_sparsity", "zeros of prunable", lambda item: item[0].result.sparsity, "{:.2%}".format),
    )
    items = [(run, metric, value) for run in findings.runs for metric, value in run.metrics.items()]
    return [Table.of("Every seed", columns, items)] if items else []


def _setting(
    findings: Findings, rows: Sequence[Row] | Sequence[Answer], row_of: Callable[[Any], Any] = lambda row: row
) -> list[Column]:
    """The columns that tell rows apart: the method only where there are several, the recovery and the type of values
    where there is one.

    `row_of` gives what has an item's model, variant and sparsity.
    """
    columns: list[Column] = [Column("model", "model", lambda item: row_of(item).model)]
    if len(findings.spec.methods) > 1:
        columns.append(Column("method", "method", lambda item: row_of(item).variant.method))
    if any(row.variant.recovery for row in rows):
        show = RECOVERY_NAMES.__getitem__
        columns.append(Column("recovery", "recovery", lambda item: row_of(item).variant.recovery, show))
    if any(row.variant.values for row in rows):
        columns.append(Column("values", "values", lambda item: values_name(row_of(item).variant)))
    return [
        *columns,
        Column(
            "sparsity",
            "sparsity",
            lambda item: row_of(item).sparsity,
            lambda share: percent(share) if share else "dense",
        ),
    ]


def _in_order(findings: Findings, rows: Sequence[Row]) -> list[Row]:
    """By model, recovery, method, type of values and sparsity, as the specification lists them, float32 first."""
    models, methods, recoveries = findings.spec.models, findings.spec.methods, findings.spec.recoveries
    values = ["float32", *findings.spec.values]
    return sorted(
        rows,
        key=lambda row: (
            models.index(row.model),
            recoveries.index(row.variant.recovery) if row.variant.recovery else 0,
            methods.index(row.variant.method) if row.variant.method else -1,
            values.index(values_name(row.variant)),
            row.sparsity,
        ),
    )
