"""Halve: the same examples with other ones to learn from: a random half of training and test, or the other half."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from typing import Any

from luthier import seams
from luthier.choice import Settings
from luthier.facts import PreparedFacts
from luthier.seams import Example
from luthier.store import Artifact, Out, stage

SHARED = ("train", "test")  # whose examples are dealt anew


class Halve(Settings):
    """Which half."""

    draw: int
    """Number of the division."""
    second: bool
    seed: int


@stage(version=1)
def halve(config: Halve, out: Out, examples: Artifact) -> dict[str, Any]:
    """Splits as `prepare` writes them: `train` is the half, `test` the rest, all else is as it was."""
    everything = [example for split in SHARED for example in seams.read(examples.path / split, Example)]

    counts = dict.fromkeys(SHARED, 0)

    def dealt(split: str) -> Iterator[Example]:
        for example in everything:
            if (first_half(config, example) != config.second) == (split == "train"):
                counts[split] += 1
                yield Example(**{**{name: getattr(example, name) for name in Example.__slots__}, "split": split})

    for path in sorted(examples.path.iterdir()):
        if path.name.partition(".")[0] not in (*SHARED, "manifest", "timings"):
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, out.folder / path.name)
    for split in SHARED:
        seams.write(out.folder / split, dealt(split))
    facts = PreparedFacts(**examples.facts)
    return facts.model_copy(update={"splits": {**facts.splits, **counts}}).model_dump(mode="json")


def first_half(config: Halve, example: Example) -> bool:
    """Whether an example is in the first half of a division: a coin of its own."""
    text = f"{config.seed}/{config.draw}/{example.id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] < 128
