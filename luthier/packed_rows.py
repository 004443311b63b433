"""Encoders on examples laid end to end: no padding is computed, and each example sees itself alone.

transformers packs decoders by positions that begin again; encoders have no such way. Here the attention takes the layout
(`Rows`), gathers examples of like length side by side, attends within each, and puts the results back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.dropout import dropped

NAME = "luthier_rows"  # of the attention below, among those of transformers
MULTIPLE = 32  # tokens of a packed row are rounded up to it: few shapes, which the matrix kernels prefer


@dataclass(frozen=True)
class Rows:
    """Where examples stand in one row; groups of like length, each as wide as its longest."""

    places: list[torch.Tensor]  # each (B, L): flat positions of an example's tokens, then its first one again
    masks: list[torch.Tensor]  # each (B, 1, 1, L): which of them are its own
    back_T: torch.Tensor  # for each flat position, where it is in the groups one after the other


def rows_of(lengths: Sequence[int], total: int, device: str) -> Rows:
    """The layout of examples of these lengths, end to end in a row of `total` places."""
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    lengths_B = torch.tensor(lengths)
    widths = [max(MULTIPLE, 1 << (length - 1).bit_length()) for length in lengths]
    places, masks, back_T, before = [], [], torch.zeros(total, dtype=torch.long), 0
    for width in sorted(set(widths)):
        members = torch.tensor([row for row, w in enumerate(widths) if w == width])
        offsets_L = torch.arange(int(lengths_B[members].max()))
        own_BL = offsets_L < lengths_B[members, None]
        places_BL = starts[members, None] + offsets_L * own_BL
        back_T[places_BL[own_BL]] = before + own_BL.reshape(-1).nonzero()[:, 0]
        before += own_BL.numel()
        places.append(places_BL.to(device))
        masks.append(own_BL[:, None, None].to(device))
    return Rows(places, masks, back_T.to(device))


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    rows: Rows | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (1, H, T, D) within each example of a packed row; without `rows`, what transformers does by itself."""
    if rows is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found
    n_heads, width = query.shape[1], query.shape[3]
    flat = [x[0].transpose(0, 1).reshape(-1, n_heads * width) for x in (query, key, value)]
    outputs = []
    for places_BL, mask in zip(rows.places, rows.masks, strict=True):
        q, k, v = (
            x.index_select(0, places_BL.reshape(-1)).view(*places_BL.shape, n_heads, width).transpose(1, 2)
            for x in flat
        )
        if dropout and query.device.type == "cpu":
            scores = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf) + (
                q * (scaling or width**-0.5) @ k.transpose(2, 3)
            )
            weights = functional.softmax(scores, dim=-1, dtype=torch.float32)
            output = dropped(weights, dropout).to(v.dtype) @ v
        else:
            output = functional.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).reshape(-1, n_heads * width))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.index_select(0, rows.back_T).view(1, -1, n_heads, width), None


def teach(model: nn.Module) -> None:
    """Let a model compute packed rows when it is given `rows`; all else stays as it was."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
