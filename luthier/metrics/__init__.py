"""Metrics: named statistics of each prediction, and one number from their sums; intervals and slices are added by score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    mean_of: ClassVar[tuple[str, str] | None] = None
    """The statistics (score, weight) whose sums' ratio `combine` gives, where it is a mean; the weight of a prediction
    then depends on its example alone."""
    fewest_entities: ClassVar[int] = 20
    """Independent entities that the gate needs to trust an interval, unless a check says otherwise."""

    def per_example(self, prediction: Prediction, example: Example) -> Statistics:
        """Additive statistics of one prediction; the example is the one that was asked, without a new look at the table."""
        raise NotImplementedError

    def combine(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric from weighted sums of statistics, name -> (...): (...), nan where undefined.

        The axes are draws, so this must be vectorised. A name that no prediction had is not there.
        """
        raise NotImplementedError

    def unseen(self, typical: Mapping[str, float]) -> tuple[list[Statistics], list[Statistics]]:
        """Entities of which nothing was seen, at the lowest and at the highest that the metric knows, for intervals.

        `typical` holds the sums of an entity of the size that they shall have. Empty where there is no limit: the
        lowest and the highest entity that were seen stand for it then.
        """
        return [], []

    def wrong(self, prediction: Prediction, example: Example) -> bool:
        """Whether the target itself would have been a better answer; another answer, where one example has no figure."""
        import numpy as np

        if prediction.target is None or prediction.output == prediction.target:
            return False
        found, best = (
            float(self.combine({name: np.asarray(value) for name, value in self.per_example(answer, example).items()}))
            for answer in (prediction, replace(prediction, output=prediction.target))
        )
        if np.isnan(found) or np.isnan(best):
            return True
        return found < best if self.higher_is_better else found > best

    def details(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further named figures from the same sums, such as F1 of each class; empty where there are none."""
        return {}
