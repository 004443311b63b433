"""Training in rungs is training: the last one has the bytes of a run that was never paused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import plugging
import pytest
import tiny

from luthier import flow
from luthier.recipe_file import RecipeFile, loads
from luthier.store import Artifact, Silent, Store

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: rungs
seed: 5
task: {{kind: {task}, table: rows.jsonl}}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: random, validation: 20, test: 20}}}}
encode: {{max_length: 32}}
train:
  epochs: 3
  learning_rate: 1e-3
  batch_size: 8
  tokens_per_batch: 100
  weight_decay: 0.1
  checkpoint_steps: 3
  precision: float32
  evaluate_every: 0.4
  techniques: {techniques}
"""
CASES = {
    "full": ("generate", "gpt2", "[full]"),
    "lora": ("generate", "gpt2", "[{kind: lora, rank: 4, dropout: 0.1}, {kind: freeze, layers: 1}]"),
    "gradual": (
        "classify, text: prompt, label: kind",
        "bert",
        "[gradual, discriminative]\n  schedule: {kind: plateau, patience: 1}",
    ),
    "encoder": ("classify, text: prompt, label: kind", "bert", "[full]"),
    "thaw": ("generate", "gpt2", "[thaw]"),  # of another package: begins to train more at epoch 1, and has a state
}


class Cut(Silent):
    """Ends training after so many steps that are told, as if the power had gone."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def progress(self, what: str, done: float, total: float, figures: object) -> None:
        if what == "train":
            self.steps -= 1
            if not self.steps:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rungs")
    for shape in ("gpt2", "bert"):
        tiny.build(folder / shape, shape, dropout=0.1)
    draw = random.Random(0)
    rows = [
        {"prompt": f"{draw.randint(0, 999)} + {n} =", "completion": f" {n}", "kind": "AB"[n % 3 == 0]}
        for n in range(100)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plugging.use(plugging.plug_in(tmp_path / "package", techniques="thaw"), monkeypatch)
    yield
    plugging.forget()


def in_rungs(opened: RecipeFile, store: Store, rungs: list[int | None]) -> list[Artifact]:
    """Training paused after so many evaluations, each going on from the last."""
    opened = flow.settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    encoded = flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base)
    made: list[Artifact] = []
    for until in rungs:
        made.append(flow.trained(opened, store, encoded, base, until=until, paused=made[-1] if made else None))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_rungs_end_in_the_bytes_of_one_uninterrupted_run(
    place: Path, tmp_path: Path, kind: str, another_package: None
) -> None:
    task, base, techniques = CASES[kind]
    opened = loads(RECIPE.format(task=task, base=base, techniques=techniques), folder=place)
    (whole,) = in_rungs(opened, Store(tmp_path / "whole"), [None])
    *rungs, last = in_rungs(opened, Store(tmp_path / "rungs"), [1, 3, 6, None])
    assert [rung.facts["stopped"] for rung in rungs] == ["", "", ""]
    assert all((rung.path / "state" / "last").is_dir() and not (rung.path / "model").exists() for rung in rungs)
    files = [
        {name: each["sha256"] for name, each in made.manifest["files"].items() if "timings" not in name}
        for made in (whole, last)
    ]
    assert files[0] == files[1]
    assert whole.content == last.content


@pytest.mark.slow
def test_a_rung_that_was_killed_is_the_rung_that_was_not(place: Path, tmp_path: Path) -> None:
    task, base, techniques = CASES["encoder"]
    opened = loads(RECIPE.format(task=task, base=base, techniques=techniques), folder=place)
    reference = in_rungs(opened, Store(tmp_path / "whole"), [2, 4, None])
    for steps in (2, 5, 7, 9, 4):
        with pytest.raises(KeyboardInterrupt):
            in_rungs(opened, Store(tmp_path / "cut", Cut(steps)), [2, 4, None])
    resumed = in_rungs(opened, Store(tmp_path / "cut"), [2, 4, None])
    assert [made.content for made in resumed] == [made.content for made in reference]


@pytest.mark.slow
def test_a_rung_beyond_the_end_is_the_whole_run(place: Path, tmp_path: Path) -> None:
    task, base, techniques = CASES["encoder"]
    opened = loads(RECIPE.format(task=task, base=base, techniques=techniques), folder=place)
    store = Store(tmp_path)
    (whole,), (beyond,) = in_rungs(opened, store, [None]), in_rungs(opened, store, [99])
    assert (beyond.id, beyond.content) == (beyond.id, whole.content)
    assert beyond.id != whole.id
