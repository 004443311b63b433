"""Accuracy: the share of examples that were given their own label."""

from __future__ import annotations

from typing import ClassVar

from luthier.metrics._mean import Mean
from luthier.seams import Answer


class Accuracy(Mean):
    """Share of predicted labels that are the target, compared strictly."""

    judges: ClassVar[frozenset[str]] = frozenset({"label", "text"})

    def score(self, output: Answer, target: Answer) -> float:
        """1 where the labels are the same text, else 0."""
        return float(str(output) == str(target))
