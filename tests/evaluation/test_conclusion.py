"""A closing sentence says better, worse, or as good, as the test of the difference has it."""

import numpy as np
import pytest

from aerogel.evaluation import Comparison, Flips, Interval, Score, below_chance, conclusion, meaning

ONE = Interval(1.0, 1.0, 1.0)


def accuracy(value: float) -> Score:
    return Score("moods", {"accuracy": value}, {"examples": 200}, {"majority": 0.5})


@pytest.mark.parametrize(
    ("lost", "gained", "verdict"),
    [(6, 4, "as good as"), (0, 0, "as good as"), (20, 2, "worse than"), (2, 20, "better than")],
)
def test_classes_are_compared_by_their_flips(lost: int, gained: int, verdict: str) -> None:
    own, dense = accuracy(0.8 + (gained - lost) / 200), accuracy(0.8)
    sentence = conclusion(own, Comparison(dense, ONE, ONE, Flips(lost + gained, lost, gained), {}))
    assert sentence.startswith(verdict)
    for number in ("200 examples", f"{own.metrics['accuracy']:.4g}", "0.8", f"{lost} lost", f"{gained} gained"):
        assert number in sentence


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "as good as"), (0.1, "worse than"), (-0.1, "better than")])
def test_losses_are_compared_text_by_text(shift: float, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 40)
    change = Interval.of(noise - noise.mean() + shift, np.ones(40))
    own, dense = (Score("text", {"perplexity": value}, {"tokens": 1000}) for value in (50 * np.exp(shift), 50.0))
    sentence = conclusion(own, Comparison(dense, ONE, ONE, None, {}, change))
    assert sentence.startswith(verdict)
    assert "1,000 tokens" in sentence


def test_other_metrics_get_no_verdict_about_noise() -> None:
    own, dense = (Score("texts", {"bleu": value}, {"examples": 9}) for value in (20.0, 30.0))
    sentence = conclusion(own, Comparison(dense, ONE, ONE, Flips(3, 0, 0), {}))
    assert "worse" in sentence
    assert "not known" in sentence


def test_only_classifiers_can_be_below_chance() -> None:
    assert below_chance(accuracy(0.65)) is None
    assert "little above" in (below_chance(accuracy(0.57)) or "")
    assert "0.5000" in (below_chance(accuracy(0.5)) or "")
    assert "0.4000" in (below_chance(accuracy(0.4)) or "")
    assert below_chance(Score("text", {"perplexity": 9.0}, {"tokens": 10})) is None


def test_every_number_beside_the_model_s_metrics_has_a_meaning() -> None:
    comparison = Comparison(accuracy(0.8), ONE, ONE, Flips(3, 2, 1), {})
    names = {**comparison.to_dict(), **accuracy(0.7).baselines}
    assert all(meaning(name) for name in names if not name.endswith(("_low", "_high")))
    assert meaning("accuracy") is None
