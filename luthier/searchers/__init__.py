"""Searchers propose what to try next; what was tried before is all that they know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from luthier.choice import Choice
from luthier.space import Dimension


@dataclass(frozen=True)
class Tried:
    """What a searcher sees of a trial."""

    params: Mapping[str, Any]  # path -> value
    state: Literal["running", "complete", "pruned", "failed"]
    value: float | None = None  # of the metric; None while it runs and where it failed
    rungs: Sequence[tuple[int, float]] = ()  # (evaluations so far, value) where it was looked at meanwhile


class Searcher(Choice):
    """A way of choosing the next trial."""

    family: ClassVar[str] = "searchers"

    def unfit(self, space: Mapping[str, Dimension]) -> dict[str, str]:
        """Path -> why this searcher cannot go through its values; told when the recipe is loaded."""
        return {}

    def next(
        self, trials: Sequence[Tried], space: Mapping[str, Dimension], seed: int, higher_is_better: bool
    ) -> dict[str, Any] | None:
        """Values for trial number `len(trials)`, one for each path; None when everything was tried.

        A function of its arguments alone: a search that was killed asks again and is told the same.
        """
        raise NotImplementedError


def seed_for(seed: int, number: int) -> int:
    """The seed of one trial's draws, of 32 bits: no state has to outlive a crash."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])
