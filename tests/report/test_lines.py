from __future__ import annotations

import math
import re
from html import unescape

import pytest

from aerogel.charts import figure, svg
from aerogel.report.lines import ChartStyle, Line, Point, Scale, against_sparsity, stroke
from aerogel.report.scatter import CEILING, FLOOR, Curve, Mark, against_speed

STYLE = ChartStyle(("bert", "gpt2"))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.99)


def line(*values: float, model: str = "bert", half: float | None = None) -> Line:
    points = {
        sparsity: Point(
            value, f"value {value}", None if half is None else value - half, None if half is None else value + half
        )
        for sparsity, value in zip(SPARSITIES, values, strict=False)
    }
    return Line(model, points)


def test_sparsities_are_evenly_spaced_and_written_as_percentages() -> None:
    lines = [line(1, 2, 3, 4, 5)]
    axes = against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines)).axes[0]
    assert list(axes.get_xticks()) == [0, 1, 2, 3, 4]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0%", "10%", "50%", "90%", "99%"]


def test_a_missing_sparsity_leaves_a_gap() -> None:
    points = {sparsity: point for sparsity, point in line(1, 2, 3, 4, 5).points.items() if sparsity != 0.5}
    lines = [Line("bert", points)]
    drawn = against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines)).axes[0].lines[0]
    assert math.isnan(drawn.get_ydata()[2])


@pytest.mark.parametrize("settings", [{}, {"from_zero": True}, {"logarithmic": True}])
def test_every_value_and_its_bar_are_within_the_axis(settings: dict[str, bool]) -> None:
    lines = [line(0.5, 0.6, 0.55, half=0.4), line(60.0, 2.0, half=1.9, model="gpt2")]
    low, high = against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines, **settings)).axes[0].get_ylim()
    assert low < 0.1
    assert high > 61.9


@pytest.mark.parametrize("values", [(10, 11, 12), (10, 12, 20, 200, 5000), (3, 3.01)])
def test_a_logarithmic_axis_is_one_at_every_range_and_has_ticks(values: tuple[float, ...]) -> None:
    lines = [line(*values)]
    drawing = against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines, logarithmic=True))
    axes = drawing.axes[0]
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


def test_costs_start_at_zero_unless_one_is_negative() -> None:
    assert Scale.of([line(7, 7, 7)], from_zero=True).low == 0
    assert Scale.of([line(7, -1)], from_zero=True).low == -1


@pytest.mark.parametrize("values", [(), (math.nan,), (0.0,), (1.0, 1e304), (5.0, 5.0, 5.0), (math.inf, 1.0)])
def test_any_values_can_be_drawn(values: tuple[float, ...]) -> None:
    lines = [line(*values)]
    scale = Scale.of(lines, logarithmic=True, bounds=(-1e100, 1e100))
    assert svg(against_sparsity(SPARSITIES, lines, STYLE, scale), "a title", "f1").startswith("<svg")


def test_points_have_their_numbers_as_titles() -> None:
    lines = [line(1.23456, math.nan, 3)]
    drawing = svg(against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines)), "a title", "f1")
    assert re.findall(r"<circle [^>]*><title>(.*?)</title></circle>", drawing) == ["value 1.23456", "value 3"]


@pytest.mark.parametrize("text", ['dir/<b>"$x_1$" & é', "]]> --> </style> {{ 7 }}", '#0072B2 <g id="x" 1.23456'])
def test_a_title_is_any_text(text: str) -> None:
    lines = [Line("bert", {0.0: Point(1.0, text)})]
    drawing = svg(against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines)), "a title", "f1")
    [title] = re.findall(r"<title>(.*?)</title>", drawing)
    assert "<" not in title
    assert unescape(title) == text


MARKS = [
    Mark("", 1.0, 100.0, "dense"),
    Mark("50%", 2.0, 99.5, "half", True),
    Mark("90%", 3.0, -900.0, "little"),
    Mark("99%", 4.0, math.nan, "nothing"),
    Mark("99.9%", 5.0, 900.0, "better"),
]


def test_the_score_kept_is_drawn_over_speed_and_cut_at_the_edges() -> None:
    curves = [Curve("bert", MARKS, [Mark("60%", 2.5, 80.0, "other")])]
    drawing = against_speed(curves, STYLE, (FLOOR, CEILING), 99.0, ("", "times"))
    axes = drawing.axes[0]
    [curve] = [drawn for drawn in axes.lines if len(drawn.get_xdata()) == len(MARKS)]
    assert list(curve.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(curve.get_ydata()) == [100, 99.5, FLOOR, FLOOR, CEILING]
    assert {text.get_text() for text in axes.texts} == {"50%", "99.9%"}
    drawn = svg(drawing, "a title", "f1")
    assert {mark.text for mark in MARKS} | {"other"} == set(re.findall(r"<title>(.*?)</title>", drawn))


def test_labels_do_not_cover_each_other() -> None:
    marks = [Mark(f"{index}%", 1 + index / 1000, 100 - index / 100, "") for index in range(1, 30)]
    axes = against_speed([Curve("bert", marks, [])], STYLE, (FLOOR, 101.0), 99.0, ("", "times")).axes[0]
    assert 0 < len(axes.texts) < len(marks)
    boxes = [text.get_window_extent().shrunk(0.8, 0.6) for text in axes.texts]
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


def test_models_differ_by_colour_or_marker() -> None:
    many = ChartStyle(tuple(f"model-{number}" for number in range(20)))
    assert len({(many.colour(model), many.marker(model)) for model in many.models}) == 20


def test_swatches_have_the_colour_of_the_charts_and_strokes_differ() -> None:
    assert "var(--series-2)" in STYLE.swatch("gpt2")
    assert len({stroke(index) for index in range(6)}) == 6


def test_two_figures_in_a_page_share_no_id() -> None:
    lines = [line(1, 2, 3)]
    drawings = [svg(against_sparsity(SPARSITIES, lines, STYLE, Scale.of(lines)), "same", name) for name in ("fa", "fb")]
    first, second = (set(re.findall(r'id="([^"]*)"', drawing)) for drawing in drawings)
    assert first
    assert not first & second


def test_a_title_is_escaped_and_a_dollar_is_no_formula() -> None:
    drawing = figure()
    drawing.axes[0].set_title("$x$ <1>")
    text = svg(drawing, 'a "b" <c>', "f")
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in text
    assert "$x$ &lt;1&gt;" in text
