"""Adafactor: mean squares of a matrix kept by row and column alone (Shazeer and Stern 2018, arXiv 1804.04235)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from luthier.optimizers import Optimizer

if TYPE_CHECKING:
    import torch


class Adafactor(Optimizer):
    """AdamW's steps with almost no memory: of a matrix (m, n) it keeps m + n numbers in place of 2mn.

    transformers' implementation, under the recipe's learning rate and schedule (no relative steps).
    """

    beta1: float | None = Field(None, ge=0, lt=1)
    """Share of the mean update that a step keeps; by default none is kept, which saves 4 bytes a parameter."""
    decay_rate: float = Field(0.8, gt=0, le=1)
    """The mean squares of step t keep the share 1 - t^-decay_rate."""
    clip_threshold: float = Field(1.0, gt=0)
    """Updates whose root mean square is larger are scaled down to it, before the learning rate."""
    scale_parameter: bool = False
    """Whether a parameter's learning rate is multiplied by its own root mean square, as T5 was trained (at 1e-3)."""

    def keeps(self, shape: Sequence[int]) -> int:
        n, matrices = math.prod(shape), math.prod(shape[:-2])
        squares = matrices * (shape[-2] + shape[-1]) if len(shape) > 1 else n
        return 4 * (squares + (0 if self.beta1 is None else n))

    def over(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor as Implementation

        return Implementation(
            groups,
            beta1=self.beta1,
            decay_rate=-self.decay_rate,
            clip_threshold=self.clip_threshold,
            scale_parameter=self.scale_parameter,
            relative_step=False,
        )
