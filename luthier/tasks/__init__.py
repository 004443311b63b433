"""Tasks turn tables into examples, examples into prompts, and answers back into table cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal, get_args, get_origin

from luthier.choice import Choice, Self
from luthier.errors import UserError
from luthier.readers import Quarantined, Row, Table
from luthier.seams import Answer, Dropped, Example, Prediction, Text

TABLE = "table"  # role of the table that the rows come from


@dataclass(frozen=True, slots=True)
class Cell:
    """The table cell that an example is about."""

    column: str
    value: str
    context: Mapping[str, str]  # other columns of its row that may be read


class Task(Choice):
    """What the model shall do.

    Its settings are of two kinds. `source`: where examples come from (tables, columns); it decides what `prepare`
    makes. `form`: what the model reads and writes (prompt, template), named in `form_settings`; it alone enters the keys
    of what is encoded, trained and predicted.
    """

    family: ClassVar[str] = "tasks"
    objective: ClassVar[str] = "causal"  # a member of the objectives
    answers: ClassVar[str] = "text"  # kind of Answer that a target is
    about_cells: ClassVar[bool] = False  # whether `cell` says which table cell an example is about
    form_settings: ClassVar[tuple[str, ...]] = ()
    row_by_row: ClassVar[tuple[str, ...]] = ()  # roles of tables whose rows stand beside those of `table`
    cue: ClassVar[str] = ""  # what stands between prompt and answer where both are shown on one line
    recommended_metrics: ClassVar[tuple[str, ...]] = ("exact_match",)
    recommended_baselines: ClassVar[tuple[str, ...]] = ("majority",)

    def columns(self) -> list[str]:
        """Columns of the table that must be there, without the targets."""
        raise NotImplementedError

    def targets(self) -> list[str]:
        """Columns that hold the answers: of the table beside it if there is one, else of the table."""
        raise NotImplementedError

    def examples(self, tables: Mapping[str, Table], *, targets: bool = True) -> Iterator[Example | Dropped]:
        """The examples of the tables, by role, with their targets or, to be answered, without. Tables can be read again.

        This serves tasks that make examples row by row; others override it and set each example's `row`.
        """
        for found in side_by_side(tables, self.row_by_row if targets else ()):
            if isinstance(found, Dropped):
                yield found
                continue
            row, truth = found
            for made in self.of_row(row, truth if targets else None):
                if isinstance(made, Example):
                    made.row = row.values
                yield made

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        """The examples of one row. `truth` is the row that holds the answers; None where they are to be found."""
        raise NotImplementedError

    def prompt(self, example: Example) -> str | list[dict[str, str]]:
        """What the model reads: a text, or messages for its chat template."""
        raise NotImplementedError

    def template_of_chats(self) -> str:
        """A Jinja chat template to use instead of the base's own; empty keeps that."""
        return ""

    def completion(self, answer: Answer) -> str:
        """What the model shall write for an answer, before the end token."""
        return str(answer)

    def parse(self, text: str, example: Example) -> Answer:
        """The answer in what the model wrote."""
        return Text(text.strip())

    def readable(self, example: Example) -> str:
        """An example's input on one line, for people."""
        raise NotImplementedError

    def cell(self, example: Example) -> Cell:
        """The table cell that the example is about, where `about_cells`."""
        raise NotImplementedError

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        """What `apply` writes beside a row: suggestions and confidences, from the predictions of its examples."""
        raise NotImplementedError

    def source(self: Self) -> Self:
        """A copy that decides the examples and nothing else: form settings at their defaults, no paths."""
        return self.placeless().model_copy(update={name: _blank(type(self), name) for name in self.form_settings})  # type: ignore[attr-defined]

    def form(self: Self) -> Self:
        """A copy that decides prompts and answers and nothing else: every other setting is blank."""
        rest = type(self).model_fields.keys() - set(self.form_settings)  # type: ignore[attr-defined]
        return self.model_copy(update={name: _blank(type(self), name) for name in rest})


def _blank(task: type[Choice], name: str) -> Any:
    """A setting's default, or an empty value of its type."""
    field = task.model_fields[name]
    if not field.is_required():
        return field.get_default(call_default_factory=True)
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)[0]
    kind: Any = get_origin(field.annotation) or field.annotation
    return kind()


def side_by_side(tables: Mapping[str, Table], roles: tuple[str, ...]) -> Iterator[tuple[Row, Row] | Dropped]:
    """Rows of the table, each with the one that holds its answers: of the table beside it if there is one, else itself."""
    table = tables[TABLE]
    beside = next((tables[role] for role in roles if role in tables), None)
    if beside is None:
        yield from ((row, row) for row in table)
        return
    for record, truth in zip_longest(table.records(), beside.records()):
        if record is None or truth is None:
            longer = table.path.name if truth is None else beside.path.name
            raise UserError(
                f"{longer} has more rows than its partner, so rows cannot be paired",
                where="task.target_table",
                hint=f"give {beside.path.name} one row for each row of {table.path.name}, in the same order",
            )
        if isinstance(record, Quarantined):
            continue
        if isinstance(truth, Quarantined):
            yield Dropped("target row cannot be read", record.line, truth.column)
        else:
            yield record, truth


def suggestion(name: str, found: Prediction | None) -> dict[str, Any]:
    """Two cells, `name_suggestion` and `name_confidence`; empty where nothing was answered."""
    return {
        f"{name}_suggestion": str(found.output) if found else "",
        f"{name}_confidence": f"{found.confidence:.3f}" if found else "",
    }


def text_of(value: Any) -> str:
    """A cell as text: None is empty, and true and false are written as JSON and recipes write them."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
