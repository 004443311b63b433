"""Whatever harm comes to a file of an artifact or a checkpoint is found, with its name; the one before is fallen back to."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import combining
import lasting
import pytest
import soaking
from lasting import Ready, Stopping, checkpoints

from luthier import flow
from luthier.checkpoint import BEST, LAST, beside, newest_whole
from luthier.recipe_file import loads
from luthier.store import MANIFEST, check_folder

pytestmark = pytest.mark.slow
HARMS = ("flip", "cut", "zero", "swap", "remove", "older")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of every stage of a run, and the checkpoints of trainings that were stopped."""
    folder = tmp_path_factory.mktemp("harmed")
    combining.build(folder)
    opened = loads(json.dumps(lasting.recipe("ewc")), folder=folder)
    flow.run(opened, flow.store_for(opened))
    for kind in ("full", "dpo", "ewc", "several tasks"):
        with pytest.raises(StopIteration):
            Ready(folder, kind).train(folder / f"stopped-{kind}", Stopping(7))
    return folder


def sealed(place: Path) -> list[Path]:
    """Every folder with a manifest: artifacts, and checkpoints of trainings."""
    return sorted(file.parent for file in place.rglob(MANIFEST) if ".part" not in file.name)


def harm(file: Path, kind: str, others: list[Path], draw: random.Random) -> bool:
    """Harm a file; False where this harm cannot come to it or leaves its bytes as they were."""
    content = file.read_bytes()
    changed = bytearray(content)
    if kind == "remove":
        file.unlink()
        return True
    if kind in ("swap", "older"):
        other = draw.choice(others).read_bytes()
        changed = bytearray(other)
    elif not content:
        return False
    elif kind == "flip":
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del changed[draw.randrange(len(content)) :]
    else:
        start = draw.randrange(len(content)) // 4096 * 4096
        changed[start : start + 4096] = bytes(len(changed[start : start + 4096]))
    if bytes(changed) == content:
        return False
    file.write_bytes(bytes(changed))
    return True


def mutations(place: Path, n: int) -> Iterator[tuple[Path, Path, str]]:
    """Folder, file in it and harm, over every sealed folder in turn."""
    draw, folders = random.Random("harms"), sealed(place)
    for number in range(n):
        folder = folders[number % len(folders)]
        yield folder, draw.choice(sorted(f for f in folder.rglob("*") if f.is_file())), HARMS[number // 7 % len(HARMS)]


def test_every_harm_is_found_and_names_the_file(place: Path) -> None:
    draw, done, missed, stages = random.Random("how"), 0, [], set()
    folders = sealed(place)
    assert not [problem for folder in folders for problem in check_folder(folder)]
    wanted = soaking.trials(60, 2000)
    for folder, file, kind in mutations(place, 3 * wanted):
        if done == wanted:
            break
        content = file.read_bytes()
        # of another folder the file of the same name, such as an older optimizer; or any other file
        named = [f for other in folders if other != folder for f in other.rglob(file.name) if f.is_file()]
        others = named if kind == "older" and named else [f for f in folder.rglob("*") if f.is_file() and f != file]
        if not others or not harm(file, kind, others, draw):
            continue
        problems = check_folder(folder)
        # a whole manifest of another folder tells that the files here are not those that it records
        exchanged = file.name == MANIFEST and kind in ("swap", "older")
        if not problems or (not exchanged and str(file) not in [problem.where for problem in problems]):
            missed.append((file, kind))
        done += 1
        stages.add(folder.name.split("-")[0])
        file.write_bytes(content)
    what = "a harmed file is found and named (flip, cut, zero page, swap, another's, missing)"
    soaking.record("QR4", what, done, len(missed))
    assert done == wanted
    assert not missed
    assert {"train", "encode", "prepare", "predict", "score", "gate", "fisher", "last", "best"} <= stages


@pytest.mark.parametrize("kind", ["full", "dpo", "ewc", "several tasks"])
def test_a_harmed_checkpoint_falls_back_to_the_one_before_and_ends_in_the_same_bytes(
    place: Path, tmp_path: Path, kind: str
) -> None:
    ready, draw = Ready(place, kind), random.Random(f"fall/{kind}")
    whole, n = ready.train(tmp_path / "whole"), soaking.trials(2, 20)
    for trial in range(n):
        root = tmp_path / str(trial)
        shutil.copytree(place / f"stopped-{kind}", root)
        last = checkpoints(root) / LAST
        assert newest_whole(last) == last
        files = sorted(f for f in last.rglob("*") if f.is_file())
        file = draw.choice(files)
        while not harm(file, draw.choice(["flip", "cut", "remove"]), files, draw):
            file = draw.choice(files)
        assert newest_whole(last) == beside(last)[1]
        listener = Stopping()
        assert ready.train(root, listener).content == whole.content
        assert listener.resumed_at == 4, "6 is harmed, and checkpoints are two steps apart"
    soaking.record("QR4", f"{kind}: a harmed checkpoint falls back to the one before", n, 0)


def test_best_weights_that_are_harmed_are_never_used(place: Path, tmp_path: Path) -> None:
    ready = Ready(place, "full")
    whole = ready.train(tmp_path / "whole")
    root = tmp_path / "harmed"
    shutil.copytree(place / "stopped-full", root)
    weights = checkpoints(root) / BEST / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert ready.train(root).content == whole.content


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 2, "files": [], "content": "", "made_with": {}}'])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    assert [problem.where for problem in check_folder(tmp_path)] == [str(tmp_path / MANIFEST)]


def test_whatever_bit_of_a_manifest_turns_the_manifest_is_named(place: Path) -> None:
    """Sizes, hashes, inputs, versions: no part of it is trusted for being there."""
    file = next(folder for folder in sealed(place) if folder.name == LAST) / MANIFEST
    content, draw = file.read_bytes(), random.Random("bits")
    for _ in range(soaking.trials(100, 1000)):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        try:
            file.write_bytes(bytes(changed))
            if json.loads(changed) != json.loads(content):
                assert str(file) in [problem.where for problem in check_folder(file.parent)]
        except ValueError:
            assert [problem.where for problem in check_folder(file.parent)] == [str(file)]
        finally:
            file.write_bytes(content)
