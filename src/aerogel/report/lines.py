"""Lines against sparsity: the one kind of chart that most of the report is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import Formatter, LogLocator, NullLocator

from aerogel.charts import INK, MARKERS, PALETTE, PAPER, figure, styled
from aerogel.report.estimate import minus, percent
from aerogel.report.variant import Variant

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
DODGE = 0.07  # of the distance between two sparsities, so that intervals stand beside each other
PALE = 0.35  # the strength of a line that stands back
LARGEST = 1e100  # matplotlib can't scale an axis much further; a collapsed model's perplexity goes there
LOGARITHMIC = 8  # times the lowest value that the highest must be for a logarithmic axis


@dataclass(frozen=True)
class Look:
    """How a model and the way to its zeros are drawn, the same all through the page."""

    models: tuple[str, ...]
    ways: tuple[Variant, ...]

    def colour(self, model: str) -> str:
        return PALETTE[self.models.index(model) % len(PALETTE)]

    def marker(self, model: str) -> str:
        place = self.models.index(model)
        return MARKERS[(place + place // len(PALETTE)) % len(MARKERS)]

    def dashes(self, way: Variant) -> str | tuple[int, tuple[float, ...]]:
        """The dense model's are those of the first way that it was trained like; costs, without recovery, have a key
        of their own."""
        alike = [known for known in self.ways if bool(known.recovery) == bool(way.recovery)]
        place = next(place for place, known in enumerate(alike) if way in (known, known.dense))
        return DASHES[place % len(DASHES)]

    def swatch(self, model: str) -> Markup:
        """The model's mark as a small drawing for running text."""
        style = MarkerStyle(self.marker(model))
        outline = np.asarray(style.get_path().transformed(style.get_transform()).to_polygons()[0])
        points = " ".join(f"{10 + 8 * x:.1f},{6 - 8 * y:.1f}" for x, y in outline)
        variable = f"var(--series-{PALETTE.index(self.colour(model)) + 1})"
        return Markup(
            '<svg class="swatch" viewBox="0 0 20 12" aria-hidden="true">'
            '<path d="M0 6H20" stroke="{0}" stroke-width="1.6"/>'
            '<polygon points="{1}" fill="{0}"/></svg>'
        ).format(variable, points)

    def stroke(self, way: Variant) -> Markup:
        """The way's kind of line, likewise."""
        dashes = self.dashes(way)
        pattern = " ".join(f"{1.6 * length:g}" for length in dashes[1]) if isinstance(dashes, tuple) else "none"
        return Markup(
            '<svg class="swatch" viewBox="0 0 20 12" aria-hidden="true">'
            '<path d="M0 6H20" stroke="currentColor" stroke-width="1.6" stroke-dasharray="{}"/></svg>'
        ).format(pattern)


@dataclass(frozen=True)
class Point:
    """A value, and where it has an uncertainty, its low and high end; hollow ones are explained in the caption."""

    value: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """The values of one model and way by sparsity; a pale line stands back behind the others."""

    model: str
    way: Variant
    points: dict[float, Point]
    pale: bool = False


@styled
def against_sparsity(
    sparsities: Sequence[float],
    lines: Sequence[Line],
    look: Look,
    *,
    from_zero: bool = False,
    may_be_logarithmic: bool = False,
    dense_levels: bool = False,
    level: float | None = None,
    bounds: tuple[float, float] = (-LARGEST, LARGEST),
) -> Figure:
    """Draws the lines over evenly spaced sparsities.

    With `dense_levels` each model's value at sparsity 0 runs through as a thin dotted line; `level` is one dashed
    line for all. `bounds` are the least and the greatest value that there can be, and cut what is drawn.
    """
    made = figure()
    axes = made.axes[0]
    series = list(dict.fromkeys((line.model, line.way) for line in lines))
    for line in lines:
        shift = (series.index((line.model, line.way)) - (len(series) - 1) / 2) * min(DODGE, 0.4 / len(series))
        _draw(axes, line, [number + shift for number in range(len(sparsities))], sparsities, look, bounds)
        dense = line.points.get(0.0)
        if dense_levels and dense:
            axes.axhline(dense.value, color=look.colour(line.model), linewidth=0.9, linestyle=(0, (1, 2)), zorder=1.5)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    _label_sparsities(axes, sparsities)
    found = [point.value for line in lines for point in line.points.values() if math.isfinite(point.value)]
    values = [float(value) for value in np.clip(found, *bounds)]
    if may_be_logarithmic and values and 0 < LOGARITHMIC * min(values) < max(values):
        _logarithmic(axes, min(values), max(values))
    elif values:
        ends = [end for line in lines for point in line.points.values() for end in (point.low, point.high)]
        _linear(axes, values + ([] if level is None else [level]), ends, from_zero, bounds)
    return made


def _draw(
    axes: Axes,
    line: Line,
    places: Sequence[float],
    sparsities: Sequence[float],
    look: Look,
    bounds: tuple[float, float],
) -> None:
    nothing = Point(math.nan)  # a gap where a sparsity is missing
    points = [line.points.get(sparsity, nothing) for sparsity in sparsities]
    colour, marker = look.colour(line.model), look.marker(line.model)
    strength, behind = (PALE, 0.5) if line.pale else (1.0, 0.0)
    values = np.clip([point.value for point in points], *bounds)
    axes.plot(places, values, color=colour, linestyle=look.dashes(line.way), alpha=strength, zorder=2 - behind)
    for place, point in zip(places, points, strict=True):
        if point.low is not None and point.high is not None:
            ends = np.clip([point.low, point.high], *bounds)
            axes.plot([place, place], ends, color=colour, linewidth=1, alpha=0.6 * strength, zorder=2 - behind)
    for hollow in (False, True):
        chosen = [number for number, point in enumerate(points) if point.hollow == hollow]
        axes.plot(
            [places[number] for number in chosen],
            [values[number] for number in chosen],
            color=colour,
            marker=marker,
            linestyle="none",
            markerfacecolor=PAPER if hollow else colour,
            alpha=strength,
            clip_on=False,
            zorder=3 - behind,
        )


def _label_sparsities(axes: Axes, sparsities: Sequence[float]) -> None:
    every = -(-len(sparsities) // 10)
    shown = range(0, len(sparsities), every)
    axes.set_xticks(list(shown), [percent(sparsities[place]) for place in shown])
    axes.set_xlim(-0.35, len(sparsities) - 0.65)
    axes.set_xlabel("sparsity")
    axes.grid(axis="x", visible=False)


def _linear(
    axes: Axes, values: Sequence[float], ends: Sequence[float | None], from_zero: bool, bounds: tuple[float, float]
) -> None:
    """Makes room for every value and for short intervals; long ones are cut, so that the values stay readable."""
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
