"""The store: what is finished is whole, what is known is not done again, and what was changed is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import crashes
from limits import files_of_at_most

from luthier import durable
from luthier.choice import Settings
from luthier.durable import read_at_rest
from luthier.errors import MachineError, UserError
from luthier.store import Artifact, Out, Store, is_store, stage

CALLS: list[str] = []


@stage(version=1)
def copy(config: dict[str, Any], out: Out, source: Artifact) -> dict[str, Any]:
    """A stage that writes its input and a suffix."""
    CALLS.append("copy")
    text = source.path.read_text() if source.path.is_file() else (source.path / "text").read_text()
    (out.folder / "text").write_text(text + config["suffix"])
    return {"letters": len(text)}


@stage(version=1)
def copied(config: dict[str, Any], out: Out) -> dict[str, Any]:
    """A stage that needs nothing."""
    (out.folder / "text").write_text("abc")
    return {}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    return Store(tmp_path / "store")


def source(store: Store, tmp_path: Path, text: str = "abc", name: str = "in.txt") -> Artifact:
    path = tmp_path / name
    path.write_text(text)
    return store.take(path)


def test_a_known_stage_is_not_done_again(store: Store, tmp_path: Path) -> None:
    first = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    again = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path, name="elsewhere.txt"))
    assert CALLS == ["copy"]
    assert (first.reused, again.reused) == (False, True)
    assert first.content == again.content
    assert again.facts == {"letters": 3}


def test_editing_the_source_or_the_config_changes_every_artifact_after_it(store: Store, tmp_path: Path) -> None:
    def chain(text: str, suffix: str) -> str:
        middle = store.do(copy, {"suffix": suffix}, source=source(store, tmp_path, text))
        return store.do(copy, {"suffix": "?"}, source=middle).id

    assert len({chain("abc", "!"), chain("abd", "!"), chain("abc", ".")}) == 3
    assert chain("abc", "!") == chain("abc", "!")


class Suffixed(Settings):
    """What the stage `suffixed` is told; how loud it is changes none of its bytes."""

    unkeyed = {"quiet": True, "inner": {"quiet"}}
    suffix: str
    quiet: bool = False
    inner: dict[str, Any] = {}


@stage(version=1)
def suffixed(config: Suffixed, out: Out, source: Artifact) -> dict[str, Any]:
    """As `copy`, told by settings."""
    return copy({"suffix": config.suffix}, out, source)


def test_a_setting_that_changes_no_byte_makes_nothing_anew(store: Store, tmp_path: Path) -> None:
    def made(**settings: Any) -> Artifact:
        return store.do(suffixed, Suffixed(**settings), source=source(store, tmp_path))

    first = made(suffix="!", inner={"a": 1})
    assert made(suffix="!", quiet=True, inner={"a": 1, "quiet": True}).id == first.id
    assert CALLS == ["copy"]
    assert len({first.id, made(suffix="?", inner={"a": 1}).id, made(suffix="!", inner={"a": 2}).id}) == 3
    assert first.manifest["config"] == {"suffix": "!", "inner": {"a": 1}}


def test_fresh_does_each_stage_once_more_and_gives_the_same_content(store: Store, tmp_path: Path) -> None:
    first = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    anew = Store(store.root, fresh=True)
    redone = anew.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    anew.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    assert CALLS == ["copy", "copy"]
    assert redone.content == first.content


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "facts"])
def test_verify_names_the_file_that_was_harmed(store: Store, tmp_path: Path, harm: str) -> None:
    made = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    assert store.verify() == []
    file = made.path / "text"
    if harm == "flip":
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "remove":
        file.unlink()
    elif harm == "add":
        file = made.path / "more"
        file.write_text("x")
    else:
        file = made.path / "manifest.json"
        file.write_text(file.read_text().replace('"letters": 3', '"letters": 4'))
    assert [problem.where for problem in store.verify()] == [str(file)]
    with pytest.raises(UserError, match=rf"{file.name} (is|was) .*; remove the folder {made.path} and run again"):
        store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    with pytest.raises(UserError, match=f"{file.name} (is|was) "):
        store.get(made.id)


def test_a_failed_stage_leaves_no_artifact_and_keeps_its_checkpoints(store: Store, tmp_path: Path) -> None:
    @stage(version=1)
    def fails_once(config: dict[str, Any], out: Out) -> dict[str, Any]:
        done = out.checkpoints / "half"
        if done.exists():
            return {"resumed": True}
        done.write_text("half")
        (out.folder / "partial").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        store.do(fails_once, {})
    assert not list(store.artifacts.glob("*"))
    made = store.do(fails_once, {})
    assert made.facts == {"resumed": True}
    assert not (made.path / "partial").exists(), "half-written files of the failed attempt are not taken for finished"


def written_plainly(file: Path) -> None:
    file.write_bytes(bytes(100_000))


def written_as_weights(file: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(100_000, np.uint8)}, file)


@pytest.mark.parametrize("written", [written_plainly, written_as_weights])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    store: Store, tmp_path: Path, written: Callable[[Path], None]
) -> None:
    @stage(version=1)
    def large(config: dict[str, Any], out: Out) -> dict[str, Any]:
        written(out.folder / "large")
        return {}

    with files_of_at_most(50_000), pytest.raises(MachineError) as told:
        store.do(large, {})
    assert told.value.exit_code == 4
    assert "the disk is full" in told.value.sentence()
    assert "finished stages and the last checkpoint are kept" in told.value.sentence()
    assert not list(store.artifacts.glob("*"))
    assert store.do(large, {}).reused is False


SECOND = """
import sys, time
from pathlib import Path
from luthier.store import Store, stage

