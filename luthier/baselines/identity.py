"""Identity: leave the value as it is, which is what a table gets when nobody does anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from luthier.baselines import Baseline, Setting, answered
from luthier.seams import Example, Prediction


class Identity(Baseline):
    """The messy value, unchanged."""

    tasks: ClassVar[tuple[str, ...]] = ("standardize",)

    def predict(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        return [answered(example, str(example.input["fields"]["value"])) for example in examples]
