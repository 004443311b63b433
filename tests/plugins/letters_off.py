"""Letters off: by how many characters an answer is longer or shorter than what was asked, so lower is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from luthier.metrics import Metric, Statistics
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    import numpy as np


class LettersOff(Metric):
    """Mean difference in length between the answer and the value in the input."""

    unit: ClassVar[str] = "characters"
    higher_is_better: ClassVar[bool] = False

    def per_example(self, prediction: Prediction, example: Example) -> Statistics:
        asked = str(example.input["fields"]["value"])
        return {"n": 1.0, "off": float(abs(len(str(prediction.output)) - len(asked)))}

    def combine(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums["off"] / sums["n"]