class Told:
    def progress(self, *anything): pass
    def say(self, line): print(line, flush=True)

@stage(version=1)
def slow(config, out):
    marks = Path(config["marks"])
    (marks / str(len(list(marks.iterdir())))).touch()
    print("working", flush=True)
    while not Path(config["go"]).exists():
        time.sleep(0.01)
    return {}

made = Store(Path(sys.argv[1]), Told()).do(slow, {"marks": sys.argv[2], "go": sys.argv[3]})
print("reused" if made.reused else "made", flush=True)
"""


def working(folder: Path) -> tuple[list[str], subprocess.Popen[str], Path, Path]:
    """A process that is making an artifact: its command, itself, where it leaves marks, and the file it waits for."""
    marks, go = folder / "marks", folder / "go"
    marks.mkdir()
    command = [sys.executable, "-c", SECOND, str(folder / "store"), str(marks), str(go)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline() == "working\n"
    return command, first, marks, go


def test_two_processes_on_one_store_make_an_artifact_once_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    command, first, marks, go = working(tmp_path)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert second.stdout
    assert second.stdout.readline().startswith("another process is making slow-")
    go.touch()
    assert first.communicate()[0] == "made\n"
    assert second.communicate()[0] == "reused\n"
    assert len(list(marks.iterdir())) == 1


def test_a_killed_process_does_not_keep_its_lock(tmp_path: Path) -> None:
    command, first, _, go = working(tmp_path)
    first.kill()
    first.communicate()
    go.touch()
    start = time.monotonic()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("made\n")
    assert time.monotonic() - start < 60


def test_gc_keeps_what_a_run_needs_and_removes_the_rest(store: Store, tmp_path: Path) -> None:
    first = store.do(copy, {"suffix": "1"}, source=source(store, tmp_path))
    needed = store.do(copy, {"suffix": "2"}, source=first)
    store.do(copy, {"suffix": "3"}, source=first)
    (store.runs / "r").mkdir(parents=True)
    (store.runs / "r" / "run.json").write_text(json.dumps({"artifacts": {"x": needed.id}}))
    assert {artifact.id for artifact in store.why(needed)} == {first.id, needed.id}
    done = store.gc()
    assert len(done.removed) == 1
    assert done.freed > 0
    assert {folder.name for folder in store.artifacts.iterdir()} == {first.id, needed.id}


def test_a_changed_byte_is_found_before_an_artifact_is_used_again(store: Store, tmp_path: Path) -> None:
    """Of the same size and with its old time; once the good bytes are known, and once they are not."""
    made = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    file = made.path / "text"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    store.get(made.id)
    file.write_text("abd!")
    os.utime(file, ns=times)
    for use in (
        lambda: store.get(made.id),
        lambda: store.do(copy, {"suffix": "!"}, source=source(store, tmp_path)),
        lambda: store.why(store.do(copy, {"suffix": "?"}, source=made)),
    ):
        with pytest.raises(UserError, match="text is cut short or changed"):
            use()


def test_a_base_that_was_read_is_not_read_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 1000)
    monkeypatch.setattr(durable, "SETTLED_NS", -(10**9))
    read = []
    monkeypatch.setattr(durable, "read_at_rest", lambda path: (read.append(path), read_at_rest(path))[1])
    taken = [Store(store.root).take(folder).content for _ in range(3)]
    assert len(set(taken)) == 1
    assert read == [folder / "weights"]
    (folder / "weights").write_bytes(b"v" * 1000)
    assert store.take(folder).content != taken[0]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_changes_while_a_stage_reads_it_makes_no_artifact(store: Store, tmp_path: Path, kind: str) -> None:
    """Else the bytes of now would be served for those that the key names."""
    place = tmp_path / "in"
    file = place / "text" if kind == "folder" else place
    file.parent.mkdir(exist_ok=True)

    @stage(version=1)
    def meddling(config: dict[str, Any], out: Out, source: Artifact) -> dict[str, Any]:
        if config["meddle"]:
            file.write_text("abd")
        return {}

    file.write_text("abc")
    with pytest.raises(UserError, match="in: changed while it was read; run again"):
        store.do(meddling, {"meddle": True}, source=store.take(place))
    assert not list(store.artifacts.iterdir())
    assert store.do(meddling, {"meddle": False}, source=store.take(place)).facts == {}


LIVING = """
import sys
from pathlib import Path
from luthier.store import Store, stage

