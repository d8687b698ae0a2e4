"""Charts of weight distributions."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aerogel.analysis.weights import WeightReport, WeightStatistics
from aerogel.charts import INK, PALETTE, figure, styled

OVERLAP = 1.7  # height of a ridge, in rows


@styled
def distribution(report: WeightReport, colour: str = PALETTE[0], title: str | None = None) -> Figure:
    """Density of the nonzero prunable weights. The default title is the model's name."""
    chart = figure()
    axes = chart.axes[0]
    centres, density = _centres(report), _density(report.whole, report.span)
    axes.fill_between(centres, density, step="mid", color=colour, alpha=0.35, linewidth=0)
    axes.step(centres, density, where="mid", color=colour)
    axes.set(xlabel="weight", ylabel="density", xlim=report.span, ylim=(0, None))
    axes.set_title(report.model if title is None else title)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    facts = (
        f"std {report.whole.std:.3g}",
        f"kurtosis {round(report.whole.kurtosis, 1) + 0:+.1f}",
        f"zeros {report.whole.zeros:.1%}",
    )
    for line, fact in enumerate(facts):  # one text per line: lines of one text align only in matplotlib's own font
        text = fact.replace("-", "\N{MINUS SIGN}")
        axes.text(0.98, 0.95 - 0.07 * line, text, transform=axes.transAxes, ha="right", va="top", color=INK)
    return chart


@styled
def layers(report: WeightReport, colour: str = PALETTE[0], title: str | None = None) -> Figure:
    """One ridge per layer, the first layer on top, all on the same scale."""
    spacing = 0.24 if len(report.layers) <= 12 else 0.18  # inches
    chart = figure(height=1.0 + spacing * len(report.layers))
    axes = chart.axes[0]
    centres = _centres(report)
    ridges = [_density(layer, report.span) for layer in report.layers]
    highest = max(ridge.max() for ridge in ridges) or 1
    for row, ridge in enumerate(ridges):
        heights = -row + OVERLAP * ridge / highest
        axes.fill_between(centres, -row, heights, color=colour, alpha=0.35, linewidth=0, zorder=row)
        axes.plot(centres, heights, color=colour, linewidth=1, zorder=row)
    axes.set(xlabel="weight", xlim=report.span, ylim=(0.5 - len(ridges), OVERLAP + 0.2))
    axes.set_title(f"{report.model}, by layer" if title is None else title)
    axes.set_yticks([-row for row in range(len(ridges))], [short(layer.name) for layer in report.layers])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.grid(axis="y", visible=False)
    return chart


@styled
def heat_map(
    rows: Sequence[tuple[str, tuple[float, ...]]], sparsities: Sequence[float], title: str, split: int | None = None
) -> Figure:
    """One cell per group (rows) and sparsity (columns), darker for higher values on a logarithmic scale.

    Each cell shows its value, which may be NaN. A gap before row `split` separates layers from kinds of matrices.
    """
    chart = figure(1.4 + 0.62 * len(sparsities), 0.9 + 0.21 * len(rows))
    axes = chart.axes[0]
    values = np.array([cells for _, cells in rows])
    shades = np.log10(np.clip(values, 1e-4, 10))
    positions = [row + 0.5 * (split is not None and row >= split) for row in range(len(rows))]
    for position, cells, tones in zip(positions, values, shades, strict=True):
        for column, (value, tone) in enumerate(zip(cells, tones, strict=True)):
            strength = float(np.nan_to_num((tone + 4) / 5, nan=1.0))
            axes.barh(position, 0.96, 0.92, column - 0.48, color=PALETTE[1], alpha=0.05 + 0.75 * strength)
            axes.text(column, position, f"{value:.2g}", ha="center", va="center", fontsize=8)
    names = [short(name) if split is None or row < split else _kind(name) for row, (name, _) in enumerate(rows)]
    axes.set_yticks(positions, names)
    axes.set_xticks(range(len(sparsities)), [f"{sparsity:.0%}" for sparsity in sparsities])
    axes.set(xlabel="sparsity", xlim=(-0.5, len(sparsities) - 0.5), ylim=(positions[-1] + 0.5, -0.5), title=title)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False)
    return chart


@styled
def kept_structures(rows: Sequence[tuple[str, str, int, int]], title: str) -> Figure:
    """A bar for each sub-layer: the share of its heads or neurons that are kept.

    Rows are its name, "heads" or "neurons", and how many it has kept and had before.
    """
    chart = figure(5.2, 0.9 + 0.2 * len(rows))
    axes = chart.axes[0]
    for position, (_, kind, kept, original) in enumerate(rows):
        colour = PALETTE[1 if kind == "heads" else 0]
        axes.barh(position, 1, 0.7, color=colour, alpha=0.15)
        axes.barh(position, kept / original, 0.7, color=colour)
        axes.text(1.02, position, f"{kept:,} of {original:,}", ha="left", va="center", fontsize=8)
    parts = {"heads": "attention", "neurons": "feed-forward"}
    names = [f"{short(name)} {parts[kind]}" for name, kind, _, _ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set(xlabel="heads or neurons kept", xlim=(0, 1.3), ylim=(len(rows) - 0.5, -0.5), title=title)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", visible=False)
    return chart


def _density(statistics: WeightStatistics, span: tuple[float, float]) -> np.ndarray:
    """The histogram as a density, without the weights that were clipped into the outermost bins."""
    counts = np.array(statistics.histogram, dtype=float)
    counts[0] = counts[-1] = 0
    width = (span[1] - span[0]) / len(counts)
    return counts / (max(counts.sum(), 1) * width)


def _centres(report: WeightReport) -> np.ndarray:
    edges = np.linspace(*report.span, len(report.whole.histogram) + 1)
    return (edges[1:] + edges[:-1]) / 2


def short(name: str) -> str:
    """A layer's label: `encoder 3` for `model.encoder.layers.3`."""
    side = re.search(r"encoder|decoder", name)
    number = re.search(r"\d+", name)
    return f"{side.group() if side else 'layer'} {number.group()}" if number else name.rsplit(".", 1)[-1]


def _kind(name: str) -> str:
    """The last two parts of a matrix's name within its block: `self.query` for `attention.self.query`."""
    return ".".join(name.split(".")[-2:])
