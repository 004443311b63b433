"""A learning rate that rises, step by step, until the loss runs away: the range test (Smith 2017, section 3.3).

What is measured is the loss of each step's batch, before its update; so the loss that a rate led to is that of the next step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RUNAWAY = 4.0  # times the lowest smoothed loss at which the test ends, as in fastai's `lr_find`
WINDOW = 0.1  # share of the steps that is averaged over
SURE = 4.0  # standard errors by which the loss must have fallen: the lowest of many means is low by chance alone


@dataclass(frozen=True)
class Rise:
    """Rates from `low` to `peak` over `total` steps, each the same factor above the one before."""

    low: float
    peak: float
    total: int

    def factor(self, step: int, figures: Sequence[float] = ()) -> float:
        """Share of the peak at a step (from 0), whatever is found on validation."""
        return float((self.low / self.peak) ** (1 - step / (self.total - 1)))

    def over(self, losses: Sequence[float]) -> bool:
        """Whether the loss has run away: the mean of the last window is `RUNAWAY` times that of the lowest one."""
        if not math.isfinite(losses[-1]):
            return True
        n = window(self.total)
        means = [sum(losses[at : at + n]) / n for at in range(len(losses) - n + 1)]
        return bool(means) and means[-1] > RUNAWAY * min(means)


@dataclass(frozen=True)
class Reading:
    """What the curve of a range test says; rates are None where the loss did not fall."""

    smooth: list[float]  # nats, after each rate
    start: float  # mean loss of the first window, nats
    least: float  # lowest smoothed loss, nats
    noise: float  # standard error of a smoothed loss, nats
    lowest: float | None  # rate at the lowest smoothed loss
    steepest: float | None  # rate at which the smoothed loss falls fastest per factor of ten

    @property
    def tenth(self) -> float | None:
        """A tenth of the rate at the lowest loss."""
        return None if self.lowest is None else self.lowest / 10

    @property
    def suggestion(self) -> float | None:
        """The lower of the two, to two digits."""
        if self.steepest is None or self.tenth is None:
            return None
        return float(f"{min(self.steepest, self.tenth):.1e}")

    @property
    def rule(self) -> str:
        """Which of the two that is."""
        if self.steepest is None or self.tenth is None:
            return ""
        return "steepest descent" if self.steepest < self.tenth else "a tenth of the rate at the lowest loss"


def read(rates: Sequence[float], losses: Sequence[float], total: int) -> Reading:
    """The curve of a test of `total` steps: `rates` (ascending) and the loss in nats that each led to.

    The loss counts as fallen where its lowest mean over a window is `SURE` standard errors below that of the first. The slope
    is that of a straight line through a window, against log10 of the rate, up to the lowest loss.
    """
    n = window(total)
    smooth = smoothed(losses, n // 2)
    start = sum(losses[:n]) / len(losses[:n])
    whole = range(n // 2, max(n // 2 + 1, len(smooth) - n // 2))  # where a window has all its steps
    at = min(whole, key=smooth.__getitem__)
    noise = deviation(losses[: max(at + 1, n)]) / math.sqrt(n)  # before the loss runs away
    least = smooth[at]
    if not least < start - SURE * noise:
        return Reading(smooth, start, least, noise, None, None)
    steepest = min(range(whole.start, at + 1), key=lambda place: slope(rates, losses, place, n // 2))
    return Reading(smooth, start, least, noise, rates[at], rates[steepest])


def window(total: int) -> int:
    """Steps that are averaged over: a tenth of them, an odd number, 3 at least."""
    return max(3, int(total * WINDOW) // 2 * 2 + 1)


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Mean over so many neighbours on each side, as far as there are any: no lag, unlike a running mean."""
    found = []
    for place in range(len(values)):
        near = values[max(0, place - reach) : place + reach + 1]
        found.append(sum(near) / len(near))
    return found


def deviation(values: Sequence[float]) -> float:
    """Standard deviation around a curve, from the differences of neighbours, which hardly know the curve's own course."""
    return math.sqrt(sum((b - a) ** 2 for a, b in pairwise(values)) / (2 * (len(values) - 1)))


def slope(rates: Sequence[float], losses: Sequence[float], place: int, reach: int) -> float:
    """Nats per factor of ten at a place, by least squares over its neighbours."""
    near = slice(max(0, place - reach), place + reach + 1)
    x, y = [math.log10(rate) for rate in rates[near]], losses[near]
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    across = sum((each - middle) ** 2 for each in x)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / across if across else 0.0
