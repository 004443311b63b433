"""Several tasks in one model, and a former task that is kept: what is shared, what is each task's own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from luthier import flow, runs
from luthier.batching import Encoded, plan
from luthier.errors import Problems, UserError
from luthier.mixing import Mixture, Part, Sample, by_temperature, mean_over
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.runs import Run

SEVERAL = """\
version: 1
name: both
seed: 3
device: cpu
tasks:
  size: {task: {kind: classify, table: sizes.csv, text: text, label: label}}
  kind: {task: {kind: classify, table: kinds.csv, text: text, label: label}, weight: 0.5}
base: {kind: folder, path: bert}
prepare: {split: {kind: random, validation: 16, test: 16}}
encode: {max_length: 48}
train: {epochs: 6, learning_rate: 5e-3, batch_size: 8, precision: float32}
predict: {engine: {kind: torch, batch_size: 16, max_new_tokens: 6}}
score: {latency_samples: 0, baselines: [majority]}
"""
SIZE = "{kind: classify, table: sizes.csv, text: text, label: label}"
ALONE = SEVERAL.replace(SEVERAL[SEVERAL.index("tasks:") : SEVERAL.index("base:")], f"task: {SIZE}\n")
WRITING = SEVERAL.replace(
    "kind: classify, table: sizes.csv, text: text, label: label", "kind: generate, table: a.jsonl"
)
WRITING = WRITING.replace(
    "kind: classify, table: kinds.csv, text: text, label: label", "kind: generate, table: b.jsonl"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several")
    for shape in ("bert", "llama", "t5"):
        tiny.build(root / shape, shape)
    draw = random.Random(7)
    sizes, kinds, a, b = ["text,label"], ["text,label"], [], []
    for n in range(96):
        letter = draw.choice("abcdef")
        sizes.append(f"no {n} {letter * draw.randint(1, 6)} here,{'low' if letter in 'abc' else 'high'}")
        digit = draw.randint(0, 8)
        kinds.append(f"item {n} {'xyz'[digit % 3] * 4},{('one', 'two', 'three')[digit % 3]}")
        a.append(json.dumps({"prompt": f"{n} {letter} =", "completion": letter * 2}))
        b.append(json.dumps({"prompt": f"{n} {digit} ->", "completion": f"{digit}!"}))
    (root / "sizes.csv").write_text("\n".join(sizes) + "\n")
    (root / "kinds.csv").write_text("\n".join([*kinds[:65], ""]))
    (root / "a.jsonl").write_text("\n".join(a) + "\n")
    (root / "b.jsonl").write_text("\n".join([*b[:64], ""]))
    return root


def run(place: Path, text: str, *changes: str) -> Run:
    opened = loads(text, folder=place, changes=changes)
    return flow.run(opened, flow.store_for(opened))


def weights(model: Any) -> dict[str, torch.Tensor]:
    (file,) = (model.path / "model").glob("*.safetensors")
    return load_file(file)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_with_weight_0_for_the_other_task_a_task_trains_as_if_alone_to_the_last_bit(place: Path) -> None:
    alone = run(place, ALONE).artifacts["model"]
    together = run(place, SEVERAL, "tasks.kind.weight=0").artifacts["model"]
    assert same(weights(alone), weights(together))
    lines = [
        [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
        for model in (alone, together)
    ]
    losses = [[entry["loss"] for entry in each if "loss" in entry] for each in lines]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("technique", ["full", "{kind: lora, rank: 4}"])
def test_each_task_of_an_encoder_has_a_head_of_its_own_and_a_standard_folder(place: Path, technique: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    text = SEVERAL.replace("name: both", f"name: both-{'lora' if 'lora' in technique else 'full'}")
    done = run(place, text, f"train.techniques=[{technique}]")
    (other,) = done.together
    assert [each.facts.name for each in (done, other)] == [
        f"{loads(text, folder=place).recipe.name}.{n}" for n in ("size", "kind")
    ]
    assert done.facts.trained.adapter == ("lora" in technique)
    store = flow.store_for(loads(text, folder=place))
    for each, table in ((done, "sizes.csv"), (other, "kinds.csv")):
        answers = [
            json.loads(line) for line in (each.artifacts["tuned"].path / "predictions.jsonl").read_text().splitlines()
        ]
        right = sum(answer["output"] == answer["target"] for answer in answers) / len(answers)
        majority = each.facts.scores.systems["majority"].metrics["accuracy"].estimate
        assert majority is not None
        assert right > majority or technique != "full", f"{each.facts.name} learned nothing"
        folder = runs.export(store, each.name, "hf", "float32", place / f"exported-{each.name}")
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        examples = [
            json.loads(line) for line in (each.artifacts["examples"].path / "test.jsonl").read_text().splitlines()
        ]
        for example, answer in zip(examples, answers, strict=True):
            logits = model(**tokenizer(example["input"]["text"], return_tensors="pt")).logits[0]
            assert model.config.id2label[int(logits.argmax())] == answer["output"]["label"]
        result = runs.apply(store, each.name, place / table, place / f"answers-{each.name}.csv")
        assert result["rows"] > 60
    assert {task.name: (task.weight, task.drawn) for task in done.facts.trained.tasks} == {
        "size": (1.0, 64),
        "kind": (0.5, 32),
    }
    assert "Learned together" in (done.folder / "report.html").read_text()


@pytest.mark.parametrize("shape", ["llama", "t5"])
def test_tasks_that_write_share_the_head_and_each_is_asked_in_its_own_form(place: Path, shape: str) -> None:
    text = WRITING.replace("name: both", f"name: both-{shape}")
    done = run(place, text, f"base.path={shape}", "tasks.kind.weight=1")
    (other,) = done.together
    assert same(weights(done.artifacts["model"]), weights(other.artifacts["model"]))
    for each in (done, other):
        first, last = (each.facts.history[n]["loss"] for n in (0, -2))
        assert last < first


# A former task.

FORMER = ALONE.replace("name: both", "name: first")
NEXT = """\
version: 1
name: next
seed: 4
device: cpu
task: {kind: classify, table: kinds.csv, text: text, label: label}
base: {kind: folder, path: first-exported}
former: first
prepare: {split: {kind: random, validation: 16, test: 16}}
encode: {max_length: 48}
train: {epochs: 4, learning_rate: 5e-3, batch_size: 8, precision: float32}
predict: {engine: {kind: torch, batch_size: 16}}
score: {latency_samples: 0, baselines: []}
gate: {checks: [{kind: no_forgetting, at_most: 0.05}]}
"""


@pytest.fixture(scope="module")
def after_first(place: Path) -> Path:
    first = run(place, FORMER, "train.epochs=12")
    store = flow.store_for(loads(FORMER, folder=place))
    runs.export(store, first.name, "hf", "float32", place / "first-exported")
    return place


def figures(done: Run) -> tuple[float, float]:
    forgotten = done.facts.forgotten
    assert forgotten is not None
    before, after = forgotten.metrics[0].before.estimate, forgotten.metrics[0].after.estimate
    assert before is not None
    assert after is not None
    return before, after


def test_what_was_forgotten_is_measured_and_can_be_checked(after_first: Path) -> None:
    plain = run(after_first, NEXT)
    before, after = figures(plain)
    forgotten = plain.facts.forgotten
    assert forgotten is not None
    assert forgotten.run.startswith("first-")
    assert forgotten.metrics[0].gain.estimate == pytest.approx(after - before)
    earlier = json.loads((plain.artifacts["gate"].path / "verdicts.jsonl").read_text().splitlines()[0])
    assert earlier["check"] == "accuracy of the former task falls by 0.05 at most"
    assert earlier["estimate"] == pytest.approx(before - after)
    assert "What was forgotten" in (plain.folder / "report.html").read_text()
    frozen = run(after_first, NEXT, "train.learning_rate=1e-9")
    assert figures(frozen) == (before, before), "what does not move forgets nothing"


@pytest.mark.parametrize(
    "techniques",
    [
        "[{kind: ewc, strength: 1e9}]",
        "[{kind: ewc, strength: 1e9}, {kind: lora, rank: 4}]",
        "[{kind: lora, rank: 4}, {kind: ewc, strength: 1e9}]",
    ],
)
def test_a_strong_ewc_holds_the_body_and_the_new_head_learns_on_it(after_first: Path, techniques: str) -> None:
    held = run(after_first, NEXT, f"train.techniques={techniques}", "train.learning_rate=1e-3")
    before, after = figures(held)
    assert after == before
    penalised = [entry["loss"] for entry in held.facts.history if "loss" in entry]
    assert all(loss == loss for loss in penalised)


def test_replay_learns_the_former_task_through_its_own_head(after_first: Path) -> None:
    done = run(after_first, NEXT, "train.techniques=[{kind: replay, share: 1}]", "train.epochs=6")
    tasks = {task.name: (task.examples, task.drawn, task.watched) for task in done.facts.trained.tasks}
    assert tasks == {"": (32, 32, True), "former": (64, 64, False)}
    before, after = figures(done)
    assert after >= before - 0.13
    was, now = (
        load_file(path)
        for path in (
            after_first / "first-exported" / "model.safetensors",
            done.artifacts["model"].path / "heads" / "former" / "head.safetensors",
        )
    )
    assert not torch.equal(was["classifier.weight"], now["classifier.weight"])
    plain = run(after_first, NEXT)
    kept = load_file(plain.artifacts["model"].path / "heads" / "former" / "head.safetensors")
    assert torch.equal(was["classifier.weight"], kept["classifier.weight"]), "without replay its head stays"


def test_a_base_that_is_not_the_former_model_is_refused(after_first: Path) -> None:
    with pytest.raises(UserError, match=r"the base is not the model that first-\w+ made"):
        run(after_first, NEXT, "base.path=bert")


def test_ewc_and_replay_need_a_former_run(place: Path) -> None:
    text = NEXT.replace("former: first\n", "")
    with pytest.raises(Problems) as found:
        loads(text, folder=place, changes=["train.techniques=[replay, ewc]"])
    told = [problem.sentence() for problem in found.value.problems]
    assert any("train.techniques[0]: replay keeps a former task; name its run under `former`" in line for line in told)
    assert any("train.techniques[1]: ewc keeps a former task" in line for line in told)
    assert any("gate.checks[0]: no_forgetting is about a former task" in line for line in told)


# The arithmetic.


def example(length: int, weight: float = 1.0) -> Encoded:
    return Encoded([5] * length, (), [0], (), 1, 0, weight)


class Rows(list[Encoded]):
    def lengths(self) -> Any:
        import numpy as np

        return np.array([row.length for row in self])

    def tokens(self) -> Any:
        import numpy as np

        return np.array([5])


def mixture(*sizes: int, weights: tuple[float, ...] = (), temperature: float = 1.0) -> Mixture:
    objective = Objective.pick("classify")
    parts = [
        Part(str(n), objective, Rows(example(3 + n) for _ in range(size)), weight)  # type: ignore[arg-type]
        for n, (size, weight) in enumerate(zip(sizes, weights or (1.0,) * len(sizes), strict=True))
    ]
    return Mixture(parts, temperature)


def test_temperature_draws_small_tasks_more_often() -> None:
    assert by_temperature([900, 100], 1) == pytest.approx([0.9, 0.1])
    assert by_temperature([900, 100], 2) == pytest.approx([0.75, 0.25])
    assert by_temperature([900, 100], 1e9) == pytest.approx([0.5, 0.5])
    mixed = mixture(900, 100, temperature=2)
    assert mixed.counts() == [750, 250]
    drawn = mixed.drawn(1, 0)
    assert len(drawn) == 1000
    often = [drawn.count(n) for n in range(900, 1000)]
    assert sorted(set(often)) == [2, 3]
    assert len({n for n in drawn if n < 900}) == 750
    assert drawn == mixed.drawn(1, 0)
    assert drawn != mixed.drawn(1, 1)


def test_a_micro_batch_holds_one_task_and_each_example_is_weighed_by_it() -> None:
    mixed = mixture(20, 12, weights=(1.0, 0.25))
    assert [mixed[n].weight for n in (0, 19, 20, 31)] == [1.0, 1.0, 0.25, 0.25]
    assert [mixed[n].part for n in (0, 19, 20, 31)] == [0, 0, 1, 1]
    steps = plan(mixed.lengths().tolist(), 8, 1000, 1, 0, drawn=mixed.drawn(1, 0), part_of=mixed.part_of)
    assert sorted(n for step in steps for micro in step for n in micro) == list(range(32))
    assert all(len({mixed.part_of(n) for n in micro}) == 1 for step in steps for micro in step)
    assert any(len(step) == 2 for step in steps)


def test_a_sample_is_the_same_each_time() -> None:
    rows = Rows(example(n + 1) for n in range(50))
    one, other = (Sample(rows, 0.1, 3) for _ in range(2))  # type: ignore[arg-type]
    assert len(one) == 5
    assert one.kept == other.kept
    assert one.kept != Sample(rows, 0.1, 4).kept  # type: ignore[arg-type]


def test_the_figures_of_several_tasks_are_their_plain_mean() -> None:
    found = mean_over({"a": {"loss": 1.0, "accuracy": 0.5}, "b": {"loss": 3.0, "accuracy": 1.0}})
    assert found["loss"] == 2.0
    assert found["accuracy"] == 0.75
    assert found["loss of b"] == 3.0
