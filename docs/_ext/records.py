"""Results in benchmarks/results: their tables, as written there or computed from the raw output of a benchmark.

A record is a JSON object with a title, a protocol, commands and tables. A table has columns, whose unit is in brackets,
and rows. Numbers keep the digits they were written with; `[a, b]` is a ± b. Or it has `raw`, the files that a benchmark
wrote, and `pairs`: two runtimes to compare.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
Cell = Decimal | int | str | list | None


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[Cell]]

    def column(self, name: str) -> int:
        names = [column.partition(" [")[0] for column in self.columns]
        if name not in names:
            raise KeyError(f"no column {name!r}; there are {', '.join(names)}")
        return names.index(name)


@dataclass(frozen=True)
class Record:
    title: str
    protocol: str
    machine: str
    versions: dict[str, str]
    commands: list[str]
    tables: dict[str, Table]


@cache
def record(name: str) -> Record:
    content = read(RESULTS / f"{name}.json")
    tables, environments = {}, []
    for title, table in content["tables"].items():
        if "raw" in table:
            files = [read(RESULTS / "raw" / file) for file in table["raw"]]
            environments += [file["environment"] for file in files]
            tables[title] = LAYOUTS[table["layout"]]([group for file in files for group in file["groups"]], table)
        else:
            tables[title] = Table(table["columns"], table["rows"])
    machine, versions = content.get("machine", ""), content.get("versions", {})
    if environments:
        facts = environments[0]
        machine = machine or f"{facts['processor']}, {facts['threads']} threads, {facts['instructions']}"
        versions = {name: str(number) for name, number in facts["versions"].items() if number}
    return Record(content["title"], content["protocol"], machine, versions, content["commands"], tables)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)


def milliseconds(row: dict) -> Decimal:
    """The median time, with three significant digits or as a whole number."""
    time = row["median"] * 1000
    return round(time) if time >= Decimal("99.95") else round(time, 1 if time >= Decimal("9.995") else 2)


def speed_up(theirs: dict, ours: dict) -> Decimal:
    return round(theirs["median"] / ours["median"], 2)


def ratio_within_rounds(theirs: dict, ours: dict) -> Decimal:
    return round(median(a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True)), 2)


def compared(groups: list[dict], table: dict) -> Table:
    """A row for each batch, sparsity and model; of each pair of runtimes both times and the ratio of their medians."""
    rows: list[list[Cell]] = []
    for group in sorted(groups, key=lambda group: (group["batch"], group["sparsity"])):
        runtimes = group["runtimes"]
        row: list[Cell] = [table["names"][group["model"]], group["batch"], round(group["sparsity"] * 100)]
        for position, (theirs, ours) in enumerate(table["pairs"]):
            if not group["sparsity"] and not position:  # at 0% no pattern is in the name
                ours = ours.partition(",")[0]
            if not position or theirs != table["pairs"][position - 1][0]:
                row.append(milliseconds(runtimes[theirs]))
            measured = runtimes.get(ours)
            row += [milliseconds(measured), speed_up(runtimes[theirs], measured)] if measured else [None, None]
        rows.append(row)
    return Table(table["columns"], rows)


def scored(groups: list[dict], table: dict) -> Table:
    """A row for each runtime and model, the fastest first; only the models that `shown` names."""
    names: dict[str, str] = table["shown"]
    runtimes = {name: row for name, row in groups[0]["runtimes"].items() if name in names}
    fastest = min(row["median"] for name, row in runtimes.items() if name.endswith("dense") and "aerogel" not in name)
    rows: list[list[Cell]] = []
    for name, row in sorted(runtimes.items(), key=lambda item: item[1]["median"]):
        scores = [
            round(row["scores"][split][metric], 4) for split in ("validation", "test") for metric in ("accuracy", "kl")
        ]
        time, speed = round(row["median"] * 1000, 1), round(fastest / row["median"], 2)
        rows.append([names[name], time, speed, *scores, round(Decimal(row["file_bytes"]) / 10**6, 1)])
    return Table(table["columns"], rows)


def generated(groups: list[dict], table: dict) -> Table:
    """A row for each runtime: tokens a second after a short prompt and of a long one, with ratios to `peers`.

    Where `dense` is a runtime, also the perplexity and how much more than with it is lost.
    """
    runtimes = groups[0]["runtimes"]
    rows: list[list[Cell]] = []
    for name, row in runtimes.items():
        cells: list[Cell] = [name]
        for number, facts, of in (
            (64, row, lambda peer: runtimes[peer]),
            (512, row["prompt"], lambda peer: runtimes[peer]["prompt"]),
        ):
            speed = number / median(facts["seconds"])
            cells.append(round(speed, 1) if number == 64 else round(speed))
            cells += [ratio_within_rounds(of(peer), facts) for peer in table["peers"]]
        cells += [round(row["file_bytes"] / 10**6), round(row["peak_memory"] / 10**6)]
        if dense := runtimes.get(table.get("dense")):
            loss = (row["perplexity"] / dense["perplexity"]).ln()
            cells += [round(row["perplexity"], 2), round(loss, 3) + 0]  # 0.000, not -0.000
        rows.append(cells)
    return Table(table["columns"], rows)


LAYOUTS = {"compared": compared, "scored": scored, "generated": generated}
