"""Standardize: a messy value becomes its canonical form, with the row's other columns as optional context."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import Field, model_validator

from luthier.errors import UserError
from luthier.readers import Row
from luthier.seams import Answer, Dropped, Example, Prediction, Text, text_of
from luthier.tasks import Cell, Task, suggestion

OWN = ("column", "value", "context", "hints")  # names that a prompt may hold without a column of that name


class Standardize(Task):
    """Messy value -> canonical value, for one column or several."""

    about_cells: ClassVar[bool] = True
    outside: ClassVar[tuple[str, ...]] = ("table", "target_table")
    row_by_row: ClassVar[tuple[str, ...]] = ("target_table",)
    advice: ClassVar[dict[str, str]] = {"no target": "`task.blank` teaches that such a cell has no canonical value"}
    form_settings: ClassVar[tuple[str, ...]] = ("template", "blank")
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
    """File whose rows hold the canonical values; by default the table itself holds them."""
    target_key: str = ""
    """Column that both files have, by which a row finds its canonical values; each value once in each file. Left out,
    rows are paired in order, and refused where a blank line, or a row that cannot be read, stands in one file alone."""
    context: list[str] = []
    """Other columns of the row that the model may read."""
    hints: list[str | dict[str, Any]] = []
    """What other sources propose for a value, shown to the model in the prompt: a baseline that answers value by value, by its
    name or block (`rules`), or a column (`{column: legacy}`). Training rows are hinted by what learned from other rows."""
    blank: str = ""
    """What the model writes where the canonical value is empty, such as `(none)`: cells with one are then learned, and come
    out empty. Left out, they are left out too."""
    template: str = Field(default="{column} {context}: {value} {hints} =>", alias="prompt")
    """Prompt: {column}, {value}, {context} (all context values), {name} of one context column, or {hints}, as
    `rules: 2004-09-16`. Without context columns or hints {context} or {hints} goes, with the blank before it. Values stand in
    it as they are, braces included."""

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_way(self) -> Standardize:
        if bool(self.fields) == bool(self.column):
            raise ValueError("needs either `column` and `target`, or `columns`")
        if bool(self.column) != bool(self.target):
            raise ValueError("needs `target`, the column that holds the canonical values of `column`")
        if self.target_key and not self.target_table:
            raise ValueError("target_key pairs the rows of two files; give the second as `target_table`")
        names = {name for _, name in parts(self.template, tuple(self.context)) if name is not None}
        unknown = sorted(names - {*OWN, *self.context})
        if unknown and re.search("[:!]", unknown[0]):
            raise ValueError("prompt takes names in braces alone, such as {value}, without `:` or `!`")
        if "value" not in names:
            raise ValueError("prompt must contain {value}")
        if unknown:
            raise ValueError(f"prompt names {{{unknown[0]}}}, which is neither {', '.join(OWN)} nor in `context`")
        if self.blank and not self.blank.strip():
            raise ValueError("blank must be a word, since blanks around an answer say nothing")
        if self.hints and "hints" not in names:
            raise ValueError("prompt must contain {hints}, where the model reads them")
        if any(isinstance(each, dict) and not ("kind" in each or each.keys() == {"column"}) for each in self.hints):
            raise ValueError("a hint is the name or block of a baseline, or {column: name}")
        return self

    def pairs(self) -> dict[str, str]:
        """Messy column -> canonical column."""
        return dict(self.fields) or {self.column: self.target}

    def columns(self) -> list[str]:
        return [*self.pairs(), *self.context, *self.hinting_columns()]

    def hinting_columns(self) -> list[str]:
        """Columns whose values are shown as hints."""
        return [each["column"] for each in self.hints if isinstance(each, dict) and "kind" not in each]

    def hinted(self) -> bool:
        return bool(self.hints)

    def hinted_by(self) -> list[Any]:
        return [each for each in self.hints if not (isinstance(each, dict) and "kind" not in each)]

    def source(self) -> Standardize:
        """Of the hints the columns alone, and `blank`: they decide the examples too."""
        columns = [{"column": name} for name in self.hinting_columns()]
        return super().source().model_copy(update={"hints": columns, "blank": self.blank})

    def targets(self) -> list[str]:
        return list(self.pairs().values())

    def paired_by(self) -> str:
        return self.target_key

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        context = {name: text_of(row.values.get(name)) for name in self.context}
        proposed = {name: text_of(row.values.get(name)) for name in self.hinting_columns()}
        hints = {"hints": proposed} if proposed else {}
        for column, target in self.pairs().items():
            value = text_of(row.values.get(column))
            if not value.strip():
                yield Dropped("empty value", row.line, column)
                continue
            answer = text_of(truth.values.get(target)) if truth is not None else None
            if answer is not None and not answer.strip() and not self.blank:
                assert truth is not None
                yield Dropped("no target", truth.line, target, truth.file)
                continue
            if answer is not None and self.blank and answer.strip() == self.blank.strip():
                assert truth is not None
                raise UserError(
                    f"the canonical value '{self.blank.strip()}' stands in the table, where it would mean that there is none",
                    where=f"task.blank, {truth.file}:{truth.line}, column {target}",
                    hint="choose a word that no row has",
                )
            yield Example(
                id=f"{row.line}:{column}",
                task=self.kind,
                input={"fields": {"column": column, "value": value, "context": context} | hints},
                target=None if answer is None else Text(answer if answer.strip() else ""),
                slices={"column": column},
                origin={"file": row.file, "row": row.line, "column": column},
            )

    def prompt(self, example: Example) -> str:
        fields = example.input["fields"]
        filled = {
            **fields["context"],
            "column": fields["column"],
            "value": fields["value"],
            "context": ", ".join(fields["context"].values()),
            "hints": ", ".join(f"{name}: {value}" for name, value in self.hints_of(example).items()),
        }
        nothing = {
            name for name, shown in (("context", fields["context"]), ("hints", self.hints_of(example))) if not shown
        }
        text = ""
        for literal, name in parts(self.template, tuple(fields["context"])):
            left_out = name is not None and name in nothing
            text += (literal.removesuffix(" ") if left_out else literal) + ("" if name is None else filled[name])
        return text

    def with_hints(self, example: Example, hints: Mapping[str, str]) -> Example:
        fields = example.input["fields"]
        return replace(example, input={"fields": fields | {"hints": {**self.hints_of(example), **hints}}})

    def hints_of(self, example: Example) -> Mapping[str, str]:
        return example.input["fields"].get("hints", {})  # type: ignore[no-any-return]

    def completion(self, answer: Answer) -> str:
        return f" {str(answer) or self.blank}"

    def parse(self, text: str, example: Example) -> Answer:
        said = text.strip()
        return Text("" if said == self.blank else said)

    def readable(self, example: Example) -> str:
        cell = self.cell(example)
        beside = ", ".join(part for part in (cell.column, *cell.context.values()) if part)
        return f"{cell.value} ({beside})"

    def cell(self, example: Example) -> Cell:
        fields = example.input["fields"]
        return Cell(fields["column"], fields["value"], fields["context"])

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        by_column = {prediction.slices["column"]: prediction for prediction in predictions}
        found: dict[str, Any] = {}
        for column in self.pairs():
            found |= suggestion(column, by_column.get(column))
        return found


@lru_cache(maxsize=8)
def parts(template: str, context: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """A prompt cut into (text, name of what stands behind it, or None): names stand in braces, and `{{` and `}}` are braces.

    A column's name may hold whatever it likes; one with braces is known by being in `context`.
    """
    known = "|".join(re.escape(name) for name in sorted(context, key=len, reverse=True)) or "(?!)"
    found: list[tuple[str, str | None]] = []
    text, at = "", 0
    for place in re.finditer(rf"\{{\{{|\}}\}}|\{{({known}|[^{{}}]*)\}}|[{{}}]", template):
        text, at = text + template[at : place.start()], place.end()
        if place[1] is not None:
            found.append((text, place[1]))
            text = ""
        elif len(place[0]) == 1:
            raise ValueError(f"prompt has a single '{place[0]}'; a brace that shall stand in it is written twice")
        else:
            text += place[0][0]
    return [*found, (text + template[at:], None)]
