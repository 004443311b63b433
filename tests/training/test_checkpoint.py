"""Checkpoints: whole or not at all, and a full disk never costs the one that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crashing import copy, crashes
from limits import files_of_at_most
from test_resume import TECHNIQUES, prepared

from luthier import flow
from luthier.checkpoint import (
    LAST,
    OPTIMIZER,
    WEIGHTS,
    History,
    Progress,
    State,
    newest_whole,
    read_weights,
    replace_folder,
)
from luthier.errors import MachineError
from luthier.recipe_file import load
from luthier.store import check_folder
from luthier.techniques import Running


def save_weights(folder: Path, weights: dict[str, torch.Tensor], facts: dict[str, int]) -> None:
    replace_folder(folder, {WEIGHTS: weights}, facts)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_last_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    save_weights(folder, {"w": torch.ones(10)}, {"step": 1})
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        save_weights(folder, {"w": torch.ones(10_000)}, {"step": 2})
    assert newest_whole(folder) == folder
    assert '"step": 1' in (folder / "manifest.json").read_text()
    save_weights(folder, {"w": torch.ones(10_000)}, {"step": 2})
    assert '"step": 2' in (folder / "manifest.json").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["best"], "nothing half-written stays"


def test_whenever_the_power_fails_once_or_twice_the_newest_whole_checkpoint_is_found(quick_disk: Path) -> None:
    """Cut before each change of one save and, from each state that this left, of the next."""

    def save(step: int) -> Callable[[Path], None]:
        return lambda root: save_weights(root / "last", {"w": torch.full((3,), float(step))}, {"step": step})

    def newest(root: Path) -> int:
        folder = newest_whole(root / "last")
        assert folder is not None
        step = int(json.loads((folder / "manifest.json").read_text())["facts"]["step"])
        assert read_weights(folder)["w"].tolist() == [step] * 3
        return step

    save(1)(quick_disk / "made")
    found = set()
    for once in crashes(quick_disk / "made", quick_disk / "once", save(2)):
        before = newest(once)
        for twice in crashes(once, quick_disk / "twice", save(3)):
            found.add((before, newest(twice)))
        third = copy(once, quick_disk / "third")
        save(3)(third)
        assert newest(third) == 3
        assert [entry.name for entry in third.iterdir()] == ["last"]
    assert found == {(1, 1), (1, 3), (2, 2), (2, 3)}


class OnMeta:
    """A model whose one parameter lies on another device than the processor, which takes no memory."""

    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [("w", self.parameter)]


def test_the_state_of_fused_adamw_is_taken_up_on_the_device_of_its_parameter(tmp_path: Path) -> None:
    model = OnMeta()
    stored = {"step/w": torch.tensor(3.0), "exp_avg/w": torch.ones(2), "exp_avg_sq/w": torch.ones(2)}
    replace_folder(tmp_path / LAST, {OPTIMIZER: stored}, {})
    optimizer = torch.optim.AdamW([model.parameter])
    State(model, optimizer, Progress(), Running(), History(tmp_path / "h")).take_up_optimizer(tmp_path)  # type: ignore[arg-type]
    state = optimizer.state[model.parameter]
    assert {key: value.device.type for key, value in state.items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
    # torch's own rule, for what it loads itself
    for key, tensor in stored.items():
        placed = torch.optim.Optimizer._process_value_according_to_param_policy(
            model.parameter, tensor, 0, [{"params": [0], "fused": True, "capturable": False}], key.partition("/")[0]
        )
        assert (placed.device, placed.dtype) == (state[key.partition("/")[0]].device, tensor.dtype)


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_harmed_checkpoint_is_not_read(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "last"
    save_weights(folder, {"w": torch.ones(10)}, {"step": 1})
    file = folder / "weights.safetensors"
    if harm == "remove":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert [problem.where for problem in check_folder(folder)] == [str(file)]
    assert newest_whole(folder) is None


@pytest.mark.slow
def test_a_full_disk_in_training_is_told_with_exit_code_4_and_the_run_goes_on_afterwards(tmp_path: Path) -> None:
    opened = load(prepared(tmp_path / "run", TECHNIQUES["full"]), ["train.epochs=1"])
    store = flow.store_for(opened)
    opened = flow.settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    encoded = flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base)
    with files_of_at_most(50_000), pytest.raises(MachineError) as told:
        flow.trained(opened, store, encoded, base)
    assert told.value.exit_code == 4
    assert "free some space and run the same command again" in told.value.sentence()
    assert not list(store.artifacts.glob("train-*"))
    assert flow.trained(opened, store, encoded, base).facts["stopped"] == "finished"
