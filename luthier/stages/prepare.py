"""Prepare: tables become examples with splits; the steps of the recipe work on them, and every row's fate is counted."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from luthier import seams
from luthier.choice import Settings
from luthier.errors import UserError
from luthier.facts import FlowStep, PreparedFacts
from luthier.looks import look_alike, unconfused
from luthier.noting import NAMED, Aside, Notes, check_reading, columns_of, note, of_reading, opened, sources
from luthier.recipe import PrepareSettings
from luthier.seams import Dropped, Example
from luthier.splits._folds import folded
from luthier.store import Artifact, Out, stage
from luthier.tasks import TABLE, Task

SPLITS = ("train", "validation", "test")
Apply = Callable[[Iterable[Example]], Iterator[Example | Dropped]]
MANY = 0.2  # share of the examples above which their loss is worth a warning


class Fold(Settings):
    """One division of a k-fold cross-validation."""

    number: int
    """From 0: which fold is validated on."""
    of: int


class Prepare(Settings):
    """What decides the examples."""

    task: Task
    """Its source alone."""
    settings: PrepareSettings
    seed: int
    fold: Fold | None = None
    """Set where train and validation are divided otherwise, for a cross-validation."""


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
    draft = Draft(first, assigned(notes, config))
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
    if task.partly_comparable():
        compared, file_ = partial(comparable, task), out.checkpoints / "comparable.jsonl"
        draft, done = stepped("with a right answer", compared, draft, file_)
        flow.append(done)
    n_blank, n_respelled, relabelled = len(notes.blank), notes.n_respelled, notes.relabelled.total()
    del notes
    for number, step in enumerate(settings.steps, start=1):
        with out.timed(step.kind):
            draft, done = stepped(step.kind, step.apply, draft, out.checkpoints / f"{number}.jsonl")
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


def assigned(notes: Notes, config: Prepare) -> list[str]:
    """The split of each example; what is held out goes to test without the split seeing it."""
    free = [unit for unit in notes.units if unit.entity not in notes.held_out]
    split, fold = config.settings.split, config.fold
    divided = split.assign(free, config.seed)
    if fold is not None:
        labelled = config.task.answers == "label"
        divided = folded(free, divided, split, fold.number, fold.of, config.seed, labelled=labelled)
    splits = iter(divided)
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


def comparable(task: Task, examples: Iterable[Example]) -> Iterator[Example | Dropped]:
    """Outside training, the examples with whose targets an answer can be compared."""
    for example in examples:
        if example.split == "train" or task.comparable(example):
            yield example
        else:
            yield Dropped("no right answer to compare with", int(example.origin["row"]), "")


def stepped(name: str, apply: Apply, draft: Draft, path: Path) -> tuple[Draft, FlowStep]:
    """The examples that one step leaves, and what became of those that came."""
    fates: Counter[str] = Counter()
    splits: list[str] = []
    n_new = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for found in apply(draft):
            if isinstance(found, Dropped):
                fates[found.rule] += 1
                continue
            n_new += bool(found.parent)
            splits.append(sys.intern(found.split))
            file.write(seams.line(found) + "\n")
    arrived = len(draft.splits)
    made = {"made": arrived + n_new} if n_new else {}
    done = FlowStep(step=name, arrived=arrived + n_new, kept=len(splits), fates=counted(fates), **made)
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
