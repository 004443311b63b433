"""Engines compute answers: the reference is torch; others are used after their answers were compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from luthier.choice import Choice
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    from luthier.model import Loaded
    from luthier.tasks import Task


class Engine(Choice):
    """A way of running a model."""

    family: ClassVar[str] = "engines"

    def predict(
        self, loaded: Loaded, task: Task, examples: Sequence[Example], max_length: int,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:  # fmt: skip
        """One prediction per example, in order. `tell` hears how many distinct prompts are done, and of how many."""
        raise NotImplementedError
