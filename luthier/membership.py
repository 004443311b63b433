"""Membership inference: how well somebody who has the model can tell rows that it was trained on from rows that it was not.

Scores are higher for rows that look trained on. Pure functions of losses; `stages/attack.py` computes those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FALSE_ALARMS = 0.01  # share of the rows that were not trained on, at which the share of those that were is told
ENOUGH = 100  # rows not trained on below which one in a hundred is no count


def auc(members: np.ndarray, others: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Chance that a member's score is above another's, 0.5 for a blind guess, with its 95 % interval.

    The interval is that of DeLong et al. 1988, on the scale of the logit, which keeps it between 0 and 1. Where the scores
    part without overlap, it reaches to where three further rows on the wrong side would bring the figure.
    """
    both = np.concatenate([members, others])
    ranks = _ranks(both)
    own, across = _ranks(members), _ranks(others)
    n, m = len(members), len(others)
    above_N = (ranks[:n] - own) / m  # share of others below each member
    below_M = 1 - (ranks[n:] - across) / n  # share of members above each other
    found = float(above_N.mean())
    variance = (above_N.var(ddof=1) / n if n > 1 else 0.25) + (below_M.var(ddof=1) / m if m > 1 else 0.25)
    rest = 3 / min(n, m)
    if not 0 < found < 1 or variance == 0:
        return found, (max(0.0, found - rest), min(1.0, found + rest))
    logit, error = math.log(found / (1 - found)), math.sqrt(variance) / (found * (1 - found))
    low, high = (1 / (1 + math.exp(-(logit + side * 1.96 * error))) for side in (-1, 1))
    return found, (low, high)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mid-ranks from 1."""
    from scipy.stats import rankdata

    found: np.ndarray = rankdata(values)
    return found


def found_at(
    members: np.ndarray, others: np.ndarray, false_alarms: float = FALSE_ALARMS
) -> tuple[float, tuple[float, float]] | None:
    """Share of the members that are found where so many of the others are taken for members, with its 95 % interval
    (Clopper and Pearson). None where the others are too few to count that share of them."""
    from scipy.stats import beta

    if len(others) < ENOUGH:
        return None
    allowed = int(false_alarms * len(others))
    threshold = np.sort(others)[::-1][allowed]  # so many others are strictly above it
    n, k = len(members), int((members > threshold).sum())
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return k / n, (low, high)


def confidence(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of p = exp(-loss), in which losses of a row over trainings are about normal (Carlini et al. 2022)."""
    p = np.clip(np.exp(-losses), 1e-12, 1 - 1e-7)
    found: np.ndarray = np.log(p) - np.log1p(-p)
    return found


def lira(losses_N: np.ndarray, references_RN: np.ndarray, held_RN: np.ndarray) -> np.ndarray:
    """How much likelier a row's loss is among trainings that held it than among those that did not: log-ratios (N,).

    LiRA (Carlini et al. 2022, arXiv 2112.03570, algorithm 1) with one variance for all rows, as there for few references.
    `held_RN` says which of N rows each of R references was trained on: each row by one at least, and not by another.
    """
    shown_RN = confidence(references_RN)
    within = np.where(held_RN, shown_RN, np.nan)
    without = np.where(held_RN, np.nan, shown_RN)
    inside_N, outside_N = np.nanmean(within, axis=0), np.nanmean(without, axis=0)
    count = max(1, held_RN.shape[0] - 2)  # two means are estimated for each row
    residuals = np.where(held_RN, shown_RN - inside_N, shown_RN - outside_N)
    spread = float((residuals**2).sum() / count / held_RN.shape[1]) or 1.0
    own = confidence(losses_N)
    found: np.ndarray = ((own - outside_N) ** 2 - (own - inside_N) ** 2) / (2 * spread)
    return found


def least_epsilon(members: np.ndarray, others: np.ndarray, delta: float, level: float = 0.95) -> float:
    """An epsilon that the training has at least, at a confidence level, from guesses about rows of which a fair coin decided
    each by itself whether it was trained on (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2).

    The rows with the highest scores are guessed to be members, as many with the lowest not to be; how many are guessed is
    tried at five sizes, which the level pays for.
    """
    scores = np.concatenate([members, others])
    truth = np.concatenate([np.ones(len(members), bool), np.zeros(len(others), bool)])
    order = np.argsort(-scores, kind="stable")
    best, n = 0.0, len(scores)
    sizes = sorted({max(1, int(share * n / 2)) for share in (0.02, 0.1, 0.25, 0.5, 1.0)})
    for size in sizes:
        right = int(truth[order[:size]].sum() + (~truth[order[n - size :]]).sum())
        best = max(best, _least(n, 2 * size, right, delta, (1 - level) / len(sizes)))
    return best


def _least(rows: int, guesses: int, right: int, delta: float, p: float) -> float:
    """The largest epsilon at which so many right guesses would still be rarer than p."""
    if by_chance(rows, guesses, right, 0.0, delta) >= p:
        return 0.0
    low, high = 0.0, 1.0
    while by_chance(rows, guesses, right, high, delta) < p and high < 64:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if by_chance(rows, guesses, right, middle, delta) < p else (low, middle)
    return low


def by_chance(rows: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely so many of the guesses are right at most, if the training is (epsilon, delta)-private."""
    from scipy.stats import binom

    share = 1 / (1 + math.exp(-epsilon))
    found = float(binom.sf(right - 1, guesses, share))
    sums = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, share))
    worst = float(np.max(sums / np.arange(1, right + 1), initial=0.0))
    return min(1.0, found + worst * 2 * rows * delta)


def mean_losses(losses: Sequence[float], covered: Sequence[float]) -> np.ndarray:
    """Losses per supervised token (nats)."""
    return np.asarray(losses, dtype=np.float64) / np.maximum(1, np.asarray(covered, dtype=np.float64))
