"""Splits by size: a hash of the entity decides; with shares it decides alone, so that appended rows move nobody."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Self

from pydantic import StrictFloat, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from luthier.errors import UserError
from luthier.splits import Split, Unit

WHERE = "prepare.split"
Entity = tuple[str, str]  # (entity, ""), or ("", id) for a row that stands for itself
Sizes = dict[Entity, int]  # examples of each entity


class Sized(Split):
    """A split by shares or counts of examples. Members say only what is kept together or in proportion."""

    validation: StrictFloat | StrictInt = 0.1
    """Examples to choose settings on: a share between 0 and 1, or a count of 1 or more. With shares, each entity keeps
    its split when rows are appended; a count is met as nearly as whole entities allow, so that appended rows may move
    others."""
    test: StrictFloat | StrictInt = 0.2
    """Examples that stay locked until the gate: a share between 0 and 1, or a count of 1 or more."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        for name, size in (("validation", self.validation), ("test", self.test)):
            if size <= 0:
                problem = f"{name} {size} leaves nothing to {PURPOSE[name]} on; use 0.1 or more"
                raise PydanticCustomError("choice", "{problem}", {"problem": problem})
        shares = sum(size for size in (self.validation, self.test) if isinstance(size, float))
        if shares >= 1:
            problem = f"validation {self.validation} and test {self.test} leave nothing to train on; use smaller shares"
            raise PydanticCustomError("choice", "{problem}", {"problem": problem})
        return self

    def assign(self, units: Sequence[Unit], seed: int) -> list[str]:
        """The split of each unit. Raises UserError where a split would be empty."""
        if not units:
            return []
        if isinstance(self.test, float) and isinstance(self.validation, float):
            return self.by_hash(units, self.test, self.validation, seed)
        n_test, n_validation = count("test", self.test, len(units)), count("validation", self.validation, len(units))
        if n_test + n_validation >= len(units):
            raise UserError(
                f"test {self.test} and validation {self.validation} of {len(units)} examples leave nothing to train on",
                where=WHERE,
                hint="use less of them",
            )
        strata = self._strata(units)
        totals = {name: sum(sizes.values()) for name, sizes in strata.items()}
        spare = totals  # what may leave training: of several strata, one entity of each stays
        if len(strata) > 1:
            spare = {name: totals[name] - min(sizes.values()) for name, sizes in strata.items()}
        if n_test + n_validation > sum(spare.values()):
            raise UserError(
                f"test {self.test} and validation {self.validation} of {len(units)} examples leave some of the "
                f"{len(strata)} parts that are kept in proportion nothing to train on",
                where=WHERE,
                hint=f"use {sum(spare.values())} or fewer together",
            )
        tests = apportion(n_test, totals, spare, seed)
        left = {name: totals[name] - tests[name] for name in totals}
        validations = apportion(n_validation, left, {name: spare[name] - tests[name] for name in totals}, seed)
        found: dict[Entity, str] = {}
        for name, sizes in strata.items():
            found |= divide(sizes, tests[name], validations[name], seed)
        fill_empty(found, {entity: size for sizes in strata.values() for entity, size in sizes.items()}, seed)
        return [found[entity_of(unit)] for unit in units]

    def by_hash(self, units: Sequence[Unit], test: float, validation: float, seed: int) -> list[str]:
        """The split of each unit by the hash of its entity alone; sizes come out near the shares, never exactly.

        The first three entities of each stratum, in the order of the table, are dealt to train, test and validation,
        so that neither a small table nor a rare label is left out anywhere. Later rows change none of this.
        """
        found: dict[Entity, str] = {}
        dealt: Counter[str] = Counter()
        for unit in units:
            entity, stratum = entity_of(unit), self.stratum(unit)
            if entity in found:
                continue
            if dealt[stratum] < len(DEALT):
                found[entity] = DEALT[dealt[stratum]]
                dealt[stratum] += 1
            else:
                place = share_of(entity, seed)
                found[entity] = "test" if place < test else "validation" if place < test + validation else "train"
        if len(found) < len(DEALT):
            raise too_few(len(found))
        for split in DEALT:
            if split not in found.values():
                raise UserError(
                    f"no example is left to {PURPOSE[split]} on, since nothing that is kept in proportion is there "
                    "three times",
                    where=WHERE,
                    hint="use `random`, or counts in place of shares",
                )
        return [found[entity_of(unit)] for unit in units]

    def _strata(self, units: Sequence[Unit]) -> dict[str, Sizes]:
        """Entities by stratum: the one that most of an entity's units are in, the first by name among equals."""
        votes: dict[Entity, Counter[str]] = defaultdict(Counter)
        for unit in units:
            votes[entity_of(unit)][self.stratum(unit)] += 1
        strata: dict[str, Sizes] = defaultdict(dict)
        for entity, counted in votes.items():
            name = min(counted, key=lambda name: (-counted[name], name))
            strata[name][entity] = counted.total()
        return strata


