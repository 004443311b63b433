"""One cycle: up and down again by cosines (Smith and Topin 2018, arXiv 1708.07120), as torch's OneCycleLR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from luthier.schedules import Schedule


class OneCycle(Schedule):
    """Rise from a fraction of the peak, then fall far below where it began. Momentum stays as it is."""

    rises: ClassVar[bool] = True

    rise: float = Field(0.3, gt=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    start_divisor: float = Field(25.0, ge=1)
    """The first learning rate is the peak divided by it."""
    end_divisor: float = Field(1e4, ge=1)
    """The last learning rate is the first one divided by it."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        first = 1.0 / self.start_divisor
        top, end = self.rise * total - 1.0, total - 1.0
        if step <= top:
            return between(first, 1.0, step / top if top > 0 else 1.0)
        return between(1.0, first / self.end_divisor, (step - max(top, 0.0)) / max(1.0, end - max(top, 0.0)))


def between(start: float, end: float, share: float) -> float:
    """From start to end by half a cosine wave, `share` of the way."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * share))
