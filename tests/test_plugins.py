"""Everything can be added by one new file in another package: found by entry point, from recipe to report."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plugging
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from luthier import flow, runs, seams
from luthier.batching import Encoded
from luthier.checkpoint import LAST, History, Progress, State
from luthier.choice import find
from luthier.errors import Problems
from luthier.fit import regroup, take_step
from luthier.model import load, numbered_parameters, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.seams import Labels, Ranking
from luthier.store import Store
from luthier.techniques import Together

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: toys
task: {kind: standardize, table: table.csv, column: messy, target: clean, context: [kind]}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 10, test: 30}}
encode: {max_length: 64}
train: {precision: float32, epochs: 2, learning_rate: 1e-3, batch_size: 8, checkpoint_steps: 3, techniques: [full]}
predict: {engine: {kind: torch, max_new_tokens: 6}}
score: {latency_samples: 0, baselines: [identity]}
gate: {checks: [{kind: floor, metric: exact_match, at_least: 0, min_n: 1}]}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plugins")
    for shape in ("llama", "bert"):
        tiny.build(root / shape, shape)
    draw = random.Random(1)
    numbers = [draw.randint(1, 9999) for _ in range(90)]
    rows = [[("A", "B")[n % 2], f"{n:05d}{'kg' if n % 2 else ' m'}", n] for n in numbers]
    write(root / "table.csv", ["kind", "messy", "clean"], rows)
    texts = [[word, "|".join(sorted({word[0], word[-1]}))] for word in (f"{a} {b}" for a in "xyz" for b in "xyz")]
    write(
        root / "tags.csv",
        ["text", "tags"],
        [[f"{text[0]}{n}{text[2]}", tags] for n in range(10) for text, tags in texts],
    )
    write(root / "things.csv", ["id", "kind"], [["a1", "A"], ["a2", "A"], ["b1", "B"], ["b2", "B"]])
    orders = [["A", "a2 a1"], ["B", "b1 b2"], ["C", "c1"]]
    write(root / "queries.csv", ["kind", "best"], [orders[n % 3] for n in range(60)])
    return root


def write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    def plug(**families: str) -> Path:
        folder = plugging.plug_in(tmp_path / "package", **families)
        plugging.use(folder, monkeypatch)
        return folder

    yield plug
    plugging.forget()


def ran(place: Path, text: str, root: Path, *changes: str) -> tuple[Run, Store]:
    opened = loads(text, folder=place, changes=changes)
    store = flow.store_for(opened, root=root / "store")
    return flow.run(opened, store), store


def weights(done: Run) -> dict[str, torch.Tensor]:
    return load_file(done.artifacts["model"].path / "model" / "model.safetensors")


def changed(done: Run, place: Path) -> set[int | None]:
    before = load_file(place / "llama" / "model.safetensors")
    numbers = numbered_parameters(load(place / "llama", writing_head("decoder"), device="cpu").bare)
    return {numbers[name] for name, tensor in weights(done).items() if not torch.equal(tensor, before[name])}


def test_a_technique_may_begin_to_train_a_layer_later(place: Path, plug: Callable[..., Path], tmp_path: Path) -> None:
    plug(techniques="thaw")
    thaw = "train.techniques=[thaw]"
    early, _ = ran(place, RECIPE, tmp_path / "early", thaw, "train.epochs=1")
    assert changed(early, place) == {1}
    late, _ = ran(place, RECIPE, tmp_path / "late", thaw, "train.keep=last")
    assert changed(late, place) == {0, 1}
    assert "thaw" in (late.folder / "report.html").read_text()
    # what is best after epoch 1 holds the later layer as it was then: untouched
    text = RECIPE.replace("learning_rate: 1e-3", "learning_rate: 1e-6, stop: {metric: exact_match, patience: 9}")
    best, _ = ran(place, text, tmp_path / "best", thaw)
    assert best.facts.trained.best is not None
    assert best.facts.trained.best["epoch"] == 1.0
    assert best.facts.trained.epochs == 2.0
    assert changed(best, place) == {1}


def test_what_trains_later_is_clipped_with_the_rest(place: Path, plug: Callable[..., Path], tmp_path: Path) -> None:
    plug(techniques="thaw")
    model = load(place / "llama", writing_head("decoder"), device="cpu", precision="float32")
    running = Together([find("techniques", "thaw")().start(model, {})])  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(list(model.trainable().values()), lr=1.0)  # a step is the clipped gradient itself
    state = State(model, optimizer, Progress(), running, History(tmp_path / "history.jsonl"))
    assert running.epoch(1, [])
    regroup(state, 1.0, 0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = [Encoded(ids=[1, 5, 6, 7, 2], supervised=[False, False, True, True, True], covers=3)]
    _, norm = take_step(state, [batch], Objective.pick("causal"), max_grad_norm=0.01)
    assert norm > 0.01
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    numbers = numbered_parameters(model.forward)
    assert {numbers[name] for name, step in moved.items() if step.any()} == {0, 1}
    assert float(torch.cat([step.flatten() for step in moved.values()]).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("tokens", [64, 2000])
def test_a_penalty_comes_from_an_input_and_is_asked_once_for_each_step(
    place: Path, plug: Callable[..., Path], tmp_path: Path, tokens: int
) -> None:
    plug(techniques="anchor")
    base = load_file(place / "llama" / "model.safetensors")
    name = next(name for name in base if "down_proj" in name)
    save_file({name: base[name] + 1.0}, tmp_path / "anchor.safetensors")
    text = RECIPE.replace("[full]", f"[full, {{kind: anchor, weights: {tmp_path}/anchor.safetensors, strength: 10}}]")
    text = text.replace("batch_size: 8", f"batch_size: 8, tokens_per_batch: {tokens}")
    done, _ = ran(place, text, tmp_path)
    plain, _ = ran(place, RECIPE, tmp_path)
    near, far = ((weights(each)[name] - base[name]).mean() for each in (done, plain))
    assert near > 5 * abs(far), "the weights went towards the anchor"
    assert done.facts.trained.final_loss > plain.facts.trained.final_loss + 1  # the penalty is in the loss
    config = done.artifacts["model"].manifest
    assert set(config["inputs"]) == {"encoded", "base", "anchor.weights"}
    # moved elsewhere, the file is the same input
    (tmp_path / "anchor.safetensors").rename(tmp_path / "moved.safetensors")
    again, _ = ran(place, text.replace("anchor.safetensors", "moved.safetensors"), tmp_path)
    assert again.artifacts["model"].reused
    asked = asked_at_checkpoints(place, text.replace("anchor.safetensors", "moved.safetensors"), tmp_path / "watched")
    assert asked == list(range(1, done.facts.trained.steps)), "after k steps, in however many pieces: k times"


def asked_at_checkpoints(place: Path, text: str, root: Path) -> list[int]:
    """How often the penalty had been asked at each checkpoint of a run that writes one after every step."""
    seen: list[int] = []

    class Watching:
        def progress(self, what: str, done: float, total: float, figures: object) -> None:
            for file in (root / "store" / "work").glob(f"train-*/checkpoints/{LAST}/manifest.json"):
                seen.append(json.loads(file.read_text())["facts"]["running"]["1"]["asked"])

        def say(self, line: str) -> None:
            pass

    opened = loads(text, folder=place, changes=["train.checkpoint_steps=1"])
    flow.run(opened, flow.store_for(opened, Watching(), root=root / "store"))
    return seen


def test_losses_may_be_wrapped_with_a_teacher(place: Path, plug: Callable[..., Path], tmp_path: Path) -> None:
    plug(techniques="taught")
    teacher, _ = ran(place, RECIPE, tmp_path, "train.epochs=4", "train.learning_rate=1e-2")
    folder = teacher.artifacts["model"].path / "model"
    text = RECIPE.replace("[full]", f"[full, {{kind: taught, teacher: {folder}, share: 1.0}}]")
    pupil, _ = ran(place, text, tmp_path)
    plain, _ = ran(place, RECIPE, tmp_path)
    assert pupil.artifacts["model"].manifest["inputs"]["taught.teacher"]
    assert weights(pupil).keys() == weights(plain).keys()
    name = next(name for name in weights(plain) if "down_proj" in name)
    assert not torch.equal(weights(pupil)[name], weights(plain)[name])
    with pytest.raises(Problems, match=r"taught and thaw both decide|no technique called 'thaw'"):
        loads(text.replace("[full,", "[thaw,"), folder=place)


def test_two_owners_of_one_moment_are_refused_when_the_recipe_is_loaded(
    place: Path, plug: Callable[..., Path], tmp_path: Path
) -> None:
    folder = plug(techniques="taught")
    source = (folder / "taught.py").read_text()
    (folder / "taught2.py").write_text(source.replace("class Taught(", "class Taught2("))
    with (folder / "toys-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("taught2 = taught2\n")
    plugging.forget()
    both = "[full, {kind: taught, teacher: llama}, {kind: taught2, teacher: llama}]"
    with pytest.raises(Problems, match="taught and taught2 both decide `losses`; use one of them"):
        loads(RECIPE.replace("[full]", both), folder=place)


def test_an_engine_needs_no_torch_and_the_untuned_base_is_asked_by_it_too(
    place: Path, plug: Callable[..., Path], tmp_path: Path
) -> None:
    folder = plug(engines="reckoner")
    text = RECIPE.replace("kind: torch", "kind: reckoner").replace("[identity]", "[identity, untuned]")
    done, store = ran(place, text, tmp_path)
    figures = {name: system.metrics["exact_match"].estimate for name, system in done.facts.scores.systems.items()}
    assert figures == {"identity": 0.0, "untuned": 1.0, "tuned": 1.0}
    assert done.released
    assert "Released" in (done.folder / "report.html").read_text()
    # applying a run asks the engine and nothing else: torch is never imported
    code = (
        "import sys; from pathlib import Path; from luthier import runs; from luthier.store import Store; "
        f"runs.apply(Store(Path({str(store.root)!r})), 'latest', Path({str(place / 'table.csv')!r}), "
        f"Path({str(tmp_path / 'out.csv')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(folder)})
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert all(row["messy_suggestion"] == row["clean"] and row["messy_confidence"] == "0.900" for row in rows)


def test_a_task_may_answer_with_sets_of_labels_through_its_own_objective(
    place: Path, plug: Callable[..., Path], tmp_path: Path
) -> None:
    plug(tasks="tags", objectives="tagging")
    text = RECIPE.replace(
        "{kind: standardize, table: table.csv, column: messy, target: clean, context: [kind]}",
        "{kind: tags, table: tags.csv}",
    )
    text = text.replace("path: llama", "path: bert").replace(
        "epochs: 2, learning_rate: 1e-3", "epochs: 25, learning_rate: 3e-3"
    )
    text = text.replace("[identity]", "[majority, untuned]").replace("at_least: 0,", "at_least: 0.8,")
    done, store = ran(place, text, tmp_path)
    found = list(runs.predictions_of(done.artifacts["tuned"]))
    assert all(isinstance(p.output, Labels) and isinstance(p.target, Labels) for p in found)
    figures = {name: system.metrics["exact_match"].estimate for name, system in done.facts.scores.systems.items()}
    assert figures["tuned"] > figures["majority"]
    assert done.released
    assert done.facts.prepared.label_names == ["x", "y", "z"]
    runs.apply(store, done.name, place / "tags.csv", tmp_path / "out.csv")
    row = next(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert set(row["tags_suggestion"].split(", ")) <= {"x", "y", "z"}


def test_a_task_may_rank_over_two_tables(place: Path, plug: Callable[..., Path], tmp_path: Path) -> None:
    plug(tasks="ranked")
    text = RECIPE.replace(
        "{kind: standardize, table: table.csv, column: messy, target: clean, context: [kind]}",
        "{kind: ranked, table: queries.csv, things: things.csv}",
    )
    text = text.replace("[identity]", "[majority, {kind: untuned, shots: 2}]").replace(
        "validation: 10, test: 30", "validation: 0.2, test: 0.3"
    )
    text = text.replace("prepare: {", "prepare: {steps: [], ").replace(
        "epochs: 2, learning_rate: 1e-3", "epochs: 60, learning_rate: 3e-3"
    )
    text = text.replace("max_new_tokens: 6", "max_new_tokens: 8")
    done, store = ran(place, text, tmp_path)
    assert done.facts.prepared.flow[1].fates == {"no thing of this kind": 20}
    found = list(runs.predictions_of(done.artifacts["tuned"]))
    assert all(isinstance(p.output, Ranking) for p in found)
    assert {str(p.target) for p in found} == {"a2 > a1", "b1 > b2"}
    assert done.facts.scores.systems["tuned"].metrics["exact_match"].estimate > 0.9
    result = runs.apply(store, done.name, place / "queries.csv", tmp_path / "out.csv")
    assert (result["rows"], result["predictions"]) == (60, 40)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["best_suggestion"] for row in rows[:3]] == ["a2 > a1", "b1 > b2", ""]


def test_a_metric_may_read_the_example_and_be_better_when_lower(
    place: Path, plug: Callable[..., Path], tmp_path: Path
) -> None:
    plug(metrics="letters_off")
    text = RECIPE.replace("score: {", "score: {metrics: [letters_off], ").replace("[identity]", "[identity, majority]")
    text = text.replace(
        "epochs: 2, learning_rate: 1e-3", "epochs: 3, learning_rate: 3e-3, stop: {metric: letters_off, patience: 5}"
    )
    checks = (
        "[{kind: floor, metric: letters_off, at_most: 6}, {kind: better_than, baseline: identity, required: false}, "
        "{kind: subgroup_floor, metric: letters_off, slice: column, at_most: 0.5, required: false}]"
    )
    text = text.replace("[{kind: floor, metric: exact_match, at_least: 0, min_n: 1}]", checks)
    done, _ = ran(place, text, tmp_path)
    floor, better, groups, _ = done.facts.verdicts
    tuned, identity = (done.facts.scores.systems[name].metrics["letters_off"] for name in ("tuned", "identity"))
    assert (identity.estimate, identity.unit) == (0.0, "characters")
    assert (floor.check, floor.outcome) == ("letters_off <= 6", "passed" if tuned.estimate <= 6 else "failed")
    assert better.check == "letters_off below identity"
    assert better.estimate == pytest.approx(-tuned.estimate)
    assert better.outcome == "failed"
    assert (groups.outcome, groups.threshold) == ("failed", 0.5)
    values = [entry["validation"]["letters_off"] for entry in done.facts.history if "validation" in entry]
    assert done.facts.trained.best is not None
    assert done.facts.trained.best["value"] == min(values), "early stopping kept the lowest"
    assert "identity ahead: 0 characters vs" in (done.folder / "report.html").read_text()
    with pytest.raises(Problems, match="letters_off is better when lower; write at_most, not at_least"):
        loads(text.replace("at_most: 6", "at_least: 6"), folder=place)


def test_a_step_that_changes_the_input_is_kept_with_the_model_and_done_in_apply_too(
    place: Path, plug: Callable[..., Path], tmp_path: Path
) -> None:
    plug(preparers="shout")
    text = RECIPE.replace("prepare: {", "prepare: {steps: [shout, dedup], ")
    done, store = ran(place, text, tmp_path)
    flow_steps = [step.step for step in done.facts.flow]
    assert flow_steps == ["read", "examples", "shout", "dedup", "fit in max_length"]
    for split in ("train", "validation", "test"):
        examples = seams.read(done.artifacts["examples"].path / split, seams.Example)
        assert all(e.input["fields"]["value"] == e.input["fields"]["value"].upper() for e in examples)
    about = json.loads((done.folder / "model" / "model.json").read_text())
    assert about["steps"] == [{"kind": "shout"}]
    said = {
        e.input["fields"]["value"]: p
        for e, p in zip(
            seams.read(done.artifacts["examples"].path / "test", seams.Example),
            runs.predictions_of(done.artifacts["tuned"]),
            strict=True,
        )
    }
    value, predicted = next(iter(said.items()))
    kind = predicted_kind(done, value)
    write(tmp_path / "new.csv", ["kind", "messy"], [[kind, value.lower()], [kind, "a secret"]])
    result = runs.apply(store, done.name, tmp_path / "new.csv", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows[0]["messy"] == value.lower()
    assert rows[0]["messy_suggestion"] == str(predicted.output)
    assert rows[1]["messy_suggestion"] == ""
    assert result["predictions"] == 1


def predicted_kind(done: Run, value: str) -> str:
    """The context that stood beside a value."""
    examples = seams.read(done.artifacts["examples"].path / "test", seams.Example)
    return next(e.input["fields"]["context"]["kind"] for e in examples if e.input["fields"]["value"] == value)
