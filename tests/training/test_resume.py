"""Killed at any moment, training goes on and ends in bitwise the same weights as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import plugging
import pytest
import tiny

from luthier import flow
from luthier.recipe_file import load
from luthier.store import Artifact, Silent

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: resumed
seed: 5
task: {{kind: generate, table: rows.jsonl}}
base: {{kind: folder, path: base}}
prepare: {{split: {{kind: random, validation: 20, test: 20}}}}
train:
  epochs: 3
  learning_rate: 1e-3
  batch_size: 8
  tokens_per_batch: 100
  checkpoint_steps: 2
  precision: float32
  evaluate_every: 0.5
  techniques: {techniques}
"""

# a fresh import of torch and transformers takes seconds: one parent imports them and forks a child for every attempt
WORKER = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from luthier import flow, recipe_file
from luthier.store import Silent
from transformers import AutoModelForCausalLM
import peft

class Killer(Silent):
    # kills its process a moment after so many optimizer steps; 0 never does
    def __init__(self, steps, delay):
        self.steps, self.delay = steps, delay

    def progress(self, what, done, total, figures):
        if what == "train" and self.steps:
            self.steps -= 1
            if not self.steps:
                signal.setitimer(signal.ITIMER_REAL, self.delay)


print("ready", flush=True)
for line in sys.stdin:
    path, steps, delay = line.split()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        opened = recipe_file.load(path)
        store = flow.store_for(opened, Killer(int(steps), float(delay)))
        opened = flow.settled(opened, store)
        base = flow.base_model(opened.recipe.base, opened, store)
        flow.trained(opened, store, flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base), base)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

CLASSIFY = RECIPE.replace("kind: generate, table", "kind: classify, text: prompt, label: kind, table")
PAIRS = RECIPE.replace("rows.jsonl", "rows.jsonl, rejected_column: worse")
VOTES = RECIPE.replace("rows.jsonl", "rows.jsonl, good_column: good")
WEIGHTS = {
    "encoder": "model.safetensors",
    "full": "model.safetensors",
    "lora": "adapter_model.safetensors",
    "prompt_tuning": "adapter_model.safetensors",
    "prefix": "adapter_model.safetensors",
    "thaw": "model.safetensors",
    "distil": "model.safetensors",
    "dpo": "adapter_model.safetensors",
    "kto": "model.safetensors",
}
TECHNIQUES = {
    "encoder": "[full]",
    "thaw": "[thaw]",
    "full": "[full]",
    "distil": "[full, {kind: distil, teacher: base, layers: [1]}]",
    "dpo": "[{kind: lora, rank: 4}, dpo]",
    "kto": "[full, {kind: dpo, loss: kto}]",
    "prompt_tuning": "[{kind: prompt_tuning, tokens: 4}]",
    "prefix": "[{kind: prefix, tokens: 4, projection: 8}]",
    "lora": "[{kind: lora, rank: 4, dropout: 0.1}, {kind: freeze, layers: 1}]",
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    package = plugging.plug_in(tmp_path_factory.mktemp("package"), techniques="thaw")
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)},
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate()


def prepared(folder: Path, techniques: str, text: str = RECIPE, shape: str = "gpt2") -> Path:
    folder.mkdir(parents=True)
    shape = "bert" if text is CLASSIFY else shape
    tiny.build(folder / "base", shape, dropout=0.1)
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{draw.randint(0, 999)} + {n} =",
            "completion": f" {n}",
            "kind": "AB"[n % 3 == 0],
            "worse": f" {n}?",
            "good": n % 4 > 0,
        }
        for n in range(100)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(text.format(techniques=techniques))
    return folder / "recipe.yaml"


