"""The schedule of sparsity and learning rate."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as some

from aerogel.errors import PruningError
from aerogel.training.schedule import LOW, PRUNINGS, Schedule

SCHEDULES = some.builds(Schedule, some.integers(100, 5000), some.floats(0, 0.995), some.sampled_from([1, PRUNINGS]))


@given(SCHEDULES)
def test_the_sparsity_rises_more_and_more_slowly_to_its_end(schedule: Schedule) -> None:
    sparsities = [schedule.sparsity_at(pruning) for pruning in range(schedule.prunings)]
    assert sparsities[-1] == schedule.sparsity
    rises = [after - before for before, after in pairwise(sparsities)]
    assert all(rise >= 0 for rise in rises)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rises))
    if schedule.prunings > 1:
        assert 1 - sparsities[0] == pytest.approx((1 - schedule.sparsity) ** 0.5)


@given(SCHEDULES)
def test_half_of_the_training_is_left_for_recovery(schedule: Schedule) -> None:
    first, last = schedule.times[0], schedule.times[-1]
    assert first == schedule.warm_up
    assert len(set(schedule.times)) == schedule.prunings
    if schedule.prunings > 1:
        assert last - first == pytest.approx((schedule.steps - first) / 2, abs=1)
    else:
        assert last == first


@given(SCHEDULES)
def test_the_learning_rate_is_at_its_peak_after_each_pruning_and_ends_at_zero(schedule: Schedule) -> None:
    assert all(schedule.learning_rate(time) == 1 for time in schedule.times)
    assert schedule.learning_rate(0) == 0
    assert schedule.learning_rate(schedule.steps) == 0
    assert all(0 < schedule.learning_rate(step) <= 1 for step in range(1, schedule.steps))
    for before, after in pairwise(schedule.times):
        assert all(
            schedule.learning_rate(step) > schedule.learning_rate(step + 1) > LOW - 1e-9
            for step in range(before, after - 1)
        )


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(PruningError, match=r"5 steps.*5 times"):
        Schedule(5, 0.9)
