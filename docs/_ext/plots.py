"""The charts of results pages, in the style of the report."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from records import Cell, Table

from aerogel.charts import INK, MARKERS, PALETTE, figure, styled, svg
from aerogel.report.lines import PlainNumbers

WIDTH = 5.0  # inches: as wide as a phone, so that text keeps its size there


@dataclass(frozen=True)
class View:
    """How a table is drawn: `by` names its rows or lines, `mark` is a dashed line, `axis` the label of the values."""

    by: Sequence[str] = ()
    x: str = "sparsity"
    axis: str = ""
    mark: float | None = None
    log: bool = False
    dots: bool = False


def number(cell: Cell) -> float:
    return float(cell[0] if isinstance(cell, list) else cell)  # type: ignore[arg-type]


def unit(table: Table, column: str) -> str:
    return table.columns[table.column(column)].partition(" [")[2].rstrip("]")


def written(cell: Cell, unit: str) -> str:
    return f"{cell[0] if isinstance(cell, list) else cell:,}{unit if unit in ('%', '×') else ''}"


def label(table: Table, row: Sequence[Cell], columns: Sequence[str]) -> str:
    """What names a row, in lines that leave room for the chart."""
    cells = [(row[table.column(column)], unit(table, column)) for column in columns]
    names = [cell if isinstance(cell, str) else written(cell, unit) for cell, unit in cells if cell not in (None, "")]
    return textwrap.fill(", ".join(names).replace("`", ""), 34)


@styled
def bars(table: Table, columns: Sequence[str], view: View, title: str, prefix: str) -> str:
    """Horizontal bars: a group for each row, named by the columns `by`, and in it a bar for each of `columns`.

    With `dots`, points instead, on an axis that does not start at 0.
    """
    rows = [row for row in table.rows if any(row[table.column(column)] is not None for column in columns)]
    thick = 0.8 / len(columns)
    names = [label(table, row, view.by) for row in rows]
    tallest = max(name.count("\n") for name in names)
    bar = max(0.26 if len(columns) == 1 or view.dots else 0.19 * len(columns) + 0.1, 0.2 * (1 + tallest))
    chart = figure(WIDTH, 0.6 + bar * len(rows))
    axes = chart.axes[0]
    for series, column in enumerate(columns):
        place = table.column(column)
        for position, row in enumerate(rows):
            if row[place] is None:
                continue
            value, style = number(row[place]), {"color": PALETTE[series], "label": "" if position else column}
            height = position + (series - (len(columns) - 1) / 2) * (0.25 if view.dots else thick)
            if view.dots:
                axes.plot([value], [height], MARKERS[series], **style)
            else:
                axes.barh(height, value, thick * 0.9, **style)
                text = written(row[place], unit(table, column))
                axes.annotate(text, (value, height), (3, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.05 if view.dots else 0.18)
    if view.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(PlainNumbers())
    if view.mark is not None:
        axes.axvline(view.mark, color=INK, linewidth=1, linestyle="--")
    if len(columns) > 1:
        chart.legend(loc="outside upper left", ncols=2)
    axes.set_xlabel(", ".join(dict.fromkeys(view.axis or unit(table, column) for column in columns)))
    return svg(chart, title, prefix)


@styled
def lines(table: Table, columns: Sequence[str], view: View, title: str, prefix: str) -> str:
    """A line for each value of the columns `by`, or for each of `columns`, over the column `x`."""
    across = table.column(view.x)
    series: dict[str, list[tuple[float, float]]] = {}
    for column in columns:
        place = table.column(column)
        for row in table.rows:
            if row[place] is not None:
                names = [label(table, row, view.by)] if view.by else []
                name = ", ".join([*names, column] if len(columns) > 1 or not names else names)
                series.setdefault(name, []).append((number(row[across]), number(row[place])))
    chart = figure(WIDTH, 3.2)
    axes = chart.axes[0]
    for place, (name, points) in enumerate(series.items()):
        style = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot(*zip(*sorted(points), strict=True), label=name, **style)
    if view.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(PlainNumbers())
    else:
        axes.set_ylim(bottom=0)
    if view.mark is not None:
        axes.axhline(view.mark, color=INK, linewidth=1, linestyle="--")
    axes.set_xlabel(f"{view.x}, {unit(table, view.x)}".rstrip(", "))
    axes.set_ylabel(textwrap.fill(view.axis or unit(table, columns[0]), 28))
    if len(series) > 1:
        chart.legend(loc="outside upper left", ncols=2)
    return svg(chart, title, prefix)
