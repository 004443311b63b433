"""Given: the data already say what is for training, for validation and for the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.errors import UserError
from luthier.splits import Split, Unit
from luthier.splits._sized import WHERE, Entity, Sizes, divide, entity_of

NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
         "test": "test"}  # fmt: skip


class Given(Split):
    """As written in a column of the table, or in files of their own beside the table to train on."""

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
        if self.validation and _file(self.validation) == _file(self.test):
            raise PydanticCustomError("choice", "`validation` and `test` must be files of different names")
        return self

    def needs(self) -> list[str]:
        """The column, if one is named."""
        return [self.column] if self.column else []

    def files(self) -> dict[str, str]:
        """The files that are given, by split."""
        return {name: path for name, path in (("validation", self.validation), ("test", self.test)) if path}

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
                    where=WHERE, hint="keep each in one of them",
                )  # fmt: skip
            sizes[entity] = sizes.get(entity, 0) + 1
        for split in ("train", "test"):
            if split not in found.values():
                raise UserError(f"the given split leaves nothing to {split} on", where=WHERE, hint=self._remedy())
        if "validation" not in found.values():
            train = {entity: sizes[entity] for entity, split in found.items() if split == "train"}
            found |= self._validation_of(train, seed)
        return [found[entity_of(unit)] for unit in units]

    def _validation_of(self, train: Sizes, seed: int) -> dict[Entity, str]:
        """The training entities with some of them made validation; as near to the share as whole entities come."""
        n = sum(train.values())
        found = divide(train, 0, max(1, int(self.validation_share * n + 0.5)), seed)
        for split, purpose in (("train", "train"), ("validation", "validate")):
            if split not in found.values():
                raise UserError(
                    f"validation_share {self.validation_share} of {n} examples leaves nothing to {purpose} on",
                    where=WHERE, hint="give validation examples, or use another share",
                )  # fmt: skip
        return found

    def _given(self, unit: Unit) -> str:
        if not self.column:
            return next((name for name, path in self.files().items() if _file(path) == unit.file), "train")
        value = unit.columns[self.column].strip()
        if value.lower() not in NAMES:
            raise UserError(
                f"column '{self.column}' holds '{value}' in '{unit.id}'", where=WHERE,
                hint="use train, validation or test",
            )  # fmt: skip
        return NAMES[value.lower()]

    def _remedy(self) -> str:
        if self.column:
            return f"give train and test in column '{self.column}'"
        return "the table and the files need examples, and different names"


def _file(path: str) -> str:
    """The name of a file without its folders."""
    return PurePath(path).name
