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
from luthier.checks import Check, Evidence, Former
from luthier.choice import find
from luthier.errors import Problems, UserError
from luthier.metrics import Metric
from luthier.mixing import Mixture, Part, Sample, by_temperature, mean_over
from luthier.model import Head, load, merged, quiet, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.seams import Example, Label, Prediction
from luthier.stages.part import Part as PartOf
from luthier.stages.part import part
from luthier.techniques import Technique, conflicts
from luthier.techniques.ewc import Held, fisher

pytestmark = pytest.mark.slow

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


def test_a_task_of_weight_0_has_no_say_in_which_weights_are_kept(place: Path) -> None:
    changes = ["train.epochs=2", "train.evaluate_every=0.25", "train.learning_rate=5e-2"]
    alone = run(place, ALONE, *changes).artifacts["model"]
    together = run(place, SEVERAL, *changes, "tasks.kind.weight=0").artifacts["model"]
    assert alone.facts["best"] == together.facts["best"]
    assert [task["watched"] for task in together.facts["tasks"]] == [True, False]


def test_each_task_of_a_model_in_4_bits_is_told_so(place: Path) -> None:
    techniques = "train.techniques=[quantized_base, {kind: lora, rank: 4}]"
    done = run(place, SEVERAL.replace("name: both", "name: small"), "train.epochs=1", techniques)
    models = [each.artifacts["model"].path / "model" for each in (done, *done.together)]
    held = [json.loads((folder / "model.json").read_text())["quantization"] for folder in models]
    assert held[0] == held[1] == {"type": "nf4", "double": True}


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


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix", "peft"])
def test_each_task_has_its_own_head_behind_what_is_trained_for_all(place: Path, kind: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    text = SEVERAL.replace("name: both", f"name: both-{kind}")
    block = "{kind: peft, tuner: vera}" if kind == "peft" else f"{{kind: {kind}, tokens: 3}}"
    done = run(place, text, f"train.techniques=[{block}]")
    store = flow.store_for(loads(text, folder=place))
    base = loads(text, folder=place).recipe.base.locate()
    for each in (done, *done.together):
        folder = runs.export(store, each.name, "peft", "float32", place / f"adapter-{each.name}")
        about = json.loads((folder / "model.json").read_text())
        with quiet():
            plain = AutoModelForSequenceClassification.from_pretrained(
                place / str(base), num_labels=len(about["labels"])
            )
            plain = PeftModel.from_pretrained(plain, folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers, examples = (
            [json.loads(line) for line in (each.artifacts[role].path / file).read_text().splitlines()]
            for role, file in (("tuned", "predictions.jsonl"), ("examples", "test.jsonl"))
        )
        for example, answer in zip(examples, answers, strict=True):
            read = tokenizer(example["input"]["text"], return_tensors="pt")
            logits = plain(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).logits[0]
            assert about["labels"][int(logits.argmax())] == answer["output"]["label"]


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
    assert "Learned together" not in (held.folder / "report.html").read_text(), "nothing of the former task was learned"
    penalised = [entry["loss"] for entry in held.facts.history if "loss" in entry]
    assert all(loss == loss for loss in penalised)


def test_replay_learns_the_former_task_through_its_own_head(after_first: Path) -> None:
    done = run(after_first, NEXT, "train.techniques=[{kind: replay, share: 1}]", "train.epochs=6")
    tasks = {task.name: (task.examples, task.drawn, task.watched) for task in done.facts.trained.tasks}
    assert tasks == {"": (32, 32, True), "former": (64, 64, False)}
    assert "Learned together" in (done.folder / "report.html").read_text()
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


def test_what_gradual_still_holds_gives_no_penalty(after_first: Path) -> None:
    done = run(after_first, NEXT, f"train.techniques=[{{{EWC}}}, {{kind: lora, rank: 2}}, gradual]", "train.epochs=3")
    assert done.facts.trained.steps == 12


def test_the_former_task_is_asked_of_a_student_with_fewer_blocks(after_first: Path) -> None:
    teacher = run(after_first, NEXT.replace("name: next", "name: teacher"), "train.epochs=1")
    store = flow.store_for(loads(NEXT, folder=after_first))
    if not (after_first / "teacher-exported").exists():
        runs.export(store, teacher.name, "hf", "float32", after_first / "teacher-exported")
    techniques = "train.techniques=[{kind: distil, teacher: teacher-exported, layers: [1]}]"
    done = run(after_first, NEXT, "train.epochs=1", techniques)
    assert done.facts.forgotten is not None
    told = json.loads((done.artifacts["model"].path / "heads" / "former" / "config.json").read_text())
    assert told["num_hidden_layers"] == 1
    assert sorted(told["label2id"]) == ["high", "low"]


@pytest.fixture(scope="module")
def pooled(after_first: Path) -> Path:
    """A classifier with a pooler of its own above the body, trained once."""
    from transformers import AutoModelForMaskedLM, DebertaV2Config

    common = {"vocab_size": tiny.sizes(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = DebertaV2Config(**common, **small, type_vocab_size=0, pooler_hidden_size=32)
    AutoModelForMaskedLM.from_config(config).save_pretrained(after_first / "deberta")
    tiny.tokenizer("encoder").save_pretrained(after_first / "deberta")
    text = FORMER.replace("name: first", "name: pooled")
    done = run(after_first, text, "base.path=deberta", "train.epochs=1")
    runs.export(flow.store_for(loads(text, folder=after_first)), done.name, "hf", "float32", after_first / "pooled")
    return after_first


def test_the_whole_head_of_a_further_task_is_in_its_folder_under_an_adapter_too(pooled: Path) -> None:
    techniques = "train.techniques=[{kind: lora, rank: 2}, {kind: replay, share: 1}]"
    done = run(pooled, NEXT, "former=pooled", "base.path=pooled", techniques, "train.epochs=2")
    model = done.artifacts["model"]
    head = load_file(model.path / "heads" / "former" / "head.safetensors")
    was = load_file(pooled / "pooled" / "model.safetensors")
    assert sorted(head) == ["classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight"]
    assert all(not torch.equal(head[name], was[name]) for name in head)
    store = flow.store_for(loads(NEXT, folder=pooled))
    kept = weights(store.do(part, PartOf(name="former"), trained=model))
    assert all(torch.equal(kept[f"base_model.model.{name}"], tensor) for name, tensor in head.items())


def test_a_search_for_the_strength_takes_the_fisher_once(after_first: Path) -> None:
    found = [
        run(after_first, NEXT, f"train.techniques=[{{{EWC}}}]", f"train.techniques[0].strength={strength}")
        for strength in (1, 2)
    ]
    assert fisher_id(found[0]) == fisher_id(found[1])


def test_a_base_that_is_not_the_former_model_is_refused(after_first: Path) -> None:
    with pytest.raises(UserError, match=r"the base is not the model that first-\w+ made"):
        run(after_first, NEXT, "base.path=bert")


def test_validate_finds_that_there_is_no_such_former_run_and_no_such_teacher(after_first: Path) -> None:
    changes = ["former=nosuch", "train.techniques=[{kind: distil, teacher: kinds.csv}]", "gate.checks=[]"]
    with pytest.raises(Problems) as found:
        flow.validate(loads(NEXT, folder=after_first, changes=changes))
    told = [problem.sentence() for problem in found.value.problems]
    assert any(line.startswith("former: no run called 'nosuch'") for line in told), told
    assert "train.techniques[0].teacher: kinds.csv is a file, not a model folder; give a folder" in told
    flow.validate(loads(NEXT, folder=after_first))


def test_ewc_and_replay_need_a_former_run(place: Path) -> None:
    text = NEXT.replace("former: first\n", "")
    with pytest.raises(Problems) as found:
        loads(text, folder=place, changes=["train.techniques=[replay, ewc]"])
    told = [problem.sentence() for problem in found.value.problems]
    assert any("train.techniques[0]: replay keeps a former task; name its run under `former`" in line for line in told)
    assert any("train.techniques[1]: ewc keeps a former task" in line for line in told)
    assert any("gate.checks[0]: no_forgetting is about a former task" in line for line in told)


EWC = "kind: ewc, strength: 1e3"
KEYS = {  # key -> (techniques before, changes)
    "former": ("[full]", ["former=second"]),
    "techniques.ewc.strength": (f"[{{{EWC}}}]", ["train.techniques[0].strength=1"]),
    "techniques.ewc.fisher": (f"[{{{EWC}}}]", ["train.techniques[0].fisher=empirical"]),
    "techniques.ewc.rows": (f"[{{{EWC}}}]", ["train.techniques[0].rows=5"]),
    "techniques.ewc.batch": (f"[{{{EWC}}}]", ["train.techniques[0].batch=8"]),
    "techniques.replay.share": ("[{kind: replay, share: 0.5}]", ["train.techniques[0].share=1"]),
    "techniques.replay.weight": ("[{kind: replay, share: 0.5}]", ["train.techniques[0].weight=3"]),
}


@pytest.mark.parametrize("key", KEYS)
def test_each_key_of_what_keeps_a_task_changes_what_comes_out(after_first: Path, key: str) -> None:
    before, changes = KEYS[key]
    run(after_first, FORMER.replace("name: first", "name: second"), "train.epochs=12")
    start = ["train.epochs=1", f"train.techniques={before}"]
    found = []
    for more in ([], changes):
        done = run(after_first, NEXT, *start, *more)
        forgotten = done.facts.forgotten
        assert forgotten is not None
        found.append((weights(done.artifacts["model"]), forgotten.run))
    assert not same(found[0][0], found[1][0]) or found[0][1] != found[1][1]


def test_online_ewc_carries_the_fisher_of_the_tasks_before(after_first: Path) -> None:
    second = run(after_first, NEXT.replace("name: next", "name: middle"), f"train.techniques=[{{{EWC}}}]")
    store = flow.store_for(loads(NEXT, folder=after_first))
    if not (after_first / "middle-exported").exists():
        runs.export(store, second.name, "hf", "float32", after_first / "middle-exported")
    third = [
        run(
            after_first,
            NEXT.replace("name: next", "name: third"),
            "former=middle",
            "base.path=middle-exported",
            "task.table=sizes.csv",
            "train.epochs=1",
            f"train.techniques=[{{{EWC}{more}}}]",
        )
        for more in ("", ", decay: 0.5", ", decay: 1")
    ]
    traces = [store.get(fisher_id(done)).facts for done in third]
    earlier = store.get(fisher_id(second)).facts["trace"]
    assert [facts["online"] for facts in traces] == [False, True, True]
    assert traces[0]["trace"] < traces[1]["trace"] < traces[2]["trace"] <= traces[0]["trace"] + earlier
    assert not same(weights(third[0].artifacts["model"]), weights(third[1].artifacts["model"]))


def fisher_id(done: Run) -> str:
    return str(done.artifacts["model"].manifest["inputs"]["ewc.fisher"]["id"])


def predictions(right: int, n: int = 60) -> list[Prediction]:
    return [
        Prediction(
            str(k), "t", Label("a" if k < right else "b"), target=Label("a"), entity=str(k), slices={"g": "xy"[k % 2]}
        )
        for k in range(n)
    ]


@pytest.mark.parametrize(
    ("block", "outcome", "n"),
    [
        ({}, "failed", 60),
        ({"at_most": 0.3}, "passed", 60),
        ({"at_most": 0.12}, "not enough data", 60),
        ({"metric": "f1", "at_most": 0.3}, "passed", 60),
        ({"at_most": 0.3, "min_entities": 61}, "not enough data", 60),
        ({"at_most": 0.5, "where": {"g": "x"}}, "passed", 30),
    ],
)
def test_no_forgetting_judges_the_loss_with_its_interval(block: dict[str, Any], outcome: str, n: int) -> None:
    metrics = {name: Metric.pick(name) for name in ("accuracy", "f1")}
    asked = {str(k): Example(str(k), "t", {"text": ""}) for k in range(60)}
    evidence = Evidence([], {}, {}, {}, {}, 1, {}, Former(predictions(54), predictions(48), metrics, asked))
    verdict = Check.pick({"kind": "no_forgetting", "required": False, **block}).judge(evidence)
    assert (verdict.outcome, verdict.n, verdict.required) == (outcome, n, False)
    if not block:
        assert verdict.estimate == pytest.approx(0.1)


# The arithmetic.


def test_the_fisher_is_the_mean_squared_gradient(place: Path) -> None:
    model = load(
        place / "bert", Head("AutoModelForSequenceClassification", ("a", "b", "c")), precision="float32", device="cpu"
    )
    objective = Objective.pick("classify")
    rows = [Encoded([1, *range(5 + n, 9 + 2 * n), 2], (), [n % 3], (), 1) for n in range(4)]
    found, n = fisher(model, objective, [[row] for row in rows], true=False, seed=1)
    assert n == 4
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.trainable().items()}
    for row in rows:
        logits = model.forward(input_ids=torch.tensor([list(row.ids)])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(list(row.targets)))
        names, parameters = zip(*model.trainable().items(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                expected[name] += gradient**2 / 4
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-9)


def test_the_true_fisher_of_a_head_is_its_closed_form(place: Path) -> None:
    model = load(
        place / "bert", Head("AutoModelForSequenceClassification", ("a", "b", "c")), precision="float32", device="cpu"
    )
    with torch.no_grad():
        model.bare.classifier.bias += torch.tensor([1.0, 0.0, -1.0])
    row = Encoded([1, 7, 9, 2], (), [0], (), 1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "classifier.bias")
    found, _ = fisher(model, Objective.pick("classify"), [[row]] * 3000, true=True, seed=1)
    shares = model.forward(input_ids=torch.tensor([[1, 7, 9, 2]])).logits[0].softmax(-1).detach()
    # the gradient of -log p_y by the logits is p - e_y, whose mean square under y ~ p is p (1 - p)
    torch.testing.assert_close(found["classifier.bias"], shares * (1 - shares), rtol=0.08, atol=0)


def test_the_penalty_and_its_gradient_are_those_of_the_formula(place: Path) -> None:
    model = load(
        place / "bert", Head("AutoModelForSequenceClassification", ("a", "b")), precision="float32", device="cpu"
    )
    weight = model.bare.bert.encoder.layer[0].attention.self.query.weight
    name = "bert.encoder.layer.0.attention.self.query.weight"
    importance = torch.zeros_like(weight)
    importance[0, :3] = torch.tensor([1.0, 2.0, 0.5])
    held = Held(model, {name: importance}, strength=10.0)
    with torch.no_grad():
        weight[0, :3] += torch.tensor([0.1, -0.2, 0.4])
    penalty = held.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(10 / 2 * (1 * 0.01 + 2 * 0.04 + 0.5 * 0.16), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad[0, :3], torch.tensor([10 * 0.1, 10 * 2 * -0.2, 10 * 0.5 * 0.4]))


def test_under_an_adapter_the_penalty_is_that_of_the_merged_weight(place: Path) -> None:
    model = load(place / "llama", writing_head("decoder"), precision="float32", device="cpu")
    name = "model.layers.0.self_attn.q_proj.weight"
    before = model.bare.model.layers[0].self_attn.q_proj.weight.detach().clone()
    importance = torch.rand_like(before)
    held = Held(model, {name: importance}, strength=2.0)
    find("techniques", "lora")(rank=4).start(model, {})  # type: ignore[attr-defined]
    untouched = held.penalty()
    assert untouched is not None
    assert float(untouched.detach()) == 0.0
    with torch.no_grad():
        for each, parameter in model.trainable().items():
            if "lora_B" in each:
                parameter.normal_(0, 0.1)
    penalty = held.penalty()
    assert penalty is not None
    after = merged(model).model.layers[0].self_attn.q_proj.weight.detach()
    assert float(penalty.detach()) == pytest.approx(float((importance * (after - before) ** 2).sum()), rel=1e-4)


def test_what_an_adapter_adds_to_a_table_is_held_too(place: Path) -> None:
    model = load(place / "llama", writing_head("decoder"), device="cpu", precision="float32")
    name = "model.embed_tokens.weight"
    before = model.bare.model.embed_tokens.weight.detach().clone()
    held = Held(model, {name: torch.ones_like(before)}, strength=2.0)
    Technique.pick({"kind": "lora", "rank": 2, "targets": ["embed_tokens"]}).start(model, {})
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.normal_()
    after = merged(model).model.embed_tokens.weight.detach()
    torch.testing.assert_close(held.penalty(), ((after - before) ** 2).sum())


def test_ewc_and_dora_do_not_combine() -> None:
    both = [Technique.pick(block) for block in ("ewc", {"kind": "lora", "dora": True})]
    assert "with dora a weight is scaled too" in conflicts(both)
    assert not conflicts([both[0], Technique.pick("lora")])


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


@pytest.mark.parametrize("repeat", ["{seeds: 2}", "{folds: 2}"])
def test_each_task_has_a_spread_of_its_own_over_models_that_learn_all(place: Path, repeat: str, tmp_path: Path) -> None:
    opened = loads(SEVERAL, folder=place, changes=[f"repeat={repeat}", "train.epochs=1"])
    store = flow.store_for(opened, root=tmp_path)
    done = flow.run(opened, store)
    trained = {
        each.id
        for run in (done, *done.together)
        for each in store.why(run.artifacts["spread"])
        if each.id[:6] == "train-"
    }
    assert len(trained) == 2
    for each in (done, *done.together):
        assert each.facts.spread is not None
        assert each.facts.spread.figures["validation"]["accuracy"].n == 2
        assert each.facts.test_openings == 1
    assert done.artifacts["spread"].content != done.together[0].artifacts["spread"].content


def test_a_range_test_learns_all_the_tasks(place: Path, tmp_path: Path) -> None:
    both, alone = (loads(text, folder=place) for text in (SEVERAL, ALONE))
    found = [flow.lr_find(each, flow.store_for(each, root=tmp_path), 1e-6, 1.0, 20)[0] for each in (both, alone)]
    assert found[0].losses != found[1].losses


def test_a_column_that_is_missing_is_told_with_its_task(place: Path) -> None:
    with pytest.raises(Problems) as found:
        flow.validate(loads(SEVERAL, folder=place, changes=["tasks.kind.task.text=txet"]))
    assert any(problem.where.startswith("tasks.kind.task.text") for problem in found.value.problems)
