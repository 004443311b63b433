"""Every member of every family keeps the family's promises: what its class says, and what it does on a small case."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file

from luthier.choice import families, find, members
from luthier.engines.torch import TorchSession
from luthier.metrics import Metric
from luthier.model import Head, Model, load, writing_head
from luthier.readers import Table
from luthier.readers.csv import Csv
from luthier.seams import Example, Label, Prediction, Preference, Text
from luthier.store import Artifact
from luthier.tasks import Task
from luthier.testing import FAMILY_BEHAVIOUR, Case, behaves, conforms

ALL = [(family, name) for family in families() for name in members(family)]
STANDARDIZE = {"kind": "standardize", "table": "t", "column": "messy", "target": "clean", "context": ["kind"]}
CLASSIFY = {"kind": "classify", "table": "t", "text": "messy", "label": "kind"}

# the test table: one row for each member, with what it needs to run
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("bases", "folder"): {"path": "{llama}"},
    ("bases", "hub"): {"name": "owner/model"},
    ("bases", "package"): {"name": "minilm"},
    ("readers", "csv"): {},
    ("readers", "tsv"): {},
    ("readers", "jsonl"): {},
    ("readers", "json"): {},
    ("readers", "lines"): {"columns": ["first", "rest"]},
    ("splits", "random"): {},
    ("splits", "stratified"): {},
    ("splits", "grouped"): {"by": "owner"},
    ("splits", "given"): {"column": "part"},
    ("tasks", "standardize"): STANDARDIZE,
    ("tasks", "classify"): CLASSIFY,
    ("tasks", "generate"): {"table": "t", "prompt_column": "messy", "completion_column": "clean"},
    ("objectives", "causal"): {},
    ("objectives", "classify"): {},
    ("techniques", "ewc"): {},
    ("techniques", "replay"): {},
    ("techniques", "discriminative"): {},
    ("objectives", "preference"): {},
    ("objectives", "vote"): {},
    ("techniques", "full"): {},
    ("techniques", "gradual"): {},
    ("techniques", "freeze"): {"layers": 1},
    ("techniques", "distil"): {"teacher": "{llama}", "hidden": 0.5},
    ("techniques", "dpo"): {"beta": 0.2},
    ("techniques", "quantized_base"): {"type": "fp4"},
    ("techniques", "lora"): {"rank": 2},
    ("techniques", "private"): {"noise": 1.0},
    ("optimizers", "adafactor"): {},
    ("optimizers", "adam8bit"): {},
    ("optimizers", "adamw"): {},
    ("optimizers", "sgd"): {},
    ("schedules", "constant"): {},
    ("schedules", "cosine"): {},
    ("schedules", "linear"): {},
    ("schedules", "one_cycle"): {},
    ("schedules", "plateau"): {},
    ("schedules", "slanted_triangular"): {},
    ("techniques", "peft"): {"tuner": "ia3"},
    ("techniques", "prefix"): {"tokens": 3},
    ("techniques", "prompt_tuning"): {"tokens": 3},
    ("engines", "torch"): {"max_new_tokens": 4},
    ("baselines", "identity"): {},
    ("baselines", "majority"): {},
    ("baselines", "rules"): {},
    ("baselines", "tfidf"): {},
    ("baselines", "untuned"): {"shots": 2},
    ("metrics", "accuracy"): {},
    ("metrics", "edit_similarity"): {},
    ("metrics", "exact_match"): {},
    ("metrics", "f1"): {},
    ("checks", "better_than"): {"baseline": "rival"},
    ("checks", "floor"): {"metric": "exact_match", "at_least": 0.9},
    ("checks", "subgroup_floor"): {"metric": "exact_match", "at_least": 0.9, "slice": "column"},
    ("checks", "cut_answers"): {},
    ("checks", "no_forgetting"): {"at_most": 0.2},
    ("checks", "latency"): {"at_most_ms": 1000},
    ("preparers", "dedup"): {},
    ("searchers", "grid"): {},
    ("searchers", "random"): {},
    ("searchers", "tpe"): {"startup": 4},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for shape in ("llama", "bert"):
        tiny.build(root / shape, shape)
    with (root / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["kind", "messy", "clean"], *[["AB"[n % 2], f"{n:03d} x", n] for n in range(60)]])
    (root / "file.csv").write_text('a,b\n1,"x, y"\n2\n3,z\n')
    (root / "file.tsv").write_text("a\tb\n1\tx\n2\n3\tz\n")
    (root / "file.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    (root / "file.json").write_text('[\n{"a": 1},\n{"a": },\n{"a": 3}\n]\n')
    (root / "file.lines").write_text("one two\nthree four\nfive six\n")
    return root


def case_for(family: str, name: str, place: Path) -> Case:
    """The small case on which a member of ours is tried."""
    classifies = name in ("classify", "tfidf")
    task = Task.pick(CLASSIFY if classifies else STANDARDIZE)
    found = task.examples({"table": Table(place / "t.csv", Csv())})
    examples = [example for example in found if isinstance(example, Example)]
    for number, example in enumerate(examples):
        example.split = ("train", "validation", "test")[number % 3]
    if family == "preparers":
        examples += [
            Example(f"again {n}", e.task, e.input, e.target, split="train", origin=e.origin)
            for n, e in enumerate(examples[:9])
        ]
    if name in ("preference", "vote"):
        for number, example in enumerate(examples):
            good, bad = str(example.target), f"{number}?"
            example.target = Preference(good, bad) if name == "preference" else Preference(good, "")
    labels = ("A", "B") if classifies else ()
    shape = "bert" if classifies else "llama"

    def model() -> Model:
        head = Head("AutoModelForSequenceClassification", labels) if labels else writing_head("decoder")
        held = {"quantization": {"type": "fp4", "double": True}} if name == "quantized_base" else {}
        return load(place / shape, head, device="cpu", precision="float32", **held)

    wrong = Label("A") if classifies else Text("no")
    return Case(
        tables={"table": Table(place / "t.csv", Csv())},
        path=place / f"file.{name}" if family == "readers" else place / shape,
        n_records=3,
        task=task,
        examples=examples[:9] if family == "objectives" else examples,
        predictions=[
            Prediction(e.id, e.task, e.target or wrong, 0.9, target=e.target, slices=e.slices) for e in examples
        ],
        wrong=[Prediction(e.id, e.task, wrong, 0.9, target=e.target, slices=e.slices) for e in examples],
        model=model,
        inputs=partial(fisher_of, place)
        if name == "ewc"
        else {"teacher": Artifact(place / shape, "teacher", "teacher", {})},
        session=lambda: TorchSession(model(), 64, 4, 8),
        metrics={"exact_match": Metric.pick("exact_match")},
        measurements={"latency_ms": {"samples": [float(n) for n in range(100)]}},
    )


def fisher_of(place: Path, model: Model) -> dict[str, Artifact]:
    """What ewc gets: how much each weight matters."""
    folder = place / "fisher"
    folder.mkdir(exist_ok=True)
    weights = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    save_file(weights, folder / "fisher.safetensors")
    return {"fisher": Artifact(folder, "fisher", "fisher")}


@pytest.mark.parametrize(("family", "name"), ALL, ids=[f"{family}.{name}" for family, name in ALL])
def test_a_member_conforms(family: str, name: str) -> None:
    member = conforms(family, name)
    assert member.__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize(("family", "name"), ALL, ids=[f"{family}.{name}" for family, name in ALL])
def test_a_member_behaves(family: str, name: str, place: Path) -> None:
    settings = {
        key: value.format(llama=place / "llama") if isinstance(value, str) else value
        for key, value in SETTINGS[family, name].items()
    }
    member = find(family, name).pick({"kind": name, **settings})
    behaves(member, case_for(family, name, place))


def test_every_member_has_its_row_in_the_table_and_every_family_its_behaviour() -> None:
    assert sorted(SETTINGS) == sorted(ALL)
    assert sorted(FAMILY_BEHAVIOUR) == sorted(families())


@pytest.mark.parametrize(
    ("harm", "promise"),
    [
        (
            "def per_example(self, prediction, example): return {'n': 1.0, 'score': float(prediction.output != prediction.target)}",
            "prefers wrong answers",
        ),
        (
            "def combine(self, sums): import numpy as np; return np.asarray(sums['score'].sum() / sums['n'].sum())",
            "keeps the axes",
        ),
        (
            "def combine(self, sums): return (sums['score'] / sums['n']) ** 2",
            "is not the mean that it says",
        ),
        (
            "def per_example(self, prediction, example): n = 1.0 + len(str(prediction.output)); return {'n': n, 'score': n * (prediction.output == prediction.target)}",
            "weighs an example by its answer",
        ),
        (
            "def unseen(self, typical): return [{'n': 1.0, 'score': 1.0}], [{'n': 1.0, 'score': 1.0}]",
            "has limits within its values",
        ),
    ],
)
def test_a_member_that_breaks_a_promise_is_told_which(place: Path, harm: str, promise: str) -> None:
    scope: dict[str, Any] = {}
    exec(harm, scope)
    name = harm.split("(")[0].removeprefix("def ")
    broken = type("ExactMatch", (find("metrics", "exact_match"),), {name: scope[name], "kind": "exact_match"})
    with pytest.raises(AssertionError, match=promise):
        FAMILY_BEHAVIOUR["metrics"](broken(), case_for("metrics", "exact_match", place))


def test_families_are_found_from_the_folders() -> None:
    assert set(families()) == {
        "tasks",
        "bases",
        "readers",
        "splits",
        "objectives",
        "preparers",
        "techniques",
        "optimizers",
        "schedules",
        "engines",
        "baselines",
        "metrics",
        "checks",
        "searchers",
    }


def test_an_unknown_member_is_told_with_the_nearest_name() -> None:
    with pytest.raises(Exception, match="no metric called 'exact_mach'; did you mean 'exact_match'\\?"):
        find("metrics", "exact_mach")
