"""The configuration of gradual pruning, with the defaults of its method."""

import pytest

from aerogel.errors import PruningError
from aerogel.pruning import SCORES, PruneConfig, method
from aerogel.training import GradualPruning
from aerogel.training.schedule import PRUNINGS


@pytest.mark.parametrize("name", SCORES)
def test_methods_that_need_no_text_rank_all_weights_together_and_others_as_they_define(name: str) -> None:
    resolved = GradualPruning(PruneConfig(name, 0.9)).resolved()
    if method(name).looks_at_text:
        assert (resolved.scope, resolved.allocation) == (method(name).scope, method(name).allocation)
    else:
        assert (resolved.scope, resolved.allocation) == ("layer", "global")


def test_a_scope_or_an_allocation_is_kept() -> None:
    for settings, expected in (
        (dict(scope="row"), ("row", "uniform")),
        (dict(scope="layer"), ("layer", "uniform")),
        (dict(allocation="owl"), ("layer", "owl")),
        (dict(scope="row", allocation="mixed"), ("row", "mixed")),
    ):
        resolved = GradualPruning.of(score="movement", sparsity=0.9, **settings).resolved()
        assert (resolved.scope, resolved.allocation) == expected
    assert GradualPruning.of(score="movement", pattern="2:4", scope="global").resolved().allocation == "uniform"


@pytest.mark.parametrize(
    ("settings", "prunings"),
    [
        (dict(sparsity=0.9), PRUNINGS),
        (dict(sparsity=0.9, schedule="constant"), 1),
        (dict(pattern="2:4", score="movement"), PRUNINGS),
        (dict(pattern="2:4"), 1),
    ],
    ids=str,
)
def test_groups_of_a_calibrated_method_are_pruned_at_once(settings: dict, prunings: int) -> None:
    assert GradualPruning.of(**settings).schedule_for(200).prunings == prunings


def test_short_trainings_prune_less_often_with_calibration_text() -> None:
    counts = {
        steps: GradualPruning.of(sparsity=0.9).schedule_for(steps).prunings for steps in (1, 63, 64, 159, 160, 400)
    }
    assert counts == {1: 1, 63: 1, 64: 2, 159: 4, 160: 5, 400: 5}
    assert GradualPruning.of(sparsity=0.9, score="movement").schedule_for(16).prunings == PRUNINGS


def test_allocations_that_contradict_groups_are_refused() -> None:
    for score in ("best", "movement"):
        with pytest.raises(PruningError, match=r"2:4.*owl"):
            GradualPruning.of(score=score, pattern="2:4", allocation="owl")
