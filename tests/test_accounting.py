"""Epsilon is that of the published accountants, never below what is certain, and moves as privacy does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.accounting import AccountantName, Spent, epsilon, noise_for
from luthier.errors import UserError

# noise, rate, steps, delta -> by opacus 1.6: RDP and PRV; by dp-accounting 0.6 of Google: privacy loss distributions
ORACLE = [
    (1.5, 0.04, 2250, 1e-5, 7.32911, 6.77913, 6.76879),
    (1.0, 0.01, 1000, 1e-5, 2.10137, 1.83837, 1.82824),
    (0.6, 0.01, 500, 1e-5, 6.94938, 5.81074, 5.80024),
    (1.0, 256 / 50000, 5000, 1e-6, 2.48486, 2.27666, 2.26658),
    (2.0, 0.1, 300, 1e-5, 4.56428, 4.19355, 4.18330),
    (0.4, 0.02, 200, 1e-5, 26.719, 23.0388, 23.0273),
]
RATES, NOISES, STEPS = st.floats(0.001, 0.1), st.floats(0.8, 8), st.integers(1, 3000)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "rdp", "prv", "pld"), ORACLE)
def test_epsilon_is_that_of_the_published_accountants(
    noise: float, rate: float, steps: int, delta: float, rdp: float, prv: float, pld: float
) -> None:
    spent = [Spent(noise, rate, steps)]
    assert epsilon(spent, delta, "rdp") == pytest.approx(rdp, rel=0.005)
    found = epsilon(spent, delta, "prv")
    assert found == pytest.approx(prv, abs=0.001)
    assert pld <= found <= pld + 0.02, "an upper bound, and near"


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize(("noise", "steps"), [(2.0, 1), (4.0, 10), (1.0, 1)])
def test_with_every_row_in_every_step_it_is_an_upper_bound_on_the_gaussian_mechanism(
    accountant: AccountantName, noise: float, steps: int
) -> None:
    """Balle and Wang 2018, theorem 8, says exactly which delta an epsilon has."""
    from scipy.stats import norm

    found = epsilon([Spent(noise, 1.0, steps)], 1e-5, accountant)
    apart = math.sqrt(steps) / noise
    delta = norm.cdf(apart / 2 - found / apart) - math.exp(found) * norm.cdf(-apart / 2 - found / apart)
    assert 0 < delta <= 1e-5
    assert accountant == "rdp" or delta > 0.9e-5


@settings(max_examples=8, deadline=None, derandomize=True)
@given(NOISES, RATES, STEPS, st.floats(1.05, 3))
def test_epsilon_falls_with_noise_and_rises_with_rate_and_steps(
    noise: float, rate: float, steps: int, more: float
) -> None:
    here = epsilon([Spent(noise, rate, steps)], 1e-5, "rdp")
    slack = here * (1 + 1e-9) + 1e-12
    assert epsilon([Spent(noise * more, rate, steps)], 1e-5, "rdp") <= slack
    assert epsilon([Spent(noise, rate, math.ceil(steps * more))], 1e-5, "rdp") >= here * (1 - 1e-9)
    assert epsilon([Spent(noise, min(1.0, rate * more), steps)], 1e-5, "rdp") >= here * (1 - 1e-9)
    assert epsilon([Spent(noise, rate, steps)], 1e-7, "rdp") >= here * (1 - 1e-9)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(NOISES, RATES, STEPS, STEPS)
def test_what_was_spent_at_different_times_adds_up(noise: float, rate: float, first: int, then: int) -> None:
    together = epsilon([Spent(noise, rate, first + then)], 1e-5, "rdp")
    assert epsilon([Spent(noise, rate, first), Spent(noise, rate, then)], 1e-5, "rdp") == pytest.approx(together)
    further = epsilon([Spent(noise, rate, first), Spent(2 * noise, rate, then)], 1e-5, "rdp")
    assert epsilon([Spent(noise, rate, first)], 1e-5, "rdp") <= further * (1 + 1e-9) <= together * (1 + 1e-6)


def test_prv_adds_what_was_spent_too() -> None:
    parts = [Spent(1.0, 0.01, 400), Spent(1.0, 0.01, 600)]
    assert epsilon(parts, 1e-5, "prv") == pytest.approx(1.83837, abs=0.005)


@pytest.mark.parametrize(("target", "accountant"), [(1.0, "rdp"), (8.0, "rdp"), (2.0, "prv")])
def test_the_noise_for_a_target_is_the_least_one(target: float, accountant: AccountantName) -> None:
    found = noise_for(target, 0.02, 500, 1e-5, accountant)
    assert epsilon([Spent(found, 0.02, 500)], 1e-5, accountant) <= target
    assert epsilon([Spent(found * 0.995, 0.02, 500)], 1e-5, accountant) > target


def test_nothing_costs_nothing_and_no_noise_has_no_bound() -> None:
    assert epsilon([], 1e-5, "prv") == epsilon([Spent(1.0, 0.1, 0)], 1e-5, "rdp") == 0
    assert epsilon([Spent(0.0, 0.1, 1)], 1e-5, "rdp") == math.inf
    assert epsilon([Spent(1e-4, 1.0, 10)], 1e-5, "prv") == math.inf


def test_a_target_that_no_noise_reaches_is_told() -> None:
    with pytest.raises(UserError, match="no noise keeps 100 steps within epsilon 1e-06"):
        noise_for(1e-6, 1.0, 100, 1e-5, "rdp")


def test_without_the_library_it_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the library opacus"):
        epsilon([Spent(1.0, 0.1, 1)], 1e-5, "rdp")
