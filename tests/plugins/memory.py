"""Memory: knows each training value by heart and says nothing of any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from luthier.baselines import Baseline
from luthier.seams import Answered, Example, Text


class Memory(Baseline):
    """The answer that this very value had in training."""

    answers: ClassVar[tuple[str, ...]] = ("text",)
    needs_cells: ClassVar[bool] = True

    def fit(self, train: Sequence[Example], task: Any) -> dict[str, Any]:
        return {task.cell(example).value: str(example.target) for example in train}

    def answer(self, fitted: Mapping[str, Any], example: Example, task: Any) -> Answered | None:
        known = fitted.get(task.cell(example).value)
        return None if known is None else Answered(Text(known))
