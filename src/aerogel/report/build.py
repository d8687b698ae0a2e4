"""The page: everything that was found, put into the template."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from aerogel import files
from aerogel.report import tables
from aerogel.report.answer import answers, cards, notes, summary
from aerogel.report.collect import Findings, collect
from aerogel.report.estimate import listing, percent
from aerogel.report.figures import Figures
from aerogel.report.variant import RECOVERY_NAMES, Variant, measured_variants, scored_variants, variant_name
from aerogel.study import Store

FILE = "report.html"


def build(folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a study's folder, from its store alone, and returns the file's path.

    The study may be unfinished: the page says so. Raises `StudyError` where the folder holds no store.
    """
    path = Path(folder) / FILE
    files.write_text(path, render(collect(Store.open(Path(folder)))))
    return path


def render(findings: Findings) -> str:
    """The page as text."""
    figures, found = Figures(findings), answers(findings)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("template.html.j2")).render(
        style=Markup(_read("style.css")),
        spec=findings.spec,
        findings=findings,
        what=what_was_run(findings),
        cards=cards(findings, found),
        summary=summary(findings, found),
        notes=notes(findings),
        reading=reading(findings),
        look=figures.look,
        scored_variants=named(findings, scored_variants(findings.spec)),
        measured_variants=named(findings, measured_variants(findings.spec)),
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
        maps=tables.layer_maps(findings),
        map_table=tables.layers(findings),
        cost_tables=tables.costs(findings),
        tables=[
            *(table for task in findings.spec.tasks for table in tables.scores(findings, task)),
            *tables.realised(findings),
            *tables.weights(findings),
        ],
        long_tables=tables.every_seed(findings),
        toml=toml(findings),
    )


def named(findings: Findings, ways: Sequence[Variant]) -> dict[Variant, str]:
    """The ways that a key has to tell apart, by name."""
    return {way: variant_name(findings.spec, way) for way in ways} if len(ways) > 1 else {}


def what_was_run(findings: Findings) -> str:
    """One sentence: what was pruned how, and what was done with it."""
    spec = findings.spec
    sparsities = listing([percent(share) for share in sorted(spec.sparsities) if share])
    where = "the transformer blocks" + "".join(f" and the {part}" for part in spec.include)
    scope = f", scope {spec.scope}" if spec.scope else ""
    allocation = f", allocation {spec.allocation}" if spec.allocation else ""
    first = ", fine-tuned dense first" if spec.recoveries else ""
    gradual = set(spec.recoveries) == {"gradual"}  # whose score is told below, and which looks at no method
    by = "" if gradual else f"by {listing(spec.methods)} "
    said = (
        f"{listing(spec.models)}{first}: weights of {where} pruned to {sparsities} {by}(pattern {spec.pattern}"
        f"{scope}{allocation})"
    )
    if spec.tasks:
        seeds = f"{len(spec.seeds)} seeds" if len(spec.seeds) > 1 else "one seed"
        then = "recovered" if spec.recoveries else "then fine-tuned with the zeros held"
        said += f", {then} and scored on {listing(spec.tasks)}, with {seeds}"
    return f"{said}. {recoveries(findings)}".strip()


def recoveries(findings: Findings) -> str:
    """What each recovery did, where there are any."""
    part = findings.spec.recovery
    does = {
        "none": "pruned at once and not trained again",
        "finetune": f"pruned at once and trained for {part.epochs:g} epochs more with the zeros held",
        "gradual": f"pruned step by step by {part.score} in {part.epochs:g} epochs more, learning from the dense model",
    }
    said = "; ".join(f"{RECOVERY_NAMES[name]}: {does[name]}" for name in findings.spec.recoveries)
    return f"{said[0].upper()}{said[1:]}." if said else ""


def reading(findings: Findings) -> str:
    """How to read the charts of scores: only of what is in them."""
    said = "Sparsities are evenly spaced; 0% is the dense model trained alike"
    said += "." if findings.spec.recoveries else ", its level dotted."
    if any(len(row.seeds) > 1 for row in findings.scores):
        said += " Bars are 95% intervals over seeds, cut where they are longer than the chart."
    if any(row.one_answer for row in findings.scores):
        said += " A hollow mark is a model that, with some seed, gives one answer to everything."
    return said


def toml(findings: Findings) -> str:
    """The specification as it could be given to `aerogel study` again."""
    unused = set() if findings.spec.recoveries else {"recoveries", "recovery"}
    values: dict[str, Any] = findings.spec.model_dump(mode="json", exclude_none=True, exclude=unused)
    parts = {name: part for name, part in values.items() if isinstance(part, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if name not in parts]
    for name, part in ((name, part) for name, part in parts.items() if part):
        lines += ["", f"[{name}]", *(f"{field} = {json.dumps(value)}" for field, value in part.items())]
    return "\n".join(lines)


def _read(name: str) -> str:
    return (resources.files("aerogel.report") / name).read_text(encoding="utf-8")
