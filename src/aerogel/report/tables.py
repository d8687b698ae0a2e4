"""The tables of the report."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median
from typing import Any, TypeVar

from aerogel.analysis.plot import short
from aerogel.report.breakeven import BreakEven, break_evens
from aerogel.report.collect import Cost, Findings, Realised, Scored, metrics_of
from aerogel.report.estimate import Estimate, change, megabytes, minus, percent, significant, with_interval
from aerogel.report.figures import panels
from aerogel.report.table import Column, Table
from aerogel.report.variant import RECOVERY_NAMES, Variant, series_name, variant_of
from aerogel.report.verdicts import metric_digits, metric_name

Row = TypeVar("Row", Scored, Cost, Realised, BreakEven)
COSTS = (
    Column("file_bytes", "on disk, MB", megabytes),
    Column("file_share", "of dense", lambda share: f"{share:.0%}"),
    Column("parameter_bytes", "weights in memory, MB", megabytes),
    Column("parameter_share", "of dense", lambda share: f"{share:.0%}"),
    Column("inference_memory_bytes", "peak in inference, MB", megabytes),
    Column("training_memory_bytes", "peak in training, MB", megabytes),
    Column("inference_median_seconds", "inference, s", significant),
    Column("inference_p90_seconds", "its p90, s", significant),
    Column("training_step_seconds", "training step, s", significant),
    Column("dense_median_seconds", "dense beside it, s", significant),
    Column("speedup", "times as fast", lambda value: f"{value:.2f}"),
    Column("speedup_low", "lowest round", lambda value: f"{value:.2f}"),
    Column("speedup_high", "highest round", lambda value: f"{value:.2f}"),
)


def scores(findings: Findings, task: str) -> list[Table]:
    """One for each main metric of a task, so that no kind of perplexity stands beside another."""
    made = []
    for main, rows in panels(findings.scores, task).items():
        metrics, recovered = list(rows[0].metrics), bool(findings.spec.recoveries)
        columns = (
            *_setting(findings, rows),
            Column("seeds", "seeds"),
            *(Column(metric, metric_name(metric), _estimate(metric)) for metric in metrics),
            Column(
                "change",
                f"change of {metric_name(main)}" if len(metrics) > 1 else "change",
                lambda value: change(value.mean),
            ),
            Column("agreement", "agreement", lambda share: f"{100 * share.mean:.1f}%"),
            *(DAMAGE if any(row.flips for row in rows) else ()),
            *((Column("dense_seconds", "dense training, s", with_interval),) if recovered else ()),
            Column("training_seconds", "recovery, s" if recovered else "training, s", with_interval),
        )
        found = [
            (
                *_setting_of(findings, row),
                len(row.seeds),
                *(row.metrics[metric] for metric in metrics),
                row.change,
                row.agreement,
                *(_damage(row) if any(row.flips for row in rows) else ()),
                *([row.dense_seconds] if recovered else []),
                row.training_seconds,
            )
            for row in _in_order(findings, rows)
        ]
        title = task if len(panels(findings.scores, task)) == 1 else f"{task}, {metric_name(main)}"
        made.append(Table(f"Scores: {title}", columns, found))
    return made


DAMAGE = (
    Column("kl", "KL to dense", lambda value: significant(value.mean)),
    Column("lost", "right, now wrong", lambda count: f"{count:.1f}"),
    Column("gained", "wrong, now right", lambda count: f"{count:.1f}"),
    Column("mcnemar_p", "McNemar's p", significant),
)


def _damage(row: Scored) -> tuple[Any, ...]:
    """The answers that changed, means over seeds, and the median of the seeds' p."""
    if not row.flips:
        return (None,) * len(DAMAGE)
    lost, gained = fmean(flips.lost for flips in row.flips), fmean(flips.gained for flips in row.flips)
    return row.kl, lost, gained, median(flips.p for flips in row.flips)


