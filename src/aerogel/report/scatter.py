"""The opening chart: the score kept against speed, with labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aerogel.charts import RULE, figure, styled, tip
from aerogel.report.lines import PALE, ChartStyle, PlainNumbers

FLOOR, CEILING = 70.0, 110.0  # of the score kept in percent; points outside are drawn at the edge
TEXT = 9  # points, of labels
CROWDED = 0.05  # of a label's area that may cover others
NEAR, FAR = (4, 9), (16, 28)  # points between a mark and its label; a far label has a line to its mark

Point = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """A point: its label, its position, the text of its tooltip, and whether it stands out."""

    label: str
    x: float
    kept: float
    text: str
    stands_out: bool = False

    @property
    def y(self) -> float:
        return float(np.clip(np.nan_to_num(self.kept, nan=FLOOR), FLOOR, CEILING))


@dataclass(frozen=True)
class Curve:
    """The marks of one model: those of a `line`, in its order, and the `others` behind it."""

    model: str
    line: Sequence[Mark]
    others: Sequence[Mark]


@styled
def against_speed(
    curves: Sequence[Curve], style: ChartStyle, ends: tuple[float, float], level: float, names: tuple[str, str]
) -> Figure:
    """Draws the score kept in percent against speed.

    `names` are the title and the label of the horizontal axis, `ends` those of the vertical axis. The drawing is shaded
    above `level`. Points below `FLOOR` are drawn there.
    """
    drawing = figure(width=4.8, height=3.4)
    axes = drawing.axes[0]
    axes.axhspan(level, ends[1], color=RULE, alpha=0.4, linewidth=0, zorder=0)
    for curve in curves:
        colour, marker = style.colour(curve.model), style.marker(curve.model)
        for mark in curve.others:
            axes.plot(mark.x, max(mark.y, ends[0]), marker, color=colour, markersize=3.5, alpha=PALE, clip_on=False)
        places = [(mark.x, mark.y) for mark in curve.line]
        axes.plot(*np.transpose(places), color=colour, marker=marker, markersize=6, clip_on=False, zorder=3)
        for mark in (*curve.others, *curve.line):
            tip(axes, mark.x, max(mark.y, ends[0]), mark.text)
    axes.set_title(names[0])
    axes.set(xlabel=names[1], ylabel="score kept, %", ylim=ends)
    axes.xaxis.set_major_formatter(PlainNumbers())
    axes.margins(x=0.09)
    _label(drawing, axes, curves, style)
    return drawing


def _label(drawing: Figure, axes: Axes, curves: Sequence[Curve], style: ChartStyle) -> None:
    """Places the label of each mark where it covers the least, marks that stand out first. A label that would cover
    much of another label, mark or line is left out, as are those of marks below the floor."""
    drawing.draw_without_rendering()  # lays out the axes, so that places in points are known
    scale = 72 / drawing.dpi

    def place(mark: Mark) -> Point:
        return scale * axes.transData.transform((mark.x, mark.y))

    marks = [(curve.model, mark, place(mark)) for curve in curves for mark in curve.line]
    taken = [_around(point, 3) for _, _, point in marks]
    for curve in curves:
        taken += [_around(place(mark), 2) for mark in curve.others]
        taken += [_around(point, 1) for ends in pairwise(map(place, curve.line)) for point in _between(*ends)]
    x0, y0, x1, y1 = (scale * end for end in axes.get_window_extent().extents)
    for model, mark, (x, y) in sorted(marks, key=lambda entry: not entry[1].stands_out):
        text = mark.label if mark.stands_out or mark.kept >= FLOOR else ""
        width, height = (0.8 if mark.stands_out else 0.75) * TEXT * len(text), 1.1 * TEXT
        offsets = {
            (dx, dy): far
            for far in (*NEAR, *(FAR if mark.stands_out else ()))
            for dx in (far, -width / 2, -width - far)
            for dy in (far - 1, 1 - far - height, -height / 2)
        }
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in offsets}
        covered = {offset: _covered(box, taken, (x0, y0, x1, y1)) for offset, box in boxes.items()}
        best = min(offsets, key=covered.__getitem__)
        if text and (mark.stands_out or covered[best] < CROWDED * width * height):
            taken.append(boxes[best])
            _write(axes, mark, best, style.colour(model), has_line=offsets[best] in FAR)


def _write(axes: Axes, mark: Mark, offset: tuple[float, float], colour: str, has_line: bool) -> None:
    """Writes the label of a mark at an offset in points, with a thin line to the mark if `has_line`."""
    corner = float(offset[0] < 0), float(offset[1] < 0)
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": corner, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        mark.label,
        (mark.x, mark.y),
        offset,
        textcoords="offset points",
        color=colour,
        fontsize=TEXT,
        fontweight="bold" if mark.stands_out else "normal",
        arrowprops=line if has_line else None,
        zorder=4,
    )


Box = tuple[float, float, float, float]


def _around(point: Point, half: float) -> Box:
    x, y = point
    return x - half, y - half, x + half, y + half


def _between(start: Point, end: Point) -> Sequence[Point]:
    """Points of a line, 2 points of type apart."""
    steps = 1 + int(np.hypot(*(end - start)) / 2)
    return list(np.linspace(start, end, steps))


def _covered(box: Box, others: Sequence[Box], frame: Box) -> float:
    """The area that a box shares with others, and much more for what is outside of the frame."""
    covered = sum(_shared(box, other) for other in others)
    size = (box[2] - box[0]) * (box[3] - box[1])
    return covered + 5 * (size - _shared(box, frame))


def _shared(box: Box, other: Box) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
