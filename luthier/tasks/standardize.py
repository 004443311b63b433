"""Standardize: a messy value becomes its canonical form, with the row's other columns as optional context."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field, model_validator

from luthier.readers import Row
from luthier.seams import Example, Prediction
from luthier.tasks import Dropped, Task, text_of


class Standardize(Task):
    """Messy value -> canonical value, for one column or several."""

    recommended_baselines: ClassVar[tuple[str, ...]] = ("identity", "rules", "untuned")

    table: str
    """File with the messy values."""
    column: str = ""
    """Column with the messy values; `columns` takes several."""
    target: str = ""
    """Column with the canonical values of `column`."""
    fields: dict[str, str] = Field(default={}, alias="columns")
    """Several columns at once: messy column -> canonical column."""
    target_table: str = ""
    """File whose rows hold the canonical values in the same order; by default the table itself holds them."""
    context: list[str] = []
    """Other columns of the row that the model may read."""
    template: str = Field(default="{column} {context}: {value} =>", alias="prompt")
    """Prompt: {column}, {value}, {context} (all context values), or {name} of one context column."""

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_way(self) -> Standardize:
        if bool(self.fields) == bool(self.column):
            raise ValueError("needs either `column` and `target`, or `columns`")
        if bool(self.column) != bool(self.target):
            raise ValueError("needs `target`, the column that holds the canonical values of `column`")
        names = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        if "value" not in names:
            raise ValueError("prompt must contain {value}")
        unknown = sorted(names - {"column", "value", "context", *self.context})
        if unknown:
            raise ValueError(f"prompt names {{{unknown[0]}}}, which is neither column, value, context nor in `context`")
        return self

    def pairs(self) -> dict[str, str]:
        """Messy column -> canonical column."""
        return dict(self.fields) or {self.column: self.target}

    def tables(self) -> dict[str, str]:
        return {"table": self.table, **({"target_table": self.target_table} if self.target_table else {})}

    def columns(self) -> list[str]:
        return [*self.pairs(), *self.context]

    def targets(self) -> list[str]:
        return list(self.pairs().values())

    def examples(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        context = {name: text_of(row.values.get(name)) for name in self.context}
        for column, target in self.pairs().items():
            value = text_of(row.values.get(column))
            if not value.strip():
                yield Dropped("empty value", row.line, column)
                continue
            answer = text_of(truth.values.get(target)) if truth is not None else None
            if answer is not None and not answer.strip():
                yield Dropped("no target", row.line, column)
                continue
            yield Example(
                id=f"{row.line}:{column}", task=self.kind,
                input={"fields": {"column": column, "value": value, "context": context}},
                target=None if answer is None else {"text": answer}, slices={"column": column},
                origin={"file": row.file, "row": row.line, "column": column},
            )  # fmt: skip

    def prompt(self, example: Example) -> str:
        fields = example.input["fields"]
        parts = {"column": fields["column"], "value": fields["value"], "context": ", ".join(fields["context"].values())}
        text = self.template.format(**{**fields["context"], **parts})
        return text if self.context else text.replace(" :", ":")

    def completion(self, answer: str) -> str:
        return f" {answer}"

    def apply(self, values: dict[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        by_column = {prediction.slices["column"]: prediction for prediction in predictions}
        for column in self.pairs():
            found = by_column.get(column)
            cells[f"{column}_suggestion"] = found.output if found else ""
            cells[f"{column}_confidence"] = f"{found.confidence:.3f}" if found else ""
        return cells
