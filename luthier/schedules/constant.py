"""Constant: the peak until the end."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.schedules import Schedule


class Constant(Schedule):
    """Stay at the peak."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        return 1.0
