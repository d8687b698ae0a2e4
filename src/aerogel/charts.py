"""The look of every chart: one colour a model, readable by the colour-blind, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito 2008, in the order that keeps neighbours apart; yellow is left out, too pale on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAPER, INK, RULE = "#fdfdfc", "#1b1b1f", "#c9c9cf"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "svg.hashsalt": "aerogel",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "figure.dpi": 100,
}
VARIABLES = {PAPER: "--paper", INK: "--ink", RULE: "--rule"} | {
    colour: f"--series-{place}" for place, colour in enumerate(PALETTE, start=1)
}
"""The names that a page gives the colours of its charts by."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws a figure in the common style, which matplotlib looks up again at each call."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def figure(width: float = 4.6, height: float = 3.0) -> Figure:
    """An empty figure with one pair of axes, in inches; charts are drawn small, to sit side by side."""
    made = Figure(figsize=(width, height), layout="constrained")
    made.add_subplot()
    return made


def svg(made: Figure, title: str, prefix: str) -> str:
    """The figure as one inline `<svg>` element, see-through, its colours the page's variables.

    `title` is read out to those who can't see it; `prefix` starts every id, so that several figures can
    stand in one page.
    """
    made.patch.set_visible(False)
    for axes in made.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<!--.*?-->",
        r'<style type="text/css">.*?</style>',  # would hold for the whole page
        r'(?<=<g) id="[^"]*"',
        r'(?<=<svg) xmlns:xlink="[^"]*"',
        r" font-family: [^;]*;",  # the page's own holds
        r' transform="rotate\(-0 [^"]*"',
        r"\s*\n\s*(?=<)",
    ):
        text = re.sub(unwanted, "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", lambda tag: _for_a_page(tag.group(), prefix), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib gives every svg its box"
    start = f'<svg class="chart" role="img" aria-label="{html.escape(title)}" {box.group()}>'
    return re.sub(r"<svg [^>]*>", lambda _: start, text, count=1).strip()


def _for_a_page(tag: str, prefix: str) -> str:
    """A tag of matplotlib's with short numbers, ids of its own, and the page's colours."""
    tag = re.sub(r"\d+\.\d{3,}", _rounded, tag)
    tag = tag.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    tag = tag.replace('xlink:href="#', f'href="#{prefix}')
    for colour, variable in VARIABLES.items():
        tag = re.sub(colour, f"var({variable})", tag, flags=re.I)
    return tag


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number.group()):.2f}".rstrip("0").rstrip(".")
