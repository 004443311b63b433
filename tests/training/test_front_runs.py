"""Whole runs with virtual tokens, prefixes and tuners of peft, for each architecture: trained, asked, applied, exported."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import tiny

from luthier import flow, runs
from luthier.errors import UserError
from luthier.recipe_file import loads

pytestmark = pytest.mark.slow

TASKS = {
    "llama": "{kind: standardize, table: table.csv, column: messy, target: clean}",
    "t5": "{kind: standardize, table: table.csv, column: messy, target: clean}",
    "bert": "{kind: classify, table: table.csv, text: messy, label: kind}",
    "gpt2": "{kind: standardize, table: table.csv, column: messy, target: clean}",
}
RECIPE = """\
version: 1
name: fronted
task: TASK
base: {kind: folder, path: BASE}
prepare: {split: {kind: random, validation: 12, test: 20}}
encode: {max_length: 32}
train: {precision: float32, epochs: 1, batch_size: 8, techniques: [TECHNIQUE]}
predict: {engine: {kind: torch, max_new_tokens: 4}}
score: {latency_samples: 2}
"""
TECHNIQUES = {
    "prompt_tuning": "{kind: prompt_tuning, tokens: 4}",
    "prefix": "{kind: prefix, tokens: 4}",
    "peft": "{kind: peft, tuner: ia3}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fronted")
    for shape in TASKS:
        tiny.build(root / shape, shape)
    draw = random.Random(0)
    rows = [["AB"[n % 3 == 0], f"{draw.randint(1, 9999):05d} {'km'[n % 3 == 0]}", n] for n in range(80)]
    for name, chosen in (("table.csv", rows), ("new.csv", rows[:9])):
        with (root / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["kind", "messy", "clean"], *chosen])
    return root


def recipe(base: str, technique: str) -> str:
    return RECIPE.replace("TASK", TASKS[base]).replace("BASE", base).replace("TECHNIQUE", technique)


@pytest.mark.parametrize("kind", TECHNIQUES)
@pytest.mark.parametrize("base", ["llama", "t5", "bert"])
def test_a_run_goes_to_its_end_and_its_model_is_applied_and_exported(
    place: Path, tmp_path: Path, base: str, kind: str
) -> None:
    opened = loads(recipe(base, TECHNIQUES[kind]), folder=place)
    store = flow.store_for(opened, root=tmp_path / "store")
    run = flow.run(opened, store)
    assert run.facts.trained.adapter
    assert 0 < run.facts.trained.trainable_parameters < 0.2 * run.facts.trained.parameters
    assert run.facts.measured is not None
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert kind in page
    assert "PeftModel" in (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert runs.apply(store, run.name, place / "new.csv", tmp_path / "cleaned.csv")
    exported = runs.export(store, run.name, "peft", "float32", tmp_path / "adapter")
    adapter = json.loads((exported / "adapter_config.json").read_text())
    assert adapter["peft_type"] == {"peft": "IA3", "prefix": "PREFIX_TUNING"}.get(kind, "PROMPT_TUNING")
    if kind == "peft":
        assert not (runs.export(store, run.name, "hf", "float32", tmp_path / "whole") / "adapter_config.json").exists()
        return
    with pytest.raises(UserError, match=r"--to hf: .* no weights of a whole model are the same; use --to peft"):
        runs.export(store, run.name, "hf", "float32", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix"])
def test_places_before_the_text_count_towards_the_positions_of_the_base(place: Path, tmp_path: Path, kind: str) -> None:
    text = recipe("gpt2", f"{{kind: {kind}, tokens: 20}}").replace("max_length: 32", "max_length: 1008")
    opened = loads(text, folder=place)
    why = r"a prompt of 1008 tokens \(encode.max_length\) and an answer of 4 .* and 20 places taken before it .* 1024 positions"
    with pytest.raises(UserError, match=why):
        flow.run(opened, flow.store_for(opened, root=tmp_path / "store"))
    text = recipe("bert", f"{{kind: {kind}, tokens: 20}}").replace("max_length: 32", "max_length: 500")
    opened = loads(text, folder=place)
    with pytest.raises(UserError, match=r"a prompt of 500 tokens .* and 20 places .* go beyond the 512 positions"):
        flow.run(opened, flow.store_for(opened, root=tmp_path / "store"))


@pytest.mark.parametrize("pair", ["lora, prefix", "prompt_tuning, full", "prefix, prompt_tuning", "peft, lora"])
def test_one_adapter_at_a_time(place: Path, pair: str) -> None:
    blocks = [TECHNIQUES.get(kind, f"{{kind: {kind}}}") for kind in pair.split(", ")]
    with pytest.raises(UserError, match="do not combine: "):
        loads(recipe("llama", ", ".join(blocks)), folder=place)
