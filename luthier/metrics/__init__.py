"""Metrics: named statistics of each prediction, and one number from their sums; intervals and slices are added by score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from luthier.choice import Choice
from luthier.seams import ANSWERS, Example, Prediction

if TYPE_CHECKING:
    import numpy as np

EVERY_KIND = frozenset(answer.kind for answer in ANSWERS.values())

Statistics = dict[str, float]  # additive; what is not named is 0


class Metric(Choice):
    """A figure of quality."""

    family: ClassVar[str] = "metrics"
    judges: ClassVar[frozenset[str]] = EVERY_KIND  # kinds of Answer it can compare
    unit: ClassVar[str] = "share"  # what 1.0 means
    higher_is_better: ClassVar[bool] = True

    def per_example(self, prediction: Prediction, example: Example) -> Statistics:
        """Additive statistics of one prediction; the example is the one that was asked, without a new look at the table."""
        raise NotImplementedError

    def combine(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric from weighted sums of statistics, name -> (...): (...), nan where undefined.

        The axes are bootstrap draws, so this must be vectorised. A name that no prediction had is not there.
        """
        raise NotImplementedError

    def details(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further named figures from the same sums, such as F1 of each class; empty where there are none."""
        return {}
