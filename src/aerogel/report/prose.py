"""All sentences of the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from aerogel.report.estimate import change, listing, megabytes, percent, significant
from aerogel.report.findings import Cost, Findings, Scored
from aerogel.report.names import RECOVERY_NAMES, metric_name, metric_value, series_name, variant_name
from aerogel.report.verdicts import TOLERANCE, Answer, Verdict, ranks, unequal_zeros
from aerogel.study import StudySpec
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS


def study_sentence(spec: StudySpec) -> str:
    """What the study did."""
    sparsities = listing([percent(share) for share in sorted(spec.sparsities) if share]) or "no sparsity"
    weights = listing(["the transformer blocks", *(f"the {part}" for part in spec.include)])
    text = f"{listing(spec.models)}: weights of {weights} pruned to {sparsities}"
    if spec.tasks:
        seeds = f"{len(spec.seeds)} seeds" if len(spec.seeds) > 1 else "one seed"
        text += f", fine-tuned and scored on {listing(spec.tasks)} with {seeds}"
    return f"{text}."


def summary(findings: Findings, answers: Sequence[Answer]) -> list[str]:
    """The opening paragraphs: how sparse the models may be, which recovery is better, what compressing saves."""
    allowed = _allowed(findings.spec, answers) if findings.scores else []
    return [" ".join(sentences) for sentences in (allowed, recovery_sentences(findings), _compressed(findings))]


def _allowed(spec: StudySpec, answers: Sequence[Answer]) -> list[str]:
    groups: dict[float, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.allowed is not None:
            groups[answer.allowed].append(answer)
    none = _names(spec, groups.pop(0.0, []), answers)
    parts = [
        f"{listing(_names(spec, groups[sparsity], answers))} up to {percent(sparsity)}"
        for sparsity in sorted(groups, reverse=True)
    ]
    limit = f"at most {percent(TOLERANCE)} lost" + (" on any task" if len(spec.tasks) > 1 else "")
    sentences = [f"Sparsity with {limit}: {'; '.join(parts)}."] if parts else []
    if none:
        sentences.append(f"More than {percent(TOLERANCE)} lost at the lowest sparsity: {listing(none)}.")
    unsure = [of for of in answers if of.allowed and not all(verdict.is_sure for verdict in of.meaningful)]
    if unsure and len(spec.seeds) > 1:
        sentences.append(f"The seeds do not rule out a larger loss for {listing(_names(spec, unsure, answers))}.")
    unjudged = []
    for task in spec.tasks:
        if some := [answer for answer in answers if not answer.verdicts[task].is_meaningful]:
            unjudged.append(f"{listing(_names(spec, some, answers))} on {task}")
    return [*sentences, f"No verdict: {'; '.join(unjudged)}."] if unjudged else sentences


def _names(spec: StudySpec, some: Sequence[Answer], answers: Sequence[Answer]) -> list[str]:
    """The names of some answers; that of the model alone where all of its variants are among them."""
    others = {answer.model for answer in answers if answer not in some}
    return list(
        dict.fromkeys(
            series_name(spec, answer.model, answer.variant) if answer.model in others else answer.model
            for answer in some
        )
    )


def _compressed(findings: Findings) -> list[str]:
    pairs = [(cost, cost.dense) for cost in findings.compressed if cost.dense]
    if not pairs:
        return []
    shares = [cost.own.file_bytes / dense.file_bytes for cost, dense in pairs]
    speeds = [cost.speedup for cost, _ in pairs if cost.speedup]
    return [
        f"Compressed models take {_span(shares, '{:.0%}')} of the dense bytes on disk and run "
        f"{_span(speeds, '{:.2f}')} times as fast as the dense model on this machine."
    ]


def _span(values: Sequence[float], form: str) -> str:
    """`0.31 to 0.52`, or one number where both ends look the same."""
    return " to ".join(dict.fromkeys(form.format(end) for end in (min(values), max(values))))


def recovery_sentences(findings: Findings) -> list[str]:
    """Which recovery is better: one sentence for each task, and what "better" means."""
    sentences = [sentence for task in findings.spec.tasks if (sentence := _recovery_sentence(findings, task))]
    return [*sentences, "Better: the 95% intervals over seeds do not overlap."] if sentences else []


def _recovery_sentence(findings: Findings, task: str) -> str:
    """`On sst2: gradual + distillation > fine-tuning > no recovery (bert at 90%); ...`."""
    orders: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for model in findings.spec.models:
        for sparsity in sorted(findings.spec.sparsities):
            rows = [row for row in findings.scores if (row.task, row.model, row.sparsity) == (task, model, sparsity)]
            if sparsity and len(rows) > 1 and rows[0].variant.recovery:
                orders[_order(findings.spec, rows)][model].append(percent(sparsity))
    parts = [
        f"{order} ({'; '.join(f'{model} at {listing(sparsities)}' for model, sparsities in models.items())})"
        for order, models in orders.items()
    ]
    return f"On {task}: {'; '.join(parts)}." if parts else ""


def _order(spec: StudySpec, rows: Sequence[Scored]) -> str:
    names = [listing([variant_name(spec, row.variant) for row in rank]) for rank in ranks(rows)]
    return " better than ".join(names) if len(names) > 1 else f"no difference between {names[0]}"


@dataclass(frozen=True)
class Card:
    """The sentences on one model: by task, then on its size, memory and time."""

    model: str
    name: str
    entries: list[tuple[str, Markup | str]]


def cards(findings: Findings, answers: Sequence[Answer]) -> list[Card]:
    """One for each model and method, since recoveries from the same zeros save alike."""
    spec = findings.spec
    groups: dict[tuple[str, Variant], list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.model, spec.measured_variant(answer.variant)].append(answer)
    memory: dict[str, list[float]] = defaultdict(list)
    for cost in findings.costs:
        memory[cost.model].append((cost.dense or cost.own).inference_memory)
    written = []
    for (model, variant), members in groups.items():
        entries: list[tuple[str, Markup | str]] = [
            (_head(task, answer.variant), verdict_sentences(answer.verdicts[task], len(spec.seeds)))
            for task in spec.tasks
            for answer in members
        ]
        for cost in _costs_to_show(findings, model, variant, members):
            stored = "compressed" if cost.own.compressed else "stored dense"
            entries.append((f"{stored} at {percent(cost.sparsity)}", cost_sentence(cost, memory[model])))
        written.append(Card(model, series_name(spec, model, variant), entries))
    return written


def _head(task: str, variant: Variant) -> str:
    return f"{task}, {RECOVERY_NAMES[variant.recovery]}" if variant.recovery else task


def _costs_to_show(findings: Findings, model: str, variant: Variant, answers: Sequence[Answer]) -> list[Cost]:
    """At each sparsity that some task allows; at the highest one measured where none does."""
    measured = {
        cost.sparsity: cost
        for cost in (*findings.costs, *findings.compressed)
        if (cost.model, cost.variant) == (model, variant)
    }
    allowed = {of.allowed.sparsity for answer in answers for of in answer.meaningful if of.allowed}
    sparsities = sorted(allowed & set(measured)) or sorted(measured)[-1:]
    return [measured[sparsity] for sparsity in sparsities]


def verdict_sentences(verdict: Verdict, wanted_seeds: int) -> Markup:
    """The verdict on one model and task, and what may put it in doubt."""
    dense = verdict.dense
    if not verdict.pruned:
        return Markup("Not scored yet.")
    if dense is None:
        return Markup("No verdict: the dense model is not scored.")
    if not verdict.is_judged:
        level = metric_value(dense.value.mean)
        problem = f"the dense model's {metric_name(dense.main)} is {level}" if not dense.value.mean > 0 else ""
        return Markup("No verdict: {}.").format(problem or "no seed is scored both dense and pruned")
    if not verdict.is_meaningful:
        majority = significant(dense.majority or 0)
        problem = f"its accuracy is {metric_value(dense.value.mean)}, and that of the commonest class {majority}"
        if dense.one_answer == len(dense.seeds):
            problem = "it gives the same prediction everywhere"
        return Markup("<b>No verdict</b>, since the dense model has nothing to lose: {}.").format(problem)
    return Markup(" ").join([_limit(verdict, dense), *_caveats(verdict, dense, wanted_seeds)])


def _limit(verdict: Verdict, dense: Scored) -> Markup:
    allowed, beyond = verdict.allowed, verdict.beyond
    shown = [f"{metric_name(dense.main)} {metric_value(dense.value.mean)} dense"]
    shown += [f"{_value(row)} at {percent(row.sparsity)}" for row in (allowed, beyond) if row]
    if allowed is None:
        start = Markup("<b>Not {}</b>, the lowest scored").format(percent(beyond.sparsity if beyond else 0))
    else:
        start = Markup("<b>Up to {}</b>").format(percent(allowed.sparsity)) + ("" if beyond else ", the highest scored")
    return start + ": " + "; ".join(shown) + "."


def _value(row: Scored) -> str:
    assert row.change
    text = f"{metric_value(row.value.mean)} ({change(row.change.mean)}"
    if row.change.low is not None and row.change.high is not None:
        text += f", 95% interval {change(row.change.low)} to {change(row.change.high)}"
    return f"{text})"


def _caveats(verdict: Verdict, dense: Scored, wanted_seeds: int) -> list[str]:
    sentences = []
    several = min(len(row.seeds) for row in (dense, *verdict.pruned)) > 1
    if verdict.allowed and several and not verdict.is_sure:
        sentences.append("A larger loss is not ruled out.")
    if verdict.beyond and verdict.may_go_beyond:
        sentences.append(f"{percent(verdict.beyond.sparsity)} may be within the limit, too.")
    if verdict.again:
        sentences.append(f"Within the limit again: {listing([percent(row.sparsity) for row in verdict.again])}.")
    for name, row in (("pruned", verdict.allowed), ("dense", dense)):
        if row and row.one_answer:
            seeds = f"{row.one_answer} of {len(row.seeds)} seeds"
            sentences.append(f"The {name} model gives the same prediction everywhere with {seeds}.")
    if verdict.missing:
        sentences.append(f"No score for {listing([percent(sparsity) for sparsity in verdict.missing])}.")
    fewest = min(len(row.seeds) for row in (dense, *verdict.pruned))
    if fewest < wanted_seeds:
        sentences.append(f"Some scores are of {fewest} of the {wanted_seeds} seeds.")
    return sentences


def cost_sentence(cost: Cost, dense_memory: Sequence[float]) -> str:
    """Size, memory and time beside the dense model; `dense_memory` is its peak in several runs."""
    dense, own = cost.dense, cost.own
    assert dense, "a pruned model is measured beside its dense one"
    memory = " to ".join(dict.fromkeys(megabytes(end) for end in (min(dense_memory), max(dense_memory))))
    return (
        f"{megabytes(own.file_bytes)} MB on disk (dense {megabytes(dense.file_bytes)}), "
        f"{megabytes(own.inference_memory)} MB of memory at the peak (dense {memory}), "
        f"{cost.speedup:.2f} times as fast ({min(cost.speedups):.2f} to {max(cost.speedups):.2f} in single rounds)."
    )


def notes(findings: Findings) -> list[str]:
    """The rule of the verdicts, and the uncertainty of the numbers."""
    spec = findings.spec
    if not spec.tasks:
        return []
    sentences = [
        f"A sparsity is allowed when this and every lower one that was scored stays within {percent(TOLERANCE)} of the "
        "main metric of the dense model with the same training.",
        f"Means are over {len(spec.seeds)} seeds, changes are from the dense model of the same seed, and intervals are "
        "95% by Student's t."
        if len(spec.seeds) > 1
        else "One seed gives no interval: run more seeds before you rely on a small difference.",
    ]
    for task in spec.tasks:
        dense = [row for row in findings.scores if row.task == task and not row.sparsity and "accuracy" in row.metrics]
        if dense:
            accuracy = sum(row.metrics["accuracy"].mean for row in dense) / len(dense)
            error = (accuracy * (1 - accuracy) / dense[0].counted) ** 0.5
            sentences.append(
                f"With {dense[0].counted:,} examples of {task}, an accuracy of {significant(accuracy)} has a "
                f"standard error of {significant(error, 2)} from the choice of examples alone."
            )
    return sentences + unequal_zeros_sentences(findings)


def unequal_zeros_sentences(findings: Findings) -> list[str]:
    return [
        f"{most.model} at {percent(most.sparsity)}: {variant_name(findings.spec, most.variant)} has "
        f"{100 * (most.prunable - fewest.prunable):.2g} points more zeros than "
        f"{variant_name(findings.spec, fewest.variant)}."
        for most, fewest in unequal_zeros(findings)
    ]


def reading(findings: Findings) -> str:
    """How to read the charts of scores."""
    text = "0% is the dense model with the same training" + ("." if findings.spec.recoveries else " (dotted).")
    if any(len(row.seeds) > 1 for row in findings.scores):
        text += " Bars are 95% intervals over seeds, cut at the edge of the chart."
    if any(row.one_answer for row in findings.scores):
        text += " A hollow mark: with some seed, the model gives the same prediction everywhere."
    return text


def direction(metric: str) -> str:
    if METRICS[metric].higher_is_better:
        return "higher is better"
    return "lower is better; counted in the model's own tokens, so do not compare models"
