"""What recovery is worth, in a sentence a task: which is better, and where the seeds can't tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf

from aerogel.report.collect import Findings, Scored, is_perplexity
from aerogel.report.estimate import listing, percent
from aerogel.report.variant import variant_name


def recovered(findings: Findings) -> list[str]:
    """One sentence a task, and one on what it means; nothing where recoveries are not compared."""
    said = [sentence for task in findings.spec.tasks if (sentence := _of_task(findings, task))]
    return [*said, "Better means that the 95% intervals over seeds lie apart."] if said else []


def ranks(rows: Sequence[Scored]) -> list[list[Scored]]:
    """From best to worst, together where the intervals of their main metrics can't tell them apart."""
    sign = -1 if is_perplexity(rows[0].main) else 1
    ends = {
        row.way: sorted(sign * end for end in (row.value.low, row.value.high) if end is not None) or [-inf, inf]
        for row in rows
    }
    rows = sorted(rows, key=lambda row: -sign * row.value.mean)
    made: list[list[Scored]] = [[]]
    for place, row in enumerate(rows):
        if place and min(ends[before.way][0] for before in rows[:place]) > max(
            ends[after.way][1] for after in rows[place:]
        ):
            made.append([])
        made[-1].append(row)
    return made


def _of_task(findings: Findings, task: str) -> str:
    """`On sst2, gradual + distillation is better than fine-tuning, and that than no recovery (bert at 90%); ...`."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for model in findings.spec.models:
        for sparsity in sorted(findings.spec.sparsities):
            rows = [row for row in findings.scores if (row.task, row.model, row.sparsity) == (task, model, sparsity)]
            if sparsity and len(rows) > 1 and rows[0].way.recovery:
                found[_order(findings, rows)][model].append(percent(sparsity))
    said = []
    for order, models in found.items():
        where = defaultdict(list)
        for model, sparsities in models.items():
            where[listing(sparsities)].append(model)
        said.append(f"{order} ({'; '.join(f'{listing(names)} at {shares}' for shares, names in where.items())})")
    return f"On {task}, {'; '.join(said)}." if said else ""


def _order(findings: Findings, rows: Sequence[Scored]) -> str:
    ranked = ranks(rows)
    names = [listing([variant_name(findings.spec, row.way) for row in rank]) for rank in ranked]
    if len(names) == 1:
        return f"{names[0]} can't be told apart"
    first, second, *others = names
    verb = "is" if len(ranked[0]) == 1 else "are"
    return f"{first} {verb} better than {second}" + "".join(f", and that than {name}" for name in others)
