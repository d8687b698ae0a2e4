"""Line charts of values against sparsity."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, NullLocator

from aerogel.charts import INK, MARKERS, PALETTE, figure, styled
from aerogel.report.estimate import minus, percent
from aerogel.study.variant import Variant

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
SIGNS = "●■▲◆▼✚✖"  # the characters of MARKERS
DODGE = 0.07  # of the distance between two sparsities, so that intervals stand beside each other
PALE = 0.35  # opacity of a pale line
LARGEST = 1e100  # matplotlib can't scale an axis much further; a collapsed model's perplexity goes there
FLOOR, CEILING = 70.0, 110.0  # of quality in percent, at which the drawing is cut
LOGARITHMIC = 8  # times the lowest value that the highest must be for a logarithmic axis


@dataclass(frozen=True)
class ChartStyle:
    """The colour and marker of each model and structure, and the dashes of the rest of a variant, in all charts of a
    page."""

    models: tuple[str, ...]
    variants: tuple[Variant, ...]

    @cached_property
    def series(self) -> list[tuple[str, str | None]]:
        """Each model, whole and with each structure."""
        structures = dict.fromkeys([None, *(variant.structure for variant in self.variants)])
        return list(product(self.models, structures))

    def colour(self, model: str, structure: str | None = None) -> str:
        return PALETTE[self.series.index((model, structure)) % len(PALETTE)]

    def marker(self, model: str, structure: str | None = None) -> str:
        index = self.series.index((model, structure))
        return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]

    @staticmethod
    def without_structure(variants: Iterable[Variant]) -> list[Variant]:
        """The variants without their structures, each once."""
        return list(dict.fromkeys(replace(variant, structure=None) for variant in variants))

    def dashes(self, variant: Variant) -> str | tuple[int, tuple[float, ...]]:
        """An unpruned model has those of the first variant with the same training and values, or else training.
        Variants of costs, which have no recovery, count apart."""
        variant = replace(variant, structure=None)
        known_variants = self.without_structure(self.variants)
        alike = [known for known in known_variants if bool(known.recovery) == bool(variant.recovery)]
        index = next(index for index, known in enumerate(alike) if variant in (known, known.unpruned, known.dense))
        return DASHES[index % len(DASHES)]

    def swatch(self, model: str, structure: str | None = None) -> Markup:
        """The marker of a model and structure for running text."""
        variable = f"var(--series-{PALETTE.index(self.colour(model, structure)) + 1})"
        sign = SIGNS[MARKERS.index(self.marker(model, structure))]
        return Markup('<span style="color:{}">{}</span>').format(variable, sign)

    def stroke(self, variant: Variant) -> Markup:
        """The variant's dashes as a small drawing."""
        dashes = self.dashes(variant)
        pattern = " ".join(f"{1.6 * length:g}" for length in dashes[1]) if isinstance(dashes, tuple) else "none"
        return Markup(
            '<svg class="swatch" viewBox="0 0 20 12" aria-hidden="true">'
            '<path d="M0 6H20" stroke="currentColor" stroke-width="1.6" stroke-dasharray="{}"/></svg>'
        ).format(pattern)


