"""The answer in sentences: how sparse a model may be, and what that saves, computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from aerogel.report.collect import Cost, Scored, is_perplexity
from aerogel.report.estimate import Estimate, change, listing, megabytes, percent, significant

TOLERANCE = 0.01
"""How much of the dense model's main metric may go, or be added to its perplexity."""
ROUNDING = 1e-9  # a loss of exactly the tolerance is not more than the tolerance
SAME = 0.01  # sizes that differ by less are called the same

METRIC_NAMES = {
    "f1": "F1",
    "combined": "combined score",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "masked_lm_perplexity": "masked-LM perplexity",
    "denoising_perplexity": "denoising perplexity",
}


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def metric_value(metric: str, value: float) -> str:
    return significant(value, metric_digits(metric, value))


def metric_digits(metric: str, value: float) -> int:
    """Four for perplexities; three decimals for what lies between 0 and 1."""
    return 4 if is_perplexity(metric) or abs(value) >= 1 else 3


@dataclass(frozen=True)
class Verdict:
    """How one model, pruned one way, stands on one task.

    `allowed` is the highest sparsity up to which every one that was scored keeps to the tolerance, `beyond` the
    first that does not, and `again` those after it that do. `missing` sparsities have no score to compare.
    """

    dense: Scored | None
    pruned: tuple[Scored, ...]
    allowed: Scored | None = None
    beyond: Scored | None = None
    again: tuple[Scored, ...] = ()
    missing: tuple[float, ...] = ()

    @property
    def is_judged(self) -> bool:
        return self.allowed is not None or self.beyond is not None

    @property
    def is_no_better_than_majority(self) -> bool:
        accuracy = self.dense.metrics.get("accuracy") if self.dense else None
        majority = self.dense.majority if self.dense else None
        return accuracy is not None and majority is not None and accuracy.mean <= majority

    @property
    def says_something(self) -> bool:
        """Whether there is a dense model that had anything to lose."""
        if self.dense is None or not self.is_judged:
            return False
        return self.dense.one_answer < len(self.dense.seeds) and not self.is_no_better_than_majority

    @property
    def is_sure(self) -> bool:
        """Whether the interval over seeds at the allowed sparsity lies within the tolerance as a whole."""
        worst = harm(self.allowed).high if self.allowed else None
        return worst is not None and worst <= TOLERANCE + ROUNDING


def judge(dense: Scored | None, pruned: Sequence[Scored], sparsities: Sequence[float]) -> Verdict:
    """Walks up the sparsities until the main metric has lost more than the tolerance."""
    pruned = tuple(sorted(pruned, key=lambda row: row.sparsity))
    compared = [row for row in pruned if row.change]
    known = {row.sparsity for row in compared}
    first = next((place for place, row in enumerate(compared) if not keeps(row)), len(compared))
    return Verdict(
        dense,
        pruned,
        allowed=compared[first - 1] if first else None,
        beyond=compared[first] if first < len(compared) else None,
        again=tuple(row for row in compared[first:] if keeps(row)),
        missing=tuple(sparsity for sparsity in sorted(sparsities) if sparsity and sparsity not in known),
    )


def harm(row: Scored) -> Estimate:
    """What the change of the main metric takes away, as a share: above zero is worse."""
    assert row.change
    return row.change if is_perplexity(row.main) else Estimate.of(-value for value in row.change.values)


def keeps(row: Scored) -> bool:
    return harm(row).mean <= TOLERANCE + ROUNDING


def verdict_sentences(verdict: Verdict, wanted_seeds: int) -> Markup:
    """What is said of one model on one task."""
    dense, pruned = verdict.dense, verdict.pruned
    if not pruned:
        return Markup("Not yet scored pruned.") if dense else Markup("Not yet scored.")
    if dense is None:
        return Markup("Without the dense model fine-tuned alike, no loss can be measured.")
    name = metric_name(dense.main)
    level = metric_value(dense.main, dense.value.mean)
    if not verdict.is_judged and dense.value.mean > 0:
        return Markup("No seed has been scored both dense and pruned.")
    if not verdict.is_judged:
        return Markup("Its dense model has {} {}: a share of that has no meaning.").format(name, level)
    said = [_limit(verdict, name, level), *_doubts(verdict), *_caveats(verdict, wanted_seeds)]
    return Markup(" ").join(said)


def _limit(verdict: Verdict, name: str, level: str) -> Markup:
    allowed, beyond = verdict.allowed, verdict.beyond
    if not verdict.says_something:
        return Markup("<b>No verdict:</b> its dense model {}, so it has nothing to lose.").format(
            _nothing_to_lose(verdict)
        )
    if allowed is None:
        assert beyond, "the lowest sparsity is either kept or not"
        verb = "rises" if is_perplexity(beyond.main) else "falls"
        return Markup("<b>Not {}</b>, the lowest scored: {} {} from {} to {}.").format(
            percent(beyond.sparsity), name, verb, level, _value(beyond)
        )
    start = Markup("<b>Up to {}</b>{}: {} {} dense, {} at {}").format(
        percent(allowed.sparsity),
        "" if beyond else ", the highest scored",
        name,
        level,
        _value(allowed),
        percent(allowed.sparsity),
    )
    return start + (Markup("; {} at {}.").format(_value(beyond), percent(beyond.sparsity)) if beyond else ".")


def _nothing_to_lose(verdict: Verdict) -> str:
    assert verdict.dense
    if verdict.dense.one_answer == len(verdict.dense.seeds):
        return _answers_alike(verdict.dense)
    accuracy = verdict.dense.metrics["accuracy"].mean
    return (
        f"has an accuracy of {significant(accuracy)}, no better than always giving the commonest class "
        f"({significant(verdict.dense.majority or 0)})"
    )


