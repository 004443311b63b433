"""Identity: leave the value as it is, which is what a table gets when nobody does anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from luthier.baselines import Baseline, Setting
from luthier.seams import Answered, Example, Text


class Identity(Baseline):
    """The messy value, unchanged."""

    answers: ClassVar[tuple[str, ...]] = ("text",)
    needs_cells: ClassVar[bool] = True

    def predict(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        return ((example, Answered(Text(setting.task.cell(example).value))) for example in examples)
