"""The estimate of the time that a study still takes."""

import pytest

from aerogel.benchmark import BenchConfig
from aerogel.pruning import PruneConfig
from aerogel.study import pace
from aerogel.study.pace import Pace
from aerogel.study.results import Done, Machine
from aerogel.study.trial import Benchmark, Scoring, WeightAnalysis
from aerogel.training import Recovery, TrainingConfig

DENSE = Recovery(finetune_first=True, epochs=0.0)


def scoring(recovery: Recovery, seed: int, epochs: float = 2) -> Scoring:
    training = TrainingConfig(epochs=epochs, seed=seed)
    return Scoring(model="tiny-bert", task="sst2", data="", training=training, recovery=recovery)


def pruned(seed: int) -> Scoring:
    return scoring(Recovery(PruneConfig("magnitude", 0.9), finetune_first=True, epochs=0.0), seed)


def done(seconds: float) -> Done:
    return Done(None, Machine("", 1, 1.0, 1, "", "", "", {}), seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_estimated_before_a_trial_has_ended() -> None:
    assert Pace([]).left([pruned(0)], []) is None


def test_trials_are_expected_to_take_as_long_as_those_of_their_kind(clock: list[float]) -> None:
    ended = [(scoring(DENSE, 0), done(100.0)), (pruned(0), done(2.0)), (pruned(1), done(4.0))]
    estimate = Pace(ended).left([scoring(DENSE, 1), *(pruned(seed) for seed in range(2, 12))], [])
    assert estimate == pytest.approx(100 + 10 * 3)


def test_a_kind_that_has_not_run_yet_is_guessed_from_its_training() -> None:
    short = Pace([(scoring(DENSE, 0, epochs=2), done(100.0))])
    trained = scoring(Recovery(PruneConfig("magnitude", 0.9), finetune_first=True, epochs=1.0), 0)
    without, training = (short.left([trial], []) or 0.0 for trial in (pruned(0), trained))
    assert 0 < without < training < 100


def test_trials_beside_each_other_share_the_time_and_what_has_passed_is_not_left(clock: list[float]) -> None:
    trials = [pruned(seed) for seed in range(4)]
    estimate = Pace([(pruned(9), done(10.0))])
    assert estimate.left(trials, trials[:2]) == pytest.approx(20)
    clock[0] = 6
    assert estimate.left(trials, trials[:2]) == pytest.approx(14)
    clock[0] = 60  # much longer than expected
    assert estimate.left(trials, trials[:2]) == pytest.approx(10)


def test_a_benchmark_runs_alone(clock: list[float]) -> None:
    dense, other = (Benchmark(model=name, config=BenchConfig()) for name in ("tiny-bert", "tiny-gpt2"))
    estimate = Pace([(dense, done(5.0)), (WeightAnalysis(model="tiny-bert"), done(1.0))])
    running = [WeightAnalysis(model=name) for name in ("tiny-gpt2", "tiny-bart")]
    assert estimate.left([*running, other], running) == pytest.approx((1 + 1) / 2 + 5)
