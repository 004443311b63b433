"""Run the recipes on public data, or the demo with and without hints, over three seeds and print mean and spread, with every rival beside.

    LUTHIER_DATA=... python benchmarks/real_data.py [beers rayyan trec demo demo_without_hints] [--seeds 3] [--store DIR]

Quality is measured on the test part alone; settings were chosen on validation. Times are of this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

import luthier
from luthier.recipe_file import DATA_VARIABLE

RECIPES = Path(__file__).parents[1] / "recipes"


class Lines:
    """Progress as lines."""

    def progress(self, what: str, done: float, total: float, figures: object) -> None:
        """Nothing: the table is what counts."""

    def say(self, line: str) -> None:
        """One line on standard error."""
        print(line, file=sys.stderr)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", default=["beers", "rayyan", "trec"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    if not os.environ.get(DATA_VARIABLE) and not all(name.startswith("demo") for name in options.names):
        print(f"skipped: set {DATA_VARIABLE} to the folder that holds the data")
        return
    for name in options.names:
        figures: dict[str, list[float]] = {}
        parts: dict[str, dict[str, list[float]]] = {}  # seen or unseen -> system -> figure of each seed
        n, seconds = 0, []
        for seed in range(options.seeds):
            opened = luthier.load(RECIPES / f"{name}.yaml", [f"seed={seed}"])
            done = luthier.run(opened, luthier.store_for(opened, Lines(), root=options.store))
            scores = done.facts.scores
            for system in scores.order:
                figures.setdefault(system, []).append(scores.systems[system].metrics[scores.main].estimate or 0.0)
                for value, found in scores.systems[system].slices.get("unseen", {}).items():
                    part = parts.setdefault("unseen" if value == "true" else "seen", {})
                    part.setdefault(system, []).append(found[scores.main].estimate or 0.0)
            n = scores.systems["tuned"].metrics[scores.main].n
            seconds.append(done.facts.timings["train"])
        print(
            f"{name}: {scores.main} on {n} test rows, {options.seeds} seeds; training {statistics.mean(seconds):.0f} s"
        )
        for part, systems in {"all": figures, **parts}.items():
            for system, values in systems.items():
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                each = ", ".join(f"{v:.3f}" for v in values)
                print(f"  {part:<7} {system:<10} {statistics.mean(values):.3f} ± {spread:.3f}   ({each})", flush=True)


if __name__ == "__main__":
    main()
