"""Metrics that are the weighted mean of one score per prediction, and the target that every metric needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from luthier.metrics import Metric, Statistics
from luthier.seams import Answer, Example, Prediction

if TYPE_CHECKING:
    import numpy as np


class Mean(Metric):
    """A metric that is the weighted mean of a score from 0 to 1."""

    mean_of: ClassVar[tuple[str, str] | None] = ("score", "n")
    fewest_entities: ClassVar[int] = 10

    def score(self, output: Answer, target: Answer) -> float:
        """How good one output is, 0..1."""
        raise NotImplementedError

    def per_example(self, prediction: Prediction, example: Example) -> Statistics:
        """One, and the score."""
        return {"n": 1.0, "score": self.score(prediction.output, target_of(prediction))}

    def combine(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """Sum of scores over sum of weights; nan where no weight was drawn."""
        import numpy as np

        weights, scores = sums["n"], sums["score"]
        share: np.ndarray = np.divide(scores, weights, out=np.full(weights.shape, np.nan), where=weights > 0)
        return share

    def unseen(self, typical: Mapping[str, float]) -> tuple[list[Statistics], list[Statistics]]:
        """An entity all wrong, and one all right."""
        return [{"n": typical["n"], "score": 0.0}], [{"n": typical["n"], "score": typical["n"]}]


def target_of(prediction: Prediction) -> Answer:
    """The target of a prediction; ValueError where it has none, since nothing can then be scored."""
    if prediction.target is None:
        raise ValueError(f"prediction '{prediction.id}' has no target, so it cannot be scored")
    return prediction.target
