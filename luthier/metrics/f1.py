"""F1: the harmonic mean of precision and recall of each label, averaged over labels or over examples."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Literal

from luthier.metrics import Metric
from luthier.metrics._mean import target_of
from luthier.seams import Prediction

if TYPE_CHECKING:
    import numpy as np


class F1(Metric):
    """F1 of a classification; a figure with nothing to divide by is 0, as in scikit-learn's `zero_division=0`."""

    average: Literal["macro", "micro"] = "macro"
    """`macro`: plain mean over the labels that occur among the targets, so rare labels count as much as common ones
    (in a draw of the bootstrap: the labels that occur in that draw); `micro`: over all decisions together, which is
    accuracy where each example has one label."""

    def per_example(self, prediction: Prediction, labels: list[str]) -> np.ndarray:
        """True positives, false positives and false negatives of each label: (3 * labels,)."""
        import numpy as np

        counts = np.zeros((3, len(labels)))
        said, right = _index(prediction.output, labels), _index(target_of(prediction), labels)
        if said == right:
            counts[0, right] = 1.0
        else:
            counts[1, said] = counts[2, right] = 1.0
        return counts.ravel()

    def combine(self, sums: np.ndarray, labels: list[str]) -> np.ndarray:
        """F1 from summed counts; nan where no label occurs among the targets."""
        import numpy as np

        hits, extra, missed = _counts(sums, labels)
        if self.average == "micro":
            hits, extra, missed = (part.sum(axis=-1, keepdims=True) for part in (hits, extra, missed))
        occurs = hits + missed > 0
        total = np.where(occurs, _ratio(2 * hits, 2 * hits + extra + missed), 0.0).sum(axis=-1)
        n_labels = occurs.sum(axis=-1)
        mean: np.ndarray = np.divide(total, n_labels, out=np.full(total.shape, np.nan), where=n_labels > 0)
        return mean

    def details(self, sums: np.ndarray, labels: list[str]) -> dict[str, float]:
        """`precision of X`, `recall of X` and `f1 of X` for each label X that occurs among the targets."""
        hits, extra, missed = _counts(sums, labels)
        figures = {
            "precision": _ratio(hits, hits + extra),
            "recall": _ratio(hits, hits + missed),
            "f1": _ratio(2 * hits, 2 * hits + extra + missed),
        }
        occurring = [index for index in range(len(labels)) if hits[index] + missed[index] > 0]
        return {f"{name} of {labels[index]}": float(figures[name][index]) for index in occurring for name in figures}


def _index(label: str, labels: list[str]) -> int:
    """Where a label stands among the sorted labels."""
    index = bisect_left(labels, label)
    if index == len(labels) or labels[index] != label:
        raise ValueError(f"label '{label}' is not among the labels that are compared")
    return index


def _counts(sums: np.ndarray, labels: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives, false negatives: each (..., labels)."""
    counts = sums.reshape(*sums.shape[:-1], 3, len(labels))
    return counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    import numpy as np

    ratio: np.ndarray = np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)
    return ratio