def costs(findings: Findings) -> list[Table]:
    """The reports' table, model by sparsity to megabytes and seconds; the same compressed; and what follows from it."""
    made = []
    for title, found in (("stored dense", findings.costs), ("compressed", findings.compressed)):
        rows = [(*_setting_of(findings, cost), *_measured(cost)) for cost in _in_order(findings, found)]
        columns = (*_setting(findings, found), *COSTS)
        # a compressed model is not trained
        kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
        if rows:
            shown = [tuple(row[place] for place in kept) for row in rows]
            made.append(Table(f"Memory, time and bytes, {title}", tuple(columns[place] for place in kept), shown))
    return made + _break_even(findings)


def _measured(cost: Cost) -> tuple[Any, ...]:
    own, dense = cost.own, cost.dense
    beside = dense if own.compressed else None  # a model stored dense has the dense one's bytes
    return (
        own.file_bytes,
        own.file_bytes / beside.file_bytes if beside else None,
        own.parameter_bytes,
        own.parameter_bytes / beside.parameter_bytes if beside else None,
        own.inference_memory,
        own.training_memory,
        own.median,
        own.p90,
        own.training_median,
        dense.median if dense else None,
        cost.speedup,
        min(cost.speedups, default=None),
        max(cost.speedups, default=None),
    )


def _break_even(findings: Findings) -> list[Table]:
    evens = break_evens(findings)
    columns = (
        *_setting(findings, evens)[:-1],
        Column("break_even_sparsity", "break-even sparsity", lambda sparsity: f"{100 * sparsity:.0f}%"),
        Column("not_faster_at", "not faster at", percent),
        Column("faster_from", "faster from", percent),
    )
    rows = [(*_setting_of(findings, found)[:-1], found.sparsity, found.below, found.above) for found in evens]
    return [Table("Break-even sparsity of compressed models", columns, rows)] if rows else []


def realised(findings: Findings) -> list[Table]:
    columns = (
        *_setting(findings, findings.realised),
        Column("prunable_sparsity", "zeros of prunable", lambda share: f"{100 * share:.2f}%"),
        Column("model_sparsity", "zeros of all", lambda share: f"{100 * share:.2f}%"),
    )
    rows = [(*_setting_of(findings, row), row.prunable, row.whole) for row in _in_order(findings, findings.realised)]
    return [Table("Realised sparsity", columns, rows)] if rows else []


def weights(findings: Findings) -> list[Table]:
    columns = (
        Column("model", "model"),
        Column("group", "weights", lambda name: short(name) if "." in name else name),
        Column("count", "count", lambda count: f"{count:,}"),
        Column("mean", "mean", lambda value: significant(value, 2)),
        Column("std", "std", significant),
        Column("kurtosis", "kurtosis", lambda value: minus(f"{value:+.2f}")),
        Column("median_magnitude", "median |w|", significant),
        Column("below_1e-3", "|w| < 0.001", lambda share: f"{share:.1%}"),
        Column("below_1e-2", "|w| < 0.01", lambda share: f"{share:.1%}"),
    )
    rows = [
        (
            report.model,
            group.name,
            group.count,
            group.mean,
            group.std,
            group.kurtosis,
            group.quantiles[3],
            group.below_1e_3,
            group.below_1e_2,
        )
        for report in findings.weights.values()
        for group in (report.whole, *report.layers)
    ]
    return [Table("Weights before pruning", columns, rows)] if rows else []


def every_seed(findings: Findings) -> list[Table]:
    """One row a score trial and metric, as the store has it."""
    columns = (
        Column("task", "task"),
        *_setting(findings, findings.scores),
        Column("seed", "seed"),
        Column("metric", "metric", metric_name),
        Column("value", "value", lambda value: significant(value, 4)),
        Column("training_seconds", "training, s", significant),
        Column("training_steps", "steps"),
        Column("sparsity_found", "zeros of prunable", lambda share: f"{100 * share:.2f}%"),
    )
    rows = [
        (
            run.trial.task,
            run.trial.model,
            *_way(findings, variant_of(run.trial)),
            run.trial.sparsity,
            run.seed,
            metric,
            value,
            run.values["training_seconds"],
            run.values["training_steps"],
            run.values["sparsity"],
        )
        for run in findings.runs
        for metric, value in metrics_of(run.values).items()
    ]
    return [Table("Every seed", columns, rows)] if rows else []


