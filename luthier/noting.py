"""Noting: tables are opened and each row is noted for what splitting needs; what is wrong with them is told at once."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from luthier import seams
from luthier.errors import Problems, UserError
from luthier.looks import look_alike
from luthier.readers import Quarantined, Table, too_many
from luthier.reading import contradicted, detect, said_of
from luthier.recipe import PrepareSettings
from luthier.seams import Example, compared, name_of
from luthier.splits import NO_COLUMNS, Unit
from luthier.tasks import TABLE, Task

SPLIT_FILE = "split_"  # role of a file that a given split names, before the split's name
TOLD = 3  # quarantined rows named in an error
NAMED = 20  # labels named in a sentence


class Aside:
    """Where quarantined records go: a file, with the first few remembered for a message."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.n, self.n_headers = file, 0, 0
        self.earliest = ""  # place and reason of the first of all
        self.first: list[Quarantined] = []  # of those that are no header

    def __call__(self, record: Quarantined) -> None:
        self.n += 1
        self.earliest = self.earliest or f"{record.file}, line {record.line}: {record.reason}"
        if record.rule == "header":
            self.n_headers += 1
        elif len(self.first) < TOLD:
            self.first.append(record)
        self.file.write(json.dumps(record.told(), ensure_ascii=False) + "\n")


@dataclass
class Notes:
    """What is remembered of the examples while their text lies on disk."""

    columns: list[str]  # those that splitting, slicing, holding out and naming read
    labels: list[str] = field(default_factory=list)  # the column with the label, where there is one
    units: list[Unit] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)  # entities
    free: set[str] = field(default_factory=set)  # entities
    values: set[tuple[str, str]] = field(default_factory=set)  # (column, value) of what may be held out
    ids: set[str] = field(default_factory=set)
    no_id: list[str] = field(default_factory=list)  # places of rows without the id that they must have
    again: list[str] = field(default_factory=list)  # ids that occur twice
    blank: set[str] = field(default_factory=set)  # entities of rows whose group is blank
    spelled: dict[str, str] = field(
        default_factory=dict
    )  # how a group looks -> its first spelling, which names the entity
    n_respelled: int = 0  # rows whose group is spelled otherwise than in the first row of those that look alike
    relabelled: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # (as written, label) where they differ -> rows
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # rule -> file, line and column of the first
    n_read: int = 0
    n_rows: int = 0
    n_made: int = 0

    def left_out(self) -> str:
        """`240 with no target (the first: names.csv, line 2, column clean), 3 with empty value (...)`."""
        told = []
        for rule, n in self.dropped.items():
            file, line, column = self.first[rule]
            place = f"{file}, line {line}" + (f", column {column}" if column else "")
            told.append(f"{n:,} with {rule} (the first: {place})")
        return ", ".join(told) or "the file has no rows"


def opened(
    paths: Mapping[str, Path],
    task: Task,
    settings: PrepareSettings,
    aside: Callable[[Quarantined], None] = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Table]:
    """Every table and split file by role, with what was detected said.

    Raises Problems, all at once: files that cannot be read, columns that they lack, held-out values that no row has.
    """
    tables: dict[str, Table] = {}
    problems: list[UserError] = []
    for role, path in sorted(paths.items(), key=lambda item: (item[0] != TABLE, item[0])):
        try:
            given = settings.reader if role == TABLE or role.startswith(SPLIT_FILE) else None
            if given and (why := contradicted(path, given)):
                hint = "all files of the rows are read alike: leave the encoding out, or save them in one"
                raise UserError(why, where=str(path), hint=hint)
            tables[role] = Table(path, given or detect(path), aside)
        except UserError as problem:
            found = problem.problems if isinstance(problem, Problems) else [problem]
            key = f"prepare.split.{role.removeprefix(SPLIT_FILE)}" if role.startswith(SPLIT_FILE) else f"task.{role}"
            for each in found:
                each.where = f"{key}, {each.where}" if each.where else key
            problems += found
        else:
            say(said_of(tables[role]))
    beside = next((role for role in task.row_by_row if role in paths), None)
    problems += missing_columns(tables, task, settings, beside)
    if problems:
        raise Problems([*problems, *(unheld(tables[TABLE], settings) if TABLE in tables else [])])
    return tables


def sources(tables: dict[str, Table], task: Task) -> dict[str, dict[str, Table]]:
    """What is read in turn, "" or the split of its own file -> the tables by role, with that file as the table."""
    found = {"": {role: table for role, table in tables.items() if not role.startswith(SPLIT_FILE)}}
    alone = {role: table for role, table in found[""].items() if role not in task.row_by_row}
    for role, table in tables.items():
        if role.startswith(SPLIT_FILE):
            found[role.removeprefix(SPLIT_FILE)] = {**alone, TABLE: table}
    return found


