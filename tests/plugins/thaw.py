"""Thaw: the last transformer block trains from the start, the one before it from epoch 1 on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.model import numbered_parameters
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch

    from luthier.model import Model
    from luthier.store import Artifact


class Thawing(Running):
    """Counts the epochs in a tensor, to be kept in checkpoints."""

    def __init__(self, model: Model) -> None:
        import torch

        self.model, self.epochs = model, torch.zeros(1)
        self.train_only(1)

    def train_only(self, *layers: int) -> None:
        """Train these blocks and nothing else."""
        numbers = numbered_parameters(self.model.forward)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(numbers[name] in layers)

    def epoch(self, n: int, history: Sequence[Mapping[str, Any]]) -> bool:
        self.epochs += 1
        if n == 1:
            self.train_only(0, 1)
        return n == 1

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"epochs": self.epochs}, {"seen": int(self.epochs)}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        assert int(tensors["epochs"]) == facts["seen"]
        self.epochs = tensors["epochs"].clone()


class Thaw(Technique):
    """Gradual unfreezing of a model with two blocks."""

    recommended_learning_rate: ClassVar[float | None] = 1e-3
    running: ClassVar[type[Running]] = Thawing

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        return Thawing(model)