@stage(version=1)
def first(config, out):
    (out.folder / "text").write_text("first")
    return {}

@stage(version=1)
def second(config, out, made):
    (out.checkpoints / "half").write_text("half")
    print(made.id, flush=True)
    sys.stdin.readline()
    return {"read": (made.path / "text").read_text(), "half": (out.checkpoints / "half").read_text()}

store = Store(Path(sys.argv[1]))
with store.in_use():
    made = store.do(first, {})
    print("between", flush=True)
    sys.stdin.readline()
    done = store.do(second, {}, made=made)
print(done.facts, flush=True)
"""


def test_gc_takes_nothing_from_a_run_that_lives_and_all_from_one_that_died(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    command = [sys.executable, "-c", LIVING, str(store.root)]

    def say(process: subprocess.Popen[str], expected: str) -> None:
        assert process.stdout
        assert process.stdout.readline().startswith(expected)

    def go_on(process: subprocess.Popen[str]) -> None:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()

    for killed in (True, False):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        say(process, "between")
        assert not store.gc().removed, (
            "between two stages, nothing is being made and no run names the first artifact yet"
        )
        go_on(process)
        say(process, "first-")
        assert not store.gc().removed, "while a stage works, neither its inputs nor its checkpoints go"
        if killed:
            process.kill()
            process.communicate()
            left = store.gc()
            assert left.removed == ()
            assert [each.key.partition("-")[0] for each in left.kept] == ["second"], "the same command goes on with it"
            assert len(store.gc(everything=True).removed) == 2
            assert not list(store.artifacts.iterdir())
            assert not list(store.work.glob("*/"))
            assert {file.name for file in (store.root / "leases").iterdir()} == {"all.lock"}
        else:
            go_on(process)
            assert process.communicate()[0] == "{'read': 'first', 'half': 'half'}\n"
    assert len(store.gc().removed) == 2, "ended and recorded by nobody"


def test_gc_inside_a_stage_leaves_what_the_stage_reads(store: Store, tmp_path: Path) -> None:
    @stage(version=1)
    def collecting(config: dict[str, Any], out: Out, made: Artifact) -> dict[str, Any]:
        store.gc()
        Store(store.root).gc()
        return {"text": (made.path / "text").read_text()}

    made = store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    assert store.do(collecting, {}, made=made).facts == {"text": "abc!"}


def test_gc_that_is_cut_short_leaves_no_half_artifact(quick_disk: Path) -> None:
    made = Store(quick_disk / "made")
    for suffix in "12":
        made.do(copy, {"suffix": suffix}, source=source(made, quick_disk))
    for root in crashes(made.root, quick_disk / "cut", lambda root: Store(root).gc()):
        assert Store(root).verify() == []
        Store(root).gc()
        assert not list(root.glob("artifacts/*"))
        assert not (root / "trash").exists()


def test_gc_of_the_shared_store_knows_the_stores_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    store = Store(tmp_path / "project" / ".luthier")
    shared = store.shared
    bases = [shared.do(copy, {"suffix": suffix}, source=source(shared, tmp_path)) for suffix in "12"]
    shared.used_by(store)
    with store.in_use():
        store.uses([bases[0].id])
        assert len(Store(shared.root).gc().removed) == 1, "only what the living run uses is left"
    (store.runs / "r").mkdir(parents=True)
    (store.runs / "r" / "run.json").write_text(json.dumps({"artifacts": {"base": bases[0].id}}))
    assert not Store(shared.root).gc().removed
    store.root.rename(tmp_path / "gone")
    assert len(Store(shared.root).gc().removed) == 1
    assert not store.root.exists(), "nothing is made in a project that was moved"


def test_gc_does_nothing_where_it_cannot_know_what_is_needed(store: Store, tmp_path: Path) -> None:
    made = store.do(copy, {"suffix": "1"}, source=source(store, tmp_path))
    (store.runs / "r").mkdir(parents=True)
    (store.runs / "r" / "run.json").write_text('{"artifacts": {"x": "copy-')
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        store.gc()
    assert store.verify() == []
    assert made.path.exists()


def files_of_the_user(folder: Path) -> dict[str, str]:
    """What a user may have in a folder that looks like a store, and what became of it."""
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("mine*"))}


@pytest.fixture
def looks_like_a_store(tmp_path: Path) -> Path:
    for place in ("artifacts/results", "work/draft", "trash/notes", "runs", "artifacts/train-1"):
        (tmp_path / "p" / place).mkdir(parents=True)
        (tmp_path / "p" / place / "mine.csv").write_text(place)
    (tmp_path / "p" / "artifacts" / "mine.csv").write_text("a file")
    return tmp_path / "p"


def test_a_folder_that_is_no_store_is_neither_collected_nor_made_one(looks_like_a_store: Path) -> None:
    before, store = files_of_the_user(looks_like_a_store), Store(looks_like_a_store)
    with pytest.raises(UserError, match=r"/p: is no store of Luthier; it is the folder \.luthier beside the recipe"):
        store.gc()
    with pytest.raises(UserError, match=r"/p: is no store of Luthier; a new store needs a folder that is new or empty"):
        store.do(copy, {"suffix": "!"})
    with pytest.raises(UserError, match="is no store of Luthier"):
        store.used_by(store)
    Store(looks_like_a_store / ".luthier").make()
    with pytest.raises(UserError, match=r"is no store of Luthier; did you mean .*/p/\.luthier\?"):
        store.gc()
    assert files_of_the_user(looks_like_a_store) == before
    assert {entry.name for entry in looks_like_a_store.iterdir()} == {"artifacts", "work", "trash", "runs", ".luthier"}


def test_gc_removes_only_what_has_the_form_that_a_store_makes(looks_like_a_store: Path, tmp_path: Path) -> None:
    before = files_of_the_user(looks_like_a_store)
    (looks_like_a_store / "luthier-store.txt").touch()
    store = Store(looks_like_a_store)
    store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    assert len(store.gc().removed) == 1
    assert files_of_the_user(looks_like_a_store) == before


@pytest.mark.parametrize("left", ["artifacts", "only locks", "nothing", "marker alone"])
def test_a_store_is_known_again_whatever_version_made_it_and_whatever_is_left_of_it(
    store: Store, tmp_path: Path, left: str
) -> None:
    store.do(copy, {"suffix": "!"}, source=source(store, tmp_path))
    if left != "marker alone":
        (store.root / "luthier-store.txt").unlink()  # as an earlier version made it
    if left == "artifacts":
        (store.root / "mine.txt").touch()
    else:
        shutil.rmtree(store.root / "artifacts")
    if left in ("nothing", "marker alone"):
        shutil.rmtree(store.root / "leases")
        shutil.rmtree(store.root / "work")
    assert is_store(store.root) is (left != "nothing")
    assert not Store(store.root).do(copy, {"suffix": "?"}, source=source(store, tmp_path)).reused
    assert (store.root / "luthier-store.txt").read_text().startswith("This folder is a store of Luthier.")


def test_a_store_whose_making_is_cut_short_is_made_by_the_next_run(quick_disk: Path) -> None:
    (quick_disk / "none").mkdir()
    seen = 0
    for root in crashes(quick_disk / "none", quick_disk / "cut", lambda root: Store(root / "s").do(copied, {})):
        seen += 1
        Store(root / "s").do(copied, {})
        assert is_store(root / "s")
        Store(root / "s").gc()
    assert seen > 4


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/st", "/proc/st/below"])
def test_a_store_that_cannot_be_made_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        UserError, match=r"is no folder, and a store is one|cannot be written .*; name a folder that you may"
    ):
        Store(tmp_path / place).do(copied, {})
    assert (tmp_path / "file").read_text() == "mine"


@stage(version=1)
def interrupted(config: dict[str, Any], out: Out, **inputs: Artifact) -> dict[str, Any]:
    """A stage that is stopped once, after what it had done by then was put aside if that was worth it."""
    if not config["saves"]:
        raise KeyboardInterrupt
    if not (out.checkpoints / "half").exists():
        (out.checkpoints / "half").write_bytes(bytes(2_000_000))
        raise KeyboardInterrupt
    return {"resumed": True}


def interrupt(store: Store, *, saves: bool, **inputs: Artifact) -> None:
    with pytest.raises(KeyboardInterrupt):
        store.do(interrupted, {"saves": saves}, **inputs)


@pytest.mark.parametrize("saves", [True, False])
def test_gc_keeps_what_an_interrupted_run_goes_on_with_for_a_week(store: Store, tmp_path: Path, saves: bool) -> None:
    """Its checkpoints, and whatever was finished for it, of which no run is recorded yet."""
    first = store.do(copy, {"suffix": "1"}, source=source(store, tmp_path))
    needed = store.do(copy, {"suffix": "2"}, source=first)
    unneeded = store.do(copy, {"suffix": "3"}, source=first)
    interrupt(store, saves=saves, made=needed)
    done = store.gc()
    assert done.removed == (unneeded.id,)
    assert [(left.size, left.inputs) for left in done.kept] == [(2_000_000 * saves, (needed.id,))]
    assert {folder.name for folder in store.artifacts.iterdir()} == {first.id, needed.id}
    if saves:
        assert store.do(interrupted, {"saves": True}, made=needed).facts == {"resumed": True}
        assert len(store.gc().removed) == 3
        interrupt(store, saves=False, made=store.do(copy, {"suffix": "1"}, source=source(store, tmp_path)))
    assert not store.gc().removed
    eight_days_ago = time.time() - 8 * 24 * 3600
    for file in store.work.rglob("*"):
        os.utime(file, (eight_days_ago, eight_days_ago))
    assert not store.gc().kept
    assert not [*store.artifacts.iterdir(), *store.work.glob("*/")]


def test_gc_keeps_nothing_of_an_attempt_that_leaves_nothing_to_go_on_with(store: Store, tmp_path: Path) -> None:
    interrupt(store, saves=False, made=source(store, tmp_path))
    done = store.gc()
    assert ([name.partition("-")[0] for name in done.removed], done.kept) == (["work"], ())


def test_gc_of_the_shared_store_keeps_the_base_of_an_interrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    store = Store(tmp_path / "project" / ".luthier")
    base = store.shared.do(copy, {"suffix": "1"}, source=source(store.shared, tmp_path))
    store.shared.used_by(store)
    interrupt(store, saves=True, base=base)
    assert not Store(store.shared.root).gc().removed
    assert Store(store.shared.root).gc(everything=True).removed == (base.id,)


def test_a_test_split_counts_each_candidate_that_opens_it_once(store: Store) -> None:
    for candidate in ("a", "b", "a"):
        store.open_test("split", candidate)
    store.open_test("another", "a")
    assert store.openings("split") == ["a", "b"]


def test_a_missing_outside_file_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there; check the path"):
        store.take(tmp_path / os.urandom(4).hex())


def test_a_torn_line_of_openings_loses_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open_test("s", "a")
    with (tmp_path / "openings.jsonl").open("a") as file:
        file.write('{"split": "s", "cand')  # a crash in the middle of a write
    assert store.openings("s") == ["a"]
    store.open_test("s", "b")
    assert store.openings("s") == ["a", "b"]
