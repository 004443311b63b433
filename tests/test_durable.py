"""What is on disk is whole whenever a crash comes, and what is known of a file is true of its bytes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from crashing import PowerCut, State, copy, crashes, power, state_of

from luthier import durable
from luthier.durable import Hashes, file_hash, place_new, read_at_rest, write_durably
from luthier.store import Artifact, Out, Store, stage


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose bytes were read, in order."""
    seen: list[Path] = []

    def reading(path: Path) -> tuple[str, str]:
        seen.append(path)
        return read_at_rest(path)

    monkeypatch.setattr(durable, "read_at_rest", reading)
    return seen


def test_a_file_at_rest_is_read_once_whoever_asks(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "SETTLED_NS", -(10**9))  # files of this very moment count as at rest
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    known = [Hashes(tmp_path / "hashes.sqlite").of([file]) for _ in range(3)]
    assert known == [[file_hash(file)]] * 3
    (tmp_path / "moved").mkdir()
    file = file.rename(tmp_path / "moved" / "weights")
    Hashes(tmp_path / "hashes.sqlite").of([file])
    assert len(read) <= 2, "moved, it is at most read once more"
    read.clear()
    file.write_bytes(b"abd")
    assert Hashes(tmp_path / "hashes.sqlite").of([file]) == [file_hash(file)]
    assert read == [file]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path: Path, read: list[Path]) -> None:
    """It may change again within the same tick of the clock, with the same size and the same times."""
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    hashes = Hashes(tmp_path / "hashes.sqlite")
    for content in (b"abd", b"abe"):
        assert hashes.of([file]) == [file_hash(file)]
        file.write_bytes(content)
    assert hashes.of([file]) == [file_hash(file)]
    assert len(read) == 3


def test_setting_the_time_back_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "SETTLED_NS", -(10**9))
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    os.utime(file, ns=(10**18, 10**18))
    hashes = Hashes(tmp_path / "hashes.sqlite")
    before = hashes.of([file])
    now = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == now:  # until the clock of the file system ticks
        file.write_bytes(b"abd")
        os.utime(file, ns=(10**18, 10**18))
    assert hashes.of([file]) == [file_hash(file)] != before


@pytest.mark.parametrize("harm", ["no database", "another's database", "a folder"])
def test_a_memory_that_is_lost_costs_time_and_nothing_else(tmp_path: Path, harm: str) -> None:
    memory, file = tmp_path / "hashes.sqlite", tmp_path / "weights"
    file.write_bytes(b"abc")
    if harm == "no database":
        memory.write_text("x" * 5000)
    elif harm == "another's database":
        with sqlite3.connect(memory) as other:
            other.execute("CREATE TABLE files (name)")
        other.close()
    else:
        memory.mkdir()
    os.utime(file, ns=(10**18, 10**18))
    for _ in range(2):
        assert Hashes(memory).of([file]) == [file_hash(file)]


def test_two_writers_of_one_file_leave_one_of_the_two_whole(tmp_path: Path) -> None:
    """Each has a name of its own for what is not whole yet."""
    file = tmp_path / "page"
    with power(last=0), pytest.raises(PowerCut):
        write_durably(file, b"first")  # cut off in the middle
    left = list(tmp_path.iterdir())
    write_durably(file, b"second")
    assert file.read_bytes() == b"second"
    assert file not in left
    assert len(left) == 1


def test_a_name_that_is_taken_stays_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        place_new(tmp_path / "part", tmp_path / "mine")

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)  # as on exFAT
    with pytest.raises(FileExistsError):
        place_new(tmp_path / "part", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"
    place_new(tmp_path / "part", tmp_path / "new")
    assert (tmp_path / "new").read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine", "new"]


ATTEMPT = 0


@stage(version=1)
def counted(config: dict[str, Any], out: Out) -> dict[str, Any]:
    """Other bytes each time, as a measurement has."""
    (out.folder / "number").write_text(str(ATTEMPT))
    (out.folder / "sub").mkdir()
    (out.folder / "sub" / "more").write_text("x")
    return {"attempt": ATTEMPT}


def remade(root: Path, number: int) -> Artifact:
    global ATTEMPT
    ATTEMPT = number
    return Store(root, fresh=True).do(counted, {})


def test_an_artifact_that_is_made_anew_is_never_lost_however_often_the_power_fails(quick_disk: Path) -> None:
    """Cut before each change of the first attempt and, from each state that this left, of the second."""
    key = remade(quick_disk / "made", 1).id
    seen: dict[State, int] = {}

    def newest(root: Path) -> int:
        """What a reader of the run finds, who looks at a copy, so that the state stays as the crash left it."""
        state = state_of(root)
        if state not in seen:
            copied = copy(root, quick_disk / "read")
            seen[state] = int(Store(copied).get(key).facts["attempt"])
        return seen[state]

    found: set[tuple[int, int]] = set()
    for once in crashes(quick_disk / "made", quick_disk / "once", lambda root: remade(root, 2)):
        before = newest(once)
        for twice in crashes(once, quick_disk / "twice", lambda root: remade(root, 3)):
            assert newest(twice) >= before
            found.add((before, newest(twice)))
        third = copy(once, quick_disk / "third")
        remade(third, 3)
        assert newest(third) == 3
        kept = {int((folder / "number").read_text()) for folder in third.glob("artifacts/*@*")}
        assert {1, before} <= kept <= {1, 2}, "what a run may have been recorded with"
        assert not list(third.glob("work/*/")), "nothing is left of what failed"
    assert found == {(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)}
