"""Applying: a table of any length in flat memory, gone on with after a crash, and nothing of the user's touched."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier import applying
from luthier.applying import Questions, answer, begun, told_of, write
from luthier.durable import identity
from luthier.engines import Request, Said, Session, Tell, untold
from luthier.errors import MachineError, UserError
from luthier.form import Form
from luthier.objectives import Objective
from luthier.readers import Reader, Table
from luthier.reading import detect
from luthier.store import Silent
from luthier.tasks import Task
from luthier.tasks.standardize import Standardize

TASK = Standardize(table="t", column="messy", target="clean")


class Counting(Session):
    """Answers with the length of the prompt, and remembers what it was asked, block by block."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.blocks: list[list[str]] = []
        self.fail_after = fail_after

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        if len(self.blocks) == self.fail_after:
            raise KeyboardInterrupt
        self.blocks.append([str(request.prompt) for request in requests])
        tell(len(requests), len(requests))
        return [Said(text=f" {len(str(request.prompt))} ", confidence=1 / 3) for request in requests]


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[float, float, dict[str, str]]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done: float, total: float, figures: Any) -> None:
        self.steps.append((done, total, dict(figures)))


def applied(
    source: Path,
    target: Path,
    session: Session,
    *,
    task: Task = TASK,
    same: str = "model",
    heard: Silent | None = None,
    steps: Sequence[Any] = (),
    tokenizer: Any = None,
    reader: Reader | None = None,
) -> dict[str, Any]:
    form = Form(task=task.form(), objective=Objective.pick("causal"), auto="", max_length=9, steps=list(steps))
    stat = identity(source.stat())
    table, listener = Table(source, reader or detect(source)), heard or Silent()
    with begun(target, {"model": same}, listener) as answers:
        answers.plan(Questions(task, {"table": table}, form, tokenizer), source)
        answer(answers, session, listener)
        return write(answers, session, form, task, table, target, stat)


def table(path: Path, n: int, distinct: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "messy"), *((i, f"value {i % distinct}") for i in range(n))])
    return path


def cells_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BLOCK", 4)


def test_blocks_double_up_to_their_size_and_are_the_same_wherever_answering_goes_on() -> None:
    ends = [32, 96, 224, 480, 736, 992]
    assert [applying.end_of_block(n) for n in ends] == ends
    assert [applying.end_of_block(n + 1) for n in [0, *ends[:-1]]] == ends
    assert {applying.end_of_block(n) for n in range(1, 993)} == set(ends)


def test_a_conversation_that_the_template_refuses_is_not_asked_and_counted(tmp_path: Path) -> None:
    import tiny

    tokenizer = tiny.tokenizer()
    refuses = "{% if 'bad' in messages[0].content %}{{ raise_exception('bad') }}{% endif %}"
    tokenizer.chat_template = refuses + "{{ messages[0].content }}"
    lines = [{"messages": [{"role": "user", "content": text}]} for text in ("one", "bad", "two")]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = Task.pick({"kind": "generate", "table": "t"})
    session = Counting()
    result = applied(tmp_path / "t.jsonl", tmp_path / "out.jsonl", session, task=task, tokenizer=tokenizer)
    assert result["not_asked"] == {"a conversation that the chat template refuses": 1}
    assert (result["rows"], result["predictions"], result["rows_without_prediction"]) == (3, 2, 1)


def test_each_distinct_question_is_asked_once_in_blocks(tmp_path: Path, small_blocks: None) -> None:
    session, heard = Counting(), Heard()
    result = applied(table(tmp_path / "t.csv", 30, 10), tmp_path / "out.csv", session, heard=heard)
    assert [len(block) for block in session.blocks] == [4, 4, 2]
    assert len({prompt for block in session.blocks for prompt in block}) == 10
    assert (result["rows"], result["predictions"], result["questions"]) == (30, 30, 10)
    assert [(done, total) for done, total, _ in heard.steps] == [(4, 10), (8, 10), (10, 10)]
    assert all(figures["left"].endswith(" s") for _, _, figures in heard.steps)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "t.csv"]


