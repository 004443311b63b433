"""Linear: a straight fall."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.schedules import Schedule


class Linear(Schedule):
    """Fall to 0 at the end in a straight line."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        return 1.0 - step / max(1.0, total)
