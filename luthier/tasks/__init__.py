"""Tasks turn table rows into examples, examples into prompts, and answers back into table cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from luthier.choice import Choice
from luthier.readers import Row
from luthier.seams import Example, Prediction


@dataclass(slots=True)
class Dropped:
    """A cell or row that makes no example, and the rule that says why."""

    rule: str  # short, such as "no target" or "empty value"
    line: int
    column: str


class Task(Choice):
    """What the model shall do."""

    family: ClassVar[str] = "tasks"
    objective: ClassVar[Literal["causal", "classify"]] = "causal"
    recommended_metrics: ClassVar[tuple[str, ...]] = ("exact_match",)
    recommended_baselines: ClassVar[tuple[str, ...]] = ("majority",)

    def tables(self) -> dict[str, str]:
        """Files this task reads, role -> path as written: "table", and "target_table" where answers stand apart."""
        raise NotImplementedError

    def columns(self) -> list[str]:
        """Columns of the table that must be there, without the targets."""
        raise NotImplementedError

    def targets(self) -> list[str]:
        """Columns that hold the answers: of `target_table` if there is one, else of the table."""
        raise NotImplementedError

    def examples(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        """The examples of one row. `truth` is the row of the target table, or the row itself; None when applying."""
        raise NotImplementedError

    def prompt(self, example: Example) -> str | list[dict[str, str]]:
        """What the model reads: a text, or messages for its chat template."""
        raise NotImplementedError

    def completion(self, answer: str) -> str:
        """What the model shall write for an answer, before the end token."""
        return answer

    def parse(self, text: str) -> str:
        """The answer in what the model wrote."""
        return text.strip()

    def apply(self, values: dict[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        """New cells for one row, beside the originals: suggestions and confidences."""
        raise NotImplementedError


def text_of(value: Any) -> str:
    """A cell as text; None is empty."""
    return "" if value is None else str(value)
