"""What a search is worth: the best of 20 trials beside the recipe as it is written, on validation and once on the test.

    LUTHIER_DATA=... python benchmarks/search.py [--trials 20] [--minutes 60] [--store DIR]

The recipe is `recipes/search.yaml` (TREC, MiniLM, two epochs). Both train for as long; the winner is chosen on validation,
and each of the two opens the test split once, after the search. A call ends after `--minutes`, and the next one goes on
where it was; when all is done, `benchmarks/results/search.json` is written. Without a number of trials that is reached
nothing is written and the test split stays shut.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import luthier
from luthier import flow
from luthier.recipe_file import DATA_VARIABLE, RecipeFile
from luthier.searching import figures_of, search
from luthier.store import Store, made_with

ROOT = Path(__file__).parents[1]
RECIPE, RESULTS = ROOT / "recipes" / "search.yaml", ROOT / "benchmarks" / "results" / "search.json"


class Lines:
    """Progress as lines."""

    def progress(self, what: str, done: float, total: float, figures: object) -> None:
        """Nothing: how trials come out is what counts."""

    def say(self, line: str) -> None:
        """One line on standard error."""
        print(line, file=sys.stderr)


def judged(opened: RecipeFile, store: Store) -> dict[str, Any]:
    """A recipe's model on validation, and on the test by a whole run; figures with intervals."""
    done = luthier.run(opened, store)
    settled = flow.settled(opened, store)
    base = flow.base_model(settled.recipe.base, settled, store)
    task = flow.ready(settled, store, base)
    figures, *_ = figures_of(task, done.artifacts["model"], base, store)
    tested = done.facts.scores.systems["tuned"].metrics
    return {
        "validation": figures["accuracy"],
        "test": tested["accuracy"].model_dump(mode="json"),
        "train_seconds": round(done.facts.timings["train"], 1),
    }


def main() -> None:
    """Search for a while, and when the budget is spent compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    if not os.environ.get(DATA_VARIABLE):
        print(f"skipped: set {DATA_VARIABLE} to the folder that holds nlp/trec")
        return
    end = time.monotonic() + 60 * options.minutes
    store = flow.store_for(luthier.load(RECIPE), Lines(), root=options.store)
    target = store.root / "trec-search-best.yaml"
    found = None
    for trials in range(1, options.trials + 1):  # what was tried is not tried again: each call adds one
        if time.monotonic() > end:
            print(f"{trials - 1} of {options.trials} trials are done; the same command goes on")
            return
        found = search(luthier.load(RECIPE, [f"search.trials={trials}"]), store, target=target)
    assert found is not None
    facts = found.facts
    plain, best = judged(luthier.load(RECIPE), store), judged(luthier.load(target), store)
    states = [trial.state for trial in facts.trials]
    result = {
        "trials": len(states),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "searcher": facts.searcher,
        "pruner": facts.pruner,
        "seconds": round(sum(trial.seconds for trial in facts.trials)),
        "winner": facts.trials[facts.best or 0].params,
        "importance": facts.importance,
        "best": best,
        "default": plain,
        "better_on_validation": best["validation"]["estimate"] > plain["validation"]["estimate"],
        "made_with": made_with(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for name, each in (("as written", plain), ("winner", best)):
        for split in ("validation", "test"):
            low, high = each[split]["interval"]
            print(
                f"{name:<11} {split:<11} accuracy {each[split]['estimate']:.3f} ({low:.3f} to {high:.3f}, n {each[split]['n']})"
            )


if __name__ == "__main__":
    main()
