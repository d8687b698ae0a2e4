"""The tables of the report."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from aerogel.analysis.plot import short
from aerogel.report.columns import COSTS, FLIPS, WEIGHTS, in_order, setting
from aerogel.report.estimate import Estimate, percent, rough, share_with_interval, significant, with_interval
from aerogel.report.figures import by_main_metric
from aerogel.report.findings import Findings, Scored
from aerogel.report.names import RECOVERY_NAMES, metric_digits, metric_name
from aerogel.report.table import Column, Table
from aerogel.report.verdicts import TOLERANCE, Option
from aerogel.study.variant import Variant


def limits(findings: Findings, options: Sequence[Option]) -> list[Table]:
    """The highest sparsity of each model and variant that keeps the score of a task, and the next one."""
    series: dict[tuple[str, str, Variant], list[Option]] = defaultdict(list)
    for option in options:
        series[option.row.task, option.row.model, option.variant].append(option)
    items = [(several[-1], _last(several, True), _last(several[::-1], False)) for several in series.values()]
    columns = (
        Column("task", "task", lambda item: item[0].row.task),
        *setting(findings, [option.row for option in options], lambda item: item[0].row)[:-1],
        Column("sparsity", "sparsity", lambda item: item[1] and item[1].row.sparsity, percent),
        Column("kept", "kept", lambda item: item[1] and item[1].kept, rough),
        Column("speedup", "times as fast", lambda item: item[1] and item[1].speed, "{:.2f}".format),
        Column("beyond", "next sparsity", lambda item: item[2] and item[2].row.sparsity, percent),
        Column("beyond_kept", "kept there", lambda item: item[2] and item[2].kept, rough),
    )
    return [Table.of(f"Highest sparsity that keeps {percent(1 - TOLERANCE)}", columns, items)] if items else []


def _last(options: Sequence[Option], keeps: bool) -> Option | None:
    return next((option for option in reversed(options) if option.keeps == keeps), None)


def _speedup(findings: Findings, row: Scored) -> float | None:
    cost = findings.cost(row)
    return cost.speedup if cost else None


def scores(findings: Findings, task: str) -> list[Table]:
    """A table for each main metric of a task, so that no table has two kinds of perplexity."""
    by_metric = by_main_metric(row for row in findings.scores if row.task == task)
    return [
        _scores(findings, f"Scores: {task}" + (f", {metric_name(main)}" if len(by_metric) > 1 else ""), rows)
        for main, rows in by_metric.items()
    ]


def _scores(findings: Findings, title: str, rows: Sequence[Scored]) -> Table:
    metrics, recovered = list(rows[0].metrics), bool(findings.spec.recoveries)
    of_metric = f" {metric_name(metrics[0])}" if len(metrics) > 1 else ""
    columns = [
        *setting(findings, rows),
        Column("seeds", "seeds", lambda row: len(row.seeds)),
        *(Column(name, metric_name(name), partial(_metric, name), _estimate) for name in metrics),
        Column("kept", f"kept{of_metric}", attrgetter("kept"), share_with_interval),
        Column("speedup", "times as fast", partial(_speedup, findings), "{:.2f}".format),
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
    """How each variant was pruned and trained."""
    columns = [
        Column("recovery", "recovery", lambda item: item[0], RECOVERY_NAMES.__getitem__),
        Column("method", "method", lambda item: item[1]),
        Column("pattern", "pattern", lambda item: item[2]),
        Column("scope", "scope", lambda item: item[3]),
        Column("allocation", "allocation", lambda item: item[4]),
        Column("epochs", "epochs of training", lambda item: item[5], "{:g}".format),
    ]
    places = {variant: place for place, variant in enumerate(findings.spec.scored_variants)}
    runs = sorted(findings.runs, key=lambda run: places.get(run.trial.variant, -1))
    resolved = [(run.trial, pruning.resolved()) for run in runs if (pruning := run.trial.recovery.pruning)]
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


def realised(findings: Findings) -> list[Table]:
    """The share of zeros that a model has after training."""
    rows = [row for row in findings.realised if row.sparsity]
    columns = (
        *setting(findings, rows),
        Column("prunable", "zeros of prunable weights", attrgetter("prunable"), "{:.2%}".format),
        Column("whole", "of all weights", attrgetter("whole"), "{:.2%}".format),
        Column("parameters", "parameters", attrgetter("parameters"), "{:,.0f}".format),
    )
    return [Table.of("Realised sparsity", columns, in_order(findings, rows))] if rows else []


def structures(findings: Findings) -> list[Table]:
    """A row for each structured variant and sub-layer: what it keeps, averaged over tasks and seeds."""
    items = [(row, part) for row in in_order(findings, findings.realised) for part in row.structure]
    columns = (
        *setting(findings, [row for row, _ in items], lambda item: item[0]),
        Column("parameters", "parameters", lambda item: item[0].parameters, "{:,.0f}".format),
        Column("sublayer", "sub-layer", lambda item: item[1].name, short),
        Column("kind", "kind", lambda item: item[1].kind),
        Column("original", "before", lambda item: item[1].original, "{:,}".format),
        Column("kept", "kept", lambda item: item[1].kept, "{:,.4g}".format),
        Column("share", "share", lambda item: item[1].kept / item[1].original, "{:.0%}".format),
    )
    return [Table.of("Kept heads and neurons", columns, items)] if items else []


def sensitivity(findings: Findings) -> list[Table]:
    """A row for each model and layer or kind of matrix, a column for each sparsity."""
    tables = findings.sensitivities
    items = [(model, *row) for model, table in tables.items() for row in (*table.layers, *table.kinds)]
    sparsities = next(iter(tables.values())).sparsities if tables else ()
    columns = (
        Column("model", "model", lambda item: item[0]),
        Column("group", "pruned alone", lambda item: item[1]),
        *(
            Column(f"kl_{sparsity:g}", percent(sparsity), partial(_cell, index), significant)
            for index, sparsity in enumerate(sparsities)
        ),
    )
    return [Table.of("Sensitivity: KL divergence in nats", columns, items)] if items else []


def _cell(index: int, item: tuple[str, str, tuple[float, ...]]) -> float:
    return item[2][index]


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
