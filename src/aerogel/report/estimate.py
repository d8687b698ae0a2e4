"""A number with its uncertainty over seeds, and the format of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds, and with two or more seeds its 95% confidence interval by Student's t."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        return cls(tuple(values))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def half(self) -> float | None:
        """Half the width of the interval, `None` for a single seed."""
        count = len(self.values)
        if count < 2:
            return None
        mean = self.mean
        deviation = math.sqrt(sum((value - mean) * (value - mean) for value in self.values) / (count - 1))
        return float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return min(self.values), max(self.values)

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


def percent(share: float) -> str:
    """A specified share, such as a sparsity, with all its digits: `99.5%`."""
    return f"{round(100 * share, 6):g}%"


def rough(share: float, digits: int = 1) -> str:
    """A measured share in percent, or NaN: `99.1%`."""
    return minus(f"{100 * share:,.{digits}f}%") if math.isfinite(share) else "NaN"


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, without an exponent if that is readable."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if abs(value) >= 1e7:
        return f"{value:.2e}"
    whole = math.floor(math.log10(abs(value))) + 1 if value else 1
    return minus(f"{value:,.{min(max(0, digits - whole), 9)}f}")


def with_interval(estimate: Estimate, digits: int = 3) -> str:
    """`0.812 ± 0.010`: the mean, and half the interval if there is one, with the same decimals."""
    mean, half = significant(estimate.mean, digits), estimate.half
    if half is None or not math.isfinite(half):
        return mean
    decimals = len(mean.partition(".")[2]) if "e" not in mean else 0
    return f"{mean} \N{PLUS-MINUS SIGN} {half:,.{decimals}f}"


def share_with_interval(share: Estimate) -> str:
    """`99.1 ± 0.4%`."""
    half, mean = share.half, rough(share.mean)
    if half is None or not math.isfinite(half):
        return mean
    return f"{mean.removesuffix('%')} \N{PLUS-MINUS SIGN} {rough(half)}"


def megabytes(count: float) -> str:
    """Bytes in megabytes of 10⁶ bytes, without the unit."""
    return significant(count / 1e6)


def minus(text: str) -> str:
    """The text with minus signs in place of hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")
