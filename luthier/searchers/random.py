"""Each trial by itself, drawn evenly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.searchers import Searcher, Tried, seed_for
from luthier.space import Dimension


class Random(Searcher):
    """Draws every value evenly (of a log range: evenly by size), whatever came out before (Bergstra, Bengio 2012)."""

    def next(
        self, trials: Sequence[Tried], space: Mapping[str, Dimension], seed: int, higher_is_better: bool
    ) -> dict[str, Any] | None:
        from optuna.samplers import RandomSampler

        from luthier.searchers._optuna import ask

        return ask(RandomSampler(seed=seed_for(seed, len(trials))), trials, space, higher_is_better)
