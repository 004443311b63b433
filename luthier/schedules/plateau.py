"""Plateau: the learning rate falls when validation no longer improves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from luthier.schedules import Schedule


class Plateau(Schedule):
    """Stay until the figure that watches training has not improved for a while, then fall, and so on.

    It watches the metric of `train.stop`, the loss without one, and remembers nothing: every fall follows from the
    evaluations so far, so that a resumed run falls where an uninterrupted one does.
    """

    watches: ClassVar[bool] = True

    patience: int = Field(2, ge=1)
    """Evaluations without improvement after which the learning rate falls; counted anew after a fall."""
    by: float = Field(0.1, gt=0, lt=1)
    """What the learning rate is multiplied by at a fall."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        return float(self.by ** falls(figures, self.patience))


def falls(figures: Sequence[float], patience: int) -> int:
    """How often `patience` figures in a row were not below the best one before them."""
    best, waited, found = float("inf"), 0, 0
    for figure in figures:
        waited = 0 if figure < best else waited + 1
        best = min(best, figure)
        if waited == patience:
            found, waited = found + 1, 0
    return found
