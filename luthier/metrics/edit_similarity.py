"""Edit similarity: how little of an output must be typed anew to get the target."""

from __future__ import annotations

from luthier.metrics._mean import Mean


class EditSimilarity(Mean):
    """Mean of 1 - (Levenshtein distance / length of the longer text); two empty texts are alike."""

    def score(self, output: str, target: str) -> float:
        """1 for equal texts, 0 where nothing can be kept."""
        from rapidfuzz.distance import Levenshtein

        return float(Levenshtein.normalized_similarity(output, target))
