"""The page: the findings of a study, put into the template."""

import os
from pathlib import Path

import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aerogel import files
from aerogel.report import tables
from aerogel.report.collect import collect
from aerogel.report.estimate import percent
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.names import variant_name
from aerogel.report.prose import rounding
from aerogel.report.verdicts import TOLERANCE, answers
from aerogel.study import Store, StudySpec
from aerogel.study.spec import NO_STRUCTURE, ResourcesPart


def build_report(folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a study's folder, from its store alone, and returns the file's path.

    The study may be unfinished: the page says so. Raises `StudyError` where the folder has no store, or a damaged one.

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
    figures, spec, judged = Figures(findings), findings.spec, answers(findings)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("template.html.j2").render(
        spec=spec,
        findings=findings,
        tolerance=percent(TOLERANCE),
        answers=tables.answers(findings, judged),
        rounding=rounding(findings),
        chart_style=figures.style,
        variant_name=variant_name,
        charts={
            "opening": figures.opening(judged),
            "weights": figures.weights(),
            "sensitivity": figures.sensitivities(),
            "scores": figures.scores() + figures.realised(),
            "structure": figures.structures(),
            "costs": figures.costs(),
        },
        pruning=tables.pruning(findings),
        tables=[
            *(table for task in spec.tasks for table in tables.scores(findings, task)),
            *tables.rounded(findings),
            *tables.costs(findings),
            *tables.realised(findings),
            *tables.structures(findings),
            *tables.weights(findings),
            *tables.every_seed(findings),
        ],
        toml=toml(spec),
    )


def toml(spec: StudySpec) -> str:
    """The specification, to be given to `aerogel study` again."""
    unused = set() if spec.recoveries else {"recoveries", "recovery"}
    if spec.structures == (NO_STRUCTURE,):
        unused.add("structures")
    if spec.resources == ResourcesPart():
        unused.add("resources")
    values = spec.model_dump(mode="json", exclude_none=True, exclude=unused)
    return tomli_w.dumps({name: value for name, value in values.items() if value != {}})
