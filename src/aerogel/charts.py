"""The look of every chart: one colour a model, readable by the colour-blind, light or dark."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito 2008, in the order that keeps neighbours apart; yellow is left out, too pale on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, RULE = "#1b1b1f", "#c9c9cf"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "svg.hashsalt": "aerogel",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": RULE,
    "figure.dpi": 100,
}


def figure(width: float = 4.6, height: float = 3.2, rows: int = 1) -> Figure:
    """An empty figure in the common style, in inches; charts are drawn small, to sit side by side."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        made.subplots(rows, 1)
    made.patch.set_alpha(0)
    for axes in made.axes:
        axes.patch.set_alpha(0)
    return made


def svg(made: Figure, title: str) -> str:
    """The figure as one inline `<svg>` element whose inks follow the page's light or dark scheme."""
    with mpl.rc_context(STYLE):
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text) if "viewBox" in text else text
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, variable in ((INK, "var(--ink, #1b1b1f)"), (RULE, "var(--rule, #c9c9cf)")):
        text = text.replace(f"{colour}", variable)
    return text
