from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aerogel.benchmark import Measurement
from aerogel.report.breakeven import BreakEven, break_even
from aerogel.report.findings import Cost
from aerogel.study.variant import Variant


def measured(seconds: float) -> Measurement:
    return Measurement("bert", (seconds,), (), 1, None, 1, 1, batch_size=1, compressed=True)


def of(speeds: dict[float, float]) -> BreakEven:
    """Of a model with these speeds, in times the dense one's, by sparsity."""
    return break_even(
        [
            Cost("bert", Variant("magnitude"), sparsity, measured(1 / speed), measured(1.0))
            for sparsity, speed in speeds.items()
        ]
    )


def test_it_is_interpolated_between_the_measured_sparsities() -> None:
    even = of({0.5: 0.8, 0.9: 1.2, 0.99: 3.0})
    assert even.sparsity == pytest.approx(0.7)
    assert (even.below, even.above) == (0.5, 0.9)


def test_faster_everywhere_has_no_crossing() -> None:
    even = of({0.9: 2.0, 0.5: 1.1})
    assert (even.below, even.above, even.sparsity) == (None, 0.5, None)


def test_slower_at_the_highest_sparsity_has_no_break_even() -> None:
    even = of({0.5: 1.1, 0.9: 0.9})
    assert (even.below, even.above, even.sparsity) == (0.9, None, None)


@given(st.dictionaries(st.floats(0.4, 0.99), st.floats(0.25, 4.0), min_size=1))
def test_every_sparsity_measured_beyond_it_is_faster(speeds: dict[float, float]) -> None:
    even = of(speeds)
    start = even.above if even.above is not None else 1.0
    times = {sparsity: 1.0 / (1 / speed) for sparsity, speed in speeds.items()}
    assert all(speed > 1 for sparsity, speed in times.items() if sparsity >= start)
    assert even.below is None or times[even.below] <= 1
    if even.sparsity is not None:
        assert even.below is not None
        assert even.above is not None
        assert even.below <= even.sparsity <= even.above
