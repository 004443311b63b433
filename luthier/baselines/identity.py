"""Identity: leave the value as it is, which is what a table gets when nobody does anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from luthier.baselines import Baseline
from luthier.seams import Answered, Example, Text


class Identity(Baseline):
    """The messy value, unchanged."""

    answers: ClassVar[tuple[str, ...]] = ("text",)
    needs_cells: ClassVar[bool] = True

    def fit(self, train: Sequence[Example], task: Any) -> dict[str, Any]:
        return {}

    def answer(self, fitted: Mapping[str, Any], example: Example, task: Any) -> Answered:
        return Answered(Text(task.cell(example).value))
