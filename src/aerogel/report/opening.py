"""The top of the page: score kept against speed, each model's best variant, recovery, and sensitivity."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from aerogel.analysis.plot import heat_map, short
from aerogel.report.chart import Chart, listed
from aerogel.report.estimate import megabytes, percent, rough, share_with_interval, significant
from aerogel.report.findings import Findings, Scored
from aerogel.report.lines import ChartStyle, Line, Point, Scale, against_sparsity
from aerogel.report.names import metric_digits, metric_name, point_name
from aerogel.report.scatter import CEILING, FLOOR, Curve, Mark, against_speed
from aerogel.report.verdicts import FASTER, TOLERANCE, Option, certainty, compared, dense_rows, problem
from aerogel.study.variant import Variant

LEVEL = 100 - 100 * TOLERANCE
LITTLE = 0.01  # a smaller gain of the score kept is not mentioned


@dataclass(frozen=True)
class Tile:
    """A value of the dense and of the sparse model, and how they compare."""

    name: str
    dense: str
    sparse: str
    comparison: str


@dataclass(frozen=True)
class Card:
    """The best variant of a model on a task: title, tiles, and remarks on what is uncertain or missing."""

    task: str
    model: str
    title: str
    tiles: tuple[Tile, ...]
    remarks: tuple[str, ...]


class Opening:
    """Charts and cards of a study, all in one `style`; `choices` has the best variants by task and model."""

    def __init__(self, findings: Findings, choices: dict[tuple[str, str], Option], style: ChartStyle) -> None:
        self.findings, self.spec, self.choices, self.style = findings, findings.spec, choices, style
        self.dense, self.is_timed = dense_rows(findings), bool(findings.best_costs)
        self._faster = f" at least {FASTER:g} times as fast" if self.is_timed else ""

    def cards(self) -> list[Card]:
        """A card for each task and model with scores."""
        scored = dict.fromkeys((task, model) for task, model, _ in self.dense)
        return [self._card(*key) for key in product(self.spec.tasks, self.spec.models) if key in scored]

    def _card(self, task: str, model: str) -> Card:
        choice = self.choices.get((task, model))
        if choice is None:
            problems = [problem(dense) for (*key, _), dense in self.dense.items() if key == [task, model]]
            reasons = dict.fromkeys(f"No verdict: {reason}." for reason in problems if reason)
            return Card(task, model, "nothing to compare", (), tuple(reasons))
        sure = certainty(choice.row, len(self.spec.seeds))
        remarks = [f"{sure[0].upper()}{sure[1:]}."] if sure else []
        if not choice.is_faster:
            remarks.insert(0, f"No variant is{self._faster}; this one keeps the most.")
        elif not choice.keeps:
            remarks.insert(0, f"No variant{self._faster} keeps {LEVEL:g}%; this one keeps the most.")
        return Card(task, model, self._title(choice), tuple(self._tiles(choice)), tuple(remarks))

    def _title(self, choice: Option) -> str:
        return point_name(self.spec, choice.variant, choice.row.sparsity)

    def _tiles(self, choice: Option) -> list[Tile]:
        row, cost = choice.row, choice.cost
        dense = self.dense[row.task, row.model, row.variant.recovery]
        kept = f"{rough(row.kept.mean)} kept" if row.kept else ""
        tiles = [Tile(metric_name(row.main), _mean(dense), _mean(row), kept)]
        if cost and cost.dense:
            before, after = cost.dense, cost.own
            speed = f"{cost.speedup:.2f} times as fast"
            tiles.append(Tile("time of a batch, s", significant(before.median), significant(after.median), speed))
            for name, large, small in (
                ("memory, peak MB", before.inference_memory, after.inference_memory),
                ("disk, MB", before.file_bytes, after.file_bytes),
            ):
                share = f"{small / large:.0%} of dense" if large > 0 else ""
                tiles.append(Tile(name, megabytes(large), megabytes(small), share))
        return tiles

    def hero(self) -> Chart | None:
        """The score kept on each task against speed, or against sparsity if no time was measured."""
        curves: dict[str, list[Curve]] = defaultdict(list)
        for choice in self.choices.values():
            curve = self._curve(choice)
            if len(curve.line) > 1:
                curves[choice.row.task].append(curve)
        if not curves:
            return None
        drawn = [mark.y for several in curves.values() for curve in several for mark in curve.line]
        ends = max(FLOOR, min(drawn) - 2) - 1, min(max(101.0, *drawn) + 1, CEILING)
        axis = "times as fast as the dense model" if self.is_timed else "sparsity, %"
        panels = {
            task: against_speed(several, self.style, ends, LEVEL, (task if len(curves) > 1 else "", axis))
            for task, several in curves.items()
        }
        return Chart.of(
            f"Score kept against {'speed' if self.is_timed else 'sparsity'}", self._conclusion(), panels, ()
        )

    def _conclusion(self) -> str:
        """How fast, or how sparse, each model is when it keeps its score on a task."""
        parts: dict[str, list[str]] = defaultdict(list)
        for (task, model), choice in self.choices.items():
            speed = f"{choice.speed:.1f} times as fast at " if choice.speed else "at "
            where = f"{speed}{self._title(choice)}" if choice.gains else f"in no variant{self._faster}"
            parts[task].append(f"{model} {where}")
        on = {task: f" on {task}" if len(self.spec.tasks) > 1 else "" for task in parts}
        return " ".join(f"Keeping {LEVEL:g}% of the score{on[task]}: {'; '.join(parts[task])}." for task in parts)

    def _curve(self, choice: Option) -> Curve:
        task, model = choice.row.task, choice.row.model
        own = compared(self.findings, task, model, choice.variant)
        others = [row for row in self.findings.scores if (row.task, row.model) == (task, model) and row not in own]
        dense = Mark("", 1.0 if self.is_timed else 0.0, 100.0, f"{model}, dense")
        return Curve(model, [dense, *self._marks(own, choice)], self._marks(others, choice))

    def _marks(self, rows: Sequence[Scored], choice: Option) -> list[Mark]:
        marks = []
        for row in rows:
            cost = self.findings.cost(row)
            place = (cost.speedup if cost else None) if self.is_timed else 100 * row.sparsity
            if place is None or not row.kept or not self._is_learned(row):
                continue
            label = percent(row.sparsity) if row.sparsity else row.variant.structure or row.variant.values or ""
            stands_out = choice.gains and row is choice.row
            speed = f", {place:.2f} times as fast" if self.is_timed else ""
            text = f"{self._name(row)}: {_kept(row)} ({metric_name(row.main)} {_mean(row)}){speed}"
            label += f", {place:.1f}\N{MULTIPLICATION SIGN}" if stands_out and self.is_timed else ""
            marks.append(Mark(label, place, 100 * row.kept.mean, text, stands_out))
        return marks

    def _is_learned(self, row: Scored) -> bool:
        dense = self.dense.get((row.task, row.model, row.variant.recovery))
        return dense is not None and problem(dense) is None

    def _name(self, row: Scored) -> str:
        return f"{row.model}, {point_name(self.spec, row.variant, row.sparsity)}"

    def recovery(self) -> Chart | None:
        """The score that the best variants keep with recovery and by pruning alone."""
        lines: dict[str, list[Line]] = defaultdict(list)
        gains: dict[float, list[tuple[float, float]]] = defaultdict(list)
        for (task, model), choice in self.choices.items():
            sides = [self._kept_by_sparsity(task, model, variant) for variant in self.pair(choice.variant)]
            shared = [sparsity for sparsity in sides[0] if sparsity in sides[1]] if sides else []
            for dashes, side in enumerate(sides if shared else []):
                lines[task].append(Line(model, {sparsity: side[sparsity] for sparsity in shared}, dashes))
            for sparsity in shared:
                gains[sparsity].append((sides[1][sparsity].value, sides[0][sparsity].value))
        if not lines:
            return None
        scale = Scale.of([line for several in lines.values() for line in several], level=LEVEL, bounds=(0.0, CEILING))
        panels = {
            task: against_sparsity(
                sorted(gains), several, self.style, scale, title=task if len(lines) > 1 else "", band=LEVEL
            )
            for task, several in lines.items()
        }
        return Chart.of("Score kept with and without recovery, %", _gain(gains), panels, ("recovered", "pruned only"))

    def pair(self, best: Variant) -> list[Variant]:
        """A variant with recovery and one without, as similar as possible to each other and to the best variant."""
        recovered = [variant for variant in self.spec.scored_variants if variant.recovery not in (None, "none")]
        alone = [variant for variant in self.spec.scored_variants if variant.recovery == "none"]
        if not recovered or not alone:
            return []

        def likeness(one: Variant, other: Variant) -> tuple[int, bool, int, bool]:
            method = one.method or self.spec.recovery.score
            return _shared(one, other), other.method == method, _shared(one, best), one.recovery == best.recovery

        return list(max(product(recovered, alone), key=lambda pair: likeness(*pair)))

    def _kept_by_sparsity(self, task: str, model: str, variant: Variant) -> dict[float, Point]:
        return {
            row.sparsity: Point(100 * row.kept.mean, f"{self._name(row)}: {_kept(row)}", *_scaled(row.kept.ends))
            for row in self.findings.scores
            if (row.task, row.model, row.variant) == (task, model, variant)
            and row.kept
            and math.isfinite(row.kept.mean)
            and self._is_learned(row)
        }

    def sensitivity(self) -> Chart | None:
        """The effect of pruning each layer on its own, without fine-tuning."""
        tables = self.findings.sensitivities
        if not tables:
            return None
        worst = [
            f"{short(max(table.layers, key=lambda row: row[1][-1])[0])} in {model}" for model, table in tables.items()
        ]
        one = next(iter(tables.values()))
        caption = (
            f"Most sensitive at {percent(one.sparsities[-1])}: {listed(worst)}. Cells: KL divergence from the dense "
            f"model in nats with that layer alone pruned by {one.method}, on {one.text}."
        )
        panels = {model: heat_map(table.layers, table.sparsities, model) for model, table in tables.items()}
        return Chart.of("Sensitivity of layers", caption, panels)


def _gain(gains: dict[float, list[tuple[float, float]]]) -> str:
    """The sparsity at which recovery helps most, averaged over models and tasks. Gains are in percent."""
    means = {sparsity: tuple(map(fmean, zip(*pairs, strict=True))) for sparsity, pairs in gains.items()}
    best = max(means, key=lambda sparsity: means[sparsity][1] - means[sparsity][0])
    before, after = means[best]
    mean = "on average " if len(gains[best]) > 1 else ""
    if after - before < -100 * LITTLE:
        return (
            f"Recovery does not help: {mean}{before:.0f}% is kept without it, {after:.0f}% with it at {percent(best)}."
        )
    if after - before < 100 * LITTLE:
        return f"Recovery gains less than {percent(LITTLE)} of the score at every sparsity."
    return f"Recovery helps most at {percent(best)}: {mean}{before:.0f}% is kept without it, {after:.0f}% with it."


def _mean(row: Scored) -> str:
    return significant(row.value.mean, metric_digits(row.value.mean))


def _kept(row: Scored) -> str:
    return f"{share_with_interval(row.kept)} kept" if row.kept else ""


def _scaled(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]


def _shared(one: Variant, other: Variant) -> int:
    """How many of the values, the structure and the pattern are the same."""
    return (one.values == other.values) + (one.structure == other.structure) + (one.pattern == other.pattern)
