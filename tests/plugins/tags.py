"""Tags: every text gets a set of tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from luthier.readers import Row
from luthier.seams import Answer, Dropped, Example, Labels, Prediction
from luthier.tasks import Task, suggestion


class Tags(Task):
    """Text -> tags, written with a bar between them."""

    objective: ClassVar[str] = "tagging"
    answers: ClassVar[str] = "labels"
    outside: ClassVar[tuple[str, ...]] = ("table",)

    table: str
    """File with the texts and their tags."""

    def columns(self) -> list[str]:
        return ["text"]

    def targets(self) -> list[str]:
        return ["tags"]

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        tags = Labels(tuple(truth.values["tags"].split("|"))) if truth is not None else None
        origin = {"file": row.file, "row": row.line, "column": "text"}
        yield Example(str(row.line), self.kind, {"text": row.values["text"]}, tags, origin=origin)

    def prompt(self, example: Example) -> str:
        return str(example.input["text"])

    def parse(self, text: str, example: Example) -> Answer:
        return Labels(tuple(part.strip() for part in text.split(",")))

    def readable(self, example: Example) -> str:
        return str(example.input["text"])

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        return suggestion("tags", predictions[0] if predictions else None)
