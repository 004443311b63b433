"""Cosine: half a wave (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.schedules import Schedule


class Cosine(Schedule):
    """Fall to 0 at the end by half a cosine wave: slowly, fast, slowly."""

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * step / max(1.0, total)))
