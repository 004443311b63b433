"""Ends of a mean whose observations have random weights, computed to seven digits and more instead of drawn.

Under Dirichlet weights, such as those of the Bayesian bootstrap (Rubin 1981), a mean is at most t just where a sum of
gamma variables is at most 0: with G_j ~ Gamma(times_j), sum(G_j top_j) / sum(G_j bottom_j) <= t is the event
sum(G_j (top_j - t bottom_j)) <= 0. Its chance is an integral in the complex plane, so the ends have no noise of draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

STEP, FAR = 0.5, 5.0  # of the trapezoids, and where they end: a relative error of about 2e-7 in a tail
TINY = 1e-300  # stands for a chance of 0, whose logarithm is taken


def lower_end(top: np.ndarray, bottom: np.ndarray, times: np.ndarray, tail: float) -> float:
    """The value below which sum(G top) / sum(G bottom) lies with the chance `tail`, 0 < tail < 1/e; all (groups,).

    `bottom` is above 0. Where all ratios are the same it is that ratio.
    """
    import numpy as np
    from scipy.optimize import brentq

    least, mean = float((top / bottom).min()), float(top @ times / (bottom @ times))
    if mean - least <= 1e-12 * max(1.0, abs(mean)):
        return least

    def excess(value: float) -> float:
        return float(np.log(max(chance_below_zero(top - value * bottom, times), TINY) / tail))

    # A sum of gamma variables of shapes from 1 up is log-concave, so it is below its mean with a chance of 1/e or more.
    return float(brentq(excess, least, mean, xtol=1e-10 * (mean - least)))


def chance_below_zero(factors: np.ndarray, times: np.ndarray) -> float:
    """The chance that sum(factors * G) <= 0, with independent G ~ Gamma(times); both (groups,).

    An inverse Laplace transform: exp(K(z)) / -z, K(z) = -sum(times log(1 - factors z)), integrated on a path left of 0.
    All zeros of the integrand's reciprocal are real, so there is one saddle point between 0 and the next of them, and
    from it a path of steepest descent leads to infinity without meeting another. On that path the integrand is
    exp(peak - u**2), for which the trapezoidal rule converges geometrically (Rice 1980).
    """
    import numpy as np
    from scipy.optimize import brentq

    there = factors != 0
    factors, times = factors[there], times[there]
    if not (factors < 0).any():
        return float(not factors.size)
    factors = factors / -factors.min()

    def height_and_slope(z: complex) -> tuple[complex, complex]:
        left = 1 - factors * z
        return complex(-(times @ np.log(left)) - np.log(-z)), complex(times @ (factors / left) - 1 / z)

    saddle = brentq(
        lambda x: float(times @ (factors / (1 - factors * x))) - 1 / x, -1 + 1e-15, -1e-15, xtol=TINY, rtol=1e-10
    )
    peak = height_and_slope(complex(saddle))[0].real
    bend = float(times @ (factors / (1 - factors * saddle)) ** 2) + saddle**-2
    z, ahead = complex(saddle), complex(0, np.sqrt(2 / bend))  # ahead is dz/du
    total = ahead.imag / 2
    for u in np.arange(STEP, FAR + STEP, STEP):
        z += STEP * ahead
        for _ in range(20):  # Newton's method for height = peak - u**2
            height, slope = height_and_slope(z)
            z -= (height - peak + u**2) / slope
            if abs(height - peak + u**2) < 1e-5:
                break
        ahead = -2 * u / height_and_slope(z)[1]
        total += float(np.exp(-(u**2))) * ahead.imag
    return float(np.exp(peak) * STEP / np.pi * total)
