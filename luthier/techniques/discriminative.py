"""Discriminative fine-tuning: a learning rate for each block, lower the deeper it lies.

Howard and Ruder 2018 (ULMFiT, arXiv 1801.06146, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from luthier.techniques import Running, Technique
from luthier.techniques._depth import layers

if TYPE_CHECKING:
    from luthier.model import Model
    from luthier.store import Artifact


class Layerwise(Running):
    """Divides what trains into layers whenever it is asked, since others may free or hold some of them."""

    def __init__(self, model: Model, factor: float) -> None:
        self.model, self.factor = model, factor

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "lr": learning_rate / self.factor**depth, "name": name}
            for depth, (name, parameters) in enumerate(layers(self.model).items())
            if parameters
        ]


class Discriminative(Technique):
    """Learn fastest above the blocks, at the recipe's learning rate, and slower by a factor with each block down.

    The embeddings learn slowest, and an output head that is tied to them as they do.
    """

    excludes: ClassVar[dict[str, str]] = {
        "prompt_tuning": "its virtual tokens are one piece and have no layers",
        "prefix": "its virtual tokens are one piece and have no layers",
    }
    recommended_learning_rate: ClassVar[float | None] = 1e-4
    running: ClassVar[type[Running]] = Layerwise

    factor: float = Field(2.6, ge=1)
    """What each layer's learning rate is divided by to give that of the layer below it; 1 makes all alike."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        return Layerwise(model, self.factor)
