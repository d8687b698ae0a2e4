"""The page: the findings of a study, put into the template."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import tomli_w
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from aerogel import files
from aerogel.report import prose, tables
from aerogel.report.collect import collect
from aerogel.report.figures import Figures
from aerogel.report.findings import Findings
from aerogel.report.maps import layer_maps
from aerogel.report.names import variant_name
from aerogel.report.verdicts import answers
from aerogel.study import Store, StudySpec
from aerogel.study.variant import Variant

FILE = "report.html"


def build_report(folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a study's folder, from its store alone, and returns the file's path.

    The study may be unfinished: the page says so. Raises `StudyError` where the folder has no store, or a damaged one.

    >>> import aerogel
    >>> spec = aerogel.StudySpec(name="tiny", models=("tiny-gpt2",), sparsities=(0.5,), benchmark=None)
    >>> store = aerogel.run_study(spec, "runs/tiny")
    >>> build_report("runs/tiny").name
    'report.html'
    """
    path = Path(folder) / FILE
    files.write_text(path, render(collect(Store.open(Path(folder)))))
    return path


def render(findings: Findings) -> str:
    """The page as text."""
    figures, spec, judged = Figures(findings), findings.spec, answers(findings)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("template.html.j2")).render(
        style=Markup(_read("style.css")),
        spec=spec,
        findings=findings,
        lead=prose.study_sentence(spec),
        cards=prose.cards(findings, judged),
        summary=prose.summary(findings, judged),
        notes=prose.notes(findings),
        reading=prose.reading(findings),
        chart_style=figures.style,
        scored_variants=_named(spec, spec.scored_variants),
        measured_variants=_named(spec, spec.measured_variants),
        charts={
            "weights": figures.weights(),
            "sensitivities": figures.sensitivities(),
            "scores": figures.scores(),
            "recovery": figures.recovery(),
            "training": figures.recovery_time(),
            "costs": figures.memory() + figures.time() + figures.training_time(),
            "size": figures.size() + figures.speed(),
            "agreement": figures.agreement(),
            "realised": figures.realised(),
        },
        maps=layer_maps(findings),
        map_table=tables.layers(findings),
        cost_tables=tables.costs(findings),
        pruning_tables=tables.pruning(findings),
        tables=[
            *(table for task in spec.tasks for table in tables.scores(findings, task)),
            *tables.realised(findings),
            *tables.weights(findings),
        ],
        long_tables=tables.every_seed(findings),
        toml=toml(spec),
    )


def _named(spec: StudySpec, variants: Sequence[Variant]) -> dict[Variant, str]:
    """The names of several variants, for the key of a chart."""
    return {variant: variant_name(spec, variant) for variant in variants} if len(variants) > 1 else {}


def toml(spec: StudySpec) -> str:
    """The specification, to be given to `aerogel study` again."""
    unused = set() if spec.recoveries else {"recoveries", "recovery"}
    values = spec.model_dump(mode="json", exclude_none=True, exclude=unused)
    return tomli_w.dumps({name: value for name, value in values.items() if value != {}})


def _read(name: str) -> str:
    return (resources.files("aerogel.report") / name).read_text(encoding="utf-8")
