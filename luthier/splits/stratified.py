"""Stratified: every label has its share of each split."""

from __future__ import annotations

from luthier.splits import Unit
from luthier.splits._sized import Sized


class Stratified(Sized):
    """By chance within each label, so that rare labels are neither lost nor heaped; to within one example per label."""

    by: str = ""
    """Column whose values are kept in proportion; left empty, the label."""

    def needs(self) -> list[str]:
        """The column `by`, if one is named."""
        return [self.by] if self.by else []

    def stratum(self, unit: Unit) -> str:
        """The unit's label, or its value in the column."""
        return unit.columns[self.by] if self.by else unit.label
