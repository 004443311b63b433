"""Every combination once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.searchers import Searcher, Tried
from luthier.space import Dimension


class Grid(Searcher):
    """Tries every combination of the listed values once.

    Their order is drawn from the seed, so that a budget which ends earlier has seen all parts of the grid."""

    def unfit(self, space: Mapping[str, Dimension]) -> dict[str, str]:
        return {
            path: "a grid needs a list of values; give it a step, or choices"
            for path, each in space.items()
            if each.values() is None
        }

    def next(
        self, trials: Sequence[Tried], space: Mapping[str, Dimension], seed: int, higher_is_better: bool
    ) -> dict[str, Any] | None:
        every = points(space)
        random.Random(seed).shuffle(every)
        return every[len(trials)] if len(trials) < len(every) else None


def points(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """All combinations, the last path changing first."""
    values = [each.values() or [] for each in space.values()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]
