"""Near what went well, by densities of the good and the other trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from luthier.searchers import Searcher, Tried, seed_for
from luthier.space import Dimension


class Tpe(Searcher):
    """Tries what is near to good trials and far from others: the tree-structured Parzen estimator.

    Bergstra and others 2011, as Optuna computes it: proposes where the density of the better trials is high beside that of
    the others. Trials that are running count as bad, so that parallel workers do not all try the same."""

    startup: int = Field(10, ge=1)
    """Trials that are drawn at random before the first proposal."""

    def next(
        self, trials: Sequence[Tried], space: Mapping[str, Dimension], seed: int, higher_is_better: bool
    ) -> dict[str, Any] | None:
        import warnings

        import optuna

        from luthier.searchers._optuna import ask

        with warnings.catch_warnings():
            # before Optuna 5 these two are marked as experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                multivariate=True,
                constant_liar=True,
                seed=seed_for(seed, len(trials)),
            )
        return ask(sampler, trials, space, higher_is_better)
