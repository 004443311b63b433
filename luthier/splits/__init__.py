"""Splits decide which examples are learned from, which settings are chosen on, and which are locked until the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from luthier.choice import Choice


@dataclass(slots=True)
class Unit:
    """What a split may see of an example: never its text, only ids and the columns that the split asked for."""

    id: str
    entity: str
    label: str  # target as text, "" if unknown
    file: str  # name of the file it came from
    columns: dict[str, str] = field(default_factory=dict)


class Split(Choice):
    """A way of dividing examples."""

    family: ClassVar[str] = "splits"

    def needs(self) -> list[str]:
        """Columns of the table that `assign` reads."""
        return []

    def entity_column(self) -> str:
        """Column whose value is the unit of splitting; "" when each row stands for itself."""
        return ""

    def files(self) -> dict[str, str]:
        """Further files, split -> path as written in the recipe."""
        return {}

    def assign(self, units: Sequence[Unit], seed: int) -> list[str]:
        """ "train", "validation" or "test" for each unit, in the same order; a function of ids and seed alone."""
        raise NotImplementedError