def _value(row: Scored) -> str:
    assert row.change
    return f"{metric_value(row.main, row.value.mean)} ({change(row.change.mean)})"


def _doubts(verdict: Verdict) -> list[str]:
    """What the seeds leave open, on either side of the limit."""
    said: list[str] = []
    allowed, beyond = verdict.allowed, verdict.beyond
    if not verdict.says_something:
        return said
    if allowed and (interval := _interval(allowed)):
        count = len(harm(allowed).values)
        if verdict.is_sure:
            said.append(f"The 95% interval of that change over {count} seeds, {interval}, is within the limit.")
        else:
            said.append(f"Over {count} seeds its 95% interval is {interval}, so a larger loss is not ruled out.")
    if beyond and (interval := _interval(beyond)):
        best = harm(beyond).low
        if best is not None and best <= TOLERANCE:
            said.append(f"At {percent(beyond.sparsity)} the interval is {interval}, so it may hold there too.")
    return said


def _interval(row: Scored) -> str | None:
    """The interval of the change in words, `None` with one seed."""
    assert row.change
    if row.change.low is None or row.change.high is None:
        return None
    low, high = change(row.change.low), change(row.change.high)
    return f"{low} to {high}" if low != high else f"{low} with every seed"


def _caveats(verdict: Verdict, wanted_seeds: int) -> list[str]:
    said = []
    if verdict.again:
        which = listing([percent(row.sparsity) for row in verdict.again])
        said.append(f"{which} {'is' if len(verdict.again) == 1 else 'are'} within the limit again.")
    if verdict.says_something and verdict.allowed and verdict.allowed.one_answer:
        said.append(f"At {percent(verdict.allowed.sparsity)} the model {_answers_alike(verdict.allowed)}.")
    if verdict.says_something and verdict.dense and verdict.dense.one_answer:
        said.append(f"Its dense model {_answers_alike(verdict.dense)}.")
    if verdict.missing:
        said.append(f"No score for {listing([percent(sparsity) for sparsity in verdict.missing])}.")
    assert verdict.dense
    fewest = min(len(row.seeds) for row in (verdict.dense, *verdict.pruned))
    if fewest < wanted_seeds:
        said.append(f"Some scores are of {fewest} of the {wanted_seeds} seeds.")
    return said


def _answers_alike(row: Scored) -> str:
    what = "predicts one token everywhere" if is_perplexity(row.main) else "gives one answer to every example"
    return what if row.one_answer == len(row.seeds) else f"{what} with {row.one_answer} of {len(row.seeds)} seeds"


def savings(cost: Cost, dense_memory: Sequence[float]) -> list[str]:
    """What a pruned model saves against the dense one; `dense_memory` is what that took in several runs."""
    dense, own = cost.dense, cost.own
    assert dense, "a pruned model is measured beside its dense one"
    low, high = megabytes(min(dense_memory)), megabytes(max(dense_memory))
    usual = f"{low} to {high} in {len(dense_memory)} runs" if low != high else low
    return [
        f"On disk {megabytes(own.file_bytes)} MB, dense {megabytes(dense.file_bytes)}: "
        f"{saved(own.file_bytes, dense.file_bytes)}.",
        f"Its weights take {megabytes(own.parameter_bytes)} MB of memory, dense {megabytes(dense.parameter_bytes)}: "
        f"{saved(own.parameter_bytes, dense.parameter_bytes)}.",
        f"Inference takes {megabytes(own.inference_memory)} MB at its peak, dense {usual}: "
        f"{saved_memory(own.inference_memory, dense_memory)}.",
        f"A batch takes {significant(own.median)} s, dense beside it {significant(dense.median)}: {speed(cost)}.",
    ]


def saved(own: float, dense: float) -> str:
    """`nothing saved`, `38% saved` or `5% more`, of bytes that are counted and not measured."""
    if is_less(own, dense):
        return f"{1 - own / dense:.0%} saved"
    return f"{own / dense - 1:.0%} more" if own > dense * (1 + SAME) else "nothing saved"


def is_less(own: float, dense: float) -> bool:
    return own < dense * (1 - SAME)


def saved_memory(own: float, dense: Sequence[float]) -> str:
    """The same of measured memory: a difference counts when it is larger than that between the dense runs."""
    if len(dense) < 2:
        return "too few runs to tell"
    low, high = min(dense), max(dense)
    mean, spread = sum(dense) / len(dense), high - low
    return saved(own, mean) if own < low - spread or own > high + spread else "no clear difference"


def speed(cost: Cost) -> str:
    """The speed beside the dense model; only a difference that every round shows is called one."""
    rounds, ratio = cost.speedups, f"{cost.speedup:.2f} times as fast"
    if len(rounds) == 1:
        return f"{ratio} in the one round measured"
    spread = f"{min(rounds):.2f} to {max(rounds):.2f} in single rounds"
    if is_faster(cost):
        return f"{ratio}, and faster in each of the {len(rounds)} rounds ({spread})"
    if is_slower(cost):
        return f"{ratio}, so slower, in each of the {len(rounds)} rounds ({spread})"
    return f"{ratio} ({spread}), no clear difference"


def is_faster(cost: Cost) -> bool:
    return len(cost.speedups) > 1 and min(cost.speedups) > 1


def is_slower(cost: Cost) -> bool:
    return len(cost.speedups) > 1 and max(cost.speedups) < 1
