from __future__ import annotations

import csv
import io
from urllib.parse import unquote

import pytest

from aerogel.report import tables
from aerogel.report.estimate import Estimate
from aerogel.report.findings import Findings
from aerogel.report.table import Column, Table
from aerogel.report.verdicts import options
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES


def all_tables(findings: Findings) -> list[Table]:
    return [
        *(table for task in findings.spec.tasks for table in tables.scores(findings, task)),
        *tables.costs(findings),
        *tables.realised(findings),
        *tables.weights(findings),
        *tables.every_seed(findings),
        *tables.pruning(findings),
        *tables.limits(findings, options(findings)),
    ]


def parsed(table: Table) -> list[dict[str, str]]:
    start = "data:text/csv;charset=utf-8,"
    assert table.link().startswith(start)
    return list(csv.DictReader(io.StringIO(unquote(table.link().removeprefix(start)))))


def test_every_csv_has_the_rows_of_its_table(findings: Findings) -> None:
    listed = all_tables(findings)
    assert len({table.title for table in listed}) == len({table.file() for table in listed}) == len(listed)
    for table in listed:
        rows = parsed(table)
        assert len(rows) == len(table.rows) == len(table.cells()) > 0
        for row, cells in zip(rows, table.cells(), strict=True):
            assert row[table.columns[0].name] == cells[0]
            assert len(cells) == len(table.columns)


def test_score_csvs_hold_the_scores_with_all_digits(findings: Findings) -> None:
    rows = [row for task in findings.spec.tasks for table in tables.scores(findings, task) for row in parsed(table)]
    scored = {(row.main, row.model, row.sparsity): row for row in findings.scores}
    assert len(rows) == len(scored)
    for row in rows:
        main = next(name for name in ("accuracy", *PERPLEXITIES.values()) if name in row)
        expected = scored[main, row["model"], float(row["sparsity"])]
        assert float(row[main]) == expected.value.mean
        assert float(row[f"{main}_low"]) == expected.value.low
        assert float(row[f"{main}_high"]) == expected.value.high
        assert int(row["seeds"]) == len(expected.seeds)
        assert (row["kept"] == "") == (expected.kept is None)
        assert float(row["training_seconds"]) == expected.training_seconds.mean


def test_every_seed_is_there_as_it_was_stored(findings: Findings) -> None:
    (table,) = tables.every_seed(findings)
    rows = {(row["task"], row["model"], row["sparsity"], row["seed"], row["metric"]): row for row in parsed(table)}
    for run in findings.runs:
        for metric, value in run.metrics.items():
            row = rows.pop((run.group[0], run.group[1], str(run.group[3]), str(run.seed), metric))
            assert float(row["value"]) == value
            assert float(row["realised_sparsity"]) == run.result.sparsity
    assert not rows


def test_cost_csvs_hold_the_measurements(findings: Findings) -> None:
    [table] = tables.costs(findings)
    for stored, costs in (("dense", findings.costs), ("compressed", findings.compressed)):
        rows = {(row["model"], float(row["sparsity"])): row for row in parsed(table) if row["stored"] == stored}
        assert len(rows) == len(costs)
        for cost in costs:
            row = rows[cost.model, cost.sparsity]
            assert int(row["file_bytes"]) == cost.own.file_bytes
            assert int(row["parameter_bytes"]) == cost.own.parameter_bytes
            assert float(row["inference_median_seconds"]) == cost.own.median
            assert row["speedup"] == ("" if cost.speedup is None else str(cost.speedup))
            if cost.own.compressed:
                assert cost.dense
                assert float(row["file_share"]) == cost.own.file_bytes / cost.dense.file_bytes < 1
                assert row["training_step_seconds"] == ""
            else:
                assert int(row["training_memory_bytes"]) == cost.own.training_memory


def test_the_limits_are_the_last_option_that_keeps_the_score_and_the_next_one(findings: Findings) -> None:
    judged = options(findings)
    [table] = tables.limits(findings, judged) if judged else [None]
    rows = parsed(table) if table else []
    series = dict.fromkeys((option.row.task, option.row.model) for option in judged)
    assert [(row["task"], row["model"]) for row in rows] == list(series)
    for row in rows:
        own = [option for option in judged if (option.row.task, option.row.model) == (row["task"], row["model"])]
        kept, lost = ([option for option in own if option.keeps == keeps] for keeps in (True, False))
        assert row.get("sparsity", "") == (str(kept[-1].row.sparsity) if kept else "")
        assert row.get("speedup", "") == (str(kept[-1].speed) if kept else "")
        assert row.get("beyond", "") == (str(lost[0].row.sparsity) if lost else "")


def test_the_page_writes_what_the_csv_holds(findings: Findings) -> None:
    for task in findings.spec.tasks:
        for table in tables.scores(findings, task):
            for cells, row in zip(table.cells(), parsed(table), strict=True):
                main = table.columns[3].name
                shown = float(cells[3].split(" ")[0].replace(",", ""))
                assert shown == pytest.approx(float(row[main]), rel=6e-4, abs=6e-4)
                assert cells[1] == ("dense" if float(row["sparsity"]) == 0 else f"{float(row['sparsity']):.0%}")


def test_no_table_of_scores_holds_two_kinds_of_perplexity(findings: Findings) -> None:
    for task in findings.spec.tasks:
        for table in tables.scores(findings, task):
            kinds = {column.name for column in table.columns} & set(PERPLEXITIES.values())
            assert len(kinds) <= 1


def test_realised_sparsity_is_that_of_the_models(findings: Findings) -> None:
    [table] = tables.realised(findings)
    rows = {(row["model"], float(row["sparsity"])): row for row in parsed(table)}
    assert len(rows) == len(parsed(table)) == sum(realised.sparsity > 0 for realised in findings.realised)
    for realised in findings.realised:
        if realised.sparsity:
            row = rows[realised.model, realised.sparsity]
            assert (float(row["prunable"]), float(row["whole"])) == (realised.prunable, realised.whole)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d", "\uff20"])
def test_a_name_that_is_a_formula_is_text_in_a_csv(start: str) -> None:
    name = f'{start}HYPERLINK("http://x";"y")'
    columns = [
        Column(header, header, lambda row, index=index: row[index])
        for index, header in enumerate(("model", name, "interval"))
    ]
    rows = [(name, -0.25, Estimate.of([-1.0, -3.0])), ("plain", None, Estimate.of([1.0]))]
    table = Table.of("t", columns, rows)
    header, first, second = csv.reader(io.StringIO(table.csv(), newline=""))
    assert header[1] == f"'{name}"
    assert first[0] == f"'{name}"
    assert [float(number) for number in first[1:3]] == [-0.25, -2.0]
    assert float(first[3]) < -2
    assert second[:3] == ["plain", "", "1.0"]