PURPOSE = {"train": "train", "validation": "validate", "test": "test"}
DEALT = ("train", "test", "validation")  # where the first three entities of a stratum go: nothing is tested untaught


def entity_of(unit: Unit) -> Entity:
    """What a unit must not be parted from."""
    return (unit.entity, "") if unit.entity else ("", unit.id)


def count(split: str, size: float | int, n: int) -> int:
    """Examples that a share (rounded half up) or a count stands for."""
    examples = size if isinstance(size, int) else int(size * n + 0.5)
    if examples < 1:
        raise UserError(
            f"{split} {size} of {n} examples leaves nothing to {PURPOSE[split]} on",
            where=WHERE,
            hint="use a larger share, or a count such as 1",
        )
    return examples


def shuffled(entities: Iterable[Entity], seed: int) -> list[Entity]:
    """The entities in an order that depends on the seed and on themselves alone, not on the order they came in."""
    return sorted(entities, key=lambda entity: (_hash(seed, *entity), entity))


def divide(sizes: Sizes, n_test: int, n_validation: int, seed: int) -> dict[Entity, str]:
    """A split for each entity.

    In shuffled order, an entity enters test, and after that validation, if this brings the number of examples there
    nearer to the one wanted; an entity that is too large is passed over. The largest stays in train where none would.
    """
    found = dict.fromkeys(sizes, "train")
    for split, wanted in (("test", n_test), ("validation", n_validation)):
        missing = wanted
        for entity in shuffled((entity for entity in found if found[entity] == "train"), seed):
            if sizes[entity] < 2 * missing:
                found[entity] = split
                missing -= sizes[entity]
    if "train" not in found.values():
        found[max(shuffled(found, seed), key=lambda entity: sizes[entity])] = "train"
    return found


def fill_empty(found: dict[Entity, str], sizes: Sizes, seed: int) -> None:
    """Give each empty split the smallest entity of the split that has most of them; UserError below three entities."""
    if len(found) < len(PURPOSE):
        raise too_few(len(found))
    for split in PURPOSE:
        if split not in found.values():
            donor = Counter(found[entity] for entity in sorted(found)).most_common(1)[0][0]
            spare = [entity for entity in shuffled(found, seed) if found[entity] == donor]
            found[min(spare, key=lambda entity: sizes[entity])] = split


def too_few(n: int) -> UserError:
    """What is told below three entities."""
    return UserError(
        f"{n} of what is kept whole cannot fill train, validation and test", where=WHERE, hint="3 or more are needed"
    )


def apportion(seats: int, sizes: dict[str, int], most: dict[str, int], seed: int) -> dict[str, int]:
    """`seats` shared among strata in proportion to their sizes, by largest remainder; equal remainders by hash.

    No stratum gets more than its `most`: what is over goes to the others, in proportion again, as far as they can take it.
    """
    seated = {name: 0 for name in sizes if most[name] == 0 or sizes[name] == 0}
    rest = {name: size for name, size in sizes.items() if name not in seated}
    while rest:
        total = sum(rest.values())
        free = seats - sum(seated.values())
        shares = {name: divmod(size * free, total) for name, size in rest.items()}
        order = sorted(shares, key=lambda name: (-shares[name][1], _hash(seed, name), name))
        given = {name: whole for name, (whole, _) in shares.items()}
        for name in order[: free - sum(given.values())]:
            given[name] += 1
        full = [name for name in given if given[name] > most[name]]
        seated |= {name: most[name] for name in full} if full else given
        rest = {name: rest[name] for name in rest if full and name not in full}
    return seated


def share_of(entity: Entity, seed: int) -> float:
    """Where an entity stands between 0 and 1, by its hash and the seed alone."""
    return int.from_bytes(_hash(seed, *entity)[:8], "big") / 2**64


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.blake2b("\0".join([str(seed), *parts]).encode(), digest_size=16).digest()
