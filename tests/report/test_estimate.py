from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st
from scipy import stats

from aerogel.report.estimate import Estimate, megabytes, percent, rough, share_with_interval, significant, with_interval

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8)


@given(values)
def test_the_interval_is_students(numbers: list[float]) -> None:
    estimate = Estimate.of(numbers)
    mean, error = stats.tmean(numbers), stats.sem(numbers)
    assert estimate.mean == pytest.approx(mean, abs=1e-6)
    half = stats.t.ppf(0.975, len(numbers) - 1) * error
    assert estimate.half == pytest.approx(half, rel=1e-6, abs=1e-6)


def test_one_seed_has_no_interval() -> None:
    estimate = Estimate.of([0.5])
    assert (estimate.mean, estimate.half, estimate.low, estimate.high) == (0.5, None, None, None)
    assert with_interval(estimate) == "0.500"


def test_values_too_large_to_square_have_an_endless_interval() -> None:
    assert Estimate.of([1e300, 2e300]).half == math.inf


@given(st.floats(1e-6, 1e6))
def test_significant_digits_are_those_of_the_number(value: float) -> None:
    assert float(significant(value, 4).replace(",", "")) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.995), "99.5%"),
        (percent(0.1), "10%"),
        (percent(0.9999), "99.99%"),
        (significant(0.0), "0.00"),
        (significant(1234.5), "1,234"),
        (significant(-0.0123), "\N{MINUS SIGN}0.0123"),
        (significant(math.nan), "NaN"),
        (rough(0.98999), "99.0%"),
        (rough(12.3456, 0), "1,235%"),
        (rough(math.nan), "NaN"),
        (share_with_interval(Estimate.of([0.5])), "50.0%"),
        (share_with_interval(Estimate.of([0.98, 0.99])), "98.5 \N{PLUS-MINUS SIGN} 6.4%"),
        (share_with_interval(Estimate.of([0.5, math.nan])), "NaN"),
        (megabytes(7_341_048), "7.34"),
        (with_interval(Estimate.of([0.8, 0.82])), "0.810 \N{PLUS-MINUS SIGN} 0.127"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected
