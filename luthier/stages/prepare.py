"""Prepare: tables become examples with splits; the steps of the recipe work on them, and every row's fate is counted."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from luthier import seams
from luthier.choice import Settings
from luthier.errors import Problems, UserError
from luthier.facts import FlowStep, PreparedFacts
from luthier.looks import look_alike, unconfused
from luthier.preparers import Preparer
from luthier.readers import Quarantined, Table, too_many
from luthier.reading import contradicted, detect, said_of
from luthier.recipe import PrepareSettings
from luthier.seams import Dropped, Example, compared, name_of
from luthier.splits import NO_COLUMNS, Unit
from luthier.store import Artifact, Out, stage
from luthier.tasks import TABLE, Task

SPLITS = ("train", "validation", "test")
SPLIT_FILE = "split_"  # role of a file that a given split names, before the split's name
TOLD = 3  # quarantined rows named in an error
MANY = 0.2  # share of the examples above which their loss is worth a warning
NAMED = 20  # labels named in a sentence


class Prepare(Settings):
    """What decides the examples."""

    task: Task
    """Its source alone."""
    settings: PrepareSettings
    seed: int


@stage(version=4)
def prepare(config: Prepare, out: Out, **inputs: Artifact) -> dict[str, Any]:
    """Files `train`, `validation` and `test` of Examples, and `quarantine.jsonl`.

    Inputs: the task's tables by role, and files of a given split as `split_<name>`.
    """
    settings, task = config.settings, config.task
    put_aside = out.folder / "quarantine.jsonl"
    with put_aside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as quarantine:
        aside = Aside(quarantine)
        tables = opened({role: given.path for role, given in inputs.items()}, task, settings, aside, out.say)
        notes = Notes(columns_of(settings), task.targets() if task.answers == "label" else [])
        first = out.checkpoints / "0.jsonl"
        with out.timed("read"), first.open("w", encoding="utf-8", newline="\n") as file:
            for role, readable in sources(tables, task).items():
                for found in task.examples(readable):
                    notes.n_made += 1
                    if isinstance(found, Dropped):
                        notes.dropped[found.rule] += 1
                        place = (found.file or readable[TABLE].path.name, found.line, found.column)
                        notes.first.setdefault(found.rule, place)
                    else:
                        note(found, role, notes, settings)
                        file.write(seams.line(found) + "\n")
                notes.n_read += readable[TABLE].n_read
                notes.n_rows += readable[TABLE].n_rows
    source = tables[TABLE]
    n_met = sum(table.n_read for table in tables.values())
    for line in of_reading(n_met, aside, notes, settings, [table.path.name for table in tables.values()], task.advice):
        out.say(line)
    for line in filter(None, (table.joined() for table in tables.values())):
        out.say(f"warning: {line}")
    check_reading(n_met, aside, notes, settings, task, source)
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
    n_blank, n_respelled, relabelled = len(notes.blank), notes.n_respelled, notes.relabelled.total()
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
    told_steps(flow, {split: splits.count(split) for split in SPLITS}, out)
    look.check(task, settings, flow)
    for line in look.warnings():
        out.say(f"warning: {line}")
    untested = look.untested_labels()
    if untested:
        out.say(
            f"{labels_in_words(untested)} in training alone, so the test says nothing of them; task.fewest leaves rare "
            "labels out, with task.rare as one"
        )
    return PreparedFacts(
        source={"file": source.path.name, **source.described},
        files=[tables[role].path.name for role in tables],
        flow=flow,
        splits={split: splits.count(split) for split in SPLITS},
        n_quarantined=aside.n,
        labels=dict(sorted(look.all_labels().items())),
        label_names=sorted(look.labels["train"]),
        untested_labels=untested,
        relabelled=relabelled,
        alike_labels=look.alike_labels(),
        blank_groups=n_blank,
        respelled_groups=n_respelled,
        slices=ordered(look.slices),
        tested_slices=ordered(look.tested_slices),
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
            problems += problem.problems if isinstance(problem, Problems) else [problem]
        else:
            say(said_of(tables[role]))
    problems += missing_columns(tables, task, settings)
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


def missing_columns(tables: dict[str, Table], task: Task, settings: PrepareSettings) -> list[UserError]:
    """Every column that the recipe names and a table lacks; and those that are both read and asked for."""
    beside = next((role for role in task.row_by_row if role in task.paths() or role in tables), None)
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


def assigned(notes: Notes, settings: PrepareSettings, seed: int) -> list[str]:
    """The split of each example; what is held out goes to test without the split seeing it."""
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
        self.tested_slices: dict[str, Counter[str]] = {}
        self.test_questions: list[bytes] = []
        self.tested: list[str] = []  # ids and targets of the test split
        self.answers: dict[bytes, bytes | None] = {}  # training question -> its lesson; None where there are several
        self.learned: set[bytes] = set()  # training questions as they look
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
            if example.split == "test":
                self.tested_slices.setdefault(name, Counter())[value] += 1
        if example.split == "train":
            question, lesson = seams.question(example), seams.lesson(example)
            self.learned.add(seams.alike(example))
            training[question] += 1
            if self.answers.setdefault(question, lesson) != lesson:
                self.answers[question] = None
        elif example.split == "test":
            self.test_questions.append(seams.alike(example))
            self.tested.append(f"{example.id} {json.dumps(example.json()['target'], sort_keys=True)}")

    def all_labels(self) -> Counter[str]:
        """Examples of each label, over all splits."""
        return sum(self.labels.values(), Counter())

    def seen_in_training(self) -> int:
        """Test examples whose input stands in training, or one that looks alike."""
        return sum(question in self.learned for question in self.test_questions)

    def fingerprint(self) -> str:
        """Which rows the test split holds, as a hash of ids and targets: the same whatever is shown of a row."""
        return hashlib.sha256("\n".join(sorted(self.tested)).encode("utf-8", "surrogatepass")).hexdigest()[:20]

    def untested_labels(self) -> dict[str, int]:
        """Training examples of each label that no test example has."""
        tested = self.labels["test"]
        return {label: n for label, n in sorted(self.labels["train"].items()) if label not in tested}

    def alike_labels(self) -> list[list[str]]:
        """Labels that may be one, written in several ways: those that look alike or are one number or truth value."""
        ways: dict[str, list[str]] = {}
        for label in sorted(self.all_labels()):
            ways.setdefault(meant(label), []).append(label)
        return [names for names in ways.values() if len(names) > 1]

    def warnings(self) -> Iterator[str]:
        """What was taken into account and may not be what is wanted."""
        if n := self.seen_in_training():
            yield (
                f"{n:,} of {len(self.test_questions):,} test inputs look like one of training (blanks, case and Unicode form "
                "aside); `steps: [dedup]` takes those out of training"
            )
        counts = self.all_labels()
        for names in self.alike_labels():
            shown = " and ".join(f"'{name}' ({counts[name]:,}{code_points(name)})" for name in names)
            yield f"labels that may be one: {shown}; `task.merge` takes them as one"

    def check(self, task: Task, settings: PrepareSettings, flow: list[FlowStep]) -> None:
        """Training and test need examples, and labels enough to tell apart; every label must be learnable."""
        if not self.answers or not self.tested:
            split = "test" if self.answers else "train"
            moved = moved_by(flow)
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
            twins = [
                f"'{label}' may be '{other}' of training"
                for label in strangers
                for other in known
                if meant(label) == meant(other)
            ]
            remedy = "leave labels out that are this rare (task.fewest), or merge them (task.rare, task.merge)"
            if all(self.held_out[label] == n for label, n in strangers.items()):
                hint = "they stand in rows that are held out alone; hold out others, or take those rows out"
            elif twins:
                hint = f"{', '.join(twins[:NAMED])}: `task.merge` takes them as one"
            elif {"kind": "stratified", "by": ""}.items() <= settings.split.model_dump().items():
                hint = f"what stood in training was held out or dropped by a step; {remedy}"
            else:
                hint = f"use `kind: stratified`, which keeps one example of each label in training, or {remedy}"
            raise UserError(
                f"{labels_in_words(strangers)} in validation or test, never in training",
                where="prepare.split",
                hint=hint,
            )


def meant(label: str) -> str:
    """A key that is equal for labels which are likely one: 1 and 1.0, true and 1, Praise and praise, a Cyrillic a and a."""
    text = unconfused(look_alike(label))
    try:
        return f"{float({'true': '1', 'false': '0'}.get(text, text)):g}"
    except ValueError:
        return text


def code_points(label: str) -> str:
    """`, with U+0430` for each letter beyond ASCII, where there are few."""
    beyond = [f"U+{ord(c):04X}" for c in label if not c.isascii()]
    return f", with {' '.join(beyond)}" if 0 < len(beyond) <= NAMED else ""


def labels_in_words(counts: Mapping[str, int]) -> str:
    """`3 labels, 'a' (2), 'b' (1) and 'c' (1), stand` or `label 'a' (2) stands`: the commonest few, with their counts."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"'{label}' ({n:,})" for label, n in ordered[:NAMED]]
    if len(counts) > NAMED:
        shown.append(f"{len(counts) - NAMED:,} more")
    if len(counts) == 1:
        return f"label {shown[0]} stands"
    return f"{len(counts):,} labels, {', '.join(shown[:-1])} and {shown[-1]}, stand"


