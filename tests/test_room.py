"""What a training will write is reckoned before it starts, and a disk that is too small or fills up ends it cleanly."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import combining
import lasting
import pytest
import soaking
import torch
from lasting import Ready, Stopping, checkpoints
from limits import files_of_at_most

from luthier import fit, room
from luthier.checkpoint import BEST, LAST, newest_whole
from luthier.choice import find, members
from luthier.errors import MachineError
from luthier.optimizers import Optimizer
from luthier.room import Room
from luthier.store import size_of

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room")
    combining.build(folder)
    return folder


def test_room_is_reckoned_for_the_worst_moment() -> None:
    asked = Room(weights=100, optimizer=200, techniques=30, names=40, model=50, keeps_best=True)
    assert asked.last == 370
    assert asked.best == 110
    assert asked.most == 2 * 370 + 2 * 110
    assert Room(weights=100, optimizer=200, techniques=0, names=0, model=50, keeps_best=False).most == 2 * 300 + 50


@pytest.mark.parametrize(
    ("n", "told"), [(12, "12 bytes"), (4_321, "4.32 kB"), (80_000_000, "80 MB"), (5.1e9, "5.1 GB")]
)
def test_amounts_are_for_people(n: int, told: str) -> None:
    assert room.amount(n) == told


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 1_000_000))
    asked = Room(weights=500_000, optimizer=0, techniques=0, names=0, model=0, keeps_best=False)
    with pytest.raises(MachineError, match="too little room: training writes up to 1 MB") as told:
        room.check(asked, tmp_path, 0)
    assert told.value.exit_code == 4
    assert room.check(asked, tmp_path, 100_000) == 1_000_000, "what is there already need not be written"


@pytest.mark.slow
def test_no_step_is_taken_on_a_disk_that_is_too_small(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, listener = Ready(place, "full"), Stopping()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 100_000))
    with pytest.raises(MachineError, match="too little room"):
        ready.train(tmp_path / "run", listener)
    assert listener.reached == 0
    monkeypatch.undo()
    assert ready.train(tmp_path / "run").facts["stopped"] == "finished"


@pytest.mark.parametrize("kind", sorted(members("optimizers")))
@pytest.mark.parametrize("shape", [(300,), (50, 90), (64, 100), (3, 8, 200)])
def test_an_optimizer_says_what_it_keeps(kind: str, shape: tuple[int, ...]) -> None:
    for settings in ({"beta1": 0.9}, {}) if kind == "adafactor" else ({"momentum": 0}, {}) if kind == "sgd" else ({},):
        chosen = find("optimizers", kind)(**settings)
        assert isinstance(chosen, Optimizer)
        parameter = torch.nn.Parameter(torch.randn(shape))
        optimizer = chosen.over([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}])
        parameter.grad = torch.randn(shape)
        optimizer.step()
        state = optimizer.state[parameter].values()
        kept = sum(value.nbytes for value in state if isinstance(value, torch.Tensor) and value.ndim)
        assert chosen.keeps(shape) == kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", lasting.KINDS)
def test_what_is_reckoned_is_within_15_percent_of_what_is_written(
    place: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Room] = []
    plain = room.check

    def check(asked: Room, *rest: Any) -> int:
        told.append(asked)
        return plain(asked, *rest)

    monkeypatch.setattr(fit.room, "check", check)
    ready = Ready(place, kind)
    with pytest.raises(StopIteration):
        ready.train(tmp_path / "run", Stopping(9))
    found = checkpoints(tmp_path / "run")
    asked, real = told[-1], size_of(newest_whole(found / LAST) or found)
    assert abs(asked.last / real - 1) <= 0.15, (asked, real)
    best = size_of(found / BEST)
    made = ready.train(tmp_path / "run")
    model = size_of(made.path / "model")
    assert abs(asked.model / model - 1) <= 0.15, (asked, model)
    whole, truth = asked.last + asked.best + asked.model, real + best + model
    assert abs(whole / truth - 1) <= 0.15
    soaking.record(
        "QR5", f"{kind}: room reckoned for checkpoints and model", 1, 0, f"{100 * (whole / truth - 1):+.1f} %"
    )


@pytest.mark.slow
def test_wherever_a_file_grows_too_large_training_stops_cleanly_and_goes_on_afterwards(
    place: Path, tmp_path: Path
) -> None:
    ready = Ready(place, "full")
    whole = ready.train(tmp_path / "whole")
    largest = max(file.stat().st_size for file in whole.path.rglob("*") if file.is_file())
    sizes = [round(largest * (n + 1) / 22) for n in range(20)][:: 1 if soaking.SOAK else 9]
    for size in sizes:
        root = tmp_path / str(size)
        with files_of_at_most(size), pytest.raises(MachineError, match="the disk is full") as told:
            ready.train(root)
        assert told.value.exit_code == 4
        assert not list(root.glob("artifacts/train-*"))
        last = checkpoints(root) / LAST
        assert not last.exists() or newest_whole(last) is not None
        assert ready.train(root).content == whole.content
    soaking.record("QR5", "files limited to one of 20 sizes: clean stop, then the same bytes", len(sizes), 0)


@pytest.mark.slow
def test_what_will_be_written_is_told(place: Path, tmp_path: Path) -> None:
    class Telling(Stopping):
        lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    listener = Telling(1)
    with pytest.raises(StopIteration):
        Ready(place, "lora").train(tmp_path / "run", listener)
    assert any(line.startswith("training writes up to ") and line.endswith(" are free") for line in listener.lines)
    assert json.dumps(listener.lines).count("training writes") == 1
