"""Shares with their 95 % confidence intervals, and differences of shares with theirs.

Both are the score methods that hold for small counts and for shares near 0 and 1: Wilson (1927) for one share, and
Newcombe's tenth method (Statistics in Medicine 17, 1998, 873-890), made of two of Wilson's, for a difference.
"""

from __future__ import annotations

from math import sqrt
from typing import Final, NamedTuple

Z: Final = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


class Interval(NamedTuple):
    """An estimate between its bounds; shares, so 0.05 is five per cent."""

    value: float
    low: float
    high: float


def share(successes: int, of: int) -> Interval | None:
    """Give the share of *successes* among *of*, by Wilson; None of nobody."""
    if not of:
        return None
    value, z2 = successes / of, Z * Z
    middle = (value + z2 / (2 * of)) / (1 + z2 / of)
    half = Z * sqrt(value * (1 - value) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return Interval(value, min(value, max(middle - half, 0.0)), max(value, min(middle + half, 1.0)))


def difference(one: Interval, other: Interval) -> Interval:
    """Give how much larger *one* is than *other*, by Newcombe."""
    value = one.value - other.value
    below = sqrt((one.value - one.low) ** 2 + (other.high - other.value) ** 2)
    above = sqrt((one.high - one.value) ** 2 + (other.value - other.low) ** 2)
    return Interval(value, max(value - below, -1.0), min(value + above, 1.0))
