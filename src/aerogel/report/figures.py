"""The charts of the report, each with its caption."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from aerogel.analysis.plot import distribution, heat_map, layers
from aerogel.charts import svg
from aerogel.report.estimate import Estimate, significant
from aerogel.report.findings import Cost, Findings, Realised, Scored
from aerogel.report.lines import LARGEST, ChartStyle, Line, Point, against_sparsity
from aerogel.report.names import metric_name
from aerogel.report.prose import direction
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS

Rows = Sequence[Scored]
POSITIVE = (0.0, LARGEST)


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, which is unique in the page, and its caption."""

    title: str
    caption: str
    drawing: Markup


def chart(title: str, caption: str, figure: Figure) -> Chart:
    prefix = f"f{zlib.crc32(title.encode()):08x}"
    return Chart(title, caption, Markup(svg(figure, title, prefix)))


class Figures:
    """Draws the findings, all in one `style`."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        variants = dict.fromkeys([*findings.spec.scored_variants, *findings.spec.measured_variants])
        self.style = ChartStyle(findings.spec.models, tuple(variants))
        self.sparsities = sorted(findings.spec.sparsities)

    def weights(self) -> list[list[Chart]]:
        """All prunable weights of each model, then layer by layer; side by side where there is one model."""
        whole = [
            chart(
                f"{model}: all prunable weights",
                f"{report.prunable:,} weights, {report.prunable / report.parameters:.0%} of the model.",
                distribution(report, self.style.colour(model), title=""),
            )
            for model, report in self.findings.weights.items()
        ]
        by_layer = [
            chart(
                f"{model}: layer by layer",
                "The same by layer, on one scale: a narrow ridge means many small weights.",
                layers(report, self.style.colour(model), title=""),
            )
            for model, report in self.findings.weights.items()
        ]
        return [whole, by_layer] if len(whole) > 1 else [whole + by_layer]

    def sensitivities(self) -> list[Chart]:
        """The effect of pruning one layer or kind of matrix alone, without fine-tuning."""
        return [
            chart(
                f"{model}: sensitivity",
                f"KL divergence from the dense model on {result.text}, in nats, with one layer (above) or one kind of "
                f"matrix (below) pruned by {result.method}.",
                heat_map([*result.layers, *result.kinds], result.sparsities, "", split=len(result.layers)),
            )
            for model, result in self.findings.sensitivities.items()
        ]

    def scores(self) -> list[Chart]:
        """Each metric of each task; each kind of perplexity in a chart of its own, unless `recovery` has the same."""
        return [
            self._score(task, metric, rows)
            for task in self.findings.spec.tasks
            for rows in panels(self.findings.scores, task).values()
            for metric in rows[0].metrics
            if not (self.findings.spec.recoveries and metric == rows[0].main and len({row.model for row in rows}) == 1)
        ]

    def recovery(self) -> list[Chart]:
        """The main metric of each task and model, a line for each recovery."""
        return [
            self._score(task, rows[0].main, rows, self._title(model, task)) for task, model, rows in self._recovered()
        ]

    def recovery_time(self) -> list[Chart]:
        charts = []
        for task, model, rows in self._recovered():
            dense = fmean(row.dense_seconds.mean for row in rows if row.dense_seconds)
            trained = [row for row in rows if row.variant.recovery != "none"]
            lines = self._lines(trained, lambda row: _point(row.training_seconds))
            caption = f"Seconds{self._sharing()}, after {significant(dense)} s of training the dense model."
            drawing = self._draw(lines, from_zero=True, bounds=POSITIVE)
            charts.append(chart(f"{self._title(model, task)}: time of recovery, s", caption, drawing))
        return charts

    def _recovered(self) -> Iterator[tuple[str, str, Rows]]:
        for task in self.findings.spec.tasks if self.findings.spec.recoveries else ():
            for model in self.findings.spec.models:
                if rows := [row for row in self.findings.scores if (row.task, row.model) == (task, model)]:
                    yield task, model, rows

    def _title(self, model: str, task: str) -> str:
        return f"{model} on {task}" if len(self.findings.spec.tasks) > 1 else model

    def _sharing(self) -> str:
        processes = self.findings.spec.processes
        return f", with {processes} trials sharing the cores" if processes > 1 else ""

    def _score(self, task: str, metric: str, rows: Rows, title: str = "") -> Chart:
        majority = rows[0].majority if metric == "accuracy" else None
        caption = f"{rows[0].counted:,} {rows[0].unit}; {direction(metric)}."
        if majority is not None:
            caption += f" Dashed: the share of the commonest class, {significant(majority)}."
        low, high = METRICS[metric].bounds
        drawing = self._draw(
            self._lines(rows, lambda row: _point(row.metrics[metric], hollow=row.one_answer > 0)),
            may_be_logarithmic=not METRICS[metric].higher_is_better,
            dense_levels=not self.findings.spec.recoveries,  # with them each line has a dense model of its own
            level=majority,
            bounds=(max(low, -LARGEST), min(high, LARGEST)),
        )
        return chart(f"{title or task}: {metric_name(metric)}", caption, drawing)

    def training_time(self) -> list[Chart]:
        """Of the whole fine-tuning, in a study without recoveries."""
        charts = []
        for task in self.findings.spec.tasks if not self.findings.spec.recoveries else ():
            rows = [row for row in self.findings.scores if row.task == task]
            if rows:
                lines = self._lines(rows, lambda row: _point(row.training_seconds))
                drawing = self._draw(lines, from_zero=True, bounds=POSITIVE)
                charts.append(chart(f"{task}: fine-tuning, s", f"Seconds{self._sharing()}.", drawing))
        return charts

    def agreement(self) -> list[Chart]:
        charts = []
        for task in self.findings.spec.tasks:
            by_metric = panels(self.findings.scores, task)
            for metric, rows in by_metric.items():
                compared = [row for row in rows if row.agreement]
                lines = self._lines(compared, lambda row: _percentage(row.agreement) if row.agreement else None)
                title = f"{task}: agreement{f' ({metric_name(metric)})' if len(by_metric) > 1 else ''}, %"
                caption = "Predictions equal to those of the dense model of the same seed."
                if lines:
                    charts.append(chart(title, caption, self._draw(lines, from_dense=False, bounds=(0.0, 100.0))))
        return charts

    def realised(self) -> list[Chart]:
        """Zeros counted after training, among the prunable and among all weights."""
        rows = self.findings.realised
        titles = (
            ("prunable", "Zeros among the prunable weights, %", "Counted after training."),
            ("whole", "Zeros among all weights, %", "Of the whole model, with its embeddings, norms and head."),
        )
        return [
            chart(title, caption, self._draw(self._lines(rows, partial(_share, name)), from_zero=True))
            for name, title, caption in (titles if rows else ())
        ]

    def memory(self) -> list[Chart]:
        where = "Peak of resident memory above the empty process"
        return [
            *self._beside(
                "Memory in inference, MB",
                f"{where}; {self._batch()}.",
                lambda cost: Point(cost.own.inference_memory / 1e6),
            ),
            *self._trained(
                "Memory in training, MB",
                f"{where}; forward, backward and AdamW step, {self._batch()}.",
                lambda cost: Point(cost.own.training_memory / 1e6) if cost.own.training_memory else None,
            ),
        ]

    def time(self) -> list[Chart]:
        def step(cost: Cost) -> Point | None:
            median, steps = cost.own.training_median, cost.own.training_steps
            return Point(median, min(steps), max(steps)) if median else None

        return [
            *self._beside(
                "Time of an inference batch, s",
                f"Median, bar to the 90th percentile; {self._batch()}.",
                lambda cost: Point(cost.own.median, cost.own.median, cost.own.p90),
            ),
            *self._trained(
                "Time of a training step, s",
                f"Median, bar from the shortest to the longest step; {self._batch()}.",
                step,
            ),
        ]

    def speed(self) -> list[Chart]:
        return self._beside(
            "Speed beside the dense model, times",
            "Median time of the dense model over that of the pruned one, measured in turn; above the dashed line is "
            "faster, bars from the slowest to the fastest round.",
            lambda cost: Point(cost.speedup, min(cost.speedups), max(cost.speedups)) if cost.speedup else None,
            from_zero=False,
            from_dense=False,
            level=1.0,
        )

    def size(self) -> list[Chart]:
        return [
            *self._beside(
                "Weight files on disk, MB",
                "Bytes of the saved checkpoint.",
                lambda cost: Point(cost.own.file_bytes / 1e6),
            ),
            *self._beside(
                "Weights in memory, MB",
                "Bytes of all parameters and buffers.",
                lambda cost: Point(cost.own.parameter_bytes / 1e6),
            ),
        ]

    def _beside(self, title: str, caption: str, point: Callable[[Cost], Point | None], **settings: Any) -> list[Chart]:
        """Lines of the models stored dense, pale behind those of compressed ones where there are any."""
        stored = self._lines(self.findings.costs, point)
        packed = {(cost.model, cost.variant, cost.sparsity): cost for cost in self.findings.compressed}
        lines = stored
        if packed:
            # compressing a model with nothing to pack leaves it as it is
            best = [packed.get((cost.model, cost.variant, cost.sparsity), cost) for cost in self.findings.costs]
            lines = [replace(line, pale=True) for line in stored] + self._lines(best, point)
            caption += " Pale: stored dense."
        return [chart(title, caption, self._draw(lines, **{"from_zero": True, **settings}))] if lines else []

    def _trained(self, title: str, caption: str, point: Callable[[Cost], Point | None]) -> list[Chart]:
        lines = self._lines(self.findings.costs, point)
        return [chart(title, caption, self._draw(lines, from_zero=True))] if lines else []

    def _batch(self) -> str:
        part = self.findings.spec.benchmark
        return f"{part.batch_size} sequences of {part.sequence_length} random tokens" if part else "random tokens"

    def _draw(self, lines: Sequence[Line], from_dense: bool = True, **settings: Any) -> Figure:
        sparsities = self.sparsities if from_dense else [sparsity for sparsity in self.sparsities if sparsity]
        return against_sparsity(sparsities, lines, self.style, **settings)

    def _lines(self, rows: Iterable, point: Callable) -> list[Line]:
        """A line for each model and variant, which starts at the dense model with the same training."""
        points: dict[tuple[str, Variant], dict[float, Point]] = defaultdict(dict)
        for row in rows:
            if value := point(row):
                points[row.model, row.variant][row.sparsity] = value
        lines = []
        for model in self.style.models:
            variants = [variant for variant in self.style.variants if (model, variant) in points]
            drawn = {variant.dense for variant in variants}
            variants += [
                dense
                for dense in dict.fromkeys(variant.dense for variant in self.style.variants)
                if (model, dense) in points and dense not in drawn
            ]
            lines += [
                Line(model, variant, points.get((model, variant.dense), {}) | points[model, variant])
                for variant in variants
            ]
        return lines


def panels(scores: Iterable[Scored], task: str) -> dict[str, list[Scored]]:
    """The rows of a task by their main metric: kinds of perplexity are never put together."""
    rows: dict[str, list[Scored]] = defaultdict(list)
    for row in scores:
        if row.task == task:
            rows[row.main].append(row)
    return dict(rows)


def _point(estimate: Estimate, hollow: bool = False) -> Point:
    return Point(estimate.mean, estimate.low, estimate.high, hollow)


def _percentage(estimate: Estimate) -> Point:
    return _point(Estimate.of(100 * value for value in estimate.values))


def _share(name: str, row: Realised) -> Point:
    return Point(100 * getattr(row, name))
