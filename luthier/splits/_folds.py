"""Folds: train and validation divided anew, so that each example is validated on once; the test part stays where it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from luthier.errors import UserError
from luthier.splits import Split, Unit
from luthier.splits._sized import Entity, entity_of, shuffled


def folded(
    units: Sequence[Unit], splits: Sequence[str], split: Split, number: int, of: int, seed: int, *, labelled: bool
) -> list[str]:
    """`splits` with fold `number` (from 0) of `of` as validation and the others as train.

    An entity is in one fold. Stratum by stratum of the recipe's own split, largest entities first, each goes to the fold
    with the fewest examples of its stratum, and of all among equals: scikit-learn's `GroupKFold` within each stratum. With `labelled`,
    the only entity that has a label trains in every fold, since nobody can be tested on a label that was never taught.
    UserError where there are fewer entities than folds.
    """
    free = [unit for unit, part in zip(units, splits, strict=True) if part != "test"]
    kept = alone(free) if labelled else set()
    fold = dealt([unit for unit in free if entity_of(unit) not in kept], split, of, seed)
    found = []
    for unit, part in zip(units, splits, strict=True):
        here = fold.get(entity_of(unit))
        found.append(part if part == "test" else "validation" if here == number else "train")
    return found


def dealt(units: Sequence[Unit], split: Split, of: int, seed: int) -> dict[Entity, int]:
    """The fold of each entity."""
    sizes = Counter(map(entity_of, units))
    if len(sizes) < of:
        raise UserError(
            f"{len(sizes)} of what is kept whole in train and validation cannot fill {of} folds",
            where="repeat.folds",
            hint=f"use {max(2, len(sizes))} or fewer, or give more rows",
        )
    votes: dict[Entity, Counter[str]] = defaultdict(Counter)
    for unit in units:
        votes[entity_of(unit)][split.stratum(unit)] += 1
    of_stratum: dict[Entity, str] = {
        entity: min(counted, key=lambda name: (-counted[name], name)) for entity, counted in votes.items()
    }
    filled: dict[str, Counter[int]] = defaultdict(Counter)
    total: Counter[int] = Counter()
    found = {}
    for entity in sorted(shuffled(sizes, seed), key=lambda entity: (of_stratum[entity], -sizes[entity])):
        here = filled[of_stratum[entity]]
        fold = min(range(of), key=lambda each: (here[each], total[each], each))
        found[entity] = fold
        here[fold] += sizes[entity]
        total[fold] += sizes[entity]
    return found


def alone(units: Sequence[Unit]) -> set[Entity]:
    """Entities that hold all examples of some label."""
    holders: dict[str, set[Entity]] = defaultdict(set)
    for unit in units:
        holders[unit.label].add(entity_of(unit))
    return {next(iter(found)) for found in holders.values() if len(found) == 1}
