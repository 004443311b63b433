"""Privacy accounting: the epsilon that steps of the Poisson-subsampled Gaussian mechanism cost, and the noise for a target.

Two accountants, both of the library opacus and both upper bounds: `rdp`, Rényi differential privacy (Mironov et al. 2019,
arXiv 1908.10530), and `prv`, numerical composition of privacy losses (Gopi et al. 2021, arXiv 2106.02848), which is tighter
by 8 to 17 % at common settings and slower. Neighbouring data sets differ by one row that is there or not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.errors import UserError

AccountantName = Literal["rdp", "prv"]
# orders of Rényi divergence: those of opacus, and larger ones, which much noise needs
ORDERS = [1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 80, 128, 256, 512]
LEAST_NOISE, LARGEST_NOISE = 0.1, 1e4
CLOSE = 1e-3  # relative width at which the search for a noise ends
PRV_ERROR = 0.01  # of epsilon, which is added to it


@dataclass(frozen=True)
class Spent:
    """Equal steps of the mechanism."""

    noise: float  # standard deviation of the noise, in units of the largest norm of a row's gradient
    rate: float  # probability with which each row enters a step, by itself
    steps: int


def epsilon(history: Sequence[Spent], delta: float, accountant: AccountantName) -> float:
    """The epsilon of all steps together at `delta`: an upper bound, infinite where the accountant finds none.

    UserError where opacus is not installed.
    """
    entries = [(each.noise, each.rate, each.steps) for each in history if each.steps and each.rate]
    if not entries:
        return 0.0
    if any(noise <= 0 for noise, _, _ in entries):
        return math.inf
    _ask_for_opacus()
    with warnings.catch_warnings():
        # an epsilon at the end of the range of orders is a looser bound, and one all the same
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return _rdp(entries, delta) if accountant == "rdp" else _prv(entries, delta)


def noise_for(target: float, rate: float, steps: int, delta: float, accountant: AccountantName) -> float:
    """The least noise, to a thousandth above it, with which so many steps cost at most `target`; UserError where there is
    none."""

    def costs(noise: float) -> float:
        return epsilon([Spent(noise, rate, steps)], delta, accountant)

    low, high, wider = 0.0, 1.0, 2.0
    if accountant == "prv":  # near the noise that the quicker accountant asks for
        high, wider = noise_for(target, rate, steps, delta, "rdp"), 1.1
        low = 0.8 * high if costs(0.8 * high) > target else 0.0
    while costs(high) > target:
        low, high = high, wider * high
        if high > LARGEST_NOISE:
            raise UserError(
                f"no noise keeps {steps} steps within epsilon {target:g} at delta {delta:.3g}",
                where="train.techniques private target_epsilon",
                hint="allow a larger epsilon, or train on more rows",
            )
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        # with less noise epsilon is beyond what anybody asks for, and the accountants' integrals run over
        low, high = (middle, high) if middle < LEAST_NOISE or costs(middle) > target else (low, middle)
    return high


def _rdp(entries: Sequence[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants.analysis import rdp

    total = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=ORDERS) for noise, rate, steps in entries
    )
    found, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=total, delta=delta)
    return max(0.0, float(found))


def _prv(entries: Sequence[tuple[float, float, int]], delta: float) -> float:
    import numpy as np
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(entries)
    try:
        with np.errstate(all="ignore"):  # logarithms of 0 where every row is in every step, which it takes into account
            found = float(accountant.get_epsilon(delta=delta, eps_error=PRV_ERROR))
    except (RuntimeError, ValueError, OverflowError, MemoryError):  # its grid does not hold this much loss
        return math.inf
    return found if math.isfinite(found) else math.inf


def _ask_for_opacus() -> None:
    from importlib.util import find_spec

    if find_spec("opacus") is None:
        raise UserError(
            "private needs the library opacus, which counts epsilon",
            where="train.techniques private",
            hint="pip install 'luthier[dp]'",
        )
