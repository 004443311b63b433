"""Dropout in a quarter of the time on processors: 16 random bits decide, where torch draws and compares a float."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

DRAWS = 1 << 16  # what 16 bits can say


def dropped(x: torch.Tensor, p: float) -> torch.Tensor:
    """`x` with each element 0 with probability `p` (to within 1/131072), else divided by what is kept on average."""
    cut = min(round(p * DRAWS), DRAWS - 1)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = torch.empty_like(x, requires_grad=False, memory_format=torch.contiguous_format)
    torch.ge(words.view(torch.int16)[: x.numel()].view(x.shape), cut - DRAWS // 2, out=kept)
    return x * kept.mul_(DRAWS / (DRAWS - cut))


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropped`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Dropout in training, nothing otherwise."""
        return dropped(x, self.p) if self.training and self.p else x


@contextlib.contextmanager
def quick(*models: nn.Module) -> Iterator[None]:
    """Dropout modules of models on a processor are quick ones inside this block."""
    found = [module for model in models for module in model.modules() if type(module) is nn.Dropout]
    on_processor = next(models[0].parameters()).device.type == "cpu"
    for module in found:
        module.__class__ = Dropout if on_processor else nn.Dropout
    try:
        yield
    finally:
        for module in found:
            module.__class__ = nn.Dropout
