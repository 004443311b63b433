"""Freeze: keep the embeddings, the first layers, or named parameters as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.errors import UserError
from luthier.model import layer_of, n_layers
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    from luthier.model import Model
    from luthier.store import Artifact


class Freeze(Technique):
    """Take parameters out of training. Combines with full and lora, in any order."""

    layers: int = Field(0, ge=0)
    """The first so many transformer blocks are frozen."""
    embeddings: bool = True
    """Whether token and position embeddings are frozen; an output head tied to them is frozen with them."""
    patterns: list[str] = []
    """Further parameters by name, with * and ?, such as `*.attention.*`."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        names = [name for name, _ in model.named_parameters()]
        n = n_layers(names)
        if self.layers > n:
            raise UserError(
                f"layers is {self.layers}, but the base has {n}",
                where="train.techniques freeze",
                hint=f"use at most {n}",
            )
        for pattern in self.patterns:
            if not any(fnmatch.fnmatch(name, pattern) for name in names):
                raise UserError(
                    f"no parameter matches '{pattern}'",
                    where="train.techniques freeze",
                    hint=f"names look like {names[0]}",
                )
        for name, parameter in model.named_parameters():
            layer = layer_of(name)
            if (
                (layer is not None and layer < self.layers)
                or (self.embeddings and layer is None and is_embedding(name))
                or any(fnmatch.fnmatch(name, pattern) for pattern in self.patterns)
            ):
                parameter.requires_grad_(False)
        return Running()


def is_embedding(name: str) -> bool:
    """Whether a parameter name is that of an embedding table (or of the norm that belongs to it)."""
    parts = name.split(".")
    return any(part in ("embeddings", "embed_tokens", "wte", "wpe", "shared", "embed_positions") for part in parts)
