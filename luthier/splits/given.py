"""Given: the data already say what is for training, for validation and for the test."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import normpath
from typing import ClassVar, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.errors import UserError
from luthier.splits import Split, Unit
from luthier.splits._sized import WHERE, Entity, Sizes, entity_of, share_of

NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class Given(Split):
    """As written in a column of the table, or in files of their own beside the table to train on."""

    outside: ClassVar[tuple[str, ...]] = ("validation", "test")

    column: str = ""
    """Column that holds `train`, `validation` (also `valid`, `val`, `dev`) or `test`, in any case of letters."""
    validation: str = ""
    """Path of the file of validation examples."""
    test: str = ""
    """Path of the file of test examples; the table is then what is trained on."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training examples, between 0 and 1, to validate on where no validation examples are
    given; one example at least."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.column) == bool(self.validation or self.test):
            raise PydanticCustomError("choice", "give either `column`, or `test` (and `validation`) as files")
        if self.validation and not self.test:
            raise PydanticCustomError("choice", "`validation` alone leaves nothing to test on; give `test` as well")
        if self.validation and normpath(self.validation) == normpath(self.test):
            raise PydanticCustomError("choice", "`validation` and `test` must be different files")
        return self

    def needs(self) -> list[str]:
        """The column, if one is named."""
        return [self.column] if self.column else []

    def assign(self, units: Sequence[Unit], seed: int) -> list[str]:
        """The split of each unit as given, and validation from train where there is none."""
        if not units:
            return []
        found: dict[Entity, str] = {}
        sizes: Sizes = {}
        for unit in units:
            entity, split = entity_of(unit), self._given(unit)
            if found.setdefault(entity, split) != split:
                raise UserError(
                    f"'{entity[0] or entity[1]}' is given in both {found[entity]} and {split}",
                    where=WHERE,
                    hint="keep each in one of them",
                )
            sizes[entity] = sizes.get(entity, 0) + 1
        for split in ("train", "test"):
            if split not in found.values():
                raise UserError(f"the given split leaves nothing to {split} on", where=WHERE, hint=self._remedy())
        if "validation" not in found.values():
            train = {entity: sizes[entity] for entity, split in found.items() if split == "train"}
            found |= self._validation_of(train, seed)
        return [found[entity_of(unit)] for unit in units]

    def _validation_of(self, train: Sizes, seed: int) -> dict[Entity, str]:
        """The training entities, some of them made validation by their hash: later rows move nobody."""
        found: dict[Entity, str] = {}
        for number, entity in enumerate(train):  # the first two are dealt, so that neither split is empty
            chosen = number == 1 if number < 2 else share_of(entity, seed) < self.validation_share
            found[entity] = "validation" if chosen else "train"
        if len(found) < 2:
            raise UserError(
                f"validation_share {self.validation_share} of {sum(train.values())} examples leaves nothing to validate on",
                where=WHERE,
                hint="give validation examples, or use another share",
            )
        return found

    def _given(self, unit: Unit) -> str:
        if not self.column:
            return unit.role or "train"
        value = unit.columns[self.column].strip()
        if value.lower() not in NAMES:
            raise UserError(
                f"column '{self.column}' holds '{value}' in '{unit.id}'",
                where=WHERE,
                hint="use train, validation or test",
            )
        return NAMES[value.lower()]

    def _remedy(self) -> str:
        if self.column:
            return f"give train and test in column '{self.column}'"
        return "the table and the file of test examples need rows"
