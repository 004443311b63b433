"""Splits decide which examples are learned from, which settings are chosen on, and which are locked until the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from luthier.choice import Choice

NO_COLUMNS: dict[str, str] = {}


@dataclass(slots=True)
class Unit:
    """What a split may see of an example: never its text, only ids and the columns that the split asked for."""

    id: str
    entity: str
    label: str  # target as text, "" if unknown
    role: str  # "" for the table, "validation" or "test" for a file of that split
    columns: dict[str, str] = field(default_factory=lambda: NO_COLUMNS)  # one for all where none is asked for


class Split(Choice):
    """A way of dividing examples."""

    family: ClassVar[str] = "splits"

    def needs(self) -> list[str]:
        """Columns of the table that `assign` reads."""
        return []

    def entity_column(self) -> str:
        """Column whose value is the unit of splitting; "" when each row stands for itself."""
        return ""

    def stratum(self, unit: Unit) -> str:
        """What is to be in proportion; the same for all units where nothing is."""
        return ""

    def assign(self, units: Sequence[Unit], seed: int) -> list[str]:
        """ "train", "validation" or "test" for each unit, in the same order; a function of the units and the seed alone."""
        raise NotImplementedError
