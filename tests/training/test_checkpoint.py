"""Checkpoints: whole or not at all, and a full disk never costs the one that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from limits import files_of_at_most
from test_resume import TECHNIQUES, prepared

from luthier import flow
from luthier.checkpoint import WEIGHTS, newest_whole, replace_folder
from luthier.errors import MachineError
from luthier.recipe_file import load
from luthier.store import check_folder


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