def test_interrupted_anywhere_it_goes_on_and_writes_the_same_bytes(tmp_path: Path, small_blocks: None) -> None:
    source = table(tmp_path / "t.csv", 60, 30)
    whole = Counting()
    applied(source, tmp_path / "whole.csv", whole)
    for after in range(len(whole.blocks)):
        target, heard = tmp_path / f"{after}.csv", Heard()
        with pytest.raises(KeyboardInterrupt):
            applied(source, target, first := Counting(fail_after=after))
        assert not target.exists()
        applied(source, target, second := Counting(), heard=heard)
        assert first.blocks + second.blocks == whole.blocks, "nothing twice, and in the same batches"
        assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()
        assert heard.lines == ([f"going on after {4 * after} of 30 questions"] if after else [])


KILLED = """
import os, signal, sys
from pathlib import Path
import test_applying

class Killed(test_applying.Counting):
    def answer(self, requests, tell=None):
        if len(self.blocks) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(requests)

test_applying.applying.BLOCK = 4
test_applying.applied(Path(sys.argv[1]), Path(sys.argv[2]), Killed())
"""


@pytest.mark.slow
def test_killed_it_goes_on(tmp_path: Path, small_blocks: None) -> None:
    source, target = table(tmp_path / "t.csv", 20, 20), tmp_path / "out.csv"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    applied(source, target, session := Counting())
    assert [len(block) for block in session.blocks] == [4, 4, 4]
    assert len(cells_of(target)) == 20
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "t.csv"]


@pytest.mark.parametrize("moment", ["plan", "write"])
def test_interrupted_while_it_reads_or_writes_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    source, target = table(tmp_path / "t.csv", 20, 20), tmp_path / "out.csv"

    def interrupted(*_: object, **__: object) -> Iterator[Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Standardize, "cells" if moment == "write" else "prompt", interrupted)
        applied(source, target, Counting())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv.part", "t.csv"]
    applied(source, target, again := Counting())
    assert len(again.blocks) == (1 if moment == "plan" else 0)
    assert len(cells_of(target)) == 20


def test_another_model_or_table_begins_again_and_says_so(tmp_path: Path, small_blocks: None) -> None:
    source, target = table(tmp_path / "t.csv", 20, 20), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        applied(source, target, Counting(fail_after=2))
    heard = Heard()
    applied(source, target, session := Counting(), same="another", heard=heard)
    assert heard.lines == ["out.csv.part was begun with another model: beginning again"]
    assert len(session.blocks) == 5


@pytest.mark.parametrize("content", [b"", b"mine", b"SQLite format 3\0" + bytes(200)])
def test_a_file_that_is_no_part_file_of_ours_is_not_touched(tmp_path: Path, content: bytes) -> None:
    source, part = table(tmp_path / "t.csv", 5, 5), tmp_path / "out.csv.part"
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"out\.csv\.part: is no part-file of Luthier and is not overwritten; move it"):
        applied(source, tmp_path / "out.csv", Counting())
    assert part.read_bytes() == content


