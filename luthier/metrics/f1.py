"""F1: the harmonic mean of precision and recall of each label, averaged over labels or over examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics import Metric, Statistics
from luthier.metrics._mean import target_of
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    import numpy as np

HIT, EXTRA, MISSED = "hit ", "extra ", "missed "


class F1(Metric):
    """F1 of a classification; a figure with nothing to divide by is 0, as in scikit-learn's `zero_division=0`."""

    judges: ClassVar[frozenset[str]] = frozenset({"label", "text"})

    average: Literal["macro", "micro"] = "macro"
    """`macro`: plain mean over the labels that occur among the targets, so rare labels count as much as common ones;
    `micro`: over all decisions together, which is accuracy where each example has one label."""

    def per_example(self, prediction: Prediction, example: Example) -> Statistics:
        """A true positive of one label, or a false positive of one and a false negative of another."""
        said, right = str(prediction.output), str(target_of(prediction))
        return {HIT + right: 1.0} if said == right else {EXTRA + said: 1.0, MISSED + right: 1.0}

    def combine(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """F1 from summed counts; nan where no label occurs among the targets."""
        import numpy as np

        _, hits, extra, missed = _counts(sums)
        if self.average == "micro":
            hits, extra, missed = (part.sum(axis=-1, keepdims=True) for part in (hits, extra, missed))
        occurs = hits + missed > 0
        total = np.where(occurs, _ratio(2 * hits, 2 * hits + extra + missed), 0.0).sum(axis=-1)
        n_labels = occurs.sum(axis=-1)
        mean: np.ndarray = np.divide(total, n_labels, out=np.full(total.shape, np.nan), where=n_labels > 0)
        return mean

    def unseen(self, typical: Mapping[str, float]) -> tuple[list[Statistics], list[Statistics]]:
        """Entities all missed, and said elsewhere as often; and entities all found.

        Of `macro` one for each label that occurs, since a label of which little was seen may be otherwise whatever the
        others are; of `micro` one with the labels of all.
        """
        import numpy as np

        labels, hits, _, missed = _counts({name: np.asarray(value) for name, value in typical.items()})
        occurring = {label: float(n) for label, n in zip(labels, hits + missed, strict=True) if n > 0}
        size = sum(occurring.values())
        entities = [occurring] if self.average == "micro" else [{label: size} for label in occurring]
        return [{part + label: n for label, n in entity.items() for part in (EXTRA, MISSED)} for entity in entities], [
            {HIT + label: n for label, n in entity.items()} for entity in entities
        ]

    def details(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`precision of X`, `recall of X` and `f1 of X` for each label X that occurs among the targets."""
        labels, hits, extra, missed = _counts(sums)
        figures = {
            "precision": _ratio(hits, hits + extra),
            "recall": _ratio(hits, hits + missed),
            "f1": _ratio(2 * hits, 2 * hits + extra + missed),
        }
        occurring = [index for index in range(len(labels)) if hits[index] + missed[index] > 0]
        return {f"{name} of {labels[index]}": float(figures[name][index]) for index in occurring for name in figures}


def _counts(sums: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Sorted labels, and their true positives, false positives and false negatives: each (..., labels)."""
    import numpy as np

    parts = (HIT, EXTRA, MISSED)
    labels = sorted({name.removeprefix(part) for name in sums for part in parts if name.startswith(part)})
    nothing = np.zeros(np.shape(next(iter(sums.values()))))
    hits, extra, missed = (np.stack([sums.get(part + name, nothing) for name in labels], axis=-1) for part in parts)
    return labels, hits, extra, missed


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    import numpy as np

    ratio: np.ndarray = np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)
    return ratio
