"""Edit similarity: how little of an output must be typed anew to get the target."""

from __future__ import annotations

from typing import ClassVar

from luthier.metrics._mean import Mean
from luthier.seams import Answer


class EditSimilarity(Mean):
    """Mean of 1 - (Levenshtein distance / length of the longer text); two empty texts are alike."""

    judges: ClassVar[frozenset[str]] = frozenset({"label", "text"})

    def score(self, output: Answer, target: Answer) -> float:
        """1 for equal texts, 0 where nothing can be kept."""
        from rapidfuzz.distance import Levenshtein

        return float(Levenshtein.normalized_similarity(str(output), str(target)))
