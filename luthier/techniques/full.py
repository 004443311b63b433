"""Full: every parameter is trained, unless `freeze` takes some out."""

from __future__ import annotations

from typing import ClassVar

from luthier.techniques import Technique


class Full(Technique):
    """Train all the weights."""

    excludes: ClassVar[dict[str, str]] = {
        "lora": "lora trains small matrices beside frozen weights, full trains the weights"
    }
