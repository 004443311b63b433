"""Chances of sums of gamma variables: against closed forms, far into the tails and over many orders of magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from luthier.dirichlet import chance_below_zero, lower_end


def chance(factors, times):
    return chance_below_zero(np.array(factors, dtype=float), np.array(times, dtype=float))


@pytest.mark.parametrize(
    ("factors", "times", "expected"),
    [
        ([1.0, -1.0], [1, 1], 0.5),
        ([1.0, -3.0], [1, 1], 0.75),  # one exponential variable below three times another
        ([1.0, -1.0], [20, 6], binom.cdf(5, 25, 0.5)),  # 20 events of one kind before 6 of the other
        ([1.0, -1.0], [6, 20], 1 - binom.cdf(5, 25, 0.5)),
        ([0.5, 2.0, -1.0], [3, 1, 1], (1 / 1.5) ** 3 / 3),  # all of them below one exponential variable
        ([1.0, 2.0], [4, 1], 0.0),
        ([0.0, -2.0], [4, 1], 1.0),
        ([0.0], [4], 1.0),
    ],
)
def test_chances_are_those_of_closed_forms(factors, times, expected):
    assert chance(factors, times) == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize(
    ("n", "share"), [(1, 0.5), (40, 0.3), (40, 0.999), (10**6, 0.5), (10**6, 0.999999), (10**9, 0.2)]
)
@pytest.mark.parametrize("tail", [0.2, 0.025, 1e-6, 1e-12])
def test_chances_are_those_of_the_beta_distribution(n, share, scale, tail):
    right, wrong = max(1, round(share * n)), max(1, round((1 - share) * n))
    value = beta.ppf(tail, right, wrong)
    assert chance([scale * (1 - value), -scale * value], [right, wrong]) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize("tail", [0.1, 0.025, 1e-4])
@pytest.mark.parametrize(("right", "wrong"), [(1, 1), (30, 1), (15, 16), (10**6, 1), (10**6, 10**7)])
def test_the_end_of_a_share_is_the_quantile_of_the_beta_distribution(right, wrong, tail):
    found = lower_end(np.array([1.0, 0.0]), np.ones(2), np.array([right, wrong], dtype=float), tail)
    assert found == pytest.approx(beta.ppf(tail, right, wrong), rel=1e-6)


def test_ends_of_unequal_parts_are_those_of_draws():
    draw = np.random.default_rng(1)
    bottom = np.exp(draw.normal(size=12))
    top = bottom * draw.random(12)
    times = draw.integers(1, 50, 12).astype(float)
    weights = draw.standard_gamma(times, (100_000, 12))
    for tail in (0.01, 0.2):
        drawn = np.quantile((weights @ top) / (weights @ bottom), tail)
        assert lower_end(top, bottom, times, tail) == pytest.approx(drawn, abs=0.002)


def test_parts_that_are_all_alike_have_that_end():
    assert lower_end(np.array([0.4, 0.8]), np.array([1.0, 2.0]), np.array([7.0, 1.0]), 0.025) == 0.4
