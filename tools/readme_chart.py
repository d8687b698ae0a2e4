"""Draw the chart of the README, accuracy kept against speed, from benchmarks/results/accuracy.json.

    python tools/readme_chart.py

Writes docs/quality-speed.svg and docs/quality-speed-dark.svg, which look the same without the fonts of this machine.
"""

import sys
from pathlib import Path

import matplotlib as mpl

from aerogel.charts import INK, PALETTE, PAPER, RULE, STYLE, figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
from records import record  # noqa: E402

SHOWN = {  # of the table's rows, and where the label stands
    "PyTorch float32, dense": ("PyTorch float32", (0, 9), "left"),
    "ONNX Runtime float32, dense": None,
    "OpenVINO float32, dense": ("OpenVINO float32", (0, -9), "center"),
    "OpenVINO bfloat16, dense": ("OpenVINO bfloat16", (0, 9), "center"),
    "ONNX Runtime int8, dense": ("ONNX Runtime int8", (0, -9), "center"),
    "OpenVINO int8, dense": ("OpenVINO int8", (0, 9), "center"),
    "aerogel float32, 90% sparse": ("aerogel, 90% zeros, float32", (0, -10), "center"),
    "aerogel int8, 90% sparse": ("aerogel, 90% zeros, int8", (28, 10), "right"),
}
DARK = {PAPER: "#0d1117", INK: "#e6edf3", RULE: "#3d444d", PALETTE[0].lower(): PALETTE[4]}


def main() -> None:
    table = record("accuracy").tables["sst2"]
    columns = [table.column(name) for name in ("runtime and model", "time", "validation accuracy", "test accuracy")]
    rows = {row[columns[0]]: [float(row[column]) for column in columns[1:]] for row in table.rows}
    dense = rows["PyTorch float32, dense"]
    points = {name: (dense[0] / row[0], 100 * sum(row[1:]) / sum(dense[1:])) for name, row in rows.items()}
    for path, colours in ((ROOT / "docs" / "quality-speed.svg", {}), (ROOT / "docs" / "quality-speed-dark.svg", DARK)):
        draw(points, path, colours)


def draw(points: dict[str, tuple[float, float]], path: Path, colours: dict[str, str]) -> None:
    with mpl.rc_context({**STYLE, "svg.fonttype": "path"}):
        chart = figure(7.6, 3.4)
        axes = chart.axes[0]
        axes.patch.set_visible(False)
        axes.axhspan(99, 101, color=RULE, alpha=0.35, linewidth=0)
        for name, shown in SHOWN.items():
            (speed, kept), ours = points[name], name.startswith("aerogel")
            colour = PALETTE[1] if ours else PALETTE[0]
            axes.plot([speed], [kept], "o" if ours else "s", markersize=10 if ours else 7, color=colour)
            if shown:
                label, offset, side = shown
                text = f"{label}\n{speed:.1f} times as fast" if ours else label
                axes.annotate(
                    text, (speed, kept), offset, textcoords="offset points", ha=side, color=colour,
                    va="top" if offset[1] < 0 else "bottom", weight="bold" if ours else "normal",
                )  # fmt: skip
        axes.annotate("within 1% of the dense model", (0.84, 99.04), color=INK, fontsize=8)
        axes.set_ylim(98, 101)
        axes.set_xlim(0.8, 14)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 4, 8, 12], ["1", "2", "4", "8", "12"])
        axes.minorticks_off()
        axes.set_xlabel("times as fast as PyTorch in float32")
        axes.set_ylabel("accuracy kept, %")
        chart.savefig(path, facecolor=PAPER, metadata={"Date": None, "Creator": None})
    text = path.read_text(encoding="utf-8")
    for light, dark in colours.items():
        text = text.replace(light, dark)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
