"""The two-sample Kolmogorov-Smirnov test, exact: no statistics package is among what we need.

Under the null hypothesis every order of the pooled samples is as likely as any other. An order is
a lattice path from (0, 0) to (n, m); ``p`` is the share of paths that go at least as far from the
diagonal as the samples did, counted in whole numbers (Hodges 1958). Where samples tie, the true
``p`` is at most the one that is told.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import comb


def distance(one: Sequence[float], other: Sequence[float]) -> Fraction:
    """The largest distance between the two empirical distribution functions."""
    return Fraction(_height(one, other), len(one) * len(other))


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """How probable a distance as large is when both came from one distribution, two-sided."""
    return p_of(len(one), len(other), _height(one, other))


def p_of(n: int, m: int, height: int) -> float:
    """The probability of a distance of at least ``height / (n * m)``."""
    # paths[j]: those from (0, 0) to (i, j) that stay nearer than `height` all along.
    paths = [1 if n * j < height else 0 for j in range(m + 1)]
    for j in range(1, m + 1):
        paths[j] = paths[j] and paths[j - 1]
    for i in range(1, n + 1):
        left = 0
        for j in range(m + 1):
            left = paths[j] + left if abs(m * i - n * j) < height else 0
            paths[j] = left
    return float(1 - Fraction(paths[m], comb(n + m, n)))


def _height(one: Sequence[float], other: Sequence[float]) -> int:
    """``distance`` times both sizes, a whole number."""
    n, m = len(one), len(other)
    first, second = sorted(one), sorted(other)
    worst = i = j = 0
    for value in sorted({*first, *second}):
        while i < n and first[i] <= value:
            i += 1
        while j < m and second[j] <= value:
            j += 1
        worst = max(worst, abs(i * m - j * n))
    return worst
