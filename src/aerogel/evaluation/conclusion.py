"""What a score and a comparison mean, in one sentence each."""

import math

from aerogel.evaluation.comparison import LEVEL, Comparison
from aerogel.tasks import METRICS, Score

TERMS = {
    "loss": "mean negative log-likelihood of a prediction, in nats",
    "majority": "accuracy of always predicting the most frequent class",
    "kl": "mean KL divergence from the reference's predictions, in nats; 0 if they are equal",
    "agreement": "share of predictions that equal the reference's",
    "flipped": "predictions that differ from the reference's",
    "lost": "predictions that are right in the reference and wrong in the model",
    "gained": "predictions that are wrong in the reference and right in the model",
    "mcnemar_p": "probability of so uneven a split into lost and gained if both models are right equally often",
}
"""The numbers of an evaluation beside the metrics of the task."""
LITTLE = 0.2  # of the way from the most frequent class to no errors


def meaning(name: str) -> str | None:
    """What a number of an evaluation is, `None` for a metric of the model.

    >>> meaning("dense_accuracy")
    'accuracy of the reference'
    """
    metric = name.removeprefix("dense_")
    return TERMS.get(name) if metric == name else f"{metric} of the reference"


def below_chance(score: Score) -> str | None:
    """A sentence on a classifier that is not better than the most frequent class, or little; `None` for other models.

    >>> below_chance(Score("mood", {"accuracy": 0.5}, {"examples": 10}, {"majority": 0.6}))
    'accuracy 0.5000 is not above 0.6000, that of always predicting the most frequent class: mood is not learned'
    """
    accuracy, majority = score.metrics.get("accuracy"), score.baselines.get("majority")
    if accuracy is None or majority is None or accuracy > majority + LITTLE * (1 - majority):
        return None
    above, learned = ("little", "hardly") if accuracy > majority else ("not", "not")
    return (
        f"accuracy {accuracy:.4f} is {above} above {majority:.4f}, that of always predicting the most frequent class: "
        f"{score.task} is {learned} learned"
    )


def conclusion(score: Score, comparison: Comparison) -> str:
    """Whether a model is as good as its reference, by McNemar's test, or for losses a paired bootstrap over texts."""
    (main, own), (unit, count) = next(iter(score.metrics.items())), next(iter(score.counts.items()))
    dense, flips, change = comparison.reference.metrics[main], comparison.flips, comparison.loss_change
    scored, numbers = f"on these {count:,} {unit}", f"{main} {own:.4g}, reference {dense:.4g}"
    if flips and "majority" in score.baselines:
        evidence = f"{flips.lost} lost, {flips.gained} gained, McNemar p = {flips.p:.2g}"
        is_noise, is_worse, difference = flips.p > 1 - LEVEL, flips.lost > flips.gained, f"{abs(own - dense):.4f}"
    elif change:
        low, mean, high = (math.expm1(value) for value in (change.low, change.mean, change.high))
        evidence = f"95% interval of the difference {low:+.1%} to {high:+.1%}"
        is_noise, is_worse, difference = low <= 0 <= high, mean > 0, f"{abs(mean):.1%}"
    else:
        is_worse = own != dense and (own < dense) == _higher_is_better(main)
        verdict = "equal to" if own == dense else "worse than" if is_worse else "better than"
        return f"{verdict} its reference {scored}: {numbers}; how much of that is noise is not known for {main}"
    if is_noise:
        return f"as good as its reference {scored}, within noise: {numbers} ({evidence})"
    verdict = "worse" if is_worse else "better"
    return f"{verdict} than its reference by {difference} {scored}: {numbers} ({evidence})"


def _higher_is_better(metric: str) -> bool:
    return metric not in METRICS or METRICS[metric].higher_is_better
