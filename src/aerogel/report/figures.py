"""The charts of the collapsed sections: weights, scores against sparsity, structures, time, memory and size."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from aerogel.analysis import WeightReport
from aerogel.analysis.plot import distribution, heat_map, kept_structures, layers, short
from aerogel.report.chart import Chart, listed
from aerogel.report.estimate import Estimate, minus, percent, rough, significant, with_interval
from aerogel.report.findings import Cost, Findings, Kept, Realised, Scored, mean_kept
from aerogel.report.lines import LARGEST, ChartStyle, Line, Point, Scale, against_sparsity
from aerogel.report.names import RECOVERY_NAMES, direction, metric_digits, metric_name, point_name, values_name
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS

Rows = Sequence[Scored]
Bar = tuple[float, float | None, float | None]  # a value and the ends of its bar
POSITIVE = (0.0, LARGEST)


class Figures:
    """Draws the findings in one `style`."""

    def __init__(self, findings: Findings, style: ChartStyle) -> None:
        self.findings, self.spec, self.style = findings, findings.spec, style
        self.sparsities = sorted(findings.spec.sparsities)

    def weights(self) -> list[Chart]:
        """All prunable weights of each model, then layer by layer."""
        reports = self.findings.weights
        if not reports:
            return []
        small = listed(f"{report.whole.below_1e_2:.0%} of {model}" for model, report in reports.items())
        tails = listed(minus(f"{report.whole.kurtosis:+.1f}") for report in reports.values())
        return [
            Chart.of(
                "Prunable weights",
                f"{small} are below 0.01. Excess kurtosis {tails}; 0 is a normal distribution.",
                {model: distribution(report, self.style.colour(model), model) for model, report in reports.items()},
            ),
            Chart.of(
                "Prunable weights, layer by layer",
                f"Most weights near 0: {listed(map(_narrowest, reports.values()))}.",
                {model: layers(report, self.style.colour(model), model) for model, report in reports.items()},
            ),
        ]

    def kinds(self) -> list[Chart]:
        """The effect of pruning one kind of matrix alone."""
        tables = self.findings.sensitivities
        if not tables:
            return []
        worst = listed(
            f"{max(table.kinds, key=lambda row: row[1][-1])[0]} in {model}" for model, table in tables.items()
        )
        panels = {model: heat_map(table.kinds, table.sparsities, model, split=0) for model, table in tables.items()}
        return [Chart.of("Sensitivity of kinds of matrices", f"Most sensitive: {worst}.", panels)]

    def scores(self) -> list[Chart]:
        """Each metric, the agreement and the training time on each task, in the first of the types of values."""
        charts = []
        drawn = [
            row
            for row in self.findings.scores
            if values_name(row.variant) == self.spec.values[0]
            or (row.variant == row.variant.dense and not row.sparsity)
        ]
        for task in self.spec.tasks:
            rows = [row for row in drawn if row.task == task]
            for panel in by_main_metric(rows).values():
                charts += [self._score(task, metric, panel) for metric in panel[0].metrics]
            charts += [*self._agreement(task, rows), *self._training(task, rows)]
        return charts

    def _score(self, task: str, metric: str, rows: Rows) -> Chart:
        majority = rows[0].majority if metric == "accuracy" else None
        low, high = METRICS[metric].bounds
        caption = f"{self._fall(metric, rows)} {rows[0].counted:,} {rows[0].unit}. {direction(metric)}"
        if majority is not None:
            caption += f" Dashed: always predicting the most frequent class, {significant(majority)}."
        return self._chart(
            f"{task}: {metric_name(metric)}",
            caption,
            self._scored(rows, lambda row: row.metrics[metric]),
            logarithmic=not METRICS[metric].higher_is_better,
            level=majority,
            bounds=(max(low, -LARGEST), min(high, LARGEST)),
        )

    def _fall(self, metric: str, rows: Rows) -> str:
        """The best and the worst value of all models and sparsities."""
        order = sorted(rows, key=lambda row: row.metrics[metric].mean, reverse=METRICS[metric].higher_is_better)
        ends = [f"{_number(row.metrics[metric].mean)} ({self._name(row)})" for row in (order[0], order[-1])]
        return f"From {_range(ends)}."

    def _agreement(self, task: str, rows: Rows) -> list[Chart]:
        highest = max((row.sparsity for row in rows if row.agreement), default=None)
        if highest is None:
            return []
        ends = sorted(row.agreement.mean for row in rows if row.agreement and row.sparsity == highest)
        shares = _range(rough(share, 0) for share in ends)
        caption = f"At {percent(highest)}, {shares} of the predictions are those of the dense model."
        lines = self._scored(rows, lambda row: row.agreement, 100)
        return [self._chart(f"{task}: agreement, %", caption, lines, bounds=(0.0, 100.0))]

    def _training(self, task: str, rows: Rows) -> list[Chart]:
        rows = [row for row in rows if row.variant.recovery != "none"]
        if not rows:
            return []
        caption = f"{_seconds(row.training_seconds for row in rows)} s at all sparsities"
        if dense := [row.dense_seconds for row in rows if row.dense_seconds]:
            caption += f", after {_seconds(dense)} s for the dense model"
        caption += f"; {self.spec.processes} trials share the cores." if self.spec.processes > 1 else "."
        lines = self._scored(rows, lambda row: row.training_seconds)
        return [self._chart(f"{task}: training time, s", caption, lines, from_zero=True, bounds=POSITIVE)]

    def _scored(
        self, rows: Rows, estimate: Callable[[Scored], Estimate | None], scale: float = 1
    ) -> dict[str, list[Line]]:
        """The lines of each recovery and structure: one for each model and method, dashed by method."""
        panels: dict[str, list[Line]] = defaultdict(list)
        for model, variant in product(self.spec.models, self.spec.scored_variants):
            if values_name(variant) != self.spec.values[0]:
                continue
            # at sparsity 0 a line has the same structure, training and values if it can, or else float32
            alike = variant.unpruned.unrounded, variant.unpruned, variant
            points = {
                row.sparsity: self._point(row, value, scale)
                for same in dict.fromkeys(alike)
                for row in rows
                if (row.model, row.variant) == (model, same) and (value := estimate(row))
            }
            if points:
                name = ", ".join(filter(None, (variant.structure, RECOVERY_NAMES.get(variant.recovery or ""))))
                dashes = self.spec.methods.index(variant.method) if variant.method else 0
                panels[name].append(Line(model, points, dashes))
        return panels

    def _point(self, row: Scored, value: Estimate, scale: float) -> Point:
        low, high = value.ends
        text = f"{self._name(row)}: {with_interval(Estimate.of(scale * seed for seed in value.values), 4)}"
        return Point(scale * value.mean, text, scale * low, scale * high)

    def _name(self, row: Scored | Cost) -> str:
        return f"{row.model}, {point_name(self.spec, row.variant, row.sparsity)}"

    def _chart(self, title: str, caption: str, panels: dict[str, list[Line]], **settings: Any) -> Chart:
        """All panels have one scale."""
        scale = Scale.of([line for lines in panels.values() for line in lines], **settings)
        level, several = settings.get("level"), len(panels) > 1
        drawings = {
            name if several else "": against_sparsity(
                self.sparsities, lines, self.style, scale, title=name if several else "", level=level
            )
            for name, lines in panels.items()
        }
        return Chart.of(title, caption, drawings, self.spec.methods)

    def structures(self) -> list[Chart]:
        """What each sub-layer keeps, for each model and structure."""
        groups: dict[tuple[str, str], list[Realised]] = defaultdict(list)
        for row in self.findings.realised:
            if row.variant.structure and row.structure:
                groups[row.model, row.variant.structure].append(row)
        charts = []
        for (model, structure), rows in groups.items():
            parts = mean_kept(row.structure for row in rows)
            bars = [(part.name, part.kind, round(part.kept), part.original) for part in parts]
            mean = f" Mean of {len(rows)} models, with and without zeros." if len(rows) > 1 else ""
            caption = f"Kept: {listed(_shares(parts))}.{mean}"
            charts.append(Chart.of(f"{model}, {structure}: kept", caption, {"": kept_structures(bars, title="")}))
        return charts

    def costs(self) -> list[Chart]:
        part = self.spec.benchmark
        batch = f"{part.batch_size} sequences of {part.sequence_length} tokens" if part else "random tokens"
        peak = "Peak of resident memory above the empty process"
        charts = (
            ("Speed, times the dense model's", "Bars: slowest to fastest round.", _speed, 1.0),
            ("Time of an inference batch, s", f"{batch}; bar to the 90th percentile.", _batch, None),
            ("Memory in inference, MB", f"{peak}, {batch}.", lambda cost: _alone(cost.own.inference_memory), None),
            ("Weight files on disk, MB", "The saved checkpoint.", lambda cost: _alone(cost.own.file_bytes), None),
            ("Time of a training step, s", f"{batch}; bars: all steps. Trained as a dense model.", _step, None),
            ("Memory in training, MB", f"{peak}, {batch}.", lambda cost: _alone(cost.own.training_memory), None),
        )
        return [
            self._cost(title, how, bar, level)
            for title, how, bar, level in charts
            if any(bar(cost) for cost in self.findings.costs)
        ]

    def _cost(self, title: str, how: str, bar: Callable[[Cost], Bar | None], level: float | None) -> Chart:
        """The models stored dense and compressed, the former pale if both are drawn; dashed by structure and values."""
        best, stored = list(self.findings.best_costs.values()), self.findings.costs
        variants = [variant for variant in self.spec.measured_variants if variant.method == self.spec.methods[0]]
        layers = [(stored, True), (best, False)]
        if not all(map(bar, best)):  # only models stored dense are trained
            layers = [(stored, False)]
        elif self.findings.compressed:
            how += " Pale: stored dense."
        lines = [
            Line(model, points, dashes, is_pale)
            for costs, is_pale in layers
            for model in self.spec.models
            for dashes, variant in enumerate(variants)
            if (points := self._bars(costs, model, variant, bar)) and (not is_pale or self.findings.compressed)
        ]
        names = [", ".join(filter(None, (variant.structure, values_name(variant)))) for variant in variants]
        names = names[: 1 + max(line.dashes for line in lines)]
        scale = Scale.of(lines, from_zero=True, level=level)
        drawing = against_sparsity(self.sparsities, lines, self.style, scale, level=level)
        return Chart.of(title, f"{_ends(lines)} {how}", {"": drawing}, names)

    def _bars(
        self, costs: Iterable[Cost], model: str, variant: Variant, bar: Callable[[Cost], Bar | None]
    ) -> dict[float, Point]:
        alike = dict.fromkeys((variant.unpruned.unrounded, variant.unpruned, variant))
        own = [cost for same in alike for cost in costs if (cost.model, cost.variant) == (model, same)]
        if own and own[-1].variant.values != variant.values:
            return {}  # only the dense model is measured
        bars = [(cost, bar(cost)) for cost in own]
        return {
            cost.sparsity: Point(ends[0], f"{self._name(cost)}: {significant(ends[0])}", *ends[1:])
            for cost, ends in bars
            if ends
        }


def by_main_metric(rows: Iterable[Scored]) -> dict[str, list[Scored]]:
    """Groups rows by their main metric, so that kinds of perplexity are never in one chart or table."""
    by_metric: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        by_metric[row.main].append(row)
    return dict(by_metric)


def _speed(cost: Cost) -> Bar:
    return (cost.speedup, min(cost.speedups), max(cost.speedups)) if cost.speedup else (1.0, None, None)


def _batch(cost: Cost) -> Bar:
    return cost.own.median, cost.own.median, cost.own.p90


def _step(cost: Cost) -> Bar | None:
    median, steps = cost.own.training_median, cost.own.training_steps
    return (median, min(steps), max(steps)) if median else None


def _alone(count: int | None) -> Bar | None:
    return None if count is None else (count / 1e6, None, None)


def _ends(lines: Sequence[Line]) -> str:
    """The first value of each model, and the value at the highest sparsity of its last line."""
    firsts = {line.model: line.points for line in reversed(lines)}
    lasts = {line.model: line.points for line in sorted(lines, key=lambda line: (not line.pale, max(line.points)))}
    changes = [
        f"{model} {significant(firsts[model][min(firsts[model])].value)} → {significant(last[max(last)].value)}"
        for model, last in lasts.items()
    ]
    ends = min(map(min, firsts.values())), max(map(max, lasts.values()))
    return f"From {' to '.join(map(percent, ends))}: {', '.join(changes)}."


def _narrowest(report: WeightReport) -> str:
    layer = max(report.layers, key=lambda layer: layer.below_1e_2)
    return f"{short(layer.name)} of {report.model}, {layer.below_1e_2:.0%} below 0.01"


def _shares(parts: Sequence[Kept]) -> list[str]:
    kinds = dict.fromkeys(part.kind for part in parts)
    sums = {kind: [(part.kept, part.original) for part in parts if part.kind == kind] for kind in kinds}
    return [f"{sum(k for k, _ in pairs) / sum(n for _, n in pairs):.0%} of {kind}" for kind, pairs in sums.items()]


def _seconds(estimates: Iterable[Estimate]) -> str:
    return _range(significant(seconds, 2) for seconds in sorted(estimate.mean for estimate in estimates))


def _range(texts: Iterable[str]) -> str:
    """The first and the last of sorted texts, or one of them if they are equal."""
    texts = list(texts)
    return " to ".join(dict.fromkeys((texts[0], texts[-1])))


def _number(value: float) -> str:
    return significant(value, metric_digits(value))