def columns_of(settings: PrepareSettings) -> list[str]:
    """The columns that splitting, slicing, holding out and naming read."""
    split = settings.split
    named = [*split.needs(), split.entity_column(), *settings.slices.values(), *settings.hold_out, settings.id_column]
    return sorted({*named} - {""})


def missing_columns(
    tables: dict[str, Table], task: Task, settings: PrepareSettings, beside: str | None
) -> list[UserError]:
    """Every column that the recipe names and a table lacks; and those that are both read and asked for. `beside` is the
    role of the table with the answers, where that is one of its own, whether it could be opened or not."""
    key = [task.paired_by()] if beside and task.paired_by() else []
    problems: list[UserError] = []
    for role, table in tables.items():
        if role == TABLE or role.startswith(SPLIT_FILE):
            with_targets = beside is None or role != TABLE
            own = task.targets() if with_targets else key
            problems += table.lacking([*task.columns(), *columns_of(settings), *own])
        elif role == beside:
            problems += table.lacking([*task.targets(), *key])
    for problem in problems:
        if key_of := named_by(problem, task, settings):
            problem.where = f"{key_of}, {problem.where}"
    both = sorted(set(task.columns()) & set(task.targets())) if beside is None else []
    hint = "leave the answer out of the input"
    return problems + [
        UserError(f"column '{name}' is both read and asked for", where="task", hint=hint) for name in both
    ]


def named_by(problem: UserError, task: Task, settings: PrepareSettings) -> str:
    """The key of the recipe that names the column which a problem is about, such as `task.label`; "" where none is found."""
    found = re.match("no column '(.*)';", problem.what)
    if found is None:
        return ""
    keys = {f"task.{key}": value for key, value in task.model_dump(by_alias=True).items()}
    keys |= {f"prepare.split.{key}": value for key, value in settings.split.model_dump().items()}
    keys |= {"prepare.slices": settings.slices, "prepare.hold_out": list(settings.hold_out)}
    keys |= {"prepare.id_column": settings.id_column}
    return next((key for key, value in keys.items() if found[1] in texts_in(value)), "")


