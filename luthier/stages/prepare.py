"""Prepare: tables become examples with splits; the steps of the recipe work on them, and every row's fate is counted."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from luthier import seams
from luthier.choice import Settings
from luthier.errors import Problems, UserError
from luthier.facts import FlowStep, PreparedFacts
from luthier.preparers import Preparer
from luthier.readers import Quarantined, Table
from luthier.reading import detect
from luthier.recipe import PrepareSettings
from luthier.seams import Dropped, Example, name_of
from luthier.splits import NO_COLUMNS, Unit
from luthier.store import Artifact, Out, stage
from luthier.tasks import TABLE, Task

SPLITS = ("train", "validation", "test")
SPLIT_FILE = "split_"  # role of a file that a given split names, before the split's name
TOLD = 3  # quarantined rows named in an error
NAMED = 5  # labels named in a sentence


class Prepare(Settings):
    """What decides the examples."""

    task: Task
    """Its source alone."""
    settings: PrepareSettings
    seed: int


@stage(version=3)
def prepare(config: Prepare, out: Out, **inputs: Artifact) -> dict[str, Any]:
    """Files `train`, `validation` and `test` of Examples, and `quarantine.jsonl`.

    Inputs: the task's tables by role, and files of a given split as `split_<name>`.
    """
    settings, task = config.settings, config.task
    put_aside = out.folder / "quarantine.jsonl"
    with put_aside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as quarantine:
        aside = Aside(quarantine)
        tables = opened(inputs, settings, aside, out)
        check_columns(tables, task, settings)
        notes = Notes(columns_of(settings))
        first = out.checkpoints / "0.jsonl"
        with out.timed("read"), first.open("w", encoding="utf-8", newline="\n") as file:
            for role, readable in sources(tables, task).items():
                for found in task.examples(readable):
                    notes.n_made += 1
                    if isinstance(found, Dropped):
                        notes.dropped[found.rule] += 1
                        notes.first.setdefault(found.rule, (readable[TABLE].path.name, found.line, found.column))
                    else:
                        note(found, role, notes, settings)
                        file.write(seams.line(found) + "\n")
                notes.n_read += readable[TABLE].n_read
                notes.n_rows += readable[TABLE].n_rows
    source = tables[TABLE]
    check_quarantine(sum(table.n_read for table in tables.values()), aside, settings, source.path)
    if not notes.units:
        raise UserError("no row of the table makes an example", where=source.path.name, hint=notes.left_out())
    if aside.n:
        out.say(f"put aside: {aside.n:,} records (the first: {aside.earliest})")
    if notes.dropped:
        out.say(f"left out: {notes.left_out()}")
    if notes.blank:
        out.say(f"{len(notes.blank):,} rows have no {settings.split.entity_column()}; each is a unit of its own")
    n_blank = len(notes.blank)
    draft = Draft(first, assigned(notes, settings, config.seed))
    flow = [
        FlowStep(
            step="read",
            arrived=notes.n_read,
            kept=notes.n_rows,
            fates=counted({"quarantined": notes.n_read - notes.n_rows}),
        ),
        FlowStep(
            step="examples",
            arrived=notes.n_made,
            kept=len(notes.units),
            fates=dict(notes.dropped),
            made=notes.n_made,
        ),
    ]
    del notes
    for number, step in enumerate(settings.steps, start=1):
        with out.timed(step.kind):
            draft, done = stepped(step, draft, out.checkpoints / f"{number}.jsonl")
        flow.append(done)
    look = Look()
    with out.timed("write"):
        splits = look.through(draft)
        for split in SPLITS:
            seams.write_lines(out.folder / split, draft.lines(split, splits))
    if lost := [step.step for step in flow if not step.adds_up]:
        raise AssertionError(f"rows were lost in step {lost[0]}")
    look.check(task, settings, flow)
    untested = look.untested_labels()
    if untested:
        out.say(f"{labels_in_words(untested)} in training alone, so the test says nothing of them")
    return PreparedFacts(
        source={"file": source.path.name, **source.described},
        files=[tables[role].path.name for role in tables],
        flow=flow,
        splits={split: splits.count(split) for split in SPLITS},
        n_quarantined=aside.n,
        labels=dict(sorted(look.all_labels().items())),
        label_names=sorted(look.labels["train"]),
        untested_labels=untested,
        blank_groups=n_blank,
        slices={name: dict(sorted(counts.items())) for name, counts in sorted(look.slices.items())},
        seen_in_training=look.seen_in_training(),
        conflicting=look.n_conflicting,
        test_split=look.fingerprint(),
        steps=[step.model_dump(mode="json") for step in settings.steps if step.changes_input],
    ).model_dump(mode="json")


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
    units: list[Unit] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)  # entities
    free: set[str] = field(default_factory=set)  # entities
    values: set[tuple[str, str]] = field(default_factory=set)  # (column, value) of what may be held out
    ids: set[str] = field(default_factory=set)
    blank: set[str] = field(default_factory=set)  # entities of rows whose group is blank
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


def opened(inputs: dict[str, Artifact], settings: PrepareSettings, aside: Aside, out: Out) -> dict[str, Table]:
    """Every table and split file by role, with what was detected said."""
    tables = {}
    for role in sorted(inputs, key=lambda role: (role != TABLE, role)):
        path = inputs[role].path
        reader = settings.reader if settings.reader and (role == TABLE or role.startswith(SPLIT_FILE)) else detect(path)
        tables[role] = Table(path, reader, aside)
        out.say(f"reading {path.name} as {in_words(tables[role].described)}")
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


def check_columns(tables: dict[str, Table], task: Task, settings: PrepareSettings) -> None:
    """Every column that the recipe names must be there, and none may be both read and asked for."""
    beside = next((role for role in task.row_by_row if role in tables), None)
    key = [task.paired_by()] if beside and task.paired_by() else []
    for role, table in tables.items():
        if role == TABLE or role.startswith(SPLIT_FILE):
            with_targets = beside is None or role != TABLE
            own = task.targets() if with_targets else key
            table.require([*task.columns(), *columns_of(settings), *own])
        elif role == beside:
            table.require([*task.targets(), *key])
    both = sorted(set(task.columns()) & set(task.targets())) if beside is None else []
    if both:
        told = [f"column '{name}' is both read and asked for" for name in both]
        raise Problems([UserError(each, where="task", hint="leave the answer out of the input") for each in told])


def note(found: Example, role: str, notes: Notes, settings: PrepareSettings) -> None:
    """Remember what splitting needs of an example, which gets its id, entity and slices."""
    cells = {name: name_of(found.row.get(name)) for name in notes.columns}
    if settings.id_column:
        if not cells[settings.id_column]:
            raise UserError(
                "the row has no id",
                where=f"{seams.place(found)}: column '{settings.id_column}'",
                hint="give it one, or leave id_column out",
            )
        suffix = found.id[found.id.find(":") :] if ":" in found.id else ""
        found.id = f"{cells[settings.id_column]}{suffix}"
    elif role:
        found.id = f"{role}/{found.id}"
    if found.id in notes.ids:
        raise UserError(
            f"the id '{found.id}' occurs twice",
            where=f"prepare.id_column '{settings.id_column}'",
            hint="make the ids unique, or leave id_column out: line numbers then serve",
        )
    notes.ids.add(found.id)
    column = settings.split.entity_column()
    row = cells[settings.id_column] if settings.id_column else f"{role}:{found.origin['row']}"
    if column and not cells[column]:
        found.entity = f" {row}"  # a blank group is no group; no group's name begins with a blank
        notes.blank.add(found.entity)
    else:
        found.entity = cells[column] if column else row
    held_out = any(cells[name] in values for name, values in settings.hold_out.items())
    (notes.held_out if held_out else notes.free).add(found.entity)
    notes.values |= {(name, cells[name]) for name in settings.hold_out}
    if settings.hold_out:
        found.slices["unseen"] = name_of(held_out)
    if settings.slices and (taken := sorted(found.slices.keys() & settings.slices.keys())):
        raise UserError(
            f"there is a group '{taken[0]}' already", where="prepare.slices", hint="give yours another name"
        )
    found.slices |= {name: cells[column] for name, column in settings.slices.items()}
    label = sys.intern(str(found.target)) if seams.names_in(found.target) else ""
    needed = settings.split.needs()
    notes.units.append(
        Unit(found.id, found.entity, label, role, {name: cells[name] for name in needed} if needed else NO_COLUMNS)
    )


def check_quarantine(n_met: int, aside: Aside, settings: PrepareSettings, path: Path) -> None:
    """Stop when too many of all records met could not be read, naming the first ones."""
    if n_met == 0:
        raise UserError("holds no records", where=path.name, hint="give a file with rows under its header")
    n_broken = aside.n - aside.n_headers  # a header that stands again holds no row that could be lost
    if n_broken <= settings.quarantine_limit * n_met:
        return
    first = "; ".join(f"line {record.line}: {record.reason}" for record in aside.first)
    raise UserError(
        f"{n_broken} of {n_met} records cannot be read (limit {settings.quarantine_limit:.1%}): {first}",
        where=aside.first[0].file,
        hint="correct them, or raise prepare.quarantine_limit",
    )


def assigned(notes: Notes, settings: PrepareSettings, seed: int) -> list[str]:
    """The split of each example; what is held out goes to test without the split seeing it."""
    mixed = sorted(notes.held_out & notes.free)
    if mixed:
        raise UserError(
            f"'{mixed[0].strip()}' has rows that are held out and rows that are not",
            where="prepare.hold_out",
            hint="hold out whole units of the split",
        )
    for column, values in settings.hold_out.items():
        known = [value for name, value in notes.values if name == column]
        for value in values:
            if value not in known:
                near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
                raise UserError(
                    f"no row has {column}: {value}" if value else f"no row has a blank {column}",
                    where="prepare.hold_out",
                    hint=f"did you mean '{near[0]}'?" if near else "write a value in quotes, as it stands in the table",
                )
    free = [unit for unit in notes.units if unit.entity not in notes.held_out]
    splits = iter(settings.split.assign(free, seed))
    return [sys.intern("test" if unit.entity in notes.held_out else next(splits)) for unit in notes.units]


class Draft:
    """Examples on disk between two steps, with the split of each; gone through as often as need be."""

    def __init__(self, path: Path, splits: list[str]) -> None:
        self.path, self.splits = path, splits

    def __iter__(self) -> Iterator[Example]:
        with self.path.open(encoding="utf-8") as file:
            for text, split in zip(file, self.splits, strict=True):
                example = Example.of(json.loads(text))
                example.split = split
                yield example

    def lines(self, split: str, splits: list[str]) -> Iterator[str]:
        """The lines of one split as they stand in the file that `Look.through` wrote last."""
        with self.path.open(encoding="utf-8") as file:
            for text, of in zip(file, splits, strict=True):
                if of == split:
                    yield text.rstrip("\n")


def stepped(step: Preparer, draft: Draft, path: Path) -> tuple[Draft, FlowStep]:
    """The examples that one step leaves, and what became of those that came."""
    fates: Counter[str] = Counter()
    splits: list[str] = []
    n_new = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for found in step.apply(draft):
            if isinstance(found, Dropped):
                fates[found.rule] += 1
                continue
            n_new += bool(found.parent)
            splits.append(sys.intern(found.split))
            file.write(seams.line(found) + "\n")
    arrived = len(draft.splits)
    made = {"made": arrived + n_new} if n_new else {}
    done = FlowStep(step=step.kind, arrived=arrived + n_new, kept=len(splits), fates=counted(fates), **made)
    draft.path.unlink()
    return Draft(path, splits), done


class Look:
    """What one pass over the finished examples shows: labels, groups, leaks."""

    def __init__(self) -> None:
        self.labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self.held_out: Counter[str] = Counter()  # labels of rows that are held out
        self.slices: dict[str, Counter[str]] = {}
        self.test_questions: list[bytes] = []
        self.tested: list[str] = []  # ids and targets of the test split
        self.answers: dict[bytes, bytes | None] = {}  # training question -> its lesson; None where there are several
        self.n_conflicting = 0

    def through(self, draft: Draft) -> list[str]:
        """Look at each example and write its split into the file; returns the splits in the file's order."""
        written = draft.path.with_suffix(".final")
        splits = []
        training: Counter[bytes] = Counter()
        with written.open("w", encoding="utf-8", newline="\n") as file:
            for example in draft:
                self.at(example, training)
                splits.append(sys.intern(example.split))
                file.write(seams.line(example) + "\n")
        written.replace(draft.path)
        self.n_conflicting = sum(n for question, n in training.items() if self.answers[question] is None)
        return splits

    def at(self, example: Example, training: Counter[bytes]) -> None:
        """Count one example."""
        self.labels[example.split].update(seams.names_in(example.target))
        if example.slices.get("unseen") == "true":
            self.held_out.update(seams.names_in(example.target))
        for name, value in example.slices.items():
            self.slices.setdefault(name, Counter())[value] += 1
        question, lesson = seams.question(example), seams.lesson(example)
        if example.split == "train":
            training[question] += 1
            if self.answers.setdefault(question, lesson) != lesson:
                self.answers[question] = None
        elif example.split == "test":
            self.test_questions.append(question)
            self.tested.append(f"{example.id} {json.dumps(example.json()['target'], sort_keys=True)}")

    def all_labels(self) -> Counter[str]:
        """Examples of each label, over all splits."""
        return sum(self.labels.values(), Counter())

    def seen_in_training(self) -> int:
        """Test examples whose very input stands in training."""
        return sum(question in self.answers for question in self.test_questions)

    def fingerprint(self) -> str:
        """Which rows the test split holds, as a hash of ids and targets: the same whatever is shown of a row."""
        return hashlib.sha256("\n".join(sorted(self.tested)).encode("utf-8", "surrogatepass")).hexdigest()[:20]

    def untested_labels(self) -> dict[str, int]:
        """Training examples of each label that no test example has."""
        tested = self.labels["test"]
        return {label: n for label, n in sorted(self.labels["train"].items()) if label not in tested}

    def check(self, task: Task, settings: PrepareSettings, flow: list[FlowStep]) -> None:
        """Training and test need examples, and labels enough to tell apart; every label must be learnable."""
        if not self.answers or not self.tested:
            split = "test" if self.answers else "train"
            moved = sum(step.fates.get("same input in a later split", 0) for step in flow)
            if split == "train" and moved:
                raise UserError(
                    f"the train split is empty: {moved} examples were dropped, as their input stands in a later split",
                    where="prepare.steps",
                    hint="keep equal inputs together (`split: {kind: grouped, by: ...}` with the column that is read), "
                    "or give dedup `across: false`",
                )
            raise UserError(f"the {split} split is empty", where="prepare.split", hint="give it more rows")
        known = self.labels["train"]
        if task.answers == "label" and len(known) == 1:
            raise UserError(
                f"all training rows have the one label '{next(iter(known))}'",
                where="task.label",
                hint="classification needs at least two labels; check the column",
            )
        later = self.labels["validation"] + self.labels["test"]
        strangers = {label: n for label, n in later.items() if label not in known}
        if strangers:
            if all(self.held_out[label] == n for label, n in strangers.items()):
                hint = "they stand in rows that are held out alone; hold out others, or take those rows out"
            elif {"kind": "stratified", "by": ""}.items() <= settings.split.model_dump().items():
                hint = "what stood in training was held out or dropped by a step; merge labels that are this rare"
            else:
                hint = "use `kind: stratified`, which keeps one example of each label in training, or merge rare labels"
            raise UserError(
                f"{labels_in_words(strangers)} in validation or test, never in training",
                where="prepare.split",
                hint=hint,
            )


