"""Part: of a model that learned several tasks, a standard folder for one of the further ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from luthier.choice import Settings
from luthier.model import ABOUT, HEAD
from luthier.store import Artifact, Out, stage

BEFORE = ("base_model.model.", "base_model.", "")  # the name of a parameter, in what peft writes and without peft
KEPT = {"config.json", "adapter_config.json"}


class Part(Settings):
    """Which task."""

    name: str


@stage(version=1)
def part(config: Part, out: Out, trained: Artifact) -> dict[str, Any]:
    """Folder `model` with the shared body, or adapter, under the task's head, and `history.jsonl`, as train writes them."""
    from safetensors import safe_open

    source, own, target = trained.path / "model", trained.path / "heads" / config.name, out.folder / "model"
    target.mkdir()
    placed: set[str] = set()
    for file in sorted(source.iterdir()):
        if file.suffix == ".safetensors":
            placed |= with_head(file, own / HEAD, target / file.name)
        elif file.name in KEPT or file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    with safe_open(own / HEAD, framework="pt") as head:
        lost = set(head.keys()) - placed
    assert not lost, f"the head of {config.name} has no place for {sorted(lost)}"
    for file in sorted(own.iterdir()):
        if file.name != HEAD:
            shutil.copyfile(file, target / file.name)
    if (target / "adapter_config.json").exists():
        (target / "config.json").unlink(missing_ok=True)  # peft's folder has none; the base's own says what it is
    assert json.loads((target / ABOUT).read_text(encoding="utf-8"))["auto"]
    shutil.copyfile(trained.path / "history.jsonl", out.folder / "history.jsonl")
    return dict(trained.facts)


def with_head(file: Path, head: Path, target: Path) -> set[str]:
    """Write a file of weights in which the parameters of one head are those of another; without heads, the same bytes.

    Returns the names of those that have found their place.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    tensors, heads = load_file(file), load_file(head)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    if not heads:
        shutil.copyfile(file, target)
        return set()
    inner = {name: next(name.removeprefix(each) for each in BEFORE if name.startswith(each)) for name in tensors}
    other = {name: heads[own] for name, own in inner.items() if own in heads}
    save_file({**tensors, **other}, target, metadata=metadata)
    return {inner[name] for name in other}
