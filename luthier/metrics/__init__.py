"""Metrics: one statistic vector per prediction, and one number from their sums; intervals and slices are added by score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from luthier.choice import Choice
from luthier.seams import Prediction

if TYPE_CHECKING:
    import numpy as np


class Metric(Choice):
    """A figure of quality.

    `labels` are the sorted distinct targets and outputs of the compared predictions, given to both verbs so that
    statistics of one model line up with those of another.
    """

    family: ClassVar[str] = "metrics"
    unit: ClassVar[str] = "share"  # what 1.0 means
    higher_is_better: ClassVar[bool] = True

    def per_example(self, prediction: Prediction, labels: list[str]) -> np.ndarray:
        """Additive statistics of one prediction, shape (k,), float64."""
        raise NotImplementedError

    def combine(self, sums: np.ndarray, labels: list[str]) -> np.ndarray:
        """The metric from weighted sums of statistics: shape (..., k) -> (...), nan where undefined.

        The leading axes are bootstrap draws, so this must be vectorised.
        """
        raise NotImplementedError

    def details(self, sums: np.ndarray, labels: list[str]) -> dict[str, float]:
        """Further named figures from the same sums, such as F1 of each class; empty where there are none."""
        return {}
