"""Applying a model to a table of any length: questions and answers lie on disk, so memory is flat and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from luthier.durable import file_hash, identity, place_new, unique_beside
from luthier.encoding import rendered
from luthier.engines import Request, Said, Session
from luthier.errors import MachineError, UserError
from luthier.form import Form
from luthier.hints import hinted
from luthier.readers import Quarantined, Row, Table
from luthier.seams import Dropped, Example, prediction
from luthier.store import Listener, disk_told
from luthier.tables import Format, new_file, write_rows
from luthier.tasks import TABLE, Task

FIRST, BLOCK = 32, 256  # questions answered before the first commit, and at most between two
OURS = 0x4C757468  # "Luth": SQLite's application id of a part-file, at byte 68 of its header
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE questions (n INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, prompt TEXT NOT NULL, said TEXT);
CREATE TABLE examples (row INTEGER, n INTEGER, question INTEGER NOT NULL, example TEXT NOT NULL, PRIMARY KEY (row, n))
    WITHOUT ROWID;
"""


class Questions:
    """The examples of tables that are to be answered, after the steps that change what the model reads.

    They are made anew at each pass and never held. Conversations need the model's `tokenizer`: what its chat template
    refuses is not asked.
    """

    def __init__(self, task: Task, tables: Mapping[str, Table], form: Form, tokenizer: Any = None) -> None:
        self.form, self.table = form, tables[TABLE]
        self.steps = [Kept(partial(task.examples, tables, targets=False))]
        for step in form.steps:
            self.steps.append(Kept(partial(step.apply, self.steps[-1])))
        if form.hints:
            self.steps.append(Kept(partial(hinted, self.steps[-1], form.hints, form.task)))
        if tokenizer is not None:
            self.steps.append(Kept(partial(self.renderable, self.steps[-1], tokenizer)))

    def __iter__(self) -> Iterator[Example]:
        return iter(self.steps[-1])

    def renderable(self, examples: Iterable[Example], tokenizer: Any) -> Iterator[Example | Dropped]:
        """Those that the chat template takes."""
        for example in examples:
            prompt = self.form.task.prompt(example)
            try:
                if not isinstance(prompt, str):
                    rendered(prompt, tokenizer, asks=True)
            except UserError:
                yield Dropped("a conversation that the chat template refuses", example.origin["row"], "")
            else:
                yield example

    @property
    def dropped(self) -> dict[str, int]:
        """What the last pass did not ask, by rule."""
        return dict(sum((step.dropped for step in self.steps), Counter()))


class Kept:
    """The examples that a step keeps; they can be gone through again, and the counts are those of the last pass."""

    def __init__(self, make: Callable[[], Iterable[Example | Dropped]]) -> None:
        self.make = make
        self.dropped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Example]:
        self.dropped = Counter()
        for found in self.make():
            if isinstance(found, Example):
                yield found
            else:
                self.dropped[found.rule] += 1


