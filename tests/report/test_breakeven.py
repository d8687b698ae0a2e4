from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogel.benchmark import Measurement
from aerogel.report.breakeven import BreakEven, break_even
from aerogel.report.collect import Cost
from aerogel.report.variant import Variant


def measured(seconds: float) -> Measurement:
    return Measurement("bert", (seconds,), (), 1, None, 1, 1, batch_size=1, compressed=True)


def found(speeds: dict[float, float]) -> BreakEven:
    """Of a model that is so many times as fast as the dense one."""
    return break_even(
        [
            Cost("bert", Variant("magnitude"), sparsity, measured(1 / speed), measured(1.0))
            for sparsity, speed in speeds.items()
        ]
    )


def test_it_is_interpolated_between_the_measured_sparsities() -> None:
    even = found({0.5: 0.8, 0.9: 1.2, 0.99: 3.0})
    assert even.sparsity == pytest.approx(0.7)
    assert (
        even.sentence
        == "Compressed, it is faster than the dense model from about 70%, interpolated between 50% and 90%."
    )


def test_faster_everywhere_has_no_crossing() -> None:
    even = found({0.9: 2.0, 0.5: 1.1})
    assert even.sparsity is None
    assert even.sentence == "Compressed, it is faster than the dense model at every sparsity measured from 50%."


def test_slower_at_the_highest_is_faster_nowhere_from_on() -> None:
    even = found({0.5: 1.1, 0.9: 0.9})
    assert (even.above, even.sparsity) == (None, None)
    assert even.sentence == "Compressed, it is not faster than the dense model at 90%, the highest measured."


@given(st.dictionaries(st.floats(0.4, 0.99), st.floats(0.25, 4.0), min_size=1))
def test_every_sparsity_measured_beyond_it_is_faster(speeds: dict[float, float]) -> None:
    even = found(speeds)
    start = even.above if even.above is not None else 1.0
    times = {sparsity: 1.0 / (1 / speed) for sparsity, speed in speeds.items()}
    assert all(speed > 1 for sparsity, speed in times.items() if sparsity >= start)
    assert even.below is None or times[even.below] <= 1
    if even.sparsity is not None:
        assert even.below is not None
        assert even.above is not None
        assert even.below <= even.sparsity <= even.above
