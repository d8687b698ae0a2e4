"""The opening of the report: each model's verdicts and savings, and the sum of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from aerogel.report.breakeven import break_evens
from aerogel.report.collect import Cost, Findings, Realised
from aerogel.report.estimate import listing, percent, significant
from aerogel.report.recovery import recovered
from aerogel.report.variant import RECOVERY_NAMES, Variant, measured_variant, scored_variants, series_name, variant_name
from aerogel.report.verdicts import (
    TOLERANCE,
    Verdict,
    is_faster,
    is_less,
    is_slower,
    judge,
    savings,
    verdict_sentences,
)


@dataclass(frozen=True)
class Answer:
    """How one model stands that became sparse in one way, task by task."""

    model: str
    way: Variant
    name: str
    verdicts: dict[str, Verdict]


@dataclass(frozen=True)
class Card:
    """What is said of one model: a sentence or two by task, then what it saves."""

    model: str
    name: str
    said: list[tuple[str, list[Markup | str]]]


def answers(findings: Findings) -> list[Answer]:
    """One for each model and way, in the order of the specification."""
    spec = findings.spec
    return [
        Answer(
            model,
            way,
            series_name(spec, model, way),
            {task: _verdict(findings, model, way, task) for task in spec.tasks},
        )
        for model in spec.models
        for way in scored_variants(spec)
    ]


def cards(findings: Findings, found: list[Answer]) -> list[Card]:
    """One for each model and method: recoveries from the same zeros save alike."""
    spec = findings.spec
    groups: dict[tuple[str, Variant], list[Answer]] = defaultdict(list)
    for answer in found:
        groups[answer.model, measured_variant(spec, answer.way)].append(answer)
    made = []
    for (model, way), members in groups.items():
        said: list[tuple[str, list[Markup | str]]] = [
            (_head(task, answer.way), [verdict_sentences(answer.verdicts[task], len(spec.seeds))])
            for task in spec.tasks
            for answer in members
        ]
        verdicts = [verdict for answer in members for verdict in answer.verdicts.values()]
        made.append(Card(model, series_name(spec, model, way), said + _savings(findings, model, way, verdicts)))
    return made


def _head(task: str, way: Variant) -> str:
    return f"{task}, {RECOVERY_NAMES[way.recovery]}" if way.recovery else task


def summary(findings: Findings, found: list[Answer]) -> list[str]:
    """The opening, in paragraphs: how sparse the models may be, what that saves, and what compressing does at all."""
    stored = [cost for cost in findings.costs if cost.dense]
    said = [*_room(findings, found)] if findings.scores else []
    better = " ".join(recovered(findings))
    if not findings.compressed:
        return [" ".join(said + ([_disk(stored), _speed(stored)] if stored else [])), better]
    compressed = [_disk(findings.compressed), _speed(findings.compressed), _break_even(findings), _stored(stored)]
    return [" ".join([*said, *_bargain(findings, found)]), better, " ".join(compressed)]


def notes(findings: Findings) -> list[str]:
    """By what rule the verdicts are given, and how far their numbers reach."""
    spec = findings.spec
    said: list[str] = []
    if not spec.tasks:
        return said
    said.append(
        f"A sparsity counts as allowed when it, and every lower one that was scored, costs the task's main metric at "
        f"most {percent(TOLERANCE)} of what the dense model reaches after the same training, or raises the "
        f"perplexity by at most {percent(TOLERANCE)}."
    )
    said.append(
        f"Means are over {len(spec.seeds)} seeds, changes are taken seed by seed, and intervals are 95% by Student's t."
        if len(spec.seeds) > 1
        else "There is one seed, so no number here has an interval: run more seeds before trusting a small difference."
    )
    for task in spec.tasks:
        dense = [row for row in findings.scores if row.task == task and not row.sparsity and "accuracy" in row.metrics]
        if dense:
            accuracy = sum(row.metrics["accuracy"].mean for row in dense) / len(dense)
            error = (accuracy * (1 - accuracy) / dense[0].counted) ** 0.5
            said.append(
                f"{task} is scored on {dense[0].counted:,.0f} examples; the choice of these alone gives an accuracy "
                f"of {significant(accuracy)} a standard error of {significant(error, 2)}, whatever the number of seeds."
            )
    said += unequal_zeros(findings)
    return said


def unequal_zeros(findings: Findings) -> list[str]:
    """Where ways are compared, by how much their zeros differ in number, model by model and sparsity by sparsity."""
    groups: dict[tuple[str, float], list[Realised]] = defaultdict(list)
    for row in findings.realised:
        if row.sparsity:
            groups[row.model, row.sparsity].append(row)
    said = []
    for (model, sparsity), rows in groups.items():
        most, least = max(rows, key=lambda row: row.prunable), min(rows, key=lambda row: row.prunable)
        if most.prunable != least.prunable:
            more, fewer = (variant_name(findings.spec, row.way) for row in (most, least))
            what = "recoveries" if findings.spec.recoveries else "methods"
            said.append(
                f"{model} at {percent(sparsity)}: the {what} are not compared at equal zeros, since {more} has "
                f"{100 * (most.prunable - least.prunable):.2g} points more of them than {fewer}."
            )
    return said


def _verdict(findings: Findings, model: str, way: Variant, task: str) -> Verdict:
    rows = [row for row in findings.scores if (row.task, row.model) == (task, model)]
    dense = next((row for row in rows if row.way == way.dense and not row.sparsity), None)
    return judge(dense, [row for row in rows if row.way == way and row.sparsity], findings.spec.sparsities)


def _savings(
    findings: Findings, model: str, way: Variant, verdicts: Sequence[Verdict]
) -> list[tuple[str, list[Markup | str]]]:
    """At each sparsity that some task allows; at the highest one measured where none does."""
    series = (model, way)
    stored, compressed = (
        {cost.sparsity: cost for cost in costs if (cost.model, cost.way) == series}
        for costs in (findings.costs, findings.compressed)
    )
    if not stored:
        return []
    memory = [
        measured.inference_memory
        for cost in findings.costs
        if cost.model == model
        for measured in [cost.dense or cost.own]
    ]
    allowed = {verdict.allowed.sparsity for verdict in verdicts if verdict.says_something and verdict.allowed}
    said: list[tuple[str, list[Markup | str]]] = []
    for sparsity in sorted(allowed & set(stored)) or [max(stored)]:
        if sparsity in compressed:
            said.append((f"compressed at {percent(sparsity)}", [*savings(compressed[sparsity], memory)]))
        else:
            too_dense = ["There are too few zeros to compress."] if compressed and sparsity else []
            said.append((f"cost at {percent(sparsity)}", [*too_dense, *savings(stored[sparsity], memory)]))
    said += [
        ("break-even on this machine", [even.sentence])
        for even in break_evens(findings)
        if (even.model, even.way) == series
    ]
    return said


def _room(findings: Findings, found: list[Answer]) -> list[str]:
    """How sparse each model may be for all of its tasks together."""
    groups: dict[float, list[Answer]] = defaultdict(list)
    unsure, unjudged = [], []
    for answer in found:
        judged = [verdict for verdict in answer.verdicts.values() if verdict.says_something]
        if judged:
            groups[min(verdict.allowed.sparsity if verdict.allowed else 0.0 for verdict in judged)].append(answer)
            if all(verdict.allowed for verdict in judged) and not all(verdict.is_sure for verdict in judged):
                unsure.append(answer)
        if len(judged) < len(answer.verdicts):
            tasks = [task for task, verdict in answer.verdicts.items() if not verdict.says_something]
            unjudged.append(f"{answer.name} ({', '.join(tasks)})" if judged else answer.name)
    none = _names(groups.pop(0.0, []), found)
    parts = [
        f"{listing(_names(groups[sparsity], found))} may be {percent(sparsity)} sparse"
        for sparsity in sorted(groups, reverse=True)
    ]
    limit = f"losing more than {percent(TOLERANCE)}" + (" on any task" if len(found[0].verdicts) > 1 else "")
    said = [f"Without {limit}, {'; '.join(parts)}."] if parts else []
    if none:
        verb = "loses" if len(none) == 1 else "lose"
        said.append(f"{listing(none)} {verb} more than {percent(TOLERANCE)} at the lowest sparsity scored.")
    if unsure:
        said.append(
            f"The seeds do not rule out a larger loss for {listing(_names(unsure, found))}."
            if len(findings.spec.seeds) > 1
            else "One seed can't tell how much of this is chance."
        )
    if unjudged:
        said.append(f"There is no verdict on {listing(unjudged)}.")
    return said


def _names(some: Sequence[Answer], found: Sequence[Answer]) -> list[str]:
    """Of some answers; the model's alone where all of its ways are among them."""
    left = {answer.model for answer in found if answer not in some}
    return list(dict.fromkeys(answer.name if answer.model in left else answer.model for answer in some))


