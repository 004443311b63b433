"""Anchor: weights are drawn towards those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch

    from luthier.model import Model
    from luthier.store import Artifact


class Anchored(Running):
    """Holds the tensors of the file, and counts how often it was asked."""

    def __init__(self, model: Model, anchors: dict[str, torch.Tensor], strength: float) -> None:
        self.model, self.anchors, self.strength, self.asked = model, anchors, strength, 0

    def penalty(self) -> torch.Tensor | None:
        self.asked += 1
        parameters = dict(self.model.named_parameters())
        found = [((parameters[name] - anchor) ** 2).sum() for name, anchor in self.anchors.items()]
        return self.strength * sum(found[1:], found[0])

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return self.anchors, {"asked": self.asked}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        self.asked = facts["asked"]


class Anchor(Technique):
    """A quadratic penalty on the distance from given weights."""

    running: ClassVar[type[Running]] = Anchored
    inputs: ClassVar[tuple[str, ...]] = ("weights",)

    weights: str
    """File with the weights to stay near, safetensors."""
    strength: float = 1.0
    """Nats for a squared distance of 1."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        from safetensors.torch import load_file

        return Anchored(model, load_file(inputs["weights"].path), self.strength)
