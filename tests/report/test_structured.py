"""The report of a study of removed structures: each is compared with the dense model, alone and with zeros and int8."""

from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle
from aerogel.report.names import variant_name
from aerogel.report.tables import answers as answers_table, costs, every_seed, scores, structures
from aerogel.report.verdicts import answers
from aerogel.study import Store
from aerogel.study.variant import Variant

SMALL = "sparsity=0.5"
STYLE = ChartStyle(
    ("bert", "gpt2"),
    tuple(
        Variant("magnitude", "none", values, structure)
        for structure in (None, "speedup=2", "speedup=4")
        for values in (None, "int8")
    ),
)


@pytest.fixture(scope="module")
def findings(structured_folder: Path) -> Findings:
    return collect(Store.open(structured_folder))


def test_all_are_compared_with_the_dense_model_with_all_its_structures(findings: Findings) -> None:
    [dense] = [row for row in findings.scores if row.variant == row.variant.dense and not row.sparsity]
    assert dense.change is None
    assert len(findings.scores) == 2 * 2 * 2
    for row in findings.scores:
        if row is not dense:
            assert row.change is not None
            assert row.change.mean == pytest.approx(row.value.mean / dense.value.mean - 1)


def test_structure_zeros_and_int8_stand_together_and_alone_in_the_opening_picture(findings: Findings) -> None:
    drawn = [row for answer in answers(findings) for row in Figures(findings)._compared(answer)]
    points = {(row.variant.structure, row.variant.values, row.sparsity) for row in drawn}
    alone = {(SMALL, None, 0), (None, "int8", 0), (None, None, 0.5)}
    assert points >= alone | {(SMALL, "int8", 0.5)}
    for row in drawn:
        cost = findings.cost(row)
        assert cost is not None
        assert cost.variant.structure == row.variant.structure
        assert cost.speedup is not None


def test_sparsity_0_of_a_small_model_is_judged(findings: Findings) -> None:
    for answer in answers(findings):
        sparsities = [row.sparsity for row in answer.verdict.pruned]
        assert sparsities == ([0, 0.5] if answer.variant.structure else [0.5])
    table = answers_table(findings, answers(findings))
    names = [column.name for column in table.columns]
    assert [row[names.index("structure")] for row in table.rows] == ["none", "none", SMALL, SMALL]


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
    [chart] = Figures(findings).structures()
    assert SMALL in chart.title
    assert page.count(f'aria-label="{chart.title}"') == 1
    assert 'id="structure"' in page


def test_a_study_of_whole_models_does_not_mention_structures(page: str) -> None:
    assert "structure" not in page.replace("unstructured", "")
    assert "neurons" not in page


def test_structures_differ_by_colour_and_the_rest_by_dashes() -> None:
    assert len({STYLE.colour(*series) for series in STYLE.series}) == len(STYLE.series) == 6
    small, whole = Variant("magnitude", "none", "int8", "speedup=2"), Variant("magnitude", "none", "int8")
    assert STYLE.dashes(small) == STYLE.dashes(whole) == STYLE.dashes(small.unpruned)
    assert STYLE.dashes(small) != STYLE.dashes(small.unrounded)
    assert len(STYLE.without_structure(STYLE.variants)) == 2


def test_names_of_variants_say_the_structure(findings: Findings) -> None:
    names = [variant_name(findings.spec, variant) for variant in findings.spec.scored_variants]
    assert len(set(names)) == len(names) == 4
    assert sum(SMALL in name for name in names) == 2
