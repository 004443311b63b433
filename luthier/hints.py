"""Hints: what other sources answer, shown to the model in its prompt; for training rows they come from other rows alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.baselines import Baseline
from luthier.choice import Settings
from luthier.seams import Example
from luthier.tasks import Task

FILE = "hints.json"


class Fitted(Settings):
    """A source that has learned, and travels with the model."""

    source: Baseline
    learned: dict[str, Any]
    """What its `fit` gave."""


def fitted(sources: Sequence[Baseline], train: Sequence[Example], task: Task) -> list[Fitted]:
    """Each source after a look at these examples."""
    return [Fitted(source=source, learned=source.fit(train, task)) for source in sources]


def hinted(examples: Iterable[Example], sources: Sequence[Fitted], task: Task) -> Iterator[Example]:
    """Each example with what the sources answer; its target is hidden from them."""
    for example in examples:
        asked = replace(example, target=None)
        hints = {}
        for each in sources:
            answered = each.source.answer(each.learned, asked, task)
            hints[each.source.kind] = str(answered.output) if answered is not None else ""
        yield task.with_hints(example, hints)


def out_of_fold(
    train: Sequence[Example], sources: Sequence[Baseline], task: Task, folds: int, seed: int
) -> Iterator[Example]:
    """Training examples in their order, each hinted by sources that saw no row of its entity.

    A source that knows its own training rows by heart would seem better in training than it is later, and the model would
    learn to believe it. Folds are by entity, as even in entities as can be.
    """
    fold = fold_of({example.entity or example.id for example in train}, folds, seed)
    learned: dict[int, list[Fitted]] = {}
    for number in sorted(set(fold.values())):
        rest = [example for example in train if fold[example.entity or example.id] != number]
        learned[number] = fitted(sources, rest, task)
    for example in train:
        yield from hinted([example], learned[fold[example.entity or example.id]], task)


def fold_of(entities: Iterable[str], folds: int, seed: int) -> dict[str, int]:
    """Entity -> number of its fold, by the hash of entity and seed alone; as many folds as entities where these are few."""

    def place(entity: str) -> bytes:
        return hashlib.blake2b(f"fold/{seed}\0{entity}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return {entity: number % folds for number, entity in enumerate(sorted(entities, key=lambda e: (place(e), e)))}


def write(folder: Path, sources: Sequence[Fitted]) -> None:
    """Put the sources beside the examples that they hint."""
    text = json.dumps([each.model_dump(mode="json") for each in sources], indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: Path) -> list[Fitted]:
    """The sources of a folder of examples; none where these have no hints."""
    file = folder / FILE
    return [Fitted(**each) for each in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
