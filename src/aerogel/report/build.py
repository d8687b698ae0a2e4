"""Renders the findings of a study as one HTML page."""

import os
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aerogel import files
from aerogel.report import tables
from aerogel.report.chart import Chart
from aerogel.report.collect import collect
from aerogel.report.estimate import percent
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle, stroke
from aerogel.report.opening import LEVEL, Opening
from aerogel.report.scatter import FLOOR
from aerogel.report.table import Table
from aerogel.report.verdicts import Option, choices, options
from aerogel.study import Store, StudySpec
from aerogel.study.parts import NO_STRUCTURE, ResourcesPart
from aerogel.study.spec import AXES


@dataclass(frozen=True)
class Section:
    """Charts and tables in one collapsed section."""

    title: str
    charts: list[Chart]
    tables: list[Table]


def build_report(folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a study's folder, from its store alone, and returns the file's path.

    The study may be unfinished; the page says so. Raises `StudyError` if the folder has no store, or a damaged one.

    >>> import aerogel
    >>> spec = aerogel.StudySpec(name="tiny", models=("tiny-gpt2",), sparsities=(0.5,), benchmark=None)
    >>> store = aerogel.run_study(spec, "runs/tiny")
    >>> build_report("runs/tiny").name
    'report.html'
    """
    path = Path(folder) / "report.html"
    files.write_text(path, render(collect(Store.open(Path(folder)))))
    return path


def render(findings: Findings) -> str:
    """The page as text."""
    style, judged = ChartStyle(findings.spec.models), options(findings)
    opening = Opening(findings, choices(judged), style)
    hero, others = opening.hero(), (opening.recovery(), opening.sensitivity())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("template.html.j2").render(
        spec=findings.spec,
        findings=findings,
        style=style,
        stroke=stroke,
        level=f"{LEVEL:g}%",
        floor=f"{FLOOR:g}%",
        hero=hero,
        cards=opening.cards(),
        charts=[chart for chart in others if chart],
        sections=sections(findings, judged, style),
        pruning=tables.pruning(findings),
        toml=toml(findings.spec),
    )


def sections(findings: Findings, judged: list[Option], style: ChartStyle) -> list[Section]:
    """The collapsed sections that are not empty, in the order of the page."""
    figures = Figures(findings, style)
    scores = [table for task in findings.spec.tasks for table in tables.scores(findings, task)]
    several = [
        Section("Scores against sparsity", figures.scores(), [*tables.limits(findings, judged), *scores]),
        Section("Time, memory and size", figures.costs(), tables.costs(findings)),
        Section("Weights before pruning", figures.weights(), tables.weights(findings)),
        Section("Sensitivity", figures.kinds(), tables.sensitivity(findings)),
        Section("Kept heads and neurons", figures.structures(), tables.structures(findings)),
        Section("Realised sparsity and every seed", [], [*tables.realised(findings), *tables.every_seed(findings)]),
    ]
    return [section for section in several if section.charts or section.tables]


def toml(spec: StudySpec) -> str:
    """The specification as TOML, which `aerogel study` reads."""
    unused = set(AXES) if spec.variants else {"variants"}
    if not spec.recoveries:
        unused |= {"recoveries", "recovery"}
    if spec.structures == (NO_STRUCTURE,):
        unused.add("structures")
    if spec.resources == ResourcesPart():
        unused.add("resources")
    values = spec.model_dump(mode="json", exclude_none=True, exclude=unused)
    return tomli_w.dumps({name: value for name, value in values.items() if value != {}})
