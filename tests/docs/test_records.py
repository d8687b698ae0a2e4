"""Records in benchmarks/results are whole, shown on a page, and drawn as charts for light and dark pages."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = [path.stem for path in sorted(ROOT.glob("benchmarks/results/*.json"))]
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/**/*.md")))


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of docs/_ext."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_whole_and_each_of_its_tables_is_on_a_page(
    name: str, extension: Callable[[str], ModuleType]
) -> None:
    record = extension("records").record(name)
    assert record.title
    assert record.protocol
    assert record.commands
    for title, table in record.tables.items():
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}, title
        assert len(set(table.columns)) == len(table.columns), title
        assert re.search(rf"^```{{results}} {name} {title}$", PAGES, re.MULTILINE), f"{name} {title} is on no page"
    assert re.search(rf"^```{{protocol}} {name}$", PAGES, re.MULTILINE)


def test_numbers_keep_the_digits_they_were_written_with(extension: Callable[[str], ModuleType]) -> None:
    records = extension("records")
    table = records.record("recovery").tables["minilm"]
    first = table.rows[0][table.column("validation: dense")]
    assert str(first) == "0.870"
    with pytest.raises(KeyError, match="sparse"):
        table.column("sparse")


@pytest.mark.parametrize(("name", "title"), [("int8-speed", "bert"), ("families", "speed")])
def test_speed_ups_are_ratios_of_the_times_beside_them(
    name: str, title: str, extension: Callable[[str], ModuleType]
) -> None:
    table = extension("records").record(name).tables[title]
    checked = 0
    for ratio in (place for place, column in enumerate(table.columns) if "speed-up" in column):
        theirs = max(place for place in range(ratio) if "OpenVINO" in table.columns[place])
        for row in table.rows:
            if row[ratio] is not None:
                assert float(row[ratio]) == pytest.approx(float(row[theirs]) / float(row[ratio - 1]), rel=0.02)
                checked += 1
    assert checked > len(table.rows)


def test_charts_have_a_title_their_labels_and_the_colours_of_the_page(extension: Callable[[str], ModuleType]) -> None:
    table = extension("records").Table(
        ["model", "sparsity [%]", "speed-up [×]"],
        [["one", 50, Decimal("1.50")], ["two", 90, None], ["three", 95, Decimal("4.0")]],
    )
    plots = extension("plots")
    for view, draw in ((plots.View(by=["model"]), plots.bars), (plots.View(by=["model"]), plots.lines)):
        drawn = draw(table, ["speed-up"], view, "what it says", "x-")
        assert 'aria-label="what it says"' in drawn
        assert "var(--series-1)" in drawn
        assert not re.search(r"(?:fill|stroke): #(?!0{6}|f{6})", drawn)
        assert ">one<" in drawn
        assert ">two<" not in drawn  # it has no value
    assert "1.50×" in plots.bars(table, ["speed-up"], plots.View(by=["model"]), "title", "x-")
