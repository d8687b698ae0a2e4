"""A study of calibrated methods: predictions that changed, and differences in the number of zeros."""

from pathlib import Path

import pytest

from aerogel.errors import StudyError
from aerogel.evaluation import Flips
from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.findings import Findings
from aerogel.report.tables import pruning, scores, sensitivity
from aerogel.study import Store, run_study
from conftest import small_spec

SPEC = {
    "models": ["tiny-gpt2"],
    "methods": ["magnitude", "wanda"],
    "sparsities": [0, 0.6],
    "seeds": [0],
    "benchmark": None,
    "sensitivity": "python-reference",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "calibrated"
    run_study(small_spec(**SPEC), folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> Findings:
    return collect(Store.open(folder))


def test_all_trials_are_done(calibrated: Findings) -> None:
    assert not calibrated.failed
    assert calibrated.done == calibrated.total == 1 + 1 + 2 * 3


def test_classes_have_divergence_and_flips(calibrated: Findings) -> None:
    rows = {(row.task, row.variant.method): row for row in calibrated.scores}
    for method in ("magnitude", "wanda"):
        row = rows["movie-reviews", method]
        assert row.kl is not None
        assert row.kl.mean > 0
        [flips] = row.flips
        assert isinstance(flips, Flips)
        assert row.agreement is not None
        assert flips.flipped == pytest.approx((1 - row.agreement.mean) * row.counted)
        assert rows["python-reference", method].flips == ()
    assert rows["movie-reviews", None].flips == ()
    [table] = scores(calibrated, "movie-reviews")
    assert [column.name for column in table.columns][-5:] == ["kl", "lost", "gained", "mcnemar_p", "training_seconds"]
    assert table.csv()


def test_the_page_has_the_heat_map(folder: Path, calibrated: Findings) -> None:
    assert len(calibrated.sensitivities["tiny-gpt2"].layers) == 4
    page = build_report(folder).read_text(encoding="utf-8")
    assert page.count('aria-label="Sensitivity of layers, tiny-gpt2. ') == 1
    [table] = sensitivity(calibrated)
    assert len(table.rows) == len(calibrated.sensitivities["tiny-gpt2"].layers) + len(
        calibrated.sensitivities["tiny-gpt2"].kinds
    )
    assert "McNemar" in page


def test_the_settings_are_those_of_the_trials(calibrated: Findings) -> None:
    [table] = pruning(calibrated)
    names = [column.name for column in table.columns]
    assert [dict(zip(names, row, strict=True)) for row in table.rows] == [
        {"method": "magnitude", "pattern": "unstructured", "scope": "layer", "allocation": "global", "epochs": 1.0},
        {"method": "wanda", "pattern": "unstructured", "scope": "row", "allocation": "uniform", "epochs": 1.0},
    ]


def test_a_sensitivity_of_no_task_is_refused() -> None:
    with pytest.raises(StudyError, match="sensitivity 'mrpc'"):
        small_spec(sensitivity="mrpc")
