"""Splits by size: whole entities, in an order that only a hash decides, fill test and validation; train is the rest."""

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
    """Examples to choose settings on: a share between 0 and 1, or a count of 1 or more."""
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

    def stratum(self, unit: Unit) -> str:
        """What is to be in proportion; the same for all units where nothing is."""
        return ""

    def assign(self, units: Sequence[Unit], seed: int) -> list[str]:
        """The split of each unit. Raises UserError where a split would be empty."""
        if not units:
            return []
        n_test, n_validation = count("test", self.test, len(units)), count("validation", self.validation, len(units))
        if n_test + n_validation >= len(units):
            raise UserError(
                f"test {self.test} and validation {self.validation} of {len(units)} examples leave nothing to train on",
                where=WHERE, hint="use less of them",
            )  # fmt: skip
        strata = self._strata(units)
        totals = {name: sum(sizes.values()) for name, sizes in strata.items()}
        tests = apportion(n_test, totals, seed)
        validations = apportion(n_validation, {name: totals[name] - tests[name] for name in totals}, seed)
        found: dict[Entity, str] = {}
        for name, sizes in strata.items():
            found |= divide(sizes, tests[name], validations[name], seed)
        fill_empty(found, {entity: size for sizes in strata.values() for entity, size in sizes.items()}, seed)
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


def entity_of(unit: Unit) -> Entity:
    """What a unit must not be parted from."""
    return (unit.entity, "") if unit.entity else ("", unit.id)


def count(split: str, size: float | int, n: int) -> int:
    """Examples that a share (rounded half up) or a count stands for."""
    examples = size if isinstance(size, int) else int(size * n + 0.5)
    if examples < 1:
        raise UserError(
            f"{split} {size} of {n} examples leaves nothing to {PURPOSE[split]} on",
            where=WHERE, hint="use a larger share, or a count such as 1",
        )  # fmt: skip
    return examples


def shuffled(entities: Iterable[Entity], seed: int) -> list[Entity]:
    """The entities in an order that depends on the seed and on themselves alone, not on the order they came in."""
    return sorted(entities, key=lambda entity: (_hash(seed, *entity), entity))


def divide(sizes: Sizes, n_test: int, n_validation: int, seed: int) -> dict[Entity, str]:
    """A split for each entity.

    In shuffled order, an entity enters test, and after that validation, if this brings the number of examples there
    nearer to the one wanted; an entity that is too large is passed over.
    """
    found = dict.fromkeys(sizes, "train")
    for split, wanted in (("test", n_test), ("validation", n_validation)):
        missing = wanted
        for entity in shuffled((entity for entity in found if found[entity] == "train"), seed):
            if sizes[entity] < 2 * missing:
                found[entity] = split
                missing -= sizes[entity]
    return found


def fill_empty(found: dict[Entity, str], sizes: Sizes, seed: int) -> None:
    """Give each empty split the smallest entity of the split that has most of them; UserError below three entities."""
    if len(found) < len(PURPOSE):
        raise UserError(
            f"{len(found)} of what is kept whole cannot fill train, validation and test",
            where=WHERE, hint="3 or more are needed",
        )  # fmt: skip
    for split in PURPOSE:
        if split not in found.values():
            donor = Counter(found[entity] for entity in sorted(found)).most_common(1)[0][0]
            spare = [entity for entity in shuffled(found, seed) if found[entity] == donor]
            found[min(spare, key=lambda entity: sizes[entity])] = split


def apportion(seats: int, sizes: dict[str, int], seed: int) -> dict[str, int]:
    """`seats` shared among strata in proportion to their sizes, by largest remainder; equal remainders by hash."""
    total = sum(sizes.values())
    shares = {name: divmod(size * seats, total) for name, size in sizes.items()}
    seated = {name: whole for name, (whole, _) in shares.items()}
    order = sorted(shares, key=lambda name: (-shares[name][1], _hash(seed, name), name))
    for name in order[: seats - sum(seated.values())]:
        seated[name] += 1
    return seated


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.blake2b("\0".join([str(seed), *parts]).encode(), digest_size=16).digest()