def told_steps(flow: list[FlowStep], splits: Mapping[str, int], out: Out) -> None:
    """Say what the steps dropped, and where the rest went."""
    kept, dropped = sum(splits.values()), ""
    for step in flow[2:]:
        fates = ", ".join(f"{n:,} with {fate}" for fate, n in step.fates.items())
        dropped += f"; {step.step} dropped {fates}" if fates else ""
    divided = ", ".join(f"{name} {n:,}" for name, n in splits.items())
    out.say(f"kept {kept:,} examples: {divided}{dropped}")
    moved = moved_by(flow)
    if moved > MANY * (kept + moved) and splits["train"]:
        out.say(
            f"warning: {moved:,} examples went, as their input stands in a later split or looks like one there; to keep them, "
            "split by the column that is read: `split: {kind: grouped, by: ...}`"
        )


def moved_by(flow: list[FlowStep]) -> int:
    """Examples that were dropped since a later split asks the same."""
    return sum(step.fates.get("same input in a later split", 0) for step in flow)


def ordered(slices: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Counts by slice and value, both in alphabetical order."""
    return {name: dict(sorted(counts.items())) for name, counts in sorted(slices.items())}


def counted(fates: Counter[str] | dict[str, int]) -> dict[str, int]:
    """Those fates that befell anything."""
    return {name: n for name, n in fates.items() if n}
