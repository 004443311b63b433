"""Tasks turn tables into examples, examples into prompts, and answers back into table cells."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BeforeValidator

from luthier.choice import Choice, Self
from luthier.errors import UserError
from luthier.readers import Row, Table
from luthier.seams import Answer, Dropped, Example, Prediction, Text, compared, name_of

Scalar = str | bool | int | float | None
Name = Annotated[  # a value of the table, kept as what it is compared as: true, 1 (of 1.0 too); null is blank
    str,
    BeforeValidator(
        lambda value: compared(name_of(value)) if isinstance(value, Scalar) else value, json_schema_input_type=Scalar
    ),
]
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
    objective: ClassVar[str] = "causal"  # a member of the objectives; `learned_by` says which, where settings decide it
    converses: ClassVar[bool] = False  # whether its prompts may be conversations
    answers: ClassVar[str] = "text"  # kind of Answer that a target is
    about_cells: ClassVar[bool] = False  # whether `cell` says which table cell an example is about
    form_settings: ClassVar[tuple[str, ...]] = ()
    row_by_row: ClassVar[tuple[str, ...]] = ()  # roles of tables whose rows stand beside those of `table`
    advice: ClassVar[dict[str, str]] = {}  # rule by which rows are left out -> what lets them be learned from
    cue: ClassVar[str] = ""  # what stands between prompt and answer where both are shown on one line
    recommended_metrics: ClassVar[tuple[str, ...]] = ("exact_match",)
    recommended_baselines: ClassVar[tuple[str, ...]] = ("majority",)

    def columns(self) -> list[str]:
        """Columns of the table that must be there, without the targets."""
        raise NotImplementedError

    def unasked(self, known: Sequence[str]) -> str:
        """Why the rows of a table with these columns cannot be asked, or nothing."""
        missing = next((name for name in self.columns() if name not in known), None)
        return "" if missing is None else f"has no column '{missing}', which the model reads"

    def targets(self) -> list[str]:
        """Columns that hold the answers: of the table beside it if there is one, else of the table."""
        raise NotImplementedError

    def examples(self, tables: Mapping[str, Table], *, targets: bool = True) -> Iterator[Example | Dropped]:
        """The examples of the tables, by role, with their targets or, to be answered, without. Tables can be read again.

        This serves tasks that make examples row by row; others override it and set each example's `row`.
        """
        for found in side_by_side(tables, self.row_by_row if targets else (), self):
            if isinstance(found, Dropped):
                yield found
                continue
            row, truth = found
            for made in self.of_row(row, truth if targets else None):
                if isinstance(made, Example):
                    made.row = row.values
                yield made

    def learned_by(self) -> str:
        """The objective that its examples are learned by; of a form as of the whole."""
        return self.objective

    def partly_comparable(self) -> bool:
        """Whether some examples have no target to compare an answer with."""
        return False

    def comparable(self, example: Example) -> bool:
        """Whether an answer to this example can be compared with its target: else it is learned from alone."""
        return True

    def paired_by(self) -> str:
        """Column by which a row finds the row beside it, in both tables; "" where their order says it."""
        return ""

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        """The examples of one row. `truth` is the row that holds the answers; None where they are to be found."""
        raise NotImplementedError

    def prompt(self, example: Example) -> str | list[dict[str, str]]:
        """What the model reads: a text, or messages for its chat template."""
        raise NotImplementedError

    def hinted(self) -> bool:
        """Whether the prompt shows hints."""
        return False

    def hinted_by(self) -> list[Any]:
        """The baselines whose answers the prompt shows, as blocks of a recipe."""
        return []

    def with_hints(self, example: Example, hints: Mapping[str, str]) -> Example:
        """A copy of an example whose prompt shows what these sources answer."""
        raise NotImplementedError

    def hints_of(self, example: Example) -> Mapping[str, str]:
        """What each source answers, as the example shows it."""
        raise NotImplementedError

    def unmet(self, met: Collection[str]) -> list[str]:
        """What is wrong with the names of labels in the settings, out of those that the tables hold."""
        return []

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


def side_by_side(
    tables: Mapping[str, Table], roles: tuple[str, ...], task: Task
) -> Iterator[tuple[Row, Row] | Dropped]:
    """Rows of the table, each with the one that holds its answers: of the table beside it if there is one, else itself."""
    table = tables[TABLE]
    beside = next((tables[role] for role in roles if role in tables), None)
    if beside is None:
        yield from ((row, row) for row in table)
    elif task.paired_by():
        yield from by_key(table, beside, task.paired_by(), task.targets())
    else:
        yield from by_place(table, beside)


def by_place(table: Table, beside: Table) -> Iterator[tuple[Row, Row]]:
    """Records paired in order. UserError for whatever may have shifted them: a blank line or an unreadable record that
    the other file does not have at that place, or more records than the other."""
    for record, truth in zip_longest(table.records(), beside.records()):
        if record is None or truth is None:
            longer, shorter = (table, beside) if truth is None else (beside, table)
            raise unpaired(f"{longer.path.name} has more rows than {shorter.path.name}")
        if record.blank_before != truth.blank_before:
            raise unpaired(
                f"before line {record.line} of {record.file} stand {record.blank_before} blank lines, "
                f"before line {truth.line} of {truth.file} {truth.blank_before}"
            )
        if isinstance(record, Row) and isinstance(truth, Row):
            yield record, truth
        elif isinstance(record, Row) or isinstance(truth, Row):
            aside, read = (truth, record) if isinstance(record, Row) else (record, truth)
            raise unpaired(
                f"line {aside.line} of {aside.file} cannot be read, line {read.line} of {read.file} beside it can"
            )


def unpaired(what: str) -> UserError:
    """What is told of two tables whose order does not say which rows belong together."""
    return UserError(
        f"rows cannot be paired by their order: {what}",
        where="task.target_table",
        hint="make the files agree, or name a column that both have as task.target_key",
    )


def by_key(table: Table, beside: Table, key: str, targets: list[str]) -> Iterator[tuple[Row, Row] | Dropped]:
    """Rows paired by a column whose values occur once in each table; whatever has no partner is dropped by name.

    Truths are read as far as rows ask for them and kept, their target columns alone, until asked for: nothing is held
    where both tables have one order.
    """
    asked: set[str] = set()
    told: set[str] = set()
    waiting: dict[str, Row] = {}
    truths = iter(beside)
    for row in table:
        name = name_of(row.values.get(key))
        if not name:
            yield Dropped("no key", row.line, key)
            continue
        once(name, asked, row, key)
        while name not in waiting and (truth := next(truths, None)) is not None:
            yield from held(truth, waiting, told, key, targets)
        if name in waiting:
            yield row, waiting.pop(name)
        else:
            yield Dropped("no target row has its key", row.line, key)
    for truth in truths:
        yield from held(truth, waiting, told, key, targets)
    yield from (Dropped("target row whose key no row has", truth.line, key, truth.file) for truth in waiting.values())


def held(truth: Row, waiting: dict[str, Row], told: set[str], key: str, targets: list[str]) -> Iterator[Dropped]:
    """Keep a truth under its key until its row comes, or drop it where it has none."""
    name = name_of(truth.values.get(key))
    if not name:
        yield Dropped("target row without a key", truth.line, key, truth.file)
        return
    once(name, told, truth, key)
    waiting[name] = Row(truth.file, truth.line, {target: truth.values.get(target) for target in targets})


def once(name: str, met: set[str], row: Row, key: str) -> None:
    """UserError where a key was met before."""
    if name in met:
        raise UserError(
            f"the key '{name}' occurs twice",
            where=f"{row.file}:{row.line}: column '{key}'",
            hint="task.target_key needs a column whose values occur once in each table",
        )
    met.add(name)


def suggestion(name: str, found: Prediction | None) -> dict[str, Any]:
    """Two cells, `name_suggestion` and `name_confidence` (to three digits); None where nothing was answered."""
    return {
        f"{name}_suggestion": str(found.output) if found else None,
        f"{name}_confidence": round(float(found.confidence), 3) if found else None,
    }
