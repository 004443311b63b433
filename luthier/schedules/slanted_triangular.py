"""Slanted triangular: a short rise and a long fall (Howard and Ruder 2018, ULMFiT, arXiv 1801.06146, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from luthier.schedules import Schedule


class SlantedTriangular(Schedule):
    """Rise in a straight line from a fraction of the peak, and fall back to it in a longer one."""

    rises: ClassVar[bool] = True

    cut_frac: float = Field(0.1, gt=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    ratio: float = Field(32.0, ge=1)
    """How many times smaller than the peak the learning rate is at first and at last."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        cut = max(1, math.floor(total * self.cut_frac + 1e-9))
        # the paper falls over cut * (1 / cut_frac - 1) steps: all that are left, but for the rounding of cut, which would
        # make the learning rate of short runs negative
        share = step / cut if step < cut else 1.0 - (step - cut) / max(1.0, total - cut)
        return (1.0 + share * (self.ratio - 1.0)) / self.ratio
