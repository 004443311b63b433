"""How often a clean training is called a spike, and how soon ten times the learning rate is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import combining
import pytest
import soaking

from luthier import flow
from luthier.recipe_file import loads
from luthier.schedules import LearningRate
from luthier.store import Store

pytestmark = pytest.mark.slow
# each at about the highest rate at which it still trains: ten times as much does harm, which an encoder with a head may
# well survive
EDGE = [("decoder", "full", 1e-2), ("encoder-decoder", "full", 1e-2), ("decoder", "lora", 1e-2)]
CLEAN = [*((architecture, technique, rate / 3) for architecture, technique, rate in EDGE), ("encoder", "full", 3e-4)]
WITHIN = 20  # steps


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spikes")
    combining.build(folder)
    rows = [(f"no {n} {'abc'[n % 3] * 3}", "xyz"[n % 3]) for n in range(400)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    lines = [{"prompt": f"{n} {'abc'[n % 3]} =", "completion": f"{'xyz'[n % 3]}{n * 37 % 100}"} for n in range(400)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def spikes(place: Path, root: Path, kind: tuple[str, str, float], seed: int, steps: int, fault: int = 0) -> list[int]:
    """Steps at which something was told of a training; from the step `fault` on its rate is ten times what was meant."""
    architecture, technique, rate = kind
    made: dict[str, Any] = combining.recipe(
        architecture, [technique], "spikes", base=combining.ARCHITECTURES[architecture]
    )
    made["seed"] = seed
    made["train"] |= {
        "epochs": steps * 16 / 392,
        "batch_size": 16,
        "learning_rate": rate,
        "schedule": "constant",
        "evaluate_every": 1000,
        "keep": "last",
        "checkpoint_steps": 100_000,
    }
    opened = loads(json.dumps(made), folder=place)
    store = Store(root)
    opened = flow.settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    plain = LearningRate.factor
    with pytest.MonkeyPatch.context() as patch:
        if fault:
            patch.setattr(
                LearningRate,
                "factor",
                lambda self, step, *rest: plain(self, step, *rest) * (10 if step + 1 >= fault else 1),
            )
        model = flow.trained(opened, store, flow.ready(opened, store, base).encoded, base)
    return [event["step"] for event in model.facts["divergences"]]


def test_a_clean_training_is_left_alone(place: Path, tmp_path: Path) -> None:
    runs, steps = soaking.trials(1, 10), soaking.trials(300, 1100)
    alarms = [
        step
        for run in range(runs)
        for step in spikes(place, tmp_path / str(run), CLEAN[run % len(CLEAN)], 100 + run, steps)
    ]
    what = "false alarms of the spike rule over the steps of clean runs (goal: 1 in 10,000)"
    soaking.record("QR7", what, runs * steps, len(alarms), f"{runs} runs")
    assert len(alarms) <= runs * steps / 10_000


def test_ten_times_the_learning_rate_is_noticed_within_twenty_steps(place: Path, tmp_path: Path) -> None:
    n, waits = soaking.trials(2, 60), []
    for trial in range(n):
        fault = 60 + 7 * (trial % 13)
        found = spikes(place, tmp_path / str(trial), EDGE[trial % 3], trial, fault + WITHIN, fault)
        waits.append(next((step - fault + 1 for step in found if step >= fault), None))
    noticed = sorted(wait for wait in waits if wait is not None and wait <= WITHIN)
    figures = f"{len(noticed)} of {n} noticed, in the median after {noticed[len(noticed) // 2]} steps"
    soaking.record(
        "QR7", "ten times the learning rate is noticed within 20 steps (goal 95 %)", n, n - len(noticed), figures
    )
    assert len(noticed) >= 0.95 * n
