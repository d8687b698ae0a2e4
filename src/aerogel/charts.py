"""The style of all charts: one colour per model, safe for colour-blind readers, in light and dark pages."""

import html
import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008, ordered so that neighbours differ; without yellow, which is too pale on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAPER, INK, RULE = "#fdfdfc", "#1b1b1f", "#c9c9cf"
TICKS = {"major.size": 0, "major.pad": 6, "color": RULE, "labelcolor": INK}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the font of the page
    "svg.hashsalt": "aerogel",
    "text.parse_math": False,  # a dollar sign in a name is not math
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
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in TICKS.items()},
    "grid.color": RULE,
    "figure.dpi": 100,
}
VARIABLES = {PAPER: "--paper", INK: "--ink", RULE: "--rule"} | {
    colour: f"--series-{number}" for number, colour in enumerate(PALETTE, start=1)
}
"""The CSS variables of a page that replace these colours."""

# the id of a marker starts with this and ends in its title, escaped, since matplotlib quotes an id in one of two ways
TIP = "tip: "
TARGET = '<circle class="tip" cx="{x}" cy="{y}" r="8" opacity="0"><title>{title}</title></circle>'

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that draws a figure, to draw it in the common style."""

    @wraps(draw)
    def draw_styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_styled


@styled
def figure(width: float = 4.6, height: float = 3.0) -> Figure:
    """An empty figure with one pair of axes. Sizes are in inches; charts are small, to fit side by side."""
    empty = Figure(figsize=(width, height), layout="constrained")
    empty.add_subplot()
    return empty


def tip(axes: Axes, x: float, y: float, text: str) -> None:
    """Shows a text where a reader points at (x, y): the `<title>` of a transparent circle in place of this marker."""
    axes.plot([x], [y], "o", markersize=15, alpha=0, zorder=5, clip_on=False, gid=f"{TIP}{html.escape(text)}")


def svg(chart: Figure, title: str, prefix: str) -> str:
    """The chart as one inline `<svg>` element with a transparent background, in the page's colour variables.

    `title` is the text for screen readers; `prefix` makes the ids unique within a page.
    """
    chart.patch.set_visible(False)
    for axes in chart.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        chart.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        rf'<g id="{TIP}([^"]*)">.*?<use [^>]*x="([\d.-]+)" y="([\d.-]+)".*?</g>\s*</g>',
        lambda part: TARGET.format(x=part[2], y=part[3], title=html.unescape(part[1])),
        text,
        flags=re.S,
    )
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<!--.*?-->",
        r'<style type="text/css">.*?</style>',  # would apply to the whole page
        r'(?<=<g) id="[^"]*"',
        r'(?<=<svg) xmlns:xlink="[^"]*"',
        r" font-family: [^;]*;",  # use the font of the page
        r' transform="rotate\(-0 [^"]*"',
        r"\s*\n\s*(?=<)",
    ):
        text = re.sub(unwanted, "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", lambda tag: _for_a_page(tag.group(), prefix), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib writes a viewBox into every svg"
    start = f'<svg class="chart" role="img" aria-label="{html.escape(title)}" {box.group()}>'
    return re.sub(r"<svg [^>]*>", lambda _: start, text, count=1).strip()


def _for_a_page(tag: str, prefix: str) -> str:
    """Shorten a tag's numbers, prefix its ids, and replace its colours by variables."""
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), tag)
    tag = tag.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    tag = tag.replace('xlink:href="#', f'href="#{prefix}')
    for colour, variable in VARIABLES.items():
        tag = re.sub(colour, f"var({variable})", tag, flags=re.I)
    return tag