def _bargain(findings: Findings, found: list[Answer]) -> list[str]:
    """What each model saves, compressed, at the sparsity that all of its tasks allow."""
    packed = {(cost.model, cost.way, cost.sparsity): cost for cost in findings.compressed}
    measured = {(cost.model, cost.way, cost.sparsity) for cost in findings.costs}
    said, too_dense = [], []
    for answer in found:
        judged = [verdict for verdict in answer.verdicts.values() if verdict.says_something]
        allowed = min((verdict.allowed.sparsity if verdict.allowed else 0.0 for verdict in judged), default=0.0)
        asked = (answer.model, measured_variant(findings.spec, answer.way), allowed)
        cost = packed.get(asked)
        if cost and cost.dense:
            said.append(
                f"{answer.name} takes {cost.own.file_bytes / cost.dense.file_bytes:.0%} of its dense bytes on disk and "
                f"{cost.own.parameter_bytes / cost.dense.parameter_bytes:.0%} in memory, and runs "
                f"{cost.speedup:.2f} times as fast"
            )
        elif allowed and asked in measured:
            too_dense.append(answer.name)
    parts = [f"Compressed at that sparsity, {'; '.join(said)}."] if said else []
    if too_dense:
        verb = "has" if len(too_dense) == 1 else "have"
        parts.append(f"At that sparsity {listing(too_dense)} {verb} too few zeros to save anything.")
    return parts


