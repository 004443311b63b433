"""Dedup: exact duplicates leave training, and nothing that looks like what a later split asks stays in an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luthier.preparers import Preparer
from luthier.seams import Dropped, Example, alike, lesson


class Dedup(Preparer):
    """Deduplication, exact within training, of whatever looks alike across splits; test examples are never dropped."""

    within: bool = True
    """Drop a training example whose input and target were already seen in training."""
    across: bool = True
    """Drop a training example whose input stands in validation or test, and a validation one whose input is in test; blanks,
    case, Unicode form and invisible characters aside."""

    def apply(self, examples: Iterable[Example]) -> Iterator[Example | Dropped]:
        later: dict[str, set[bytes]] = {"validation": set(), "test": set()}
        if self.across:
            for example in examples:
                if example.split in later:
                    later[example.split].add(alike(example))
        seen: set[bytes] = set()
        for example in examples:
            asked = alike(example)
            if (example.split == "train" and (asked in later["test"] or asked in later["validation"])) or (
                example.split == "validation" and asked in later["test"]
            ):
                yield Dropped("same input in a later split", example.origin["row"], example.origin["column"])
                continue
            if self.within and example.split == "train":
                pair = lesson(example)
                if pair in seen:
                    yield Dropped("duplicate in training", example.origin["row"], example.origin["column"])
                    continue
                seen.add(pair)
            yield example
