"""Classify: a text, or selected columns, gets one label out of those seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from luthier.choice import unknown
from luthier.readers import Row, Table
from luthier.seams import Answer, Dropped, Example, Label, Prediction, compared, name_of, text_of
from luthier.tasks import TABLE, Name, Task, suggestion


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
    merge: dict[str, list[Name]] = {}
    """Label -> other labels of the table that are taken as it, such as `praise: [Praise, good]`."""
    fewest: int = Field(1, ge=1)
    """Rows that a label must have in the table, after merging, 1 or more; those of rarer labels are left out and counted,
    or become `rare`."""
    rare: str = ""
    """Label that the rows of rare labels get in place of being left out, such as `other`."""

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_way(self) -> Classify:
        if bool(self.text) == bool(self.fields):
            raise ValueError("needs either `text` or `columns`")
        if self.rare and self.fewest == 1:
            raise ValueError("rare names the label of those that are rarer than `fewest`; give that too")
        olds = [old for others in self.merge.values() for old in set(others)]
        if twice := next((old for old in olds if olds.count(old) > 1 or old in self.merge), None):
            raise ValueError(f"merge names '{twice}' twice")
        return self

    def columns(self) -> list[str]:
        return [self.text] if self.text else list(self.fields)

    def targets(self) -> list[str]:
        return [self.label]

    def examples(self, tables: Mapping[str, Table], *, targets: bool = True) -> Iterator[Example | Dropped]:
        """Row by row; where labels must have some rows, they are counted before."""
        counts = Counter(self.label_of(row) for row in tables[TABLE]) if targets and self.fewest > 1 else Counter[str]()
        for found in super().examples(tables, targets=targets):
            if isinstance(found, Example) and isinstance(found.target, Label) and self.fewest > 1:
                label = found.target.label
                if counts[label] < self.fewest:
                    if not self.rare:
                        yield Dropped("a rare label", found.origin["row"], self.label)
                        continue
                    found.target = Label(self.rare)
            yield found

    def unmet(self, met: Collection[str]) -> list[str]:
        known = {compared(name_of(name)) for name in met}
        olds = [old for others in self.merge.values() for old in others if old not in known]
        return [f"task.merge: {unknown('row with the label', old, known)}" for old in olds]

    def label_of(self, row: Row) -> str:
        """The label that a row holds, after merging; "" where it holds none."""
        written = name_of(row.values.get(self.label))
        return next((label for label, others in self.merge.items() if compared(written) in others), written)

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        column = self.text or ",".join(self.fields)
        read = {name: text_of(row.values.get(name)) for name in self.columns()}
        if not any(value.strip() for value in read.values()):
            yield Dropped("empty value", row.line, column)
            return
        label = self.label_of(truth) if truth is not None else None
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
