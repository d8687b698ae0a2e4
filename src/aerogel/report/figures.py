"""The charts of the report, each with its caption."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from aerogel.analysis.plot import distribution, heat_map, layers
from aerogel.charts import svg
from aerogel.report.collect import Cost, Findings, Realised, Scored, is_perplexity
from aerogel.report.estimate import Estimate, significant
from aerogel.report.lines import LARGEST, Line, Look, Point, against_sparsity
from aerogel.report.variant import Variant, measured_variants, scored_variants
from aerogel.report.verdicts import metric_name
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES

Rows = Sequence[Scored]
CORRELATIONS = ("matthews", "pearson", "spearman", "correlation")
POSITIVE, ABOVE_ONE = (0.0, LARGEST), (1.0, LARGEST)


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, unique in the page, and one sentence on what it shows."""

    title: str
    caption: str
    drawing: Markup


def chart(title: str, caption: str, made: Figure) -> Chart:
    prefix = f"f{zlib.crc32(title.encode()):08x}"
    return Chart(title, caption, Markup(svg(made, title, prefix)))


class Figures:
    """Draws the findings; `look` is also the key of every chart."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        ways = dict.fromkeys([*scored_variants(findings.spec), *measured_variants(findings.spec)])
        self.look = Look(findings.spec.models, tuple(ways))
        self.sparsities = sorted(findings.spec.sparsities)

    def weights(self) -> list[list[Chart]]:
        """All prunable weights of each model, then layer by layer; side by side where there is one model."""
        whole = [
            chart(
                f"{model}: all prunable weights",
                f"How often each value occurs among the {report.prunable:,} weights that may be pruned, "
                f"{report.prunable / report.parameters:.0%} of the model.",
                distribution(report, self.look.colour(model), title=""),
            )
            for model, report in self.findings.weights.items()
        ]
        by_layer = [
            chart(
                f"{model}: layer by layer",
                "The same for each layer, on one scale: a layer with a narrow ridge has many small weights.",
                layers(report, self.look.colour(model), title=""),
            )
            for model, report in self.findings.weights.items()
        ]
        return [whole, by_layer] if len(whole) > 1 else [whole + by_layer]

    def sensitivities(self) -> list[Chart]:
        """What pruning one layer or kind of matrix alone does, before any fine-tuning."""
        return [
            chart(
                f"{model}: sensitivity",
                f"KL divergence from the dense model on {found.text}, in nats an answer, with one layer (above) or one "
                f"kind of matrix (below) pruned by {found.method} and all else dense.",
                heat_map([*found.layers, *found.kinds], found.sparsities, "", split=len(found.layers)),
            )
            for model, found in self.findings.sensitivities.items()
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
        """The main metric of each task and model, a line a recovery."""
        return [
            self._score(task, found[0].main, found, self._title(model, task))
            for task, model, found in self._recovered()
        ]

    def recovery_time(self) -> list[Chart]:
        """What the same takes; without recovery it takes nothing."""
        made = []
        for task, model, found in self._recovered():
            dense = fmean(row.dense_seconds.mean for row in found if row.dense_seconds)
            trained = [row for row in found if row.way.recovery != "none"]
            lines = self._lines(trained, lambda row: _point(row.training_seconds))
            caption = f"Seconds{self._sharing()}, after the {significant(dense)} s of training the dense model."
            drawn = self._draw(lines, from_zero=True, bounds=POSITIVE)
            made.append(chart(f"{self._title(model, task)}: time of recovery, s", caption, drawn))
        return made

    def _recovered(self) -> Iterator[tuple[str, str, Rows]]:
        for task in self.findings.spec.tasks if self.findings.spec.recoveries else ():
            for model in self.findings.spec.models:
                if found := [row for row in self.findings.scores if (row.task, row.model) == (task, model)]:
                    yield task, model, found

    def _title(self, model: str, task: str) -> str:
        return f"{model} on {task}" if len(self.findings.spec.tasks) > 1 else model

    def _sharing(self) -> str:
        at_once = self.findings.spec.processes
        return f", with {at_once} trials sharing the cores" if at_once > 1 else ""

    def _score(self, task: str, metric: str, rows: Rows, title: str = "") -> Chart:
        majority = rows[0].majority if metric == "accuracy" else None
        if is_perplexity(metric):
            caption = "Lower is better; counted in the model's own tokens, so compare a model with itself alone."
        else:
            caption = f"On {rows[0].counted:,.0f} examples; higher is better."
        if majority is not None:
            caption += f" Always giving the commonest class makes {significant(majority)} (dashed)."
        lines = self._lines(rows, lambda row: _point(row.metrics[metric], hollow=row.one_answer > 0))
        made = self._draw(
            lines,
            may_be_logarithmic=is_perplexity(metric),
            dense_levels=not self.findings.spec.recoveries,  # with them each line has a dense model of its own
            level=majority,
            bounds=ABOVE_ONE if is_perplexity(metric) else (-1.0 if metric in CORRELATIONS else 0.0, 1.0),
        )
        return chart(f"{title or task}: {metric_name(metric)}", caption, made)

    def training_time(self) -> list[Chart]:
        """Of the whole fine-tuning, where that is all the training."""
        made = []
        for task in self.findings.spec.tasks if not self.findings.spec.recoveries else ():
            rows = [row for row in self.findings.scores if row.task == task]
            if rows:
                drawn = self._draw(
                    self._lines(rows, lambda row: _point(row.training_seconds)), from_zero=True, bounds=POSITIVE
                )
                made.append(
                    chart(f"{task}: fine-tuning, s", f"Seconds of the whole fine-tuning{self._sharing()}.", drawn)
                )
        return made

    def agreement(self) -> list[Chart]:
        made = []
        for task in self.findings.spec.tasks:
            for metric, rows in panels(self.findings.scores, task).items():
                compared = [row for row in rows if row.agreement]
                lines = self._lines(compared, lambda row: _percentage(row.agreement) if row.agreement else None)
                if is_perplexity(metric):
                    kind = next(kind for kind, name in PERPLEXITIES.items() if name == metric)
                    title = f"{task}: agreement of {kind}s, %"
                    caption = "Share of places where the likeliest token is that of the dense model of the same seed."
                else:
                    title = f"{task}: agreement, %"
                    caption = "Share of examples answered as the dense model of the same seed answers them."
                if lines:
                    made.append(chart(title, caption, self._draw(lines, from_dense=False, bounds=(0.0, 100.0))))
        return made

    def realised(self) -> list[Chart]:
        """Zeros counted after training, over both denominators."""
        made = []
        rows = self.findings.realised
        wanted: tuple[tuple[str, str, Callable[[Realised], float]], ...] = (
            (
                "Zeros among the prunable weights, %",
                "Counted after fine-tuning, which would fill them in again were they not held.",
                lambda row: row.prunable,
            ),
            (
                "Zeros among all weights, %",
                "The same zeros over the whole model, with its embeddings, norms and head.",
                lambda row: row.whole,
            ),
        )
        for title, caption, share in wanted if rows else ():
            lines = self._lines(rows, lambda row, share=share: Point(100 * share(row)))
            made.append(chart(title, caption, self._draw(lines, from_zero=True)))
        return made

    def memory(self) -> list[Chart]:
        where = "Peak of resident memory over that of the empty process, measured once"
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
                f"Median, with a bar up to the 90th percentile; {self._batch()}.",
                lambda cost: Point(cost.own.median, cost.own.median, cost.own.p90),
            ),
            *self._trained(
                "Time of a training step, s",
                f"Median, with a bar from the shortest to the longest step; {self._batch()}.",
                step,
            ),
        ]

    def speed(self) -> list[Chart]:
        return self._beside(
            "Speed beside the dense model, times",
            "Median time of the dense model over that of the pruned one, both measured in turn in one run; above the "
            "dashed line is faster, bars go from the slowest to the fastest round.",
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
                "Bytes of all parameters and buffers as they are held.",
                lambda cost: Point(cost.own.parameter_bytes / 1e6),
            ),
        ]

    def _beside(self, title: str, caption: str, point: Callable[[Cost], Point | None], **settings: Any) -> list[Chart]:
        """What was measured compressed too: those lines in front, those of the models stored dense pale behind."""
        stored = self._lines(self.findings.costs, point)
        packed = {(cost.model, cost.way, cost.sparsity): cost for cost in self.findings.compressed}
        lines = stored
        if packed:
            # compressing a model with nothing to pack leaves it as it is
            best = [packed.get((cost.model, cost.way, cost.sparsity), cost) for cost in self.findings.costs]
            lines = [replace(line, pale=True) for line in stored] + self._lines(best, point)
            caption += " Full lines are compressed models, pale ones the same stored dense."
        return [chart(title, caption, self._draw(lines, **{"from_zero": True, **settings}))] if lines else []

    def _trained(self, title: str, caption: str, point: Callable[[Cost], Point | None]) -> list[Chart]:
        lines = self._lines(self.findings.costs, point)
        return [chart(title, caption, self._draw(lines, from_zero=True))] if lines else []

    def _batch(self) -> str:
        part = self.findings.spec.benchmark
        return f"{part.batch_size} sequences of {part.sequence_length} random tokens" if part else "random tokens"

    def _draw(self, lines: Sequence[Line], from_dense: bool = True, **settings: Any) -> Figure:
        sparsities = self.sparsities if from_dense else [sparsity for sparsity in self.sparsities if sparsity]
        return against_sparsity(sparsities, lines, self.look, **settings)

    def _lines(self, rows: Iterable, point: Callable) -> list[Line]:
        """A line for each model and way, which starts at the dense model trained alike."""
        found: dict[tuple[str, Variant], dict[float, Point]] = defaultdict(dict)
        for row in rows:
            if value := point(row):
                found[row.model, row.way][row.sparsity] = value
        lines = []
        for model in self.look.models:
            ways = [way for way in self.look.ways if (model, way) in found]
            alone = dict.fromkeys(way.dense for way in self.look.ways)
            ways += [way for way in alone if (model, way) in found and way not in {known.dense for known in ways}]
            lines += [Line(model, way, found.get((model, way.dense), {}) | found[model, way]) for way in ways]
        return lines


def panels(scores: Iterable[Scored], task: str) -> dict[str, list[Scored]]:
    """The rows of a task by their main metric: kinds of perplexity are never put together."""
    found: dict[str, list[Scored]] = defaultdict(list)
    for row in scores:
        if row.task == task:
            found[row.main].append(row)
    return dict(found)


def _point(estimate: Estimate, hollow: bool = False) -> Point:
    return Point(estimate.mean, estimate.low, estimate.high, hollow)


def _percentage(estimate: Estimate) -> Point:
    return _point(Estimate.of(100 * value for value in estimate.values))
