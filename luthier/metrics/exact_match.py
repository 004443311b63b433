"""Exact match: the share of outputs that are the target."""

from __future__ import annotations

from luthier.metrics._mean import Mean
from luthier.seams import Answer


class ExactMatch(Mean):
    """Share of outputs equal to their target, of whatever kind it is."""

    ignore_case: bool = False
    """Whether `Berlin` and `BERLIN` are equal."""
    ignore_space: bool = True
    """Whether space at both ends is cut and each run of spaces, tabs and line ends within counts as one space."""

    def score(self, output: Answer, target: Answer) -> float:
        """1 where both are equal, else 0."""
        if target.kind not in ("text", "label"):
            return float(output == target)
        return float(self._compared(str(output)) == self._compared(str(target)))

    def _compared(self, text: str) -> str:
        text = " ".join(text.split()) if self.ignore_space else text
        return text.casefold() if self.ignore_case else text
