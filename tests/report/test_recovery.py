"""A study of recoveries: each keeps to itself, is compared with its own dense model, and is told apart in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from aerogel.report import build
from aerogel.report.answer import answers, summary
from aerogel.report.collect import Findings, collect
from aerogel.report.estimate import Estimate
from aerogel.report.figures import Figures
from aerogel.report.recovery import ranks, recovered
from aerogel.report.tables import every_seed, scores
from aerogel.report.variant import Variant
from aerogel.study import Store

NAMES = ("no recovery", "fine-tuning", "gradual + distillation")


@pytest.fixture(scope="module")
def findings(recovery_folder: Path) -> Findings:
    return collect(Store.open(recovery_folder))


def test_no_mean_is_over_different_recoveries(findings: Findings) -> None:
    assert len(findings.scores) == 3 * 2
    assert len(findings.realised) == 3 * 2
    for row in findings.scores:
        runs = [run for run in findings.runs if run.group == (row.task, row.model, row.way, row.sparsity)]
        assert row.seeds == tuple(run.seed for run in runs) == (0, 1)
        assert row.value.values == tuple(run.values["metrics"][row.main] for run in runs)


def test_changes_are_against_the_dense_model_of_the_same_recovery(findings: Findings) -> None:
    dense = {(row.task, row.way.recovery): row for row in findings.scores if not row.sparsity}
    for row in findings.scores:
        if row.sparsity:
            before = dense[row.task, row.way.recovery].value
            assert row.change is not None
            assert row.change.mean == pytest.approx(row.value.mean / before.mean - 1)
        else:
            assert row.change is None


def test_tables_have_a_row_a_recovery(findings: Findings) -> None:
    [table] = scores(findings, "movie-reviews")
    assert [column.name for column in table.columns][:3] == ["model", "recovery", "sparsity"]
    assert [cells[1:3] for cells in table.cells()] == [[name, share] for name in NAMES for share in ("dense", "90%")]
    assert "dense_seconds" in table.csv()
    assert len(every_seed(findings)[0].rows) == len(findings.runs)


def test_the_page_has_the_section(recovery_folder: Path, findings: Findings) -> None:
    page = build(recovery_folder).read_text(encoding="utf-8")
    assert '<section id="recovery">' in page
    titles = [chart.title for chart in Figures(findings).recovery()]
    assert titles == ["tiny-gpt2: accuracy"]
    for title in (*titles, "tiny-gpt2: time of recovery, s"):
        assert page.count(f'aria-label="{title}"') == 1
    for name in NAMES:
        assert name in page
    assert 'recoveries = ["none", "finetune", "gradual"]' in page.replace("&#34;", '"')


def test_a_study_without_recoveries_says_nothing_of_them(page: str) -> None:
    assert "recover" not in page.lower()


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([(1, 1.1), (5, 5.1), (9, 9.1)], ["gradual", "finetune", "none"]),
        ([(9, 9.1), (5, 5.1), (1, 1.1)], ["none", "finetune", "gradual"]),
        ([(1, 1.1), (8, 8.1), (8, 8.2)], ["finetune gradual", "none"]),
        ([(4, 6), (5, 5.1), (1, 20)], ["finetune gradual none"]),
        ([(1,), (5,), (9,)], ["finetune gradual none"]),
    ],
)
def test_only_what_intervals_tell_apart_is_ranked(
    findings: Findings, values: list[tuple[float, ...]], order: list[str]
) -> None:
    rows = [row for row in findings.scores if row.sparsity]
    for metric, wanted in (("accuracy", order), ("perplexity", order[::-1])):
        found = ranks(
            [replace(row, metrics={metric: Estimate.of(value)}) for row, value in zip(rows, values, strict=True)]
        )
        assert [" ".join(sorted(str(row.way.recovery) for row in rank)) for rank in found] == wanted


def test_the_opening_says_which_recovery_is_better(findings: Findings) -> None:
    values = {"none": (0.5, 0.51), "finetune": (0.7, 0.71), "gradual": (0.9, 0.91)}
    rows = [
        replace(row, metrics={row.main: Estimate.of(values[str(row.way.recovery)])}) if row.sparsity else row
        for row in findings.scores
    ]
    told = replace(findings, scores=rows)
    sentence = (
        "On movie-reviews, gradual + distillation is better than fine-tuning, and that than no recovery "
        "(tiny-gpt2 at 90%)."
    )
    assert sentence in recovered(told)
    assert sentence in " ".join(summary(told, answers(told)))


def test_costs_stand_for_all_recoveries(findings: Findings) -> None:
    assert {answer.way for answer in answers(findings)} == {
        Variant("magnitude", "none"),
        Variant("magnitude", "finetune"),
        Variant(None, "gradual"),
    }
