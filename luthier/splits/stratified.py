"""Stratified: every label has its share of each split."""

from __future__ import annotations

from luthier.splits import Unit
from luthier.splits._sized import Sized


class Stratified(Sized):
    """By chance within each label: a label that three examples have is in every split.

    With counts, each label has its share of each split to within one example.
    """

    by: str = ""
    """Column whose values are kept in proportion; left empty, the label."""

    def needs(self) -> list[str]:
        """The column `by`, if one is named."""
        return [self.by] if self.by else []

    def stratum(self, unit: Unit) -> str:
        """The unit's label, or its value in the column."""
        return unit.columns[self.by] if self.by else unit.label