def layers(findings: Findings) -> Table:
    """What the maps of layers show, for the CSV."""
    columns = (*_setting(findings, findings.realised), Column("layer", "layer"), Column("zeros", "zeros"))
    rows = [
        (*_setting_of(findings, row), layer, share)
        for row in _in_order(findings, findings.realised)
        for layer, share in row.layers.items()
    ]
    return Table("Realised sparsity by layer", columns, rows)


@dataclass(frozen=True)
class LayerMap:
    """Zeros by layer (rows) and sparsity asked for (columns): texts, and how far each cell is from the whole.

    A tint is between -1 and 1: above zero the layer keeps more of its weights than the model as a whole does,
    at 1 twice as many; below zero fewer.
    """

    title: str
    sparsities: list[str]
    rows: list[tuple[str, list[tuple[str, float]]]]


def layer_maps(findings: Findings) -> list[LayerMap]:
    """One for each model and way."""
    found: dict[str, list[Realised]] = defaultdict(list)
    for row in _in_order(findings, findings.realised):
        if row.layers and row.sparsity:
            found[series_name(findings.spec, row.model, row.way)].append(row)
    return [
        LayerMap(
            f"{name}: zeros by layer, %",
            [percent(row.sparsity) for row in rows],
            [
                (short(layer), [_map_cell(row, layer) for row in rows])
                for layer in dict.fromkeys(chain.from_iterable(row.layers for row in rows))
            ],
        )
        for name, rows in found.items()
    ]


def _map_cell(row: Realised, layer: str) -> tuple[str, float]:
    if layer not in row.layers:  # of a task that is not scored yet
        return "", 0.0
    kept, usual = 1 - row.layers[layer], 1 - row.prunable
    ratio = math.log2(kept / usual) if kept > 0 and usual > 0 else -1.0
    return f"{100 * row.layers[layer]:.1f}", max(-1.0, min(1.0, ratio))


def _estimate(metric: str) -> Callable[[Estimate], str]:
    return lambda value: with_interval(value, metric_digits(metric, value.mean))


def _setting(findings: Findings, rows: Sequence[Scored | Cost | Realised | BreakEven]) -> tuple[Column, ...]:
    """The columns that say what was pruned how: the method only where there are several, and recovery where it is."""
    columns = [Column("model", "model")]
    if len(findings.spec.methods) > 1:
        columns.append(Column("method", "method"))
    if any(row.way.recovery for row in rows):
        columns.append(Column("recovery", "recovery", RECOVERY_NAMES.__getitem__))
    return *columns, Column("sparsity", "sparsity", _sparsity)


def _setting_of(findings: Findings, row: Row) -> tuple[Any, ...]:
    return row.model, *_way(findings, row.way), row.sparsity


def _way(findings: Findings, way: Variant) -> list[str | None]:
    return ([way.method] if len(findings.spec.methods) > 1 else []) + ([way.recovery] if way.recovery else [])


def _sparsity(sparsity: float) -> str:
    return percent(sparsity) if sparsity else "dense"


def _in_order(findings: Findings, rows: Sequence[Row]) -> list[Row]:
    """By model, recovery, method and sparsity, as the specification lists them."""
    models, methods, recoveries = findings.spec.models, findings.spec.methods, findings.spec.recoveries
    return sorted(
        rows,
        key=lambda row: (
            models.index(row.model),
            recoveries.index(row.way.recovery) if row.way.recovery else 0,
            methods.index(row.way.method) if row.way.method else -1,
            row.sparsity,
        ),
    )
