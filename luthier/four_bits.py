"""A linear module whose weights are held in 4 bits by bitsandbytes: what it computes is its dequantized weights times what it
reads, on every processor, and nothing it is asked ever changes its bytes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit

BLOCK = 64  # weights that share a scale


class FourBits(Linear4bit):
    """bitsandbytes' own module, but for its forward pass on processors.

    There version 0.50 repacks the weights once they are asked in eval mode and rounds their scales while at it, and it
    takes the scales of other blocks where rows are not whole blocks of 64 (docs/log.md).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), computed in `compute_dtype`."""
        if x.is_cuda:
            found: torch.Tensor = super().forward(x)
            return found
        product: torch.Tensor = Product.apply(x.to(self.compute_dtype), self)
        if self.bias is not None:
            product = product + self.bias.to(product.dtype)
        return product.to(x.dtype)


class Product(torch.autograd.Function):
    """x @ W.T, with W dequantized again for the gradient, so that it is never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: FourBits) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        ctx.module = module
        return x @ weight_of(module).to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The weights get no gradient."""
        return upstream[0] @ weight_of(ctx.module).to(upstream[0].dtype), None


def weight_of(module: torch.nn.Module) -> torch.Tensor:
    """The weights (out, in) that a 4-bit module stands for, in the type that they had before.

    They are dequantized as one row: the kernel for processors counts blocks from the start of each row.
    """
    state = module.weight.quant_state
    row = copy.copy(state)
    row.shape = torch.Size((1, state.shape.numel()))
    found: torch.Tensor = functional.dequantize_4bit(module.weight.data, row).reshape(state.shape)
    return found