def texts_in(value: Any) -> set[str]:
    """Every text of a setting's value, the keys of mappings among them."""
    if isinstance(value, dict):
        return set(value).union(*map(texts_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(texts_in, value))
    return {value} if isinstance(value, str) else set()


def unheld(table: Table, settings: PrepareSettings) -> list[UserError]:
    """Held-out values that no row of a table has, by a look at its columns alone."""
    columns = [name for name in settings.hold_out if name in (table.columns or settings.hold_out)]
    met = {(name, compared(name_of(row.values.get(name)))) for row in (table if columns else ()) for name in columns}
    return [problem for name in columns for problem in unmet(settings, name, met)]


def unmet(settings: PrepareSettings, column: str, met: set[tuple[str, str]]) -> list[UserError]:
    """What is told of the held-out values of a column that no row has."""
    known = sorted(value for name, value in met if name == column)
    found = []
    for value in settings.hold_out[column]:
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "write a value in quotes, as it stands in the table"
            what = f"no row has {column}: {value}" if value else f"no row has a blank {column}"
            found.append(UserError(what, where="prepare.hold_out", hint=hint))
    return found


def note(found: Example, role: str, notes: Notes, settings: PrepareSettings) -> None:
    """Remember what splitting needs of an example, which gets its id, entity and slices."""
    cells = {name: name_of(found.row.get(name)) for name in notes.columns}
    if settings.id_column:
        if not cells[settings.id_column]:
            notes.no_id.append(seams.place(found))
        suffix = found.id[found.id.find(":") :] if ":" in found.id else ""
        found.id = f"{cells[settings.id_column] or seams.place(found)}{suffix}"
    elif role:
        found.id = f"{role}/{found.id}"
    if found.id in notes.ids:
        notes.again.append(found.id)
    notes.ids.add(found.id)
    column = settings.split.entity_column()
    row = cells[settings.id_column] if settings.id_column else f"{role}:{found.origin['row']}"
    if column and not cells[column]:
        found.entity = f" {row}"  # a blank group is no group; no group's name begins with a blank
        notes.blank.add(found.entity)
    elif column:
        found.entity = notes.spelled.setdefault(look_alike(cells[column]), cells[column])
        notes.n_respelled += found.entity != cells[column]
    else:
        found.entity = row
    held_out = any(compared(cells[name]) in values for name, values in settings.hold_out.items())
    (notes.held_out if held_out else notes.free).add(found.entity)
    notes.values |= {(name, compared(cells[name])) for name in settings.hold_out}
    if settings.hold_out:
        found.slices["unseen"] = name_of(held_out)
    if settings.slices and (taken := sorted(found.slices.keys() & settings.slices.keys())):
        raise UserError(
            f"there is a group '{taken[0]}' already", where="prepare.slices", hint="give yours another name"
        )
    found.slices |= {name: cells[column] for name, column in settings.slices.items()}
    label = sys.intern(str(found.target)) if seams.names_in(found.target) else ""
    for name in notes.labels:
        written = seams.text_of(found.row.get(name)).strip(" ")
        if written != label:
            notes.relabelled[written, label] += 1
    needed = settings.split.needs()
    notes.units.append(
        Unit(found.id, found.entity, label, role, {name: cells[name] for name in needed} if needed else NO_COLUMNS)
    )


def of_reading(
    n_met: int, aside: Aside, notes: Notes, settings: PrepareSettings, files: list[str], advised: Mapping[str, str]
) -> Iterator[str]:
    """What is told of the reading: how many records and what became of them, and what was taken as one."""
    put = f", {aside.n:,} put aside (the first: {aside.earliest})" if aside.n else ""
    yield f"read {n_met:,} records of {' and '.join(files)}: {n_met - aside.n:,} rows{put}"
    left = f"; left out: {notes.left_out()}" if notes.dropped else ""
    yield f"made {len(notes.units):,} of {notes.n_made:,} examples{left}"
    for rule, advice in advised.items():
        if rule in notes.dropped:
            yield f"{rule}: {advice}"
    column = settings.split.entity_column()
    if n := len(notes.blank):
        yield f"{n:,} rows have no {column}; each is a unit of its own"
    if notes.n_respelled:
        yield (
            f"{notes.n_respelled:,} rows write their {column} otherwise than the first row of it (blanks, case, Unicode form); "
            "they stay together"
        )
    if notes.relabelled:
        ways: dict[str, Counter[str]] = {}
        for (written, label), n in notes.relabelled.items():
            ways.setdefault(label, Counter())[written] += n
        shown = "; ".join(
            f"'{label}' for " + ", ".join(f"{way!a} ({n:,})" for way, n in sorted(counts.items())[:NAMED])
            for label, counts in sorted(ways.items())[:NAMED]
        )
        n = notes.relabelled.total()
        are = "label is written otherwise than it is" if n == 1 else "labels are written otherwise than they are"
        yield f"{n:,} {are} taken: {shown}"


def check_reading(n_met: int, aside: Aside, notes: Notes, settings: PrepareSettings, task: Task, source: Table) -> None:
    """Problems, all at once, of what the reading showed: too much was put aside or left out, ids that are none."""
    file = source.path.name
    if n_met == 0:
        raise UserError("holds no records", where=file, hint="give a file with rows under its header")
    problems = [*unread(n_met, aside, settings)]
    column = settings.id_column
    if notes.no_id:
        n = len(notes.no_id)
        what = f"{n:,} rows have no id" if n > 1 else "the row has no id"
        hint = f"give {'each' if n > 1 else 'it'} one, or leave id_column out"
        problems.append(UserError(what, where=f"{notes.no_id[0]}: column '{column}'", hint=hint))
    if notes.again:
        more = f", and {len(notes.again) - 1:,} more do" if len(notes.again) > 1 else ""
        problems.append(
            UserError(
                f"the id '{notes.again[0]}' occurs twice{more}",
                where=f"prepare.id_column '{column}'",
                hint="make the ids unique, or leave id_column out: line numbers then serve",
            )
        )
    left_out, limit = notes.dropped.total(), settings.left_out_limit
    if not notes.units:
        hint = notes.left_out() + (f"; its columns are {', '.join(source.columns)}" if source.columns else "")
        problems.append(UserError("no row of the table makes an example", where=file, hint=hint))
    elif too_many(left_out, notes.n_made, limit):
        problems.append(
            UserError(
                f"{left_out:,} of {notes.n_made:,} rows make no example (limit {limit:.0%}): {notes.left_out()}",
                where=file,
                hint="correct them, or raise prepare.left_out_limit",
            )
        )
    if notes.units:
        written = {written for written, _ in notes.relabelled} | {unit.label for unit in notes.units}
        problems += [UserError(what) for what in task.unmet(written)]
        problems += [problem for name in settings.hold_out for problem in unmet(settings, name, notes.values)]
        if mixed := sorted(notes.held_out & notes.free):
            what = f"'{mixed[0].strip()}' has rows that are held out and rows that are not"
            problems.append(UserError(what, where="prepare.hold_out", hint="hold out whole units of the split"))
    if problems:
        raise Problems(problems)


def unread(n_met: int, aside: Aside, settings: PrepareSettings) -> Iterator[UserError]:
    """Of too many records that could not be read, the first ones."""
    n_broken = aside.n - aside.n_headers  # a header that stands again holds no row that could be lost
    if too_many(n_broken, n_met, settings.quarantine_limit):
        first = "; ".join(f"line {record.line}: {record.reason}" for record in aside.first)
        yield UserError(
            f"{n_broken} of {n_met} records cannot be read (limit {settings.quarantine_limit:.1%}): {first}",
            where=aside.first[0].file,
            hint="correct them, or raise prepare.quarantine_limit",
        )
