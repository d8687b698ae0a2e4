"""The tables of the report."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

from aerogel.analysis.plot import short
from aerogel.report.columns import COSTS, FLIPS, WEIGHTS, in_order, setting
from aerogel.report.estimate import Estimate, change, percent, significant, with_interval
from aerogel.report.figures import panels
from aerogel.report.findings import Findings, Realised, Scored
from aerogel.report.names import RECOVERY_NAMES, metric_digits, metric_name
from aerogel.report.prose import remarks
from aerogel.report.table import Column, Table
from aerogel.report.verdicts import TOLERANCE, Answer
from aerogel.study.variant import Variant


def answers(findings: Findings, rows: Sequence[Answer]) -> Table:
    """The opening table: the highest allowed sparsity of each model, variant and task, and what it costs."""
    shown = {"speedup": "times as fast", "file_bytes": "file, MB", "file_share": "of dense"}
    shown |= {"inference_memory_bytes": "memory, MB", "inference_memory_share": "of dense"}
    structured = any(row.variant.structure for row in rows)
    columns = (
        *setting(findings, rows)[:-1],
        Column("task", "task", attrgetter("task")),
        Column("sparsity", "sparsity", _allowed, lambda share: percent(share) if share or structured else "none"),
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
    """0 where the lowest sparsity already loses too much; `None` where the structure alone does, or no verdict."""
    if row.allowed:
        return row.allowed.sparsity
    return 0.0 if row.beyond and not row.variant.structure else None


def _cost(findings: Findings, column: Column, row: Answer) -> Any:
    cost = findings.cost(row.allowed) if row.allowed else None
    return column.value(cost) if cost else None


def _mean(value: Estimate) -> str:
    return significant(value.mean, metric_digits(value.mean))


def _change(value: Estimate) -> str:
    half = "" if value.half is None else f" \N{PLUS-MINUS SIGN} {change(value.half).removeprefix('+')}"
    return change(value.mean) + half


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
        *setting(findings, rows),
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
    return Table.of(title, columns, in_order(findings, rows))


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
    columns = (*setting(findings, measured), stored, *COSTS)
    return [Table.of("Memory, time and size", columns, in_order(findings, measured))] if measured else []


def rounded(findings: Findings) -> list[Table]:
    """A row for each scored model with rounded values: what differs from the one in float32."""
    scores = [item.row for item in findings.rounded]
    columns = (
        *setting(findings, scores, attrgetter("row")),
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
    for row in in_order(findings, [row for row in findings.realised if row.sparsity]):
        series[row.model, row.variant][row.sparsity] = row
    items = [
        (rows, layer)
        for rows in series.values()
        for layer in ("prunable", "all", *dict.fromkeys(chain(*(row.layers for row in rows.values()))))
    ]
    columns = (
        *setting(findings, findings.realised, lambda item: next(iter(item[0].values())))[:-1],
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


def structures(findings: Findings) -> list[Table]:
    """A row for each structured variant and sub-layer: what it has kept, a mean over tasks and seeds."""
    items = [(row, part) for row in in_order(findings, findings.realised) for part in row.structure]
    columns = (
        *setting(findings, [row for row, _ in items], lambda item: item[0]),
        Column("parameters", "parameters", lambda item: item[0].parameters, "{:,.0f}".format),
        Column("sublayer", "sub-layer", lambda item: item[1].name, short),
        Column("kind", "of", lambda item: item[1].kind),
        Column("original", "had", lambda item: item[1].original, "{:,}".format),
        Column("kept", "kept", lambda item: item[1].kept, "{:,.4g}".format),
        Column("share", "share", lambda item: item[1].kept / item[1].original, "{:.0%}".format),
    )
    return [Table.of("Heads and neurons that were kept", columns, items)] if items else []


def weights(findings: Findings) -> list[Table]:
    items = [(report, group) for report in findings.weights.values() for group in (report.whole, *report.layers)]
    return [Table.of("Weights before pruning", WEIGHTS, items)] if items else []


def every_seed(findings: Findings) -> list[Table]:
    """One row for each scoring trial and metric, as in the store."""
    columns = (
        Column("task", "task", lambda item: item[0].trial.task),
        *setting(findings, findings.scores, lambda item: item[0].trial),
        Column("seed", "seed", lambda item: item[0].seed),
        Column("metric", "metric", lambda item: item[1], metric_name),
        Column("value", "value", lambda item: item[2], lambda value: significant(value, 4)),
        Column("training_seconds", "training, s", lambda item: item[0].result.training.seconds, significant),
        Column("training_steps", "steps", lambda item: item[0].result.training.steps),
        Column("parameters", "parameters", lambda item: item[0].result.parameters, "{:,}".format),
        Column("realised_sparsity", "zeros of prunable", lambda item: item[0].result.sparsity, "{:.2%}".format),
    )
    items = [(run, metric, value) for run in findings.runs for metric, value in run.metrics.items()]
    return [Table.of("Every seed", columns, items)] if items else []
