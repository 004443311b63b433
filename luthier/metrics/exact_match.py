"""Exact match: the share of outputs that are the target, letter for letter."""

from __future__ import annotations

from luthier.metrics._mean import Mean


class ExactMatch(Mean):
    """Share of outputs equal to their target."""

    ignore_case: bool = False
    """Whether `Berlin` and `BERLIN` are equal."""
    ignore_space: bool = True
    """Whether space at both ends is cut and each run of spaces, tabs and line ends within counts as one space."""

    def score(self, output: str, target: str) -> float:
        """1 where both are equal, else 0."""
        return float(self._compared(output) == self._compared(target))

    def _compared(self, text: str) -> str:
        text = " ".join(text.split()) if self.ignore_space else text
        return text.casefold() if self.ignore_case else text
