"""How well rows that a model learned from are told from others, with and without `private`, on the intents of banking77.

    LUTHIER_DATA=... python benchmarks/membership.py [--pairs 2] [--rows 2000] [--seeds 1] [--epochs 20] [--epsilon 8] [--store DIR] [--out FILE]

The same encoder (minilm) is trained on the same rows twice. Each model is attacked by its loss alone and beside references
(LiRA) that were trained as it was, on halves of the rows. Written as JSON: accuracy on the test split, AUC with interval,
share found at 1 % false alarms, and what was claimed. A coin for each of `rows` decides whether it is learned from or tested.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from luthier import flow
from luthier.facts import RunFacts
from luthier.recipe_file import DATA_VARIABLE, loads
from luthier.store import Store

OUT = Path(__file__).parent / "membership.json"
WAYS = {  # settings of the same number of passes over the rows; those of private by its docs: large batches
    "plain": "{epochs: EPOCHS, learning_rate: 1e-4, batch_size: 32, tokens_per_batch: 2048, keep: last, techniques: [full]}",
    "private": (
        "{epochs: EPOCHS, learning_rate: 1e-3, batch_size: 256, tokens_per_batch: 2048, keep: last, "
        "techniques: [full, {kind: private, target_epsilon: EPSILON, delta: 1e-5}]}"
    ),
}
RECIPE = """\
version: 1
name: membership-WAY
seed: SEED
task: {kind: classify, table: rows.csv, text: text, label: category, fewest: 12}
base: {kind: package, name: minilm}
prepare: {split: {kind: given, column: part}, steps: []}
encode: {max_length: 64}
train: SETTINGS
predict: {engine: {kind: torch, batch_size: 64}}
score: {metrics: [accuracy], latency_samples: 0}
"""


class Lines:
    """Progress as lines."""

    def progress(self, what: str, done: float, total: float, figures: object) -> None:
        """Nothing: the table is what counts."""

    def say(self, line: str) -> None:
        """One line on standard error."""
        print(line, file=sys.stderr)


def main() -> None:
    """Train, attack, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--epsilon", type=float, default=8)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    data = os.environ.get(DATA_VARIABLE)
    if not data:
        print(f"skipped: set {DATA_VARIABLE} to the folder that holds the data")
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        for seed in range(options.seeds):
            write_rows(Path(data) / "nlp/banking77/train.csv", Path(folder) / "rows.csv", options.rows, seed)
            for way, settings in WAYS.items():
                text = RECIPE.replace("WAY", way).replace("SEED", str(seed))
                text = text.replace("SETTINGS", settings.replace("EPSILON", str(options.epsilon)))
                text = text.replace("EPOCHS", str(options.epochs))
                opened = loads(text, folder=Path(folder))
                store = Store((options.store or Path(folder) / ".luthier").resolve(), Lines())
                done = flow.run(opened, store)
                for pairs in dict.fromkeys((0, options.pairs)):
                    found.append(cell(way, seed, flow.attack(store, done.name, pairs).facts))
                    print(json.dumps(found[-1]))
                    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write_rows(source: Path, target: Path, n: int, seed: int) -> None:
    """So many rows of the file, of which a coin each decides whether it is learned from or tested; no label is left alone."""
    draw = random.Random(seed)
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category", "part"])
        for row in draw.sample(rows, min(n, len(rows))):
            writer.writerow([row["text"], row["category"], draw.choice(["train", "test"])])


def cell(way: str, seed: int, facts: RunFacts) -> dict[str, Any]:
    """One line of the table."""
    membership, claim = facts.membership, facts.trained.privacy
    assert membership is not None
    accuracy = facts.scores.systems["tuned"].metrics["accuracy"]
    return {
        "way": way,
        "seed": seed,
        "accuracy": accuracy.estimate,
        "accuracy_interval": accuracy.interval,
        "epsilon": claim.epsilon if claim else None,
        "delta": claim.delta if claim else None,
        **membership.model_dump(mode="json"),
    }


if __name__ == "__main__":
    main()