def _disk(pruned: list[Cost]) -> str:
    pairs = [(cost.own, cost.dense) for cost in pruned if cost.dense]
    kind = _kind(pruned)
    shares = [own.file_bytes / dense.file_bytes for own, dense in pairs if is_less(own.file_bytes, dense.file_bytes)]
    if shares:
        count = _share(len(shares), len(pruned), kind)
        return f"{count} smaller on disk than the dense one, down to {min(shares):.0%} of its bytes."
    stored = all(own.parameter_bytes == dense.parameter_bytes for own, dense in pairs)
    return f"No {kind} model is smaller on disk than its dense one" + (
        ": its zeros are stored like any other weight." if stored else "."
    )


def _speed(pruned: list[Cost]) -> str:
    faster, slower = [cost for cost in pruned if is_faster(cost)], [cost for cost in pruned if is_slower(cost)]
    said = "None is faster than the dense one in every round measured"
    if faster:
        best = max(cost.speedup or 0 for cost in faster)
        share = _share(len(faster), len(pruned), _kind(pruned))
        said = f"{share} faster than the dense one in every round measured, at most {best:.2f} times as fast"
    return said + (f"; {len(slower)} {'is' if len(slower) == 1 else 'are'} slower in every round." if slower else ".")


def _break_even(findings: Findings) -> str:
    starts: dict[str, list[str]] = defaultdict(list)
    for even in break_evens(findings):
        starts[even.start].append(series_name(findings.spec, even.model, even.way))
    parts = [f"{start} for {listing(names)}" for start, names in starts.items()]
    return f"On this machine a compressed model is faster than its dense one {'; '.join(parts)}."


def _stored(stored: list[Cost]) -> str:
    """What pruning alone does, without compressing."""
    ratios = [cost.speedup for cost in stored if cost.speedup]
    return (
        "Stored dense, zeros and all, pruned models are as large as before, "
        f"and {median(ratios):.2f} times as fast (median of {len(ratios)})."
    )


def _kind(costs: list[Cost]) -> str:
    return "compressed" if costs[0].own.compressed else "pruned"


def _share(some: int, of: int, kind: str) -> str:
    if some == of:
        return f"All {kind} models are"
    return f"{some} of {of} {kind} models {'is' if some == 1 else 'are'}"