def test_a_table_that_appears_in_the_meantime_is_not_overwritten_and_nothing_is_lost(tmp_path: Path) -> None:
    source, target = table(tmp_path / "t.csv", 5, 5), tmp_path / "out.csv"

    class Slow(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            target.write_text("mine")
            return super().answer(requests, tell)

    with pytest.raises(UserError, match=r"out\.csv: exists already and is not overwritten"):
        applied(source, target, Slow())
    assert target.read_text() == "mine"
    target.unlink()
    applied(source, target, again := Counting())
    assert again.blocks == []
    assert len(target.read_text().split("\n")) == 7


def test_two_processes_do_not_write_one_table(tmp_path: Path) -> None:
    source, target = table(tmp_path / "t.csv", 5, 5), tmp_path / "out.csv"

    class Meanwhile(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            with pytest.raises(UserError, match="another process is writing it; wait for it"):
                applied(source, target, Counting())
            return super().answer(requests, tell)

    assert applied(source, target, Meanwhile())["rows"] == 5


def test_a_table_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    source, target = table(tmp_path / "t.csv", 5, 5), tmp_path / "out.csv"

    class Meanwhile(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            with source.open("a") as file:
                file.write("5,value 5\n")
            return super().answer(requests, tell)

    with pytest.raises(UserError, match=r"t\.csv: changed while it was read; run the same command again"):
        applied(source, target, Meanwhile())
    assert not target.exists()


def test_a_damaged_part_file_is_told(tmp_path: Path) -> None:
    source, target = table(tmp_path / "t.csv", 500, 500), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        applied(source, target, Counting(fail_after=0))
    part = tmp_path / "out.csv.part"
    content = part.read_bytes()
    part.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(UserError, match=r"is damaged .*; remove it and run the same command again"):
        applied(source, target, Counting())


def test_a_full_disk_is_told_and_what_was_answered_is_kept(tmp_path: Path, small_blocks: None) -> None:
    from limits import files_of_at_most

    source, target = table(tmp_path / "t.csv", 400, 400), tmp_path / "out.csv"
    with files_of_at_most(60_000), pytest.raises(MachineError) as told:
        applied(source, target, Counting())
    assert told.value.exit_code == 4
    assert "run the same command again" in told.value.sentence()
    assert applied(source, target, Counting())["rows"] == 400


EMPTY = {
    "blank cells": ("t.csv", "id,messy\n1,\n2,  \n", "nothing in it can be asked: 2 with empty value; check that"),
    "no readable row": (
        "t.csv",
        "id,messy\n1,a,b\n",
        r"nothing in it can be asked: 1 with what cannot be read \(ragged\); check",
    ),
    "blank and unreadable": (
        "t.csv",
        "id,messy\n1,\n1,a,b\n2,c,d\n",
        r"asked: 1 with empty value, 2 with what cannot be read \(ragged\);",
    ),
    "other columns": ("t.jsonl", '{"a": 1}\n{"messy": ""}\n', "nothing in it can be asked: 2 with empty value"),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_table_in_which_nothing_can_be_asked_is_an_error_with_the_reasons_counted(tmp_path: Path, kind: str) -> None:
    name, text, sentence = EMPTY[kind]
    (tmp_path / name).write_text(text)
    session = Counting()
    with pytest.raises(UserError, match=sentence):
        applied(tmp_path / name, tmp_path / "out.csv", session)
    assert session.blocks == []
    assert [file.name for file in tmp_path.iterdir()] == [name]


NO_ROWS = {"t.csv": "id,messy\n", "t.jsonl": "not JSON\n"}


@pytest.mark.parametrize("name", NO_ROWS)
def test_a_table_without_rows_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(NO_ROWS[name])
    with pytest.raises(UserError):
        applied(tmp_path / name, tmp_path / "out.csv", Counting())
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_refusal_leaves_nothing_but_what_was_answered(tmp_path: Path, small_blocks: None) -> None:
    class Refusing(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            if len(self.blocks) == self.fail_after:
                raise UserError("this base cannot compute it")
            return super().answer(requests, tell)

    source, target = table(tmp_path / "t.csv", 20, 20), tmp_path / "out.csv"
    for blocks, left in ((0, ["t.csv"]), (1, ["out.csv.part", "t.csv"])):
        with pytest.raises(UserError, match="this base cannot compute it"):
            applied(source, target, Refusing(fail_after=blocks))
        assert sorted(file.name for file in tmp_path.iterdir()) == left


def test_rows_that_were_not_asked_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,messy\n1,a\n2,\n3,b\nragged\n")
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Counting())
    assert (result["rows"], result["predictions"], result["rows_without_prediction"]) == (3, 2, 1)
    assert result["not_asked"] == {"empty value": 1}
    assert result["quarantined"] == 1
    rows = cells_of(tmp_path / "out.csv")
    assert [row["messy_suggestion"] for row in rows] == ["11", "", "11"]


def test_what_was_written_suggested_left_out_and_put_aside_is_told_last_what_was_lost(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,messy\n1,a\n2,\n3,  \nragged\n")
    result = applied(tmp_path / "t.csv", tmp_path / "[out].csv", Counting())
    assert told_of(result) == [
        f"wrote 3 rows with 1 suggestion to {tmp_path}/[out].csv",
        "without any: 2 rows; not asked: 2 with empty value",
        "put aside, since it cannot be read: 1 row, whole, with line and reason, "
        f"in {tmp_path}/[out].csv.quarantine.jsonl",
    ]
    applied(table(tmp_path / "u.csv", 2, 1), tmp_path / "2.csv", Counting())
    whole = applied(tmp_path / "u.csv", tmp_path / "3.csv", Counting())
    assert told_of(whole) == [f"wrote 2 rows with 2 suggestions to {tmp_path}/3.csv"]


def test_suggestions_that_are_empty_are_told(tmp_path: Path) -> None:
    class Mute(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            return [Said(text="", confidence=1.0) for _ in requests]

    result = applied(table(tmp_path / "t.csv", 3, 2), tmp_path / "out.csv", Mute())
    assert told_of(result)[1:] == ["the model's answer is empty in 3 of the suggestions"]


@pytest.mark.parametrize(
    ("short", "told"),
    [
        (3, []),
        (2, ["1 of 5 answers was cut off at predict.engine.max_new_tokens (24)"]),
        (1, ["4 of 5 answers were cut off at predict.engine.max_new_tokens (24)"]),
    ],
)
def test_answers_that_were_cut_off_are_counted_and_told(tmp_path: Path, short: int, told: list[str]) -> None:
    class Wordy(Counting):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            cut = [str(request.prompt).count("b") >= short for request in requests]
            return [Said(text="x", confidence=0.5, cut=each) for each in cut]

    (tmp_path / "t.csv").write_text("messy\na\nb\nb\nb\nbb\n")
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Wordy())
    assert result["cut_predictions"] == (int(told[0].split()[0]) if told else 0)
    assert told_of({**result, "max_new_tokens": 24})[1:] == told


def test_a_file_of_put_aside_rows_that_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,messy\n1,a\nragged\n")
    mine = tmp_path / "out.csv.quarantine.jsonl"
    mine.write_text("mine")
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Counting())
    assert mine.read_text() == "mine"
    assert result["quarantine"] == str(tmp_path / "out.csv.quarantine-2.jsonl")
    assert json.loads(Path(result["quarantine"]).read_text())["line"] == 3
    (tmp_path / "out.csv").unlink()  # as after a crash between the two files: the same bytes are not written twice
    assert applied(tmp_path / "t.csv", tmp_path / "out.csv", Counting())["quarantine"] == result["quarantine"]


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"id,messy\n1,a\n2,%b, and, more\n" % (b"x" * 200), "2," + "x" * 200 + ", and, more\n"),
        (b'id,messy\n1,a\n"2\nb",c,d\n', '"2\nb",c,d\n'),
        (
            b"id,messy\n1,\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\n2,\xff\n",
            "2,\udcff\n",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_put_aside_whole(tmp_path: Path, content: bytes, whole: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Counting())
    aside = json.loads(Path(result["quarantine"]).read_text(encoding="utf-8"))
    assert (aside["line"], aside["text"]) == (3, whole)


def test_rows_that_cannot_be_read_are_counted_and_a_header_that_stands_again_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,messy\n" + "1,a\n" * 8 + "2,b,c\nid,messy\n")
    result = applied(tmp_path / "t.csv", tmp_path / "1.csv", Counting())
    assert (result["rows"], result["quarantined"], result["unread"]) == (8, 2, 1)


def test_a_key_that_is_no_character_is_put_aside_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"messy": "a"}\n{"\\ud800": 1, "\\ud800": 2}\n')
    result = applied(tmp_path / "t.jsonl", tmp_path / "out.jsonl", Counting())
    assert json.loads(Path(result["quarantine"]).read_text(encoding="utf-8"))["rule"] == "duplicate-key"


# Characters at which `str.splitlines` parts, and a carriage return, at which readers of CSV do.
BREAKS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_every_value_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    values = [f"a{BREAKS}b", 'quo"ted', "com,ma", "tab\there", "line\nbreak", "car\rriage", "caf\u00e9", " space "]
    rows = [{"id": str(n), "messy": value} for n, value in enumerate(values)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    target = tmp_path / f"out{suffix}"
    applied(tmp_path / "t.jsonl", target, Counting())
    again = Table(target, detect(target))
    assert [row.values["messy"] for row in again] == values
    assert again.n_read == len(values)


def test_ragged_lines_of_json_become_a_table_with_every_column(tmp_path: Path) -> None:
    rows = [
        {"messy": "a"},
        {"messy": "b", "more": [1, {"x": None}]},
        {"yes": True, "messy": "c", "messy_suggestion": 1},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    applied(tmp_path / "t.jsonl", tmp_path / "out.csv", Counting())
    found = cells_of(tmp_path / "out.csv")
    assert list(found[0]) == ["messy", "more", "yes", "messy_suggestion", "messy_suggestion_", "messy_confidence"]
    assert [row["more"] for row in found] == ["", '[1, {"x": null}]', ""]
    assert [row["yes"] for row in found] == ["", "", "true"]
    applied(tmp_path / "t.jsonl", tmp_path / "out.jsonl", Counting())
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert [set(row) - {"messy_suggestion_", "messy_confidence"} for row in lines] == [set(row) for row in rows]
    assert all("messy_suggestion_" in row for row in lines), "the same name in every row"


class Some(Standardize):
    """Writes a further cell beside some rows, which is known only when they come."""

    kind = "standardize"

    def cells(self, row: Any, predictions: Any) -> dict[str, Any]:
        return super().cells(row, predictions) | ({"odd": "x"} if int(row["id"]) % 2 else {})


def test_a_cell_that_only_later_rows_have_gets_its_column(tmp_path: Path) -> None:
    task = Some(table="t", column="messy", target="clean")
    result = applied(table(tmp_path / "t.csv", 4, 4), tmp_path / "out.csv", Counting(), task=task)
    assert [row["odd"] for row in cells_of(tmp_path / "out.csv")] == ["", "x", "", "x"]
    assert result["rows"] == 4


class Backwards(Standardize):
    """Makes its examples from the last row to the first, two of each."""

    kind = "standardize"

    def examples(self, tables: Any, *, targets: bool = True) -> Any:
        made = [*super().examples(tables, targets=targets), *super().examples(tables, targets=targets)]
        for n, example in enumerate(reversed(made)):
            example.id = str(n)
            yield example

    def cells(self, row: Any, predictions: Any) -> dict[str, Any]:
        return {"n": len(predictions), "said": str(predictions[0].output)}


def test_a_task_may_make_examples_in_any_order_and_several_of_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,messy\n1,a\n2,bbb\n")
    task = Backwards(table="t", column="messy", target="clean")
    applied(tmp_path / "t.csv", tmp_path / "out.csv", Counting(), task=task)
    rows = cells_of(tmp_path / "out.csv")
    assert [(row["n"], row["said"]) for row in rows] == [("2", "11"), ("2", "13")]


def peak(act: Callable[[], object]) -> int:
    """Most bytes that Python held at once."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_rows_need_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BLOCK", 64)

    class Forgetful(Session):
        def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
            return [Said(text="x" * 50, confidence=0.5) for _ in requests]

    peaks = []
    for n in (1000, 1000, 6000):  # the first warms up; 1,000 lines are looked at to find the delimiter
        source = table(tmp_path / "t.csv", n, n)
        peaks.append(peak(lambda source=source, n=n: applied(source, tmp_path / f"{len(peaks)}.csv", Forgetful())))
    assert peaks[2] - peaks[1] < 400_000, "5,000 examples that are held are over a million bytes"
