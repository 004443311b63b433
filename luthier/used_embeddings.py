"""Training the embeddings that are read, and not the rest of the table.

A token that no example holds has no gradient, so AdamW without weight decay leaves its row as it is, bit for bit. In a
small encoder the table is half of all parameters: gradients, norm and update are then computed for rows in use alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from luthier.model import shared

if TYPE_CHECKING:
    import numpy as np


class UsedEmbeddings(nn.Module):
    """An embedding of which only some rows are trained. The whole table answers in `eval`."""

    def __init__(self, whole: nn.Embedding, used_U: torch.Tensor) -> None:
        super().__init__()
        self.whole = whole
        place_V = torch.full((whole.num_embeddings,), -1)
        place_V[used_U] = torch.arange(len(used_U))
        self.padding = None if whole.padding_idx is None else int(place_V[whole.padding_idx])
        self.register_buffer("used_U", used_U.to(whole.weight.device), persistent=False)
        self.register_buffer("place_V", place_V.to(whole.weight.device), persistent=False)
        self.rows = nn.Parameter(whole.weight.detach()[self.used_U])
        whole.weight.requires_grad_(False)

    def train(self, mode: bool = True) -> UsedEmbeddings:
        """Leaving training brings the whole table up to date."""
        if not mode:
            with torch.no_grad():
                self.whole.weight[self.used_U] = self.rows
        super().train(mode)
        return self

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors of tokens."""
        if not self.training:
            found: torch.Tensor = self.whole(ids)
            return found
        return functional.embedding(self.place_V[ids], self.rows, self.padding)


@contextlib.contextmanager
def alone(model: nn.Module, used_U: np.ndarray | None) -> Iterator[None]:
    """Inside this block only embeddings in use are trained, where `used_U` names them and that changes nothing."""
    small = replaced(model, used_U) if used_U is not None else None
    try:
        yield
    finally:
        if small is not None:
            small.eval()
            model.set_input_embeddings(small.whole)
            small.whole.weight.requires_grad_(True)


def lasting(names: list[str], model: nn.Module) -> list[str]:
    """Names of parameters as the model has them outside of `alone`: the rows in use are its table's."""
    known = {name for name, _ in model.named_parameters()}
    tables = {name: name.removesuffix("rows") + "weight" for name in names if name.endswith(".rows")}
    return [name if name in known else tables.get(name, name) for name in names]


def whole_size(model: nn.Module, parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for: all of its table where only the rows in use are trained."""
    tables = [each for each in model.modules() if isinstance(each, UsedEmbeddings) and each.rows is parameter]
    return int((tables[0].whole.weight if tables else parameter).numel())


def replaced(model: nn.Module, used_U: np.ndarray) -> UsedEmbeddings | None:
    """Put `UsedEmbeddings` in place of a table that is trained, used by nothing else, and mostly unread."""
    table = model.get_input_embeddings()
    if type(table) is not nn.Embedding or not table.weight.requires_grad or shared(model, table.weight):
        return None
    padding = [] if table.padding_idx is None else [table.padding_idx]
    wanted = sorted({*used_U.tolist(), *padding})
    if len(wanted) > table.num_embeddings / 2:
        return None
    small = UsedEmbeddings(table, torch.tensor(wanted))
    model.set_input_embeddings(small)
    return small
