"""Hyperband: which trials go on to train longer, decided as their values come in (Li and others 2018; its asynchronous
form, Li and others 2020)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence


def rungs(longest: int, factor: int) -> list[int]:
    """Where trials are looked at: after 1, `factor`, `factor` squared ... of the `longest` number of evaluations."""
    found = []
    each = 1
    while each < longest:
        found.append(each)
        each *= factor
    return found


def bracket(number: int, n_rungs: int, factor: int) -> int:
    """How many of the first rungs a trial passes without being looked at: some trials are given more time to show.

    Brackets get trials in the shares of Hyperband's own table, `(s_max + 1) / (s + 1) * factor^s` for one that is looked
    at `s` times; which trial is in which is drawn from its number.
    """
    shares = [math.ceil((n_rungs + 1) / (looks + 1) * factor**looks) for looks in range(n_rungs, -1, -1)]
    drawn = int.from_bytes(hashlib.sha256(f"bracket/{number}".encode()).digest()[:8]) / 2**64 * sum(shares)
    skipped = 0
    while drawn >= shares[skipped]:
        drawn -= shares[skipped]
        skipped += 1
    return skipped


def goes_on(value: float, rivals: Sequence[float], factor: int, higher_is_better: bool) -> bool:
    """Whether a value is among the best `1 / factor` of all that have reached its rung so far, itself included; the best
    one always is."""
    if not math.isfinite(value):
        return False
    sign = 1.0 if higher_is_better else -1.0
    better = sum(sign * rival > sign * value for rival in rivals)
    return better < max(1, (len(rivals) + 1) // factor)