def labels_in_words(counts: Mapping[str, int]) -> str:
    """`3 labels, 'a' (2), 'b' (1) and 'c' (1), stand` or `label 'a' (2) stands`: the commonest few, with their counts."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"'{label}' ({n:,})" for label, n in ordered[:NAMED]]
    if len(counts) > NAMED:
        shown.append(f"{len(counts) - NAMED:,} more")
    if len(counts) == 1:
        return f"label {shown[0]} stands"
    return f"{len(counts):,} labels, {', '.join(shown[:-1])} and {shown[-1]}, stand"


def in_words(described: dict[str, Any]) -> str:
    """What a reader found: 'csv, utf-8 (every byte is valid utf-8), delimiter ";"'; not what only a writer needs."""
    facts = {key: value for key, value in described.items() if key not in ("columns", "above", "mark", "newline")}
    found_by = facts.pop("encoding_found_by", "")
    first = f"{facts.pop('format')}, {facts.pop('encoding')}" + (f" ({found_by})" if found_by else "")
    told = [
        key.replace("_", " ") + ("" if value is True else f" {json.dumps(value, ensure_ascii=False)}")
        for key, value in facts.items()
    ]
    return ", ".join([first, *told])


def counted(fates: Counter[str] | dict[str, int]) -> dict[str, int]:
    """Those fates that befell anything."""
    return {name: n for name, n in fates.items() if n}
