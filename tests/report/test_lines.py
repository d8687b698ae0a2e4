from __future__ import annotations

import math
import re

import pytest

from aerogel.charts import figure, svg
from aerogel.report.lines import CEILING, FLOOR, ChartStyle, Line, Point, against_cost, against_sparsity
from aerogel.study.variant import Variant

STYLE = ChartStyle(("bert", "gpt2"), (Variant("magnitude"), Variant("random")))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.99)


def line(*values: float, model: str = "bert", half: float | None = None) -> Line:
    return Line(
        model,
        Variant("magnitude"),
        {
            sparsity: Point(value, None if half is None else value - half, None if half is None else value + half)
            for sparsity, value in zip(SPARSITIES, values, strict=False)
        },
    )


def test_sparsities_are_evenly_spaced_and_written_as_percentages() -> None:
    axes = against_sparsity(SPARSITIES, [line(1, 2, 3, 4, 5)], STYLE).axes[0]
    assert list(axes.get_xticks()) == [0, 1, 2, 3, 4]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0%", "10%", "50%", "90%", "99%"]


def test_a_missing_sparsity_leaves_a_gap() -> None:
    whole = line(1, 2, 3, 4, 5)
    points = {sparsity: point for sparsity, point in whole.points.items() if sparsity != 0.5}
    drawn = against_sparsity(SPARSITIES, [Line("bert", Variant("magnitude"), points)], STYLE).axes[0].lines[0]
    assert math.isnan(drawn.get_ydata()[2])


def test_every_value_is_in_view_and_long_intervals_are_cut() -> None:
    axes = against_sparsity(SPARSITIES, [line(0.5, 0.6, 0.55, 0.5, 0.58, half=40.0)], STYLE).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.5 < 0.6 < high < 1


def test_a_wide_range_is_logarithmic_only_where_it_may_be() -> None:
    wide = [line(10, 12, 20, 200, 5000)]
    assert against_sparsity(SPARSITIES, wide, STYLE, may_be_logarithmic=True).axes[0].get_yscale() == "log"
    assert against_sparsity(SPARSITIES, wide, STYLE).axes[0].get_yscale() == "linear"
    assert (
        against_sparsity(SPARSITIES, [line(10, 11, 12)], STYLE, may_be_logarithmic=True).axes[0].get_yscale()
        == "linear"
    )


def test_costs_start_at_zero() -> None:
    assert against_sparsity(SPARSITIES, [line(7, 7, 7, 7, 7)], STYLE, from_zero=True).axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("values", [(), (math.nan,), (0.0,), (1.0, 1e304), (5.0, 5.0, 5.0)])
def test_any_values_can_be_drawn(values: tuple[float, ...]) -> None:
    drawing = against_sparsity(SPARSITIES, [line(*values)], STYLE, may_be_logarithmic=True)
    assert svg(drawing, "a title", "f1").startswith("<svg")


def test_quality_is_drawn_over_cost_and_cut_at_the_edges() -> None:
    curve = [("", 1.0, 100.0), ("50%", 2.0, 99.5), ("90%", 3.0, -900.0), ("99%", 4.0, math.nan), ("99.9%", 5.0, 900.0)]
    axes = against_cost({("bert", Variant("magnitude")): curve}, STYLE, "times", 99.0).axes[0]
    drawn, level = axes.lines
    assert list(drawn.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(drawn.get_ydata()) == [100, 99.5, FLOOR, FLOOR, CEILING]
    assert set(level.get_ydata()) == {99}
    assert [text.get_text() for text in axes.texts] == ["", "50%", "90%", "99%", "99.9%"]


def test_models_differ_by_colour_or_marker() -> None:
    many = ChartStyle(tuple(f"model-{number}" for number in range(20)), (Variant("magnitude"),))
    assert len({(many.colour(model), many.marker(model)) for model in many.models}) == 20


def test_methods_differ_by_their_line() -> None:
    assert STYLE.dashes(Variant("magnitude")) != STYLE.dashes(Variant("random"))
    assert STYLE.dashes(Variant()) == STYLE.dashes(Variant("magnitude"))


def test_swatches_have_the_colour_of_the_charts() -> None:
    assert "var(--series-2)" in STYLE.swatch("gpt2")


def test_two_figures_in_a_page_share_no_id() -> None:
    drawings = [svg(against_sparsity(SPARSITIES, [line(1, 2, 3)], STYLE), "same", prefix) for prefix in ("fa", "fb")]
    first, second = (set(re.findall(r'id="([^"]*)"', drawing)) for drawing in drawings)
    assert first
    assert not first & second


def test_a_title_is_escaped_and_a_dollar_is_no_formula() -> None:
    drawing = figure()
    drawing.axes[0].set_title("$x$ <1>")
    text = svg(drawing, 'a "b" <c>', "f")
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in text
    assert "$x$ &lt;1&gt;" in text
