"""The Kolmogorov-Smirnov test of the test kit: known values, counting by hand, and its power."""

import itertools
import random
from fractions import Fraction
from math import comb

import pytest

import ks_kit

# Two-sided P(D >= k/n) for two samples of n, as printed tables of the exact distribution have it:
# 2 (C(2n, n-k) - C(2n, n-2k) + C(2n, n-3k) ...) / C(2n, n) (Gnedenko and Korolyuk 1951).
TABLE = [(4, 4, 2 / 70), (5, 4, 20 / 252), (5, 5, 2 / 252), (8, 5, 0.08702), (10, 6, 0.05245)]


@pytest.mark.parametrize(("n", "k", "p"), TABLE)
def test_known_values(n, k, p):
    assert ks_kit.p_of(n, n, k * n) == pytest.approx(p, rel=2e-4)


@pytest.mark.parametrize("n", [7, 40, 250])
def test_equal_sizes_follow_the_closed_form(n):
    for k in {1, 2, n // 4, n // 2, n - 1, n}:
        terms = (
            (-1) ** (at + 1) * Fraction(comb(2 * n, n - at * k), comb(2 * n, n))
            for at in range(1, n // k + 1)
        )
        assert ks_kit.p_of(n, n, k * n) == pytest.approx(float(2 * sum(terms)), rel=1e-9)


def test_unequal_sizes_are_as_counted_by_hand():
    n, m = 4, 6
    heights = [
        ks_kit._height(chosen, [at for at in range(n + m) if at not in chosen])
        for chosen in itertools.combinations(range(n + m), n)
    ]
    for height in sorted(set(heights)):
        share = sum(one >= height for one in heights) / len(heights)
        assert ks_kit.p_of(n, m, height) == pytest.approx(share)
        assert ks_kit.p_of(m, n, height) == pytest.approx(share)


def test_distances_and_ties():
    assert ks_kit.distance([1, 2, 3], [1, 2, 3]) == 0
    assert ks_kit.p_value([1, 2, 3], [1, 2, 3]) == 1
    assert ks_kit.distance([1, 2], [3, 4]) == 1
    assert ks_kit.distance([1, 1, 2, 3], [1, 2, 2, 2]) == Fraction(1, 4)


def test_forty_samples_a_side_reach_the_power_that_is_asked():
    """The most that 40 + 40 can say, and how far apart they must be for p < 1e-8."""
    assert ks_kit.p_value(range(40), range(40, 80)) == pytest.approx(2 / comb(80, 40))
    assert ks_kit.p_of(40, 40, 28 * 40) < 1e-8 < ks_kit.p_of(40, 40, 26 * 40)


def test_it_is_wrong_as_often_as_it_says_and_no_more():
    dice = random.Random(5)
    low = 0
    for _ in range(2_000):
        both = [[dice.gauss(0, 1) for _ in range(40)] for _ in range(2)]
        low += ks_kit.p_value(*both) < 0.05
    assert 40 < low < 130
