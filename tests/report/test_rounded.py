"""The report of a study of float32 and int8 names both, and compares both with the dense model in float32."""

from pathlib import Path

import pytest

from aerogel.report.build import sections
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle
from aerogel.report.names import variant_name
from aerogel.report.tables import costs, scores
from aerogel.report.verdicts import options
from aerogel.study import Store


@pytest.fixture(scope="module")
def findings(rounded_folder: Path) -> Findings:
    return collect(Store.open(rounded_folder))


def test_no_mean_is_over_different_types_of_values(findings: Findings) -> None:
    assert len(findings.scores) == 2 * 2 * 2
    assert len(findings.realised) == 2 * 2 * 2
    assert all(len(row.seeds) == 1 for row in findings.scores)


def test_all_are_compared_with_the_dense_model_in_float32(findings: Findings) -> None:
    dense = {row.variant.recovery: row for row in findings.scores if not (row.sparsity or row.variant.values)}
    assert len(dense) == 2
    for row in findings.scores:
        reference = dense[row.variant.recovery]
        if row is reference:
            assert row.kept is None
        else:
            assert row.kept is not None
            assert row.kept.mean == pytest.approx(row.value.mean / reference.value.mean)


def test_tables_and_options_tell_them_apart(findings: Findings) -> None:
    for table in (*scores(findings, "movie-reviews"), *costs(findings)):
        names = [column.name for column in table.columns]
        values = [row[names.index("values")] for row in table.rows]
        assert set(values) == {"float32", "int8"}
        settings = [row[: names.index("sparsity") + 1] for row in table.rows]
        if "stored" in names:
            stored = names.index("stored")
            settings = [(*setting, row[stored]) for setting, row in zip(settings, table.rows, strict=True)]
        assert len(set(settings)) == len(settings)
    names = [variant_name(findings.spec, variant) for variant in findings.spec.scored_variants]
    assert len(set(names)) == len(names) == 4


def test_charts_of_cost_have_a_line_for_each_type_of_values(findings: Findings) -> None:
    style = ChartStyle(findings.spec.models)
    charts = {chart.title: chart for chart in Figures(findings, style).costs()}
    assert len(charts) == 6
    assert charts["Weight files on disk, MB"].dashes == ("float32", "int8")
    assert charts["Memory in training, MB"].dashes == ("float32",)


def test_dense_int8_is_an_option(findings: Findings) -> None:
    judged = options(findings)
    if judged:  # the model may have learned nothing
        assert any(not option.row.sparsity and option.variant.values == "int8" for option in judged)
    assert sections(findings, judged, ChartStyle(findings.spec.models))


def test_a_study_in_float32_does_not_mention_other_types(page: str) -> None:
    assert "int8" not in page