class Answers:
    """The part-file beside the table to be written: a SQLite database of examples, their questions, and the answers."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self.database = path, database

    def plan(self, questions: Questions, source: Path) -> None:
        """Write down every example and each distinct question, once; UserError where there is nothing to ask."""
        if self.about("planned"):
            return
        with self.database:
            for n, example in enumerate(questions):
                prompt = questions.form.task.prompt(example)
                key = hashlib.blake2b(Request(prompt).key().encode("utf-8", "surrogatepass"), digest_size=16).digest()
                self.database.execute(
                    "INSERT OR IGNORE INTO questions (key, prompt) VALUES (?, ?)", (key, json.dumps(prompt))
                )
                self.database.execute(
                    "INSERT INTO examples SELECT ?, ?, questions.n, ? FROM questions WHERE key = ?",
                    (example.origin["row"], n, json.dumps(example.json()), key),
                )
            if not self.count("examples"):
                unread = Counter(
                    f"what cannot be read ({record.rule})"
                    for record in questions.table.records()
                    if isinstance(record, Quarantined)
                )
                reasons = in_words({**questions.dropped, **unread})
                raise UserError(
                    f"nothing in it can be asked: {reasons}",
                    where=str(source),
                    hint="check that it is the right table, and that the columns which the model reads are filled in",
                )
            self.database.execute("INSERT INTO about VALUES ('planned', 'true')")
            self.database.execute("INSERT INTO about VALUES ('dropped', ?)", (json.dumps(questions.dropped),))

    def about(self, name: str) -> Any:
        """What was noted under a name, or None."""
        row = self.database.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def count(self, what: str) -> int:
        """How many `examples`, `questions`, or questions with an answer (`questions WHERE said NOT NULL`) there are."""
        return int(self.database.execute(f"SELECT count(*) FROM {what}").fetchone()[0])

    def unanswered(self) -> Iterator[dict[int, Request]]:
        """The questions without an answer, by number, a block at a time."""
        last = 0
        while True:
            first = self.database.execute(
                "SELECT min(n) FROM questions WHERE said IS NULL AND n > ?", (last,)
            ).fetchone()[0]
            if first is None:
                return
            last = end_of_block(first)
            rows = self.database.execute(
                "SELECT n, prompt FROM questions WHERE said IS NULL AND n BETWEEN ? AND ? ORDER BY n", (first, last)
            ).fetchall()
            yield {n: Request(json.loads(prompt)) for n, prompt in rows}

    def keep(self, said: Mapping[int, Said]) -> None:
        """Put answers on disk."""
        stored = [
            (json.dumps([each.text, [float(score) for score in each.scores], float(each.confidence), each.cut]), n)
            for n, each in said.items()
        ]
        with self.database:
            self.database.executemany("UPDATE questions SET said = ? WHERE n = ?", stored)

    def of_row(self, row: int) -> Iterator[tuple[Example, Said]]:
        """The examples of a row with what was said to each, in their order."""
        found = self.database.execute(
            "SELECT example, said FROM examples JOIN questions ON question = questions.n WHERE row = ? ORDER BY examples.n",
            (row,),
        )
        for example, said in found:
            text, scores, confidence, cut = json.loads(said)
            yield Example.of(json.loads(example)), Said(text, scores, confidence, cut)


def end_of_block(n: int) -> int:
    """Number of the last question in the block of question `n` (from 1), wherever answering began: blocks double at
    first, so that little is lost early."""
    size = end = min(FIRST, BLOCK)
    while end < n and size < BLOCK:
        size = min(2 * size, BLOCK)
        end += size
    return end if n <= end else end + math.ceil((n - end) / BLOCK) * BLOCK


@contextmanager
def begun(target: Path, same: Mapping[str, Any], listener: Listener) -> Iterator[Answers]:
    """The part-file of a table to be written: the one that an earlier call left, where all of `same` was the same.

    It stays when something goes wrong, unless that is the user's to mend and nothing was answered yet, and is removed at
    the end. UserError where another process has it open, or where a file of its name is none of ours.
    """
    path = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    told = {name: json.dumps(value, sort_keys=True) for name, value in same.items()}
    with disk_told(path), database_told(path):
        if os.path.lexists(path) and (other := differences(path, told)):
            listener.say(f"{path.name} was begun with another {' and another '.join(other)}: beginning again")
            path.unlink()
        if not path.exists():
            create(path, told)
        with closing(connected(path)) as database:
            answers = Answers(path, database)
            try:
                yield answers
            except UserError:
                if not answers.count("questions WHERE said NOT NULL"):
                    path.unlink()
                raise
            path.unlink()


def differences(path: Path, told: Mapping[str, str]) -> list[str]:
    """In what a part-file differs from one that could be gone on with; UserError where it is none of ours."""
    with path.open("rb") as file:
        header = file.read(72)
    if not header.startswith(b"SQLite format 3\0") or header[68:] != OURS.to_bytes(4, "big"):
        raise UserError(
            "is no part-file of Luthier and is not overwritten",
            where=str(path),
            hint="move it away, or write a table of another name",
        )
    with closing(connected(path)) as database:
        before = dict(database.execute("SELECT name, value FROM about"))
    return [name for name, value in told.items() if before.get(name) != value]


def create(path: Path, told: Mapping[str, str]) -> None:
    """A part-file without examples."""
    beside = unique_beside(path)
    try:
        with closing(sqlite3.connect(beside)) as database:
            database.executescript(f"PRAGMA application_id = {OURS}; {SCHEMA}")
            with database:
                database.executemany("INSERT INTO about VALUES (?, ?)", told.items())
        place_new(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def connected(path: Path) -> sqlite3.Connection:
    """A part-file that no other process can open until this one closes it."""
    database = sqlite3.connect(path, timeout=0)
    try:
        database.executescript("PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -65536; BEGIN EXCLUSIVE; COMMIT;")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


@contextmanager
def database_told(path: Path) -> Iterator[None]:
    """Say what is wrong with a part-file and what to do."""
    try:
        yield
    except sqlite3.DatabaseError as problem:
        code = problem.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            hint = "free some space and run the same command again: what was answered is kept"
            raise MachineError(f"cannot be written ({problem})", where=str(path), hint=hint) from problem
        if code == sqlite3.SQLITE_BUSY:
            hint = "wait for it, or write a table of another name"
            raise UserError("another process is writing it", where=str(path), hint=hint) from None
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            hint = "remove it and run the same command again"
            raise UserError(f"is damaged ({problem})", where=str(path), hint=hint) from None
        raise


def answer(answers: Answers, session: Session, listener: Listener) -> None:
    """Ask what has no answer yet; each block is on disk before the next one is asked."""
    total, before = answers.count("questions"), answers.count("questions WHERE said NOT NULL")
    if before:
        listener.say(f"going on after {before:,} of {total:,} questions")
    start, done = time.perf_counter(), before

    def tell(of_block: int, _: int) -> None:
        now = done + of_block
        left = (time.perf_counter() - start) / max(1, now - before) * (total - now)
        listener.progress("apply", now, total, {"left": f"{left:.0f} s"})

    for block in answers.unanswered():
        answers.keep(dict(zip(block, session.answer(list(block.values()), tell), strict=True)))
        done += len(block)


def write(
    answers: Answers, session: Session, form: Form, task: Task, table: Table, target: Path, stat: str
) -> dict[str, Any]:
    """The table with its answers beside its rows, and what could not be read in a file of its own; returns the counts.

    `stat` is the table's identity when the first question was made of it. UserError, and nothing is written, where every
    answer is empty; cells alone may rightly be emptied.
    """
    columns = table.columns
    if columns is None:
        columns = list(dict.fromkeys(name for row in table for name in row.values))
    counts: Counter[str] = Counter()

    def rows() -> Iterator[tuple[Row, dict[str, Any]]]:
        counts.clear()
        for record in table.records():
            if isinstance(record, Quarantined):
                counts["quarantined"] += 1
                counts["headers"] += record.rule == "header"  # which holds no row that could be lost
                continue
            found = [
                prediction(example, form.objective.decode(said, example, form.task, session.labels))
                for example, said in answers.of_row(record.line)
            ]
            counts["rows"] += 1
            counts["silent"] += not found
            counts["empty"] += sum(not str(each.output).strip() for each in found)
            counts["cut"] += sum(each.cut for each in found)
            yield record, beside(columns, task.cells(record.values, found))

    with new_file(target) as beside_target:
        notes = write_rows(beside_target, Format.of(table, target), columns, rows)
        if counts["empty"] == answers.count("examples") and not task.about_cells:
            answers.path.unlink()
            raise UserError(
                f"nothing is suggested: the model's answer is empty for all {counts['empty']:,} that were asked",
                where=str(table.path),
                hint="look at the answers in the run's report; nothing was written",
            )
        if identity(table.path.stat()) != stat:
            raise UserError("changed while it was read", where=str(table.path), hint="run the same command again")
        aside = {"quarantine": str(put_aside(table, target))} if counts["quarantined"] else {}
    return {
        "rows": counts["rows"],
        "quarantined": counts["quarantined"],
        "unread": counts["quarantined"] - counts["headers"],
        "predictions": answers.count("examples"),
        "questions": answers.count("questions"),
        "empty_predictions": counts["empty"],
        "cut_predictions": counts["cut"],
        "rows_without_prediction": counts["silent"],
        "not_asked": answers.about("dropped"),
        "written": str(target),
        "notes": [*notes, *filter(None, [table.joined()])],
        **aside,
    }


def put_aside(table: Table, target: Path) -> Path:
    """The records that cannot be read, each whole, in `<target>.quarantine.jsonl` or under the next name that is free."""
    partial = unique_beside(target)
    try:
        # a lone surrogate, such as a key may hold, becomes the escape that JSON has for it
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            for record in table.records():
                if isinstance(record, Quarantined):
                    file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for number in count(1):
            path = target.with_name(f"{target.name}.quarantine{f'-{number}' if number > 1 else ''}.jsonl")
            try:
                place_new(partial, path)
            except FileExistsError:
                if not path.is_file() or file_hash(path) != file_hash(partial):
                    continue  # somebody else's; the same bytes are of an earlier call that was cut short
            return path
        raise AssertionError("numbers do not end")
    finally:
        partial.unlink(missing_ok=True)


def beside(columns: Iterable[str], cells: Mapping[str, Any]) -> dict[str, Any]:
    """New cells under names that the table does not have yet."""
    known, renamed = set(columns), {}
    for name, cell in cells.items():
        while name in known or name in renamed:
            name += "_"
        renamed[name] = cell
    return renamed


def in_words(dropped: Mapping[str, int]) -> str:
    """`240 with no target, 3 with empty value`."""
    return ", ".join(f"{n} with {rule}" for rule, n in dropped.items())


def told_of(result: Mapping[str, Any]) -> list[str]:
    """What `write` counted, for people: the last line says what was put aside, where anything was."""
    suggested = counted(result["predictions"], "suggestion")
    lines = [f"wrote {counted(result['rows'], 'row')} with {suggested} to {result['written']}"]
    if result["empty_predictions"]:
        lines.append(f"the model's answer is empty in {result['empty_predictions']:,} of the suggestions")
    if n_cut := result["cut_predictions"]:
        lines.append(
            f"{n_cut:,} of {counted(result['predictions'], 'answer')} {'was' if n_cut == 1 else 'were'} cut off "
            f"at predict.engine.max_new_tokens ({result['max_new_tokens']})"
        )
    if result["rows_without_prediction"] or result["not_asked"]:
        why = in_words(result["not_asked"]) or "nothing by a rule"
        lines.append(f"without any: {counted(result['rows_without_prediction'], 'row')}; not asked: {why}")
    lines += result["notes"]
    if result["quarantined"]:
        aside = counted(result["quarantined"], "row")
        lines.append(
            f"put aside, since it cannot be read: {aside}, whole, with line and reason, in {result['quarantine']}"
        )
    return lines


def counted(n: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
