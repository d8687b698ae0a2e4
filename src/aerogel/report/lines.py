"""Line charts of values against sparsity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Formatter, LogLocator, MaxNLocator, NullLocator

from aerogel.charts import INK, MARKERS, PALETTE, PAPER, RULE, figure, styled, tip
from aerogel.report.estimate import minus, percent

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
SIGNS = "●■▲◆▼✚✖"  # MARKERS as characters
DODGE = 0.07  # of the distance between two sparsities, so that intervals do not overlap
PALE = 0.35  # opacity of a pale line
LARGEST = 1e100  # matplotlib can't scale an axis much further; the perplexity of a collapsed model can be this large
EVERYTHING = (-LARGEST, LARGEST)
DECADES = 8  # highest / lowest value from which ticks are at powers of ten


@dataclass(frozen=True)
class ChartStyle:
    """The colour and marker of each model, the same in all charts of a page."""

    models: tuple[str, ...]

    def colour(self, model: str) -> str:
        return PALETTE[self.models.index(model) % len(PALETTE)]

    def marker(self, model: str) -> str:
        index = self.models.index(model)
        return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]

    def swatch(self, model: str) -> Markup:
        """The model's marker for running text."""
        variable = f"var(--series-{PALETTE.index(self.colour(model)) + 1})"
        sign = SIGNS[MARKERS.index(self.marker(model))]
        return Markup('<span aria-hidden="true" style="color:{}">{}</span>').format(variable, sign)


def stroke(index: int) -> Markup:
    """One of the dashes as a small drawing, with a marker as in the charts: filled for the first, else hollow."""
    dashes = DASHES[index % len(DASHES)]
    pattern = " ".join(f"{1.6 * length:g}" for length in dashes[1]) if isinstance(dashes, tuple) else "none"
    return Markup(
        '<svg class="swatch" viewBox="0 0 20 12" aria-hidden="true">'
        '<path d="M0 6H20" stroke="currentColor" stroke-width="1.6" stroke-dasharray="{}"/>'
        '<circle cx="10" cy="6" r="2.8" stroke="currentColor" stroke-width="1.4" fill="{}"/></svg>'
    ).format(pattern, "var(--paper)" if index else "currentColor")


@dataclass(frozen=True)
class Point:
    """A value, the ends of its bar if it has one, and the text of its tooltip."""

    value: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """The values of a model by sparsity; `dashes` is an index of `DASHES`. A pale line is drawn behind the others."""

    model: str
    points: Mapping[float, Point]
    dashes: int = 0
    pale: bool = False


@dataclass(frozen=True)
class Scale:
    """The ends of a vertical axis."""

    low: float
    high: float
    is_logarithmic: bool = False

    @classmethod
    def of(
        cls,
        lines: Sequence[Line],
        *,
        from_zero: bool = False,
        logarithmic: bool = False,
        level: float | None = None,
        bounds: tuple[float, float] = EVERYTHING,
    ) -> "Scale":
        """Fits every point with its bar, and a `level`. Values are clipped to `bounds`, the possible range.

        Logarithmic only if all values are above 0.
        """
        points = [point for line in lines for point in line.points.values()]
        ends = [end for point in points for end in (point.value, point.low, point.high, level) if end is not None]
        values = np.clip([end for end in ends if math.isfinite(end)] or [0.0, 1.0], *bounds)
        low, high = float(values.min()), float(values.max())
        if logarithmic and low > 0:
            margin = max(high / low, 1.1) ** 0.06
            return cls(low / margin, high * margin, True)
        low = min(low, 0.0) if from_zero else low
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low if from_zero else low - margin, high + margin)

    def apply(self, axes: Axes) -> None:
        if self.is_logarithmic:
            axes.set_yscale("log")
            ticks = MaxNLocator(5).tick_values(self.low, self.high)
            is_wide = self.high > DECADES * self.low
            steps = (1, 2, 5) if self.high < 300 * self.low else (1,)
            axes.yaxis.set_major_locator(
                LogLocator(subs=steps, numticks=8) if is_wide else FixedLocator([tick for tick in ticks if tick > 0])
            )
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(self.low, self.high)
        axes.yaxis.set_major_formatter(PlainNumbers())


@styled
def against_sparsity(
    sparsities: Sequence[float],
    lines: Sequence[Line],
    style: ChartStyle,
    scale: Scale,
    *,
    title: str = "",
    level: float | None = None,
    band: float | None = None,
) -> Figure:
    """Draws lines over evenly spaced sparsities.

    Args:
        title: of the panel.
        level: draw a dashed line across the chart.
        band: shade the chart above this value.
    """
    drawing = figure()
    axes = drawing.axes[0]
    scale.apply(axes)
    series = list(dict.fromkeys((line.model, line.dashes) for line in lines))
    for line in lines:
        shift = (series.index((line.model, line.dashes)) - (len(series) - 1) / 2) * min(DODGE, 0.4 / len(series))
        _draw(axes, line, {sparsity: index + shift for index, sparsity in enumerate(sparsities)}, style, scale)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    if band is not None:
        axes.axhspan(band, scale.high, color=RULE, alpha=0.4, linewidth=0, zorder=0)
    every = -(-len(sparsities) // 10)
    shown = range(0, len(sparsities), every)
    axes.set_xticks(list(shown), [percent(sparsities[index]) for index in shown])
    axes.set(xlabel="sparsity", xlim=(-0.35, len(sparsities) - 0.65), title=title)
    axes.grid(axis="x", visible=False)
    return drawing


def _draw(axes: Axes, line: Line, places: Mapping[float, float], style: ChartStyle, scale: Scale) -> None:
    """Draws a line with its bars and markers; `places` are where the sparsities are on the axis."""
    nothing = Point(math.nan, "")  # a gap where a sparsity is missing
    points = [(x, line.points.get(sparsity, nothing)) for sparsity, x in places.items()]
    colour, marker = style.colour(line.model), style.marker(line.model)
    opacity, behind = (PALE, 0.5) if line.pale else (1.0, 0.0)
    values = np.clip([point.value for _, point in points], scale.low, scale.high)
    axes.plot(
        list(places.values()),
        values,
        color=colour,
        marker=marker,
        markerfacecolor=PAPER if line.dashes else colour,
        linestyle=DASHES[line.dashes % len(DASHES)],
        alpha=opacity,
        clip_on=False,
        zorder=3 - behind,
    )
    for (x, point), value in zip(points, values, strict=True):
        if point.low is not None and point.high is not None:
            ends = np.clip([point.low, point.high], scale.low, scale.high)
            axes.plot([x, x], ends, color=colour, linewidth=1, alpha=0.6 * opacity, zorder=2 - behind)
        if math.isfinite(value):
            tip(axes, x, float(value), point.text)


class PlainNumbers(Formatter):
    """Numbers without exponents if they are readable; on a linear axis all with the same decimals."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return minus(f"{value:,.10g}" if abs(value) < 1e7 else f"{value:.0e}")

    def format_ticks(self, values: list[float]) -> list[str]:
        texts = [self(value) for value in values]
        decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
        if (isinstance(self.axis, Axis) and self.axis.get_scale() == "log") or any("e" in text for text in texts):
            return texts
        return [minus(f"{value:,.{decimals}f}") for value in values]
