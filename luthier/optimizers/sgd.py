"""SGD: gradient descent with momentum (Polyak 1964; Nesterov's form after Sutskever et al. 2013)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from luthier.optimizers import Optimizer

if TYPE_CHECKING:
    import torch


class Sgd(Optimizer):
    """Steps in proportion to the gradient: 4 bytes a parameter, none without momentum. Weight decay is added to it."""

    unmoved: ClassVar[bool] = True
    own_rate: ClassVar[str] = "steps are as long as the gradient, commonly a hundred times shorter than AdamW's"

    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step's direction that the next one keeps."""
    nesterov: bool = False
    """Whether the gradient counts as if the momentum's step were taken already; needs momentum."""

    @model_validator(mode="after")
    def _has_momentum(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum")
        return self

    def keeps(self, shape: Sequence[int]) -> int:
        return 4 * math.prod(shape) if self.momentum else 0

    def over(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)
