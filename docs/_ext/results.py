"""The directives `results` (a chart, if one is named, and a table) and `protocol` (how a record was measured)."""

import html
from decimal import Decimal
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from plots import View, bars, lines
from records import RESULTS, Cell, Table, record
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

KINDS = ("bars", "dots", "lines")
SUFFIXES = {"%": "%", "×": "×"}  # other units are in the header


class Results(SphinxDirective):
    """`results RECORD TABLE`: its chart, then the table."""

    required_arguments = 2
    option_spec: ClassVar = {
        **dict.fromkeys(
            (*KINDS, "x", "by", "where", "caption", "mark", "axis", "without"), directives.unchanged_required
        ),
        **dict.fromkeys(("log", "chart-only"), directives.flag),
    }

    def run(self) -> list[nodes.Node]:
        name, title = self.arguments
        self.env.note_dependency(str(RESULTS / f"{name}.json"))
        try:
            table = record(name).tables[title]
            prefix = f"{name}-{title}-{self.lineno}-"
            shown = [self.chart(table, kind, prefix) for kind in KINDS if kind in self.options]
        except KeyError as error:
            raise ExtensionError(f"{self.get_location()}: results {name} {title}: {error}") from error
        if "chart-only" not in self.options:
            table = without(table, self.options.get("without", ""))
            shown += wrapped('<div class="results">', self.parse_text_to_nodes(markdown(table)), "</div>")
        return shown

    def chart(self, table: Table, kind: str, prefix: str) -> nodes.Node:
        options = self.options
        for condition in filter(None, options.get("where", "").split(";")):
            column, _, values = condition.strip().partition("=")
            place, wanted = table.column(column), values.split("|")
            table = Table(table.columns, [row for row in table.rows if str(row[place]) in wanted])
        view = View(
            by=options["by"].split("|") if "by" in options else (),
            x=options.get("x", "sparsity"),
            axis=options.get("axis", ""),
            mark=float(options["mark"]) if "mark" in options else None,
            log="log" in options,
            dots=kind == "dots",
        )
        draw, caption = lines if kind == "lines" else bars, options["caption"]
        svg = draw(table, options[kind].split("|"), view, caption, prefix)
        figure = f'<figure class="chart">{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'
        return nodes.raw("", figure, format="html")


class Protocol(SphinxDirective):
    """`protocol RECORD`: how it was measured, on what, and the commands that repeat it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        facts = record(name)
        versions = ", ".join(f"{package} {number}" for package, number in facts.versions.items())
        parts = [facts.protocol]
        parts += [f"**Machine:** {facts.machine}."] if facts.machine else []
        parts += [f"**Versions:** {versions}."] if versions else []
        parts += ["```text\n" + "\n".join(facts.commands) + "\n```"] if facts.commands else []
        start = "<details><summary>How this was measured, and the command</summary>"
        return wrapped(start, self.parse_text_to_nodes("\n\n".join(parts)), "</details>")


def wrapped(start: str, content: list[nodes.Node], end: str) -> list[nodes.Node]:
    return [nodes.raw("", start, format="html"), *content, nodes.raw("", end, format="html")]


def without(table: Table, column: str) -> Table:
    """The table without this column: narrower, where all rows have the same in it and the text says what."""
    if not column:
        return table
    place = table.column(column)
    columns, *rows = ([*row[:place], *row[place + 1 :]] for row in (table.columns, *table.rows))
    return Table(columns, rows)


def markdown(table: Table) -> str:
    """The table as Markdown: numbers to the right, units of ratios beside them, others in the header."""
    columns = [column.rstrip("]").partition(" [") for column in table.columns]
    units = [unit for _, _, unit in columns]
    heads = [f"{name} ({unit})" if unit and unit not in SUFFIXES else name for name, _, unit in columns]
    numeric = [any(isinstance(row[place], Decimal | int | list) for row in table.rows) for place in range(len(units))]
    rules = ["---:" if number else "---" for number in numeric]
    rows = [[text(cell, unit) for cell, unit in zip(row, units, strict=True)] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


def text(cell: Cell, unit: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, list):
        return " ± ".join(text(part, "") for part in cell)
    signed = f"{cell:+,}" if unit == "points" else f"{cell:,}"
    return signed.replace("-", "−") + SUFFIXES.get(unit, "")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("results", Results)
    app.add_directive("protocol", Protocol)
    return {"parallel_read_safe": True}
