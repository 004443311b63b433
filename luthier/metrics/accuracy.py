"""Accuracy: the share of examples that were given their own label."""

from __future__ import annotations

from luthier.metrics._mean import Mean


class Accuracy(Mean):
    """Share of predicted labels that are the target, compared strictly."""

    def score(self, output: str, target: str) -> float:
        """1 where the labels are the same text, else 0."""
        return float(output == target)
