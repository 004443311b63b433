"""Grouped: all examples of one customer, document or author go to the same split."""

from __future__ import annotations

from luthier.splits._sized import Sized


class Grouped(Sized):
    """By chance, but rows with the same value in a column stay together, so that test shows how unseen ones fare."""

    by: str
    """Column whose values stay together, such as `supplier`."""

    def entity_column(self) -> str:
        """The column `by`."""
        return self.by
