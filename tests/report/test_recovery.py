"""A study of recoveries: each is compared with its own dense model and named."""

from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle
from aerogel.report.opening import Opening
from aerogel.report.tables import every_seed, pruning, scores
from aerogel.study import Store
from aerogel.study.variant import Variant

NAMES = ("no recovery", "fine-tuning", "gradual + distillation")


@pytest.fixture(scope="module")
def findings(recovery_folder: Path) -> Findings:
    return collect(Store.open(recovery_folder))


def test_no_mean_is_over_different_recoveries(findings: Findings) -> None:
    assert len(findings.scores) == 3 * 2
    assert len(findings.realised) == 3 * 2
    for row in findings.scores:
        runs = [run for run in findings.runs if run.group == (row.task, row.model, row.variant, row.sparsity)]
        assert row.seeds == tuple(run.seed for run in runs) == (0, 1)
        assert row.value.values == tuple(run.result.score.metrics[row.main] for run in runs)


def test_scores_are_compared_with_the_dense_model_of_the_same_recovery(findings: Findings) -> None:
    dense = {(row.task, row.variant.recovery): row for row in findings.scores if not row.sparsity}
    for row in findings.scores:
        if row.sparsity:
            before = dense[row.task, row.variant.recovery].value
            assert row.kept is not None
            assert row.kept.mean == pytest.approx(row.value.mean / before.mean)
        else:
            assert row.kept is None


def test_tables_have_a_row_a_recovery(findings: Findings) -> None:
    [table] = scores(findings, "movie-reviews")
    assert [column.name for column in table.columns][:3] == ["model", "recovery", "sparsity"]
    assert [cells[1:3] for cells in table.cells()] == [[name, share] for name in NAMES for share in ("dense", "90%")]
    assert "dense_seconds" in table.csv()
    assert len(every_seed(findings)[0].rows) == len(findings.runs)


def test_charts_have_a_panel_a_recovery(recovery_folder: Path, findings: Findings) -> None:
    page = build_report(recovery_folder).read_text(encoding="utf-8")
    charts = {chart.title: chart for chart in Figures(findings, ChartStyle(findings.spec.models)).scores()}
    assert list(charts) == [f"movie-reviews: {name}" for name in ("accuracy", "agreement, %", "training time, s")]
    assert [len(chart.drawings) for chart in charts.values()] == [3, 3, 2]
    for name in NAMES:
        assert page.count(f'aria-label="movie-reviews: accuracy, {name}. ') == 1


def test_pruned_only_and_recovered_differ_in_nothing_else(findings: Findings) -> None:
    variants = [Variant("magnitude", "none"), Variant("magnitude", "finetune"), Variant(None, "gradual")]
    opening = Opening(findings, {}, ChartStyle(findings.spec.models))
    pairs = [opening.pair(variant) for variant in variants]
    assert pairs == [[variants[1], variants[0]], [variants[1], variants[0]], [variants[2], variants[0]]]


def test_a_study_without_recoveries_does_not_mention_them(page: str) -> None:
    assert "recover" not in page.lower()


def test_the_settings_are_those_of_the_trials(findings: Findings) -> None:
    [table] = pruning(findings)
    assert [dict(zip(("recovery", "method"), row, strict=False)) for row in table.rows] == [
        {"recovery": name, "method": "magnitude"} for name in ("none", "finetune", "gradual")
    ]
