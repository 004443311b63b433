"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), torch's fused kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from luthier.optimizers import Optimizer

if TYPE_CHECKING:
    import torch


class Adamw(Optimizer):
    """Steps of one size for every number, by the mean of its gradients over their root mean square: 8 bytes a parameter."""

    unmoved: ClassVar[bool] = True

    beta1: float = Field(0.9, ge=0, lt=1)
    """Share of the mean gradient that a step keeps."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Share of the mean squared gradient that a step keeps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square; larger values tame parameters whose gradients are almost 0."""

    def over(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)
