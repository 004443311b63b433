"""Divergence: numbers that are none, a loss far above its recent course, and what is done about each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

from luthier.errors import DivergedError

Policy = Literal["stop", "skip", "rollback"]
Found = Literal["", "not finite", "outlier", "rise"]
Done = Literal["applied", "stopped", "skipped", "rolled back"]

COURSE = 200  # losses of the latest steps that are remembered
LATEST = 7  # of them that tell a rise, by comparison with
BEFORE = 20  # so many before them
FEWEST = 20  # losses to compare with, below which nothing is called a spike
OUTLIER = 4.0  # times the distance from the level to the highest loss of the course at which a single one lies outside
RISE = 6.0  # spreads above the level at which the median of the latest losses lies outside
LEAST = 0.1  # nats, and
SHARE = 0.02  # of the level: the least distance that either means, since small losses vary by large factors
MOST_SKIPPED = 10
MOST_ROLLBACKS = 3
LOWERED = 0.3  # what the learning rate is multiplied by at each rollback


def found(course: Sequence[float], loss: float, norm: float) -> Found:
    """What is wrong with a step, before it is applied, by the losses of those before (nats, the oldest first).

    A course has the median of its losses as level and 1.4826 times their median distance from it as spread, which a few
    wild ones do not move.
    """
    if not math.isfinite(loss) or not math.isfinite(norm):
        return "not finite"
    latest, before = [*course[-LATEST + 1 :], loss], course[: -LATEST + 1][-BEFORE:]
    if len(before) < FEWEST:
        return ""
    level = median(before)
    spread = 1.4826 * median(abs(each - level) for each in before)
    least = max(LEAST, SHARE * level)
    if loss > level + OUTLIER * max(least, max(course) - level):
        return "outlier"
    return "rise" if median(latest) > level + max(least, RISE * spread) else ""


def remembered(course: Sequence[float], loss: float, found: Found) -> list[float]:
    """The course with one more step: no outlier belongs to it, and behind a rise that was let go a new one begins."""
    if found in ("not finite", "outlier"):
        return list(course)
    return [] if found == "rise" else [*course, loss][-COURSE:]


def done(policy: Policy, found: Found) -> Done:
    """What is done about a step: `stop` does not act on spikes, which are told; a bad batch is left out, not gone back for."""
    if found == "not finite":
        return {"stop": "stopped", "skip": "skipped", "rollback": "rolled back"}[policy]  # type: ignore[return-value]
    if (policy, found) == ("skip", "outlier"):
        return "skipped"
    return "rolled back" if (policy, found) == ("rollback", "rise") else "applied"


def factor(events: Sequence[Mapping[str, Any]]) -> float:
    """What the learning rate is multiplied by after these events."""
    return LOWERED ** len([event for event in events if event["done"] == "rolled back"])


def exhausted(events: Sequence[Mapping[str, Any]], done: Done, total: int) -> str:
    """Why the same is not done once more in a training of so many steps, or nothing."""
    n = sum(event["done"] == done for event in events)
    if done == "rolled back" and n >= MOST_ROLLBACKS:
        return f"after {n} rollbacks"
    if done == "skipped" and n >= min(MOST_SKIPPED, total - 1):
        return f"after {n} skipped steps"
    return ""


def diverged(event: Mapping[str, Any], loss: float, norm: float, why: str = "") -> DivergedError:
    """What is told where training ends because of a step that was not applied."""
    rate = "lower train.learning_rate, or use precision float32; the last checkpoint holds finite weights"
    what = f"the loss became {loss} (gradient norm {norm}) at step {event['step']}"
    return DivergedError(f"{what}, {why}" if why else what, where="train", hint=rate)


def sentence(event: Mapping[str, Any]) -> str:
    """An event for people."""
    told = {
        "not finite": "the loss or its gradient was no number",
        "outlier": "the loss of a single step lay far above its recent course",
        "rise": "the loss rose far above its recent course",
    }
    did = {
        "applied": "nothing was done about it (train.on_divergence)",
        "skipped": "the step was left out",
        "rolled back": f"training went back to step {event.get('to', 0)} and on at {LOWERED:g} of the learning rate",
    }
    return f"step {event['step']}: {told[event['found']]}; {did[event['done']]}"