def attempt(process: subprocess.Popen[str], recipe: Path, steps: int = 0, delay_s: float = 0.0) -> int:
    """Run the recipe, killed `delay_s` after so many optimizer steps (0: not at all); the exit code."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{recipe} {steps} {delay_s}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def trained(recipe: Path, weights: str) -> dict[str, object]:
    (folder,) = (recipe.parent / ".luthier" / "artifacts").glob("train-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    return {"content": manifest["content"], "weights": manifest["files"][f"model/{weights}"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["full", "lora", "prompt_tuning", "prefix", "encoder", "thaw", "distil", "dpo", "kto"]
)  # thaw: another package's, trains more from epoch 1 on
def test_training_killed_at_random_moments_ends_in_the_same_bytes(
    tmp_path: Path, worker: subprocess.Popen[str], kind: str
) -> None:
    text = {"encoder": CLASSIFY, "dpo": PAIRS, "kto": VOTES}.get(kind, RECIPE)
    reference, recipe = (prepared(tmp_path / name, TECHNIQUES[kind], text) for name in ("plain", "killed"))
    assert attempt(worker, reference) == 0
    draw, kills = random.Random(f"moments/{kind}"), 0
    for _ in range(60 if os.environ.get("LUTHIER_SOAK") else 5):
        code = attempt(worker, recipe, draw.randint(1, 5), draw.uniform(0.0001, 0.05))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert attempt(worker, recipe) == 0
    assert kills >= 2, "training ended before it was interrupted: nothing was shown"
    assert trained(recipe, WEIGHTS[kind]) == trained(reference, WEIGHTS[kind])
    assert not list((recipe.parent / ".luthier" / "work").glob("*/")), "work in progress is cleared when it is done"


# techniques and, behind them, what else is set in `train`; the rest of a line goes on behind `techniques:`
REMEMBERED = {
    "adafactor": "[full]\n  optimizer: {kind: adafactor, beta1: 0.9}",
    "adam8bit": "[full]\n  optimizer: adam8bit",
    "sgd": "[full]\n  optimizer: sgd\n  max_grad_norm: 0.1",
    "plateau": "[full]\n  schedule: {kind: plateau, patience: 1, by: 0.5}\n  stop: {metric: exact_match, patience: 99}",
    "noise": "[full]\n  neftune_alpha: 5\n  label_smoothing: 0.1\n  gradient_checkpointing: true",
    "ulmfit": "[freeze, gradual, discriminative]\n  schedule: slanted_triangular",
    "gradual at a plateau": "[{kind: gradual, when: plateau}]\n  optimizer: adam8bit\n  keep: last",
    "gradual with lora": "[{kind: lora, rank: 4, dropout: 0.1}, gradual]\n  optimizer: adafactor",
}


class Stopping(Silent):
    """Stops its run after so many optimizer steps; 0 never does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def progress(self, what: str, done: int, total: int, figures: Mapping[str, str]) -> None:
        if what == "train":
            self.steps -= 1
            if self.steps == 0:
                raise StopIteration


def train_until(recipe: Path, steps: int) -> Artifact:
    opened = load(recipe)
    store = flow.store_for(opened, Stopping(steps))
    opened = flow.settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    return flow.trained(opened, store, flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base), base)


@pytest.mark.parametrize(
    ("kind", "shape"), [*((kind, "gpt2") for kind in REMEMBERED), ("ulmfit", "bert"), ("ulmfit", "t5")]
)
def test_whatever_is_remembered_is_taken_up_to_the_bit(tmp_path: Path, kind: str, shape: str) -> None:
    text = CLASSIFY if shape == "bert" else RECIPE
    reference, recipe = (prepared(tmp_path / name, REMEMBERED[kind], text, shape) for name in ("plain", "stopped"))
    whole = train_until(reference, 0)
    for steps in (3, 7, 10):  # in the first epoch, behind an evaluation, and on both sides of a second one
        with pytest.raises(StopIteration):
            train_until(recipe, steps)
    resumed = train_until(recipe, 0)
    assert resumed.content == whole.content
    assert resumed.facts == whole.facts


def test_where_the_last_weights_are_kept_no_best_ones_are_missed(tmp_path: Path) -> None:
    recipe = prepared(tmp_path / "run", "[full]\n  keep: last")
    with pytest.raises(StopIteration):
        train_until(recipe, 7)  # behind an evaluation
    taken: list[int] = []

    class Counting(Silent):
        def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
            if what == "train":
                taken.append(int(done))

    opened = load(recipe)
    store = flow.store_for(opened, Counting())
    opened = flow.settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    flow.trained(opened, store, flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base), base)
    assert taken[0] == 7, "the checkpoint is of step 6"


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = prepared(tmp_path / "run", TECHNIQUES["full"])
    command = [sys.executable, "-m", "luthier.cli", "run", str(recipe), "--set", "train.epochs=500"]
    told = []
    for expected in ("training will take about", "resuming at step"):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
        )
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any(expected in line for line in lines)
        while not list((recipe.parent / ".luthier" / "work").glob("train-*/checkpoints/last/manifest.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told.append(process.communicate()[1])
        assert process.returncode == 130
    assert all("interrupted; what was finished is kept" in text for text in told)
    assert not any("Traceback" in text for text in told)
