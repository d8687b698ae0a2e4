"""Columns of the report's tables, and the order of rows."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from statistics import fmean, median
from typing import Any, TypeVar

from aerogel.analysis.plot import short
from aerogel.report.estimate import megabytes, minus, percent, significant
from aerogel.report.findings import Cost, Findings, Realised, Scored
from aerogel.report.names import RECOVERY_NAMES, structure_name, values_name
from aerogel.report.table import Column
from aerogel.study.parts import NO_STRUCTURE

Row = TypeVar("Row", Scored, Cost, Realised)


def _of_dense(bytes_of: Callable[[Any], int]) -> Callable[[Cost], float | None]:
    """The share of the dense model's bytes; `None` for an unstructured model that is stored dense, which has all."""
    return lambda cost: (
        bytes_of(cost.own) / bytes_of(cost.dense)
        if cost.dense and bytes_of(cost.dense) > 0 and (cost.own.compressed or cost.variant.structure)
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
    Column("inference_p90_seconds", "inference p90, s", attrgetter("own.p90"), significant),
    Column("training_step_seconds", "training step, s", attrgetter("own.training_median"), significant),
    Column(
        "dense_median_seconds",
        "dense in the same rounds, s",
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


def setting(findings: Findings, rows: Sequence[Row], row_of: Callable[[Any], Any] = lambda row: row) -> list[Column]:
    """The columns that identify a row: the method if there are several, and the structure, the recovery and the type of
    values if any row has one.

    `row_of` returns the row of an item, which has the model, the variant and the sparsity.
    """
    columns: list[Column] = [Column("model", "model", lambda item: row_of(item).model)]
    if len(findings.spec.methods) > 1:
        columns.append(Column("method", "method", lambda item: row_of(item).variant.method))
    structured = any(row.variant.structure for row in rows)
    if structured:
        columns.append(Column("structure", "structure", lambda item: structure_name(row_of(item).variant)))
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
            lambda share: percent(share) if share or structured else "dense",
        ),
    ]


def in_order(findings: Findings, rows: Sequence[Row]) -> list[Row]:
    """Sorts by model, recovery, structure, method, type of values and sparsity, in the order of the specification. The
    model without removed structures and float32 come first."""
    models, methods, recoveries = findings.spec.models, findings.spec.methods, findings.spec.recoveries
    structures, values = [NO_STRUCTURE, *findings.spec.structures], ["float32", *findings.spec.values]
    return sorted(
        rows,
        key=lambda row: (
            models.index(row.model),
            recoveries.index(row.variant.recovery) if row.variant.recovery else 0,
            structures.index(structure_name(row.variant)),
            methods.index(row.variant.method) if row.variant.method else -1,
            values.index(values_name(row.variant)),
            row.sparsity,
        ),
    )


def _over_seeds(row: Scored, name: str, mean: Callable[[Iterable[float]], float]) -> float | None:
    return mean([getattr(flips, name) for flips in row.flips]) if row.flips else None
