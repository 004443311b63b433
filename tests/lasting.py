"""A short training of each technique: what must outlast a crash, a full disk and a number that is none.

A technique that is added has its settings in the table of combining.py; here it needs a line only where it does not train
an encoder, or not by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import combining
import pytest

from luthier import flow
from luthier.choice import members
from luthier.recipe_file import RecipeFile, loads
from luthier.stages.train import train
from luthier.store import Artifact, Listener, Silent, Store
from luthier.techniques import private

ARCHITECTURE = dict.fromkeys(["dpo", "prefix", "prompt_tuning", "quantized_base"], "decoder")  # the others: encoder
BESIDE = {
    "discriminative": ["full"],
    "distil": ["full"],
    "dpo": ["lora"],
    "ewc": ["full"],
    "freeze": ["full"],
    "gradual": ["full"],
    "private": ["full"],
    "quantized_base": ["lora"],
    "replay": ["full"],
}
KINDS = [*sorted(members("techniques")), "several tasks"]
EPOCHS, CHECKPOINT_STEPS = 3, 2


def architecture(kind: str) -> str:
    """The one that a technique is tried on."""
    return ARCHITECTURE.get(kind, "encoder")


def recipe(kind: str, **train: Any) -> dict[str, Any]:
    """A training of nine steps with a checkpoint at every second one."""
    kinds = [*BESIDE.get(kind, []), kind] if kind != "several tasks" else []
    made = combining.recipe(architecture(kind), kinds, "lasting")
    made["train"] |= {"epochs": EPOCHS, "checkpoint_steps": CHECKPOINT_STEPS, **train}
    if kind == "several tasks":
        made["tasks"] = {name: {"task": made["task"], "weight": weight} for name, weight in (("a", 1), ("b", 0.5))}
        del made["task"]
    return made


class Ready:
    """Everything but the training, done once: what is tried is the training alone."""

    def __init__(self, folder: Path, kind: str, **train: Any) -> None:
        self.opened: RecipeFile = loads(json.dumps(recipe(kind, **train)), folder=folder)
        self.store = Store(folder / ".luthier")
        self.opened = flow.settled(self.opened, self.store)
        self.base = flow.base_model(self.opened.recipe.base, self.opened, self.store)
        former = (
            flow.former_run(self.opened, flow.store_for(self.opened), self.base) if self.opened.recipe.former else None
        )
        tasks = {
            name: flow.ready(self.opened.alone(name), self.store, self.base)
            for name in self.opened.recipe.tasks or [""]
        }
        first, *further = tasks
        self.encoded = tasks[first].encoded
        beside = {name: tasks[name].encoded for name in further}
        self.config, self.inputs = flow.training(self.opened, self.store, self.base, beside, former)

    def train(self, root: Path, listener: Listener | None = None) -> Artifact:
        """The training, in a store of its own. Private noise, which no training shares with another, is drawn alike here."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(private, "new_seed", lambda: "0" * 64)
            store = Store(root, listener or Silent())
            return store.do(train, self.config, encoded=self.encoded, base=self.base, **self.inputs)


class Stopping(Silent):
    """Stops its run after so many optimizer steps, and knows where it resumed; 0 never stops."""

    def __init__(self, steps: int = 0) -> None:
        self.left, self.resumed_at, self.reached = steps, 0, 0
        self.first = 0.0  # when its first step was done

    def say(self, line: str) -> None:
        if line.startswith("resuming at step "):
            self.resumed_at = int(line.split()[3])

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        if what == "train":
            self.reached = int(done)
            self.first = self.first or time.perf_counter()
            self.left -= 1
            if self.left == 0:
                raise StopIteration


def checkpoints(root: Path) -> Path:
    """Where the unfinished training of a store keeps its checkpoints."""
    (found,) = root.glob("work/train-*/checkpoints")
    return found
