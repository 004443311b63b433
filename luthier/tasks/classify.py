"""Classify: a text, or selected columns, gets one label out of those seen in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from luthier.readers import Row
from luthier.seams import Answer, Dropped, Example, Label, Prediction, name_of, text_of
from luthier.tasks import Task, suggestion


class Classify(Task):
    """Text or columns -> label, by an encoder or a decoder with a classification head."""

    objective: ClassVar[str] = "classify"
    answers: ClassVar[str] = "label"
    outside: ClassVar[tuple[str, ...]] = ("table",)
    cue: ClassVar[str] = " =>"
    recommended_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    recommended_baselines: ClassVar[tuple[str, ...]] = ("majority", "tfidf", "untuned")

    table: str
    """File with the texts and labels."""
    text: str = ""
    """Column with the text; `columns` takes several."""
    fields: list[str] = Field(default=[], alias="columns")
    """Columns that are read together, each as `name: value` on a line of its own."""
    label: str
    """Column with the label."""

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_way(self) -> Classify:
        if bool(self.text) == bool(self.fields):
            raise ValueError("needs either `text` or `columns`")
        return self

    def columns(self) -> list[str]:
        return [self.text] if self.text else list(self.fields)

    def targets(self) -> list[str]:
        return [self.label]

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        column = self.text or ",".join(self.fields)
        read = {name: text_of(row.values.get(name)) for name in self.columns()}
        if not any(value.strip() for value in read.values()):
            yield Dropped("empty value", row.line, column)
            return
        label = name_of(truth.values.get(self.label)) if truth is not None else None
        if label == "":
            yield Dropped("no target", row.line, self.label)
            return
        yield Example(
            id=str(row.line),
            task=self.kind,
            input={"text": read[self.text]} if self.text else {"fields": read},
            target=None if label is None else Label(label),
            origin={"file": row.file, "row": row.line, "column": column},
        )

    def prompt(self, example: Example) -> str:
        if "text" in example.input:
            return str(example.input["text"])
        return "\n".join(f"{name}: {value}" for name, value in example.input["fields"].items())

    def completion(self, answer: Answer) -> str:
        return f" {answer}"

    def parse(self, text: str, example: Example) -> Answer:
        return Label(text.strip())

    def readable(self, example: Example) -> str:
        if "text" in example.input:
            return str(example.input["text"])
        return "; ".join(f"{name}: {value}" for name, value in example.input["fields"].items())

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        return suggestion(self.label, predictions[0] if predictions else None)
