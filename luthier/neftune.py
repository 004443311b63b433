"""NEFTune: noise on the embeddings of what is read, in training alone (Jain et al. 2023, arXiv 2310.05914).

Uniform in [-1, 1], times alpha / sqrt(L * D) for an example of L tokens and embeddings of D numbers. L is each example's
own length, however many share a batch or a packed row. An encoder-decoder gets it on what its encoder reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import Model


@contextlib.contextmanager
def noise(model: Model, alpha: float) -> Iterator[None]:
    """Inside this block a forward pass in training adds noise to the first embeddings that it computes.

    It is drawn from torch's generator, which every step seeds for itself, so that a resumed run draws the same.
    """
    if not alpha:
        yield
        return
    waiting: list[torch.Tensor] = []

    def begin(module: nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        waiting[:] = [lengths(inputs)] if module.training else []

    def add(_: nn.Module, ids: Any, embedded_BTD: torch.Tensor) -> torch.Tensor | None:
        return noisy(embedded_BTD, waiting.pop(), alpha) if waiting else None

    hooks = [table.register_forward_hook(add) for table in tables(model.bare)]
    hooks += [called.register_forward_pre_hook(begin, with_kwargs=True) for called in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tables(bare: nn.Module) -> list[nn.Module]:
    """The table of what is read, and those of stacks that have its weights for their own, as T5's have."""
    from torch.nn import Embedding

    own: nn.Module = bare.get_input_embeddings()
    if not isinstance(own, Embedding):
        return [own]
    return [each for each in bare.modules() if isinstance(each, Embedding) and each.weight is own.weight]


def noisy(embedded_BTD: torch.Tensor, lengths_BT: torch.Tensor, alpha: float) -> torch.Tensor:
    """Embeddings with noise, given the length of the example that each token is of: (B, T), or (B, 1)."""
    import torch

    width = embedded_BTD.shape[-1]
    noise_BTD = torch.empty_like(embedded_BTD, requires_grad=False).uniform_(-1.0, 1.0)
    return embedded_BTD + noise_BTD * (alpha / (lengths_BT * width).sqrt()).to(embedded_BTD.dtype)[..., None]


def lengths(inputs: dict[str, Any]) -> torch.Tensor:
    """Tokens of each example, at each of its places: (1, T) of a packed row, whose positions begin again at 0 with each
    example; (B, 1) of rows, whose mask says where each ends."""
    positions_1T, mask_BT = inputs.get("position_ids"), inputs.get("attention_mask")
    if positions_1T is not None:
        number_T = (positions_1T[0] == 0).cumsum(0) - 1
        return number_T.bincount()[number_T][None]
    if mask_BT is not None:
        found: torch.Tensor = mask_BT.sum(1, keepdim=True)
        return found
    ids_BT: torch.Tensor = inputs["input_ids"]
    return ids_BT.new_full((len(ids_BT), 1), ids_BT.shape[1])
