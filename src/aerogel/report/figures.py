"""The charts of the report, each with its caption."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from aerogel.analysis.plot import distribution, heat_map, kept_structures, layers
from aerogel.charts import svg
from aerogel.report.estimate import Estimate, percent, significant
from aerogel.report.findings import Cost, Findings, Realised, Scored, mean_kept
from aerogel.report.lines import FLOOR, LARGEST, ChartStyle, Line, Point, against_cost, against_sparsity
from aerogel.report.names import metric_name
from aerogel.report.prose import direction
from aerogel.report.verdicts import TOLERANCE, Answer, loss
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
        self._has_structures = any(variant.structure for variant in variants)

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
        rows = [whole, by_layer] if len(whole) > 1 else [whole + by_layer]
        return [row for row in rows if row]

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

    def opening(self, answers: Iterable[Answer]) -> list[Chart]:
        """Quality kept on each task against speed, or against sparsity where no time was measured."""
        costs = self.findings.best_costs
        curves: dict[str, dict[tuple[str, Variant], list[tuple[str, float, float]]]] = defaultdict(dict)
        for answer in answers:
            points = [("", 1.0 if costs else 0.0, 100.0)]  # the dense model
            for row in self._compared(answer) if answer.verdict.is_meaningful else ():
                cost = self.findings.cost(row)
                place = (cost.speedup if cost else None) if costs else 100 * row.sparsity
                if place is not None:
                    points.append((_label(row), place, 100 - 100 * loss(row).mean))
            if len(points) > 1:
                curves[answer.task][answer.model, answer.variant] = points
        name, label = ("speed", "times as fast as the dense model") if costs else ("sparsity", "sparsity, %")
        level = 100 - 100 * TOLERANCE
        labels = "sparsity, or what was removed where no weight is zero" if self._has_structures else "sparsity"
        caption = f"Labels: {labels}; unlabelled: dense. Dashed: {level:g}% of the dense metric. Cut at {FLOOR:g}%."
        return [
            chart(f"{task}: quality and {name}", caption, against_cost(lines, self.style, label, level))
            for task, lines in curves.items()
        ]

    def _compared(self, answer: Answer) -> list[Scored]:
        """The scores that are compared with the dense model's: pruned, and with sparsity 0 small or rounded."""
        variants = (answer.variant, answer.variant.unpruned)
        rows = [row for row in self.findings.scores if (row.task, row.model) == (answer.task, answer.model)]
        return sorted((row for row in rows if row.variant in variants and row.change), key=lambda row: row.sparsity)

    def scores(self) -> list[Chart]:
        """Each metric, the agreement and the training time of each task; with recoveries, of each task and model."""
        charts = []
        for title, rows in self._groups():
            for panel in panels(rows).values():
                charts += [self._score(title, metric, panel) for metric in panel[0].metrics]
            charts += [*self._agreement(title, rows), self._training(title, rows)]
        return charts

    def _groups(self) -> Iterator[tuple[str, Rows]]:
        """The scores of each task, and with recoveries of each model, since each recovery has a line."""
        spec = self.findings.spec
        for task, models in product(
            spec.tasks, [(model,) for model in spec.models] if spec.recoveries else [spec.models]
        ):
            if rows := [row for row in self.findings.scores if row.task == task and row.model in models]:
                yield (f"{task}, {models[0]}" if spec.recoveries else task), rows

    def _score(self, title: str, metric: str, rows: Rows) -> Chart:
        majority = rows[0].majority if metric == "accuracy" else None
        caption = f"{rows[0].counted:,} {rows[0].unit}; {direction(metric)}."
        if majority is not None:
            caption += (
                f" The choice of examples has a standard error of up to {0.5 / rows[0].counted ** 0.5:.2g}. "
                f"Dashed: the share of the commonest class, {significant(majority)}."
            )
        low, high = METRICS[metric].bounds
        drawing = self._draw(
            self._lines(rows, lambda row: _point(row.metrics[metric])),
            may_be_logarithmic=not METRICS[metric].higher_is_better,
            level=majority,
            bounds=(max(low, -LARGEST), min(high, LARGEST)),
        )
        return chart(f"{title}: {metric_name(metric)}", caption, drawing)

    def _training(self, title: str, rows: Rows) -> Chart:
        processes, dense = self.findings.spec.processes, [row.dense_seconds.mean for row in rows if row.dense_seconds]
        caption = f"Seconds, with {processes} trials sharing the cores" if processes > 1 else "Seconds"
        caption += f", after {significant(fmean(dense))} s of training the dense model." if dense else "."
        trained = [row for row in rows if row.variant.recovery != "none"]
        lines = self._lines(trained, lambda row: _point(row.training_seconds))
        return chart(f"{title}: training time, s", caption, self._draw(lines, from_zero=True, bounds=POSITIVE))

    def _agreement(self, title: str, rows: Rows) -> list[Chart]:
        lines = self._lines(rows, lambda row: _point(row.agreement, 100) if row.agreement else None)
        if not lines:
            return []
        caption = "Predictions equal to those of the dense model of the same seed."
        return [chart(f"{title}: agreement, %", caption, self._draw(lines, bounds=(0.0, 100.0)))]

    def realised(self) -> list[Chart]:
        """Zeros counted after training."""
        rows = self.findings.realised
        lines = self._lines(rows, lambda row: Point(100 * row.prunable))
        title, caption = "Zeros among the prunable weights, %", "Counted after training."
        return [chart(title, caption, self._draw(lines, from_zero=True))] if rows else []

    def structures(self) -> list[Chart]:
        """What each sub-layer of each model and structure has kept."""
        groups: dict[tuple[str, str], list[Realised]] = defaultdict(list)
        for row in self.findings.realised:
            if row.variant.structure and row.structure:
                groups[row.model, row.variant.structure].append(row)
        return [
            chart(
                f"{model}, {structure}: kept",
                f"Mean of {len(rows)} models, with and without zeros; the table has each." if len(rows) > 1 else "",
                kept_structures([(part.name, part.kind, round(part.kept), part.original) for part in parts], title=""),
            )
            for (model, structure), rows in groups.items()
            for parts in [mean_kept(row.structure for row in rows)]
        ]

    def costs(self) -> list[Chart]:
        part = self.findings.spec.benchmark
        batch = f"{part.batch_size} sequences of {part.sequence_length} random tokens" if part else "random tokens"
        peak = "Peak of resident memory above the empty process"
        return [
            *self._beside(
                "Speed beside the dense model, times",
                "Median time of the dense model over that of the pruned one, measured in turn; bars from the slowest "
                "to the fastest round.",
                lambda cost: Point(cost.speedup, min(cost.speedups), max(cost.speedups)) if cost.speedup else None,
                from_zero=False,
                level=1.0,
            ),
            *self._beside(
                "Time of an inference batch, s",
                f"Median, bar to the 90th percentile; {batch}.",
                lambda cost: Point(cost.own.median, cost.own.median, cost.own.p90),
            ),
            *self._beside(
                "Memory in inference, MB", f"{peak}; {batch}.", lambda cost: Point(cost.own.inference_memory / 1e6)
            ),
            *self._beside(
                "Weight files on disk, MB",
                "Bytes of the saved checkpoint.",
                lambda cost: Point(cost.own.file_bytes / 1e6),
            ),
            *self._trained(
                "Time of a training step, s", f"Median, bar from the shortest to the longest step; {batch}.", _step
            ),
            *self._trained(
                "Memory in training, MB",
                f"{peak}; forward, backward and AdamW step, {batch}.",
                lambda cost: Point(cost.own.training_memory / 1e6) if cost.own.training_memory else None,
            ),
        ]

    def _beside(self, title: str, caption: str, point: Callable[[Cost], Point | None], **settings: Any) -> list[Chart]:
        """Lines of the models stored dense, pale behind those of compressed ones where there are any."""
        lines = self._lines(self.findings.costs, point)
        if self.findings.compressed:
            best = self._lines(self.findings.best_costs.values(), point)
            lines = [replace(line, pale=True) for line in lines] + best
            caption += " Pale: stored dense."
        return [chart(title, caption, self._draw(lines, **{"from_zero": True, **settings}))] if lines else []

    def _trained(self, title: str, caption: str, point: Callable[[Cost], Point | None]) -> list[Chart]:
        lines = self._lines(self.findings.costs, point)
        return [chart(title, caption, self._draw(lines, from_zero=True))] if lines else []

    def _draw(self, lines: Sequence[Line], **settings: Any) -> Figure:
        has_dense = any(0 in line.points for line in lines)
        sparsities = [sparsity for sparsity in self.sparsities if sparsity or has_dense]
        return against_sparsity(sparsities, lines, self.style, **settings)

    def _lines(self, rows: Iterable, point: Callable) -> list[Line]:
        """A line for each model and variant, which starts at sparsity 0 with the same structure, training and values,
        or else in float32."""
        points: dict[tuple[str, Variant], dict[float, Point]] = defaultdict(dict)
        for row in rows:
            if value := point(row):
                points[row.model, row.variant][row.sparsity] = value
        lines, variants = [], self.style.variants
        for model in self.style.models:
            drawn = set()
            unpruned = [start for variant in variants for start in _starts(variant)]
            for variant in dict.fromkeys([*variants, *unpruned]):
                if (model, variant) in points and variant not in drawn:
                    drawn |= {*_starts(variant)}
                    in_float32, alike = (points.get((model, start), {}) for start in _starts(variant))
                    lines.append(Line(model, variant, in_float32 | alike | points[model, variant]))
        return lines


def panels(rows: Iterable[Scored]) -> dict[str, list[Scored]]:
    """Scores by their main metric: kinds of perplexity are never put together."""
    by_metric: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        by_metric[row.main].append(row)
    return dict(by_metric)


def _starts(variant: Variant) -> tuple[Variant, Variant]:
    """The same at sparsity 0: in float32, and with the same values."""
    return variant.unpruned.unrounded, variant.unpruned


def _label(row: Scored) -> str:
    return row.variant.structure if row.variant.structure and not row.sparsity else percent(row.sparsity)


def _point(estimate: Estimate, scale: float = 1) -> Point:
    ends = [None if end is None else scale * end for end in (estimate.low, estimate.high)]
    return Point(scale * estimate.mean, *ends)


def _step(cost: Cost) -> Point | None:
    median, steps = cost.own.training_median, cost.own.training_steps
    return Point(median, min(steps), max(steps)) if median else None
