"""The English of the report: remarks on a verdict, and the direction of a metric."""

from statistics import median

from aerogel.report.estimate import change, percent, significant
from aerogel.report.findings import Findings, Scored
from aerogel.report.names import metric_name
from aerogel.report.verdicts import TOLERANCE, Verdict, loss
from aerogel.runtime.values import INT8_PATTERN, INT8_SPEED
from aerogel.tasks import METRICS
from aerogel.tasks.metrics import perplexity


def remarks(verdict: Verdict, wanted_seeds: int) -> str:
    """How sure the verdict is, or why there is none."""
    dense = verdict.dense
    if not verdict.pruned:
        return "not scored yet"
    if dense is None:
        return "no verdict: the dense model is not scored"
    if not verdict.is_judged:
        reason = "no seed is scored both dense and pruned"
        return f"no verdict: {reason if dense.value.mean > 0 else f'dense {metric_name(dense.main)} is not above 0'}"
    if verdict.is_meaningful:
        return "; ".join([_certainty(verdict), *_caveats(verdict, dense, wanted_seeds)])
    if dense.one_answer == len(dense.seeds):
        return "no verdict: the dense model gives one prediction"
    return f"no verdict: dense accuracy not above the commonest class ({significant(dense.majority or 0)})"


def _certainty(verdict: Verdict) -> str:
    judged = verdict.allowed or verdict.beyond
    if not judged or not judged.change or judged.change.half is None:
        return "single seed"
    if verdict.allowed is None:
        return "loss not certain" if verdict.may_go_beyond else f"interval beyond {percent(TOLERANCE)}"
    return f"interval within {percent(TOLERANCE)}" if verdict.is_sure else "larger loss not excluded"


def _caveats(verdict: Verdict, dense: Scored, wanted_seeds: int) -> list[str]:
    caveats = []
    if verdict.allowed and verdict.beyond and verdict.may_go_beyond:
        caveats.append(f"{percent(verdict.beyond.sparsity)} not excluded")
    if verdict.again:
        caveats.append(
            f"within {percent(TOLERANCE)} again at {', '.join(percent(row.sparsity) for row in verdict.again)}"
        )
    for name, row in (("sparse", verdict.allowed), ("dense", dense)):
        if row and row.one_answer:
            caveats.append(f"the {name} model gives one prediction with {row.one_answer} of {len(row.seeds)} seeds")
    if verdict.missing:
        caveats.append(f"no score at {', '.join(map(percent, verdict.missing))}")
    fewest = min(len(row.seeds) for row in (dense, *verdict.pruned))
    return [*caveats, f"{fewest} of {wanted_seeds} seeds"] if fewest < wanted_seeds else caveats


def rounding(findings: Findings) -> list[str]:
    """What each type of rounded values loses, and how fast it is, beside float32."""
    spec, sentences = findings.spec, []
    for values in spec.values:
        rows = [item for item in findings.rounded if item.row.variant.values == values and item.row.change]
        if not rows:
            continue
        losses = [loss(item.row).mean for item in rows]
        worst = rows[losses.index(max(losses))].row
        model = ", ".join(filter(None, (worst.model, worst.variant.structure)))
        speeds = [speed for item in rows if (speed := findings.rounded_speedup(item))]
        ends = dict.fromkeys(f"{speed:.2f}" for speed in (min(speeds), max(speeds))) if speeds else ()
        sentences.append(
            f"{values} beside float32, with the same pruning, training and seeds: the main metric is "
            f"{_worse(median(losses))} in the median of {len(losses)} comparisons, {_worse(max(losses))} in the worst "
            f"({model}, {worst.task}, {percent(worst.sparsity)})"
            + (f"; {' to '.join(ends)} times as fast." if speeds else ".")
        )
        if values == "int8" and spec.pattern != INT8_PATTERN:
            sentences.append(f"int8 runs fastest with pattern {INT8_PATTERN}: {INT8_SPEED}.")
    return sentences


def _worse(share: float) -> str:
    """A relative loss in words: `1.20% worse`."""
    return f"{change(abs(share)).removeprefix('+')} {'better' if share < 0 else 'worse'}"


def direction(metric: str) -> str:
    if METRICS[metric].higher_is_better:
        return "higher is better"
    if METRICS[metric].function is perplexity:
        return "lower is better; counted in the model's own tokens, so do not compare models"
    return "lower is better"
