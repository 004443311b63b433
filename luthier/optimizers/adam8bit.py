"""Adam in 8 bits: AdamW whose two means are quantized in blocks of 256 numbers (Dettmers et al. 2022, arXiv 2110.02861)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from luthier.errors import UserError
from luthier.optimizers import Optimizer

if TYPE_CHECKING:
    import torch

PLACES = ("cpu", "cuda")


class Adam8bit(Optimizer):
    """AdamW at 2 bytes a parameter in place of 8, by the library bitsandbytes (extra `qlora`).

    Parameters of fewer than 4096 numbers, such as biases and norms, keep their means in 32 bits.
    """

    beta1: float = Field(0.9, ge=0, lt=1)
    """Share of the mean gradient that a step keeps."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Share of the mean squared gradient that a step keeps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""

    def check(self, device: str) -> None:
        if device not in PLACES:
            raise UserError(
                f"adam8bit does not run on {device}",
                where="train.optimizer",
                hint="use adamw, or adafactor for less memory",
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                "adam8bit needs the library bitsandbytes, which is not installed",
                where="train.optimizer",
                hint="pip install 'luthier[qlora]'",
            )

    def keeps(self, shape: Sequence[int]) -> int:
        n = math.prod(shape)
        tables, scales = 2 * 4 * 256, 2 * 4 * math.ceil(n / 256)  # a checkpoint holds the tables of each parameter
        return 8 * n if n < 4096 else 2 * n + scales + tables

    def over(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        from bitsandbytes.optim.adamw import AdamW8bit

        made: torch.optim.Optimizer = AdamW8bit(groups, betas=(self.beta1, self.beta2), eps=self.eps)
        return made
