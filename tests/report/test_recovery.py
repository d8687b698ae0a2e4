"""A study of recoveries: each is compared with its own dense model and named."""

from dataclasses import replace
from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.estimate import Estimate
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.prose import recovery_sentences
from aerogel.report.tables import every_seed, pruning, scores
from aerogel.report.verdicts import answers, ranks
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


def test_changes_are_against_the_dense_model_of_the_same_recovery(findings: Findings) -> None:
    dense = {(row.task, row.variant.recovery): row for row in findings.scores if not row.sparsity}
    for row in findings.scores:
        if row.sparsity:
            before = dense[row.task, row.variant.recovery].value
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
    page = build_report(recovery_folder).read_text(encoding="utf-8")
    assert '<section id="recovery">' in page
    titles = [chart.title for chart in Figures(findings).recovery()]
    assert titles == ["tiny-gpt2: accuracy"]
    for title in (*titles, "tiny-gpt2: time of recovery, s"):
        assert page.count(f'aria-label="{title}"') == 1
    for name in NAMES:
        assert name in page


def test_a_study_without_recoveries_does_not_mention_them(page: str) -> None:
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
        ranked = ranks(
            [replace(row, metrics={metric: Estimate.of(value)}) for row, value in zip(rows, values, strict=True)]
        )
        assert [" ".join(sorted(str(row.variant.recovery) for row in rank)) for rank in ranked] == wanted


def test_the_better_recovery_comes_first(findings: Findings) -> None:
    values = {"none": (0.5, 0.51), "finetune": (0.7, 0.71), "gradual": (0.9, 0.91)}
    rows = [
        replace(row, metrics={row.main: Estimate.of(values[str(row.variant.recovery)])}) if row.sparsity else row
        for row in findings.scores
    ]
    sentence, _ = recovery_sentences(replace(findings, scores=rows))
    places = [sentence.index(name) for name in ("movie-reviews", *NAMES[::-1], "tiny-gpt2 at 90%")]
    assert places == sorted(places)


def test_the_settings_are_those_of_the_trials(findings: Findings) -> None:
    [table] = pruning(findings)
    assert [dict(zip(("recovery", "method"), row, strict=False)) for row in table.rows] == [
        {"recovery": name, "method": "magnitude"} for name in ("none", "finetune", "gradual")
    ]


def test_costs_stand_for_all_recoveries(findings: Findings) -> None:
    assert {answer.variant for answer in answers(findings)} == {
        Variant("magnitude", "none"),
        Variant("magnitude", "finetune"),
        Variant(None, "gradual"),
    }
