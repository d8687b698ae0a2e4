"""The report of a study of float32 and int8 names both, and compares them."""

from dataclasses import replace
from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.names import variant_name
from aerogel.report.prose import rounding
from aerogel.report.tables import costs, rounded, scores
from aerogel.report.verdicts import answers
from aerogel.runtime.values import INT8_PATTERN
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
            assert row.change is None
        else:
            assert row.change is not None
            assert row.change.mean == pytest.approx(row.value.mean / reference.value.mean - 1)


def test_int8_is_compared_with_float32_at_the_same_sparsity(findings: Findings) -> None:
    rows = {(row.variant, row.sparsity): row for row in findings.scores}
    assert len(findings.rounded) == 2 * 2
    for item in findings.rounded:
        assert item.float32 == rows[replace(item.row.variant, values=None), item.row.sparsity]
        assert item.row.change is not None
        assert item.row.change.mean == pytest.approx(item.row.value.mean / item.float32.value.mean - 1)
        assert item.row.kl is not None
        assert 0 < item.row.kl.mean < 0.1
        own, other = findings.cost(item.row), findings.cost(item.float32)
        assert own is not None
        assert own.own.compressed
        speedup = own.speedup / (other.speedup or 1 if other else 1)
        assert findings.rounded_speedup(item) == pytest.approx(speedup)
    [table] = rounded(findings)
    assert len(table.rows) == 4
    assert {column.name for column in table.columns} >= {"values", "sparsity", "float32", "rounded", "kl", "speedup"}


def test_tables_and_lines_tell_them_apart(findings: Findings) -> None:
    for table in (*scores(findings, "movie-reviews"), *costs(findings)):
        names = [column.name for column in table.columns]
        values = [row[names.index("values")] for row in table.rows]
        assert set(values) == {"float32", "int8"}
        settings = [row[: names.index("sparsity") + 1] for row in table.rows]
        if "stored" in names:
            stored = names.index("stored")
            settings = [(*setting, row[stored]) for setting, row in zip(settings, table.rows, strict=True)]
        assert len(set(settings)) == len(settings)
    figures, variants = Figures(findings), findings.spec.scored_variants
    names = [variant_name(findings.spec, variant) for variant in variants]
    assert len(set(names)) == len(names) == 4
    assert len({figures.style.dashes(variant) for variant in variants}) == 4
    assert len({answer.variant for answer in answers(findings)}) == 4


def test_the_page_says_what_int8_costs_and_which_pattern_it_likes(rounded_folder: Path, findings: Findings) -> None:
    page = build_report(rounded_folder).read_text(encoding="utf-8")
    beside, advice = rounding(findings)
    for sentence in (beside, advice):
        assert sentence in page
    speeds = [findings.rounded_speedup(item) for item in findings.rounded]
    for number in ("int8", "4", f"{min(map(float, speeds)):.2f}", f"{max(map(float, speeds)):.2f}"):
        assert number in beside
    assert INT8_PATTERN in advice
    [only] = rounding(replace(findings, spec=findings.spec.model_copy(update={"pattern": INT8_PATTERN})))
    assert only == beside


def test_scores_without_times_are_compared_too(findings: Findings) -> None:
    untimed = replace(findings, costs=[], compressed=[])
    assert "times" not in rounding(untimed)[0]
    [table] = rounded(untimed)
    assert "speedup" not in [column.name for column in table.columns]


def test_a_study_in_float32_does_not_mention_other_types(page: str) -> None:
    assert "int8" not in page
    assert "rounded" not in page.lower()
