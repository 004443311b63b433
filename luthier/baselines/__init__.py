"""Baselines: what a result must be compared with, answering the very same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.choice import Choice
from luthier.seams import Answered, Example

if TYPE_CHECKING:
    from luthier.engines import Session


@dataclass(slots=True)
class Setting:
    """What a baseline may use beside the examples; those that need no model ignore it."""

    base: Path  # folder of the untuned base model
    task: Any  # the recipe's task Choice
    session: Callable[[], Session]  # opens the untuned base as the model is opened: same engine, precision, stop rules
    seed: int
    device: str  # "" where no model is needed
    precision: str  # of the model that the rival is compared with
    max_length: int
    control_tokens: Literal["text", "parse"] = "text"  # what a control token's name in the data is
    tell: Callable[[int, int], None] = lambda done, total: None  # hears how many answers are done, and of how many


class Baseline(Choice):
    """A simple rival."""

    family: ClassVar[str] = "baselines"
    answers: ClassVar[tuple[str, ...]] = ()  # kinds of Answer it can give; empty means all
    needs_model: ClassVar[bool] = False  # whether it asks the untuned base; else neither base nor engine is in its key
    needs_cells: ClassVar[bool] = False  # whether examples must be about table cells

    def predict(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        """Answers to `examples`, or to a sample of them, having seen `train` and no target of `examples`.

        A rival that learns little, and answers each example by itself, writes `fit` and `answer` in place of this.
        """
        fitted = self.fit(train, setting.task)
        for example in examples:
            answered = self.answer(fitted, example, setting.task)
            if answered is not None:
                yield example, answered

    def fit(self, train: Sequence[Example], task: Any) -> dict[str, Any]:
        """What is learned from `train`, as JSON: it travels with a model that is given this rival's answers as hints."""
        raise NotImplementedError

    def answer(self, fitted: Mapping[str, Any], example: Example, task: Any) -> Answered | None:
        """The answer to one example by what was learned, or nothing; its target is never looked at."""
        raise NotImplementedError

    @property
    def gives_hints(self) -> bool:
        """Whether a model can be given its answers as hints."""
        return type(self).fit is not Baseline.fit
