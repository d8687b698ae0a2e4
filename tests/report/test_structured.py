"""The report of a study of removed structures: each is compared with the dense model, alone and with zeros and int8."""

from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle
from aerogel.report.names import variant_name
from aerogel.report.tables import costs, every_seed, scores, structures
from aerogel.report.verdicts import compared
from aerogel.study import Store

SMALL = "sparsity=0.5"


@pytest.fixture(scope="module")
def findings(structured_folder: Path) -> Findings:
    return collect(Store.open(structured_folder))


def test_all_are_compared_with_the_dense_model_with_all_its_structures(findings: Findings) -> None:
    [dense] = [row for row in findings.scores if row.variant == row.variant.dense and not row.sparsity]
    assert dense.kept is None
    assert len(findings.scores) == 2 * 2 * 2
    for row in findings.scores:
        if row is not dense:
            assert row.kept is not None
            assert row.kept.mean == pytest.approx(row.value.mean / dense.value.mean)


def test_structure_zeros_and_int8_are_compared_together_and_alone(findings: Findings) -> None:
    [task], [model] = findings.spec.tasks, findings.spec.models
    rows = [row for variant in findings.spec.scored_variants for row in compared(findings, task, model, variant)]
    points = {(row.variant.structure, row.variant.values, row.sparsity) for row in rows}
    alone = {(SMALL, None, 0), (None, "int8", 0), (None, None, 0.5)}
    assert points >= alone | {(SMALL, "int8", 0.5)}
    for row in rows:
        cost = findings.cost(row)
        assert cost is not None
        assert cost.variant.structure == row.variant.structure
        assert cost.speedup is not None


def test_tables_have_a_column_of_the_structure(findings: Findings) -> None:
    [task] = findings.spec.tasks
    for table in (*scores(findings, task), *costs(findings), *every_seed(findings)):
        names = [column.name for column in table.columns]
        assert {row[names.index("structure")] for row in table.rows} == {"none", SMALL}
        assert "dense" not in {row[names.index("sparsity")] for row in table.cells()}
    [table] = structures(findings)
    rows = [dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows]
    assert {row["kind"] for row in rows} == {"heads", "neurons"}
    assert all(0 <= row["kept"] <= row["original"] for row in rows)
    assert len({(row["values"], row["sparsity"], row["sublayer"]) for row in rows}) == len(rows) == 2 * 2 * 2


def test_files_of_small_models_have_a_share_of_the_dense_one_even_without_zeros(findings: Findings) -> None:
    [table] = costs(findings)
    names = [column.name for column in table.columns]
    for row in table.rows:
        is_small = row[names.index("structure")] == SMALL or row[names.index("stored")] == "compressed"
        assert (row[names.index("file_share")] is not None) == is_small


def test_the_page_shows_what_was_kept(structured_folder: Path, findings: Findings) -> None:
    page = build_report(structured_folder).read_text(encoding="utf-8")
    [chart] = Figures(findings, ChartStyle(findings.spec.models)).structures()
    assert SMALL in chart.title
    assert page.count(f'aria-label="{chart.title}. ') == 1


def test_a_study_of_whole_models_does_not_mention_structures(page: str) -> None:
    assert "structure" not in page.replace("unstructured", "")
    assert "neurons" not in page


def test_names_of_variants_say_the_structure(findings: Findings) -> None:
    names = [variant_name(findings.spec, variant) for variant in findings.spec.scored_variants]
    assert len(set(names)) == len(names) == 4
    assert sum(SMALL in name for name in names) == 2