@dataclass(frozen=True)
class Point:
    """A value, and the ends of its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """The values of one model and variant by sparsity; a pale line is drawn behind the others."""

    model: str
    variant: Variant
    points: dict[float, Point]
    pale: bool = False


@styled
def against_sparsity(
    sparsities: Sequence[float],
    lines: Sequence[Line],
    style: ChartStyle,
    *,
    from_zero: bool = False,
    may_be_logarithmic: bool = False,
    level: float | None = None,
    bounds: tuple[float, float] = (-LARGEST, LARGEST),
) -> Figure:
    """Draws the lines over evenly spaced sparsities.

    Args:
        from_zero: start the axis at 0.
        may_be_logarithmic: use a logarithmic axis where the values span a wide range.
        level: draw a dashed line across the chart.
        bounds: the lowest and the highest possible value, at which the drawing is cut.
    """
    drawing = figure()
    axes = drawing.axes[0]
    series = list(dict.fromkeys((line.model, line.variant) for line in lines))
    for line in lines:
        shift = (series.index((line.model, line.variant)) - (len(series) - 1) / 2) * min(DODGE, 0.4 / len(series))
        places = {sparsity: index + shift for index, sparsity in enumerate(sparsities)}
        _draw(axes, line, places, style, bounds)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    _label_sparsities(axes, sparsities)
    finite = [point.value for line in lines for point in line.points.values() if math.isfinite(point.value)]
    values = [float(value) for value in np.clip(finite, *bounds)]
    if may_be_logarithmic and values and 0 < LOGARITHMIC * min(values) < max(values):
        _logarithmic(axes, min(values), max(values))
    elif values:
        ends = [end for line in lines for point in line.points.values() for end in (point.low, point.high)]
        _linear(axes, values + ([] if level is None else [level]), ends, from_zero, bounds)
    return drawing


def _draw(
    axes: Axes, line: Line, places: Mapping[float, float], style: ChartStyle, bounds: tuple[float, float]
) -> None:
    """Draws a line with its intervals and markers; `places` are where the sparsities are on the axis."""
    nothing = Point(math.nan)  # a gap where a sparsity is missing
    points = [(x, line.points.get(sparsity, nothing)) for sparsity, x in places.items()]
    structure = line.variant.structure
    colour, marker = style.colour(line.model, structure), style.marker(line.model, structure)
    opacity, behind = (PALE, 0.5) if line.pale else (1.0, 0.0)
    values = np.clip([point.value for _, point in points], *bounds)
    axes.plot(
        list(places.values()),
        values,
        color=colour,
        marker=marker,
        linestyle=style.dashes(line.variant),
        alpha=opacity,
        clip_on=False,
        zorder=3 - behind,
    )
    for x, point in points:
        if point.low is not None and point.high is not None:
            ends = np.clip([point.low, point.high], *bounds)
            axes.plot([x, x], ends, color=colour, linewidth=1, alpha=0.6 * opacity, zorder=2 - behind)


@styled
def against_cost(
    curves: Mapping[tuple[str, Variant], Sequence[tuple[str, float, float]]], style: ChartStyle, cost: str, level: float
) -> Figure:
    """Draws quality in percent over a `cost` by model and variant: a label, a cost and a quality for each point.

    A dashed line marks the `level` of quality; qualities below `FLOOR` are drawn there.
    """
    drawing = figure(width=6.6, height=3.4)
    axes = drawing.axes[0]
    for (model, variant), points in curves.items():
        colour, marker = style.colour(model, variant.structure), style.marker(model, variant.structure)
        dashes = style.dashes(variant)
        places = [(x, float(np.clip(np.nan_to_num(y, nan=FLOOR), FLOOR, CEILING))) for _, x, y in points]
        axes.plot(*np.transpose(places), color=colour, marker=marker, linestyle=dashes, linewidth=1, clip_on=False)
        for (label, *_), place in zip(points, places, strict=True):
            axes.annotate(label, place, (4, 4), textcoords="offset points", color=colour, fontsize=8)
    axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    axes.set(xlabel=cost, ylabel="quality kept, %")
    axes.xaxis.set_major_formatter(_Plain())
    return drawing


def _label_sparsities(axes: Axes, sparsities: Sequence[float]) -> None:
    every = -(-len(sparsities) // 10)
    shown = range(0, len(sparsities), every)
    axes.set_xticks(list(shown), [percent(sparsities[index]) for index in shown])
    axes.set_xlim(-0.35, len(sparsities) - 0.65)
    axes.set_xlabel("sparsity")
    axes.grid(axis="x", visible=False)


def _linear(
    axes: Axes, values: Sequence[float], ends: Sequence[float | None], from_zero: bool, bounds: tuple[float, float]
) -> None:
    """Fits the axis to every value and to short intervals; long ones are cut, so that the values stay readable."""
    lowest, highest = min(values), max(values)
    room = 0.6 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    known = [end for end in ends if end is not None and math.isfinite(end)]
    low = 0.0 if from_zero else max(min([lowest, *known]), lowest - room, bounds[0])
    high = min(max([highest, *known]), highest + room, bounds[1])
    margin = 0.06 * (high - low) or room
    axes.set_ylim(low if from_zero else low - margin, high if high == bounds[1] else high + margin)
    axes.yaxis.set_major_formatter(_Plain())


def _logarithmic(axes: Axes, lowest: float, highest: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(lowest / (highest / lowest) ** 0.06, highest * (highest / lowest) ** 0.06)
    steps = (1, 2, 5) if highest < 300 * lowest else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_Plain())


class _Plain(Formatter):
    """Numbers without exponents where they are readable; on a linear axis all to the same decimals."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return minus(f"{value:,.10g}" if abs(value) < 1e7 else f"{value:.0e}")

    def format_ticks(self, values: list[float]) -> list[str]:
        texts = [self(value) for value in values]
        decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
        if not isinstance(self.axis, YAxis) or self.axis.get_scale() == "log" or any("e" in text for text in texts):
            return texts
        return [minus(f"{value:,.{decimals}f}") for value in values]
