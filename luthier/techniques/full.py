"""Full: every parameter is trained, unless `freeze` takes some out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from luthier.techniques import Technique

if TYPE_CHECKING:
    from torch import nn


class Full(Technique):
    """Train all the weights."""

    excludes: ClassVar[dict[str, str]] = {
        "lora": "lora trains small matrices beside frozen weights, full trains the weights"
    }
    recommended_learning_rate: ClassVar[float | None] = 1e-5

    def attach(self, model: nn.Module) -> nn.Module:
        return model
