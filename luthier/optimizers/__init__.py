"""Optimizers: how gradients move the weights; a checkpoint keeps whatever one remembers of each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.choice import Choice

if TYPE_CHECKING:
    import torch


class Optimizer(Choice):
    """What makes a step of a gradient."""

    family: ClassVar[str] = "optimizers"
    unmoved: ClassVar[bool] = False
    """Whether each number is moved by its own gradients alone, and one that never had any stays as it is, bit for bit
    (without weight decay): then rows of a table that no example reads may be left out."""
    own_rate: ClassVar[str] = ""
    """Why the learning rates that techniques recommend are not meant for it; the recipe then names one."""

    def check(self, device: str) -> None:
        """UserError, before anything is computed, where this machine cannot run it."""

    def keeps(self, shape: Sequence[int]) -> int:
        """Bytes that it keeps of a parameter, which a checkpoint holds; those of AdamW where a kind does not say."""
        return 8 * math.prod(shape)

    def over(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these groups (params, lr, weight_decay)."""
        raise NotImplementedError
