"""Every key of a recipe does something: for each one, a change and where it shows."""

from __future__ import annotations

import csv
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from luthier import flow
from luthier.baselines import Baseline
from luthier.baselines.untuned import Untuned, asked, spread
from luthier.bases import Base
from luthier.checks import Check, Evidence
from luthier.choice import Choice, Settings, families, find, members
from luthier.engines import Request
from luthier.errors import Problems, UserError
from luthier.metrics import Metric
from luthier.readers import Reader
from luthier.recipe import Recipe
from luthier.recipe_file import _settings_in, loads
from luthier.resample import value
from luthier.seams import Example, Label, Prediction, Text
from luthier.searchers import Tried
from luthier.searching import search
from luthier.store import Store
from luthier.tasks import Task

STANDARDIZE = """\
version: 1
name: keys
task: {kind: standardize, table: table.csv, column: messy, target: clean, context: [kind]}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 12, test: 20}}
encode: {max_length: 64}
train: {precision: float32, epochs: 2, learning_rate: 1e-2, batch_size: 8, techniques: [full]}
predict: {engine: {kind: torch, max_new_tokens: 4}}
score: {latency_samples: 0, baselines: [identity]}
gate: {checks: [{kind: floor, metric: exact_match, at_least: 0, min_n: 1}]}
"""
# no answer is right, so the learning rate falls when two epochs more have passed
PLATEAU = STANDARDIZE.replace(
    "epochs: 2, learning_rate: 1e-2",
    "epochs: 4, learning_rate: 1e-6, schedule: plateau, stop: {metric: exact_match, patience: 9}",
)
GRADUAL = STANDARDIZE.replace("[full]", "[gradual]")
PRIVATE = STANDARDIZE.replace("[full]", "[full, {kind: private, noise: 1.0}]").replace("epochs: 2", "epochs: 1")
TARGET = PRIVATE.replace("noise: 1.0", "target_epsilon: 3.0")
TWICE = PRIVATE.replace("{kind: random, validation: 12, test: 20}", "{kind: grouped, by: owner}")
LORA = STANDARDIZE.replace("[full]", "[{kind: lora, rank: 2}]")
PROMPT = STANDARDIZE.replace("[full]", "[{kind: prompt_tuning, tokens: 3}]")
PREFIX = STANDARDIZE.replace("[full]", "[{kind: prefix, tokens: 3}]")
PEFT = STANDARDIZE.replace("[full]", "[{kind: peft, tuner: ia3}]")
CLASSIFY = """\
version: 1
name: keys
task: {kind: classify, table: table.csv, text: messy, label: kind}
base: {kind: folder, path: bert}
prepare: {split: {kind: random, validation: 12, test: 20}}
encode: {max_length: 64}
train: {precision: float32, epochs: 1, learning_rate: 1e-3}
score: {latency_samples: 0}
"""
GENERATE = """\
version: 1
name: keys
task: {kind: generate, table: pairs.jsonl}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 12, test: 20}}
encode: {max_length: 64}
"""
TRAINED = GENERATE + "train: {precision: float32, epochs: 1, learning_rate: 1e-3, techniques: [full, {kind: dpo}]}\n"
PAIRS = TRAINED.replace("pairs.jsonl", "pairs.jsonl, rejected_column: answer")
VOTES = TRAINED.replace("pairs.jsonl", "pairs.jsonl, good_column: good").replace("dpo}", "dpo, loss: kto}")
DISTIL = STANDARDIZE.replace("[full]", "[full, {kind: distil, teacher: llama}]").replace("epochs: 2", "epochs: 1")
HELD = STANDARDIZE.replace("[full]", "[quantized_base, lora]")
GIVEN = STANDARDIZE.replace("{kind: random, validation: 12, test: 20}", "{kind: given, column: part}")
FILES = STANDARDIZE.replace("{kind: random, validation: 12, test: 20}", "{kind: given, test: other.csv}")
GROUPED = STANDARDIZE.replace("{kind: random, validation: 12, test: 20}", "{kind: grouped, by: owner}")
STRATIFIED = CLASSIFY.replace("{kind: random, validation: 12, test: 20}", "{kind: stratified}")
LINES = CLASSIFY.replace("table.csv", "words.txt").replace(
    "prepare: {", "prepare: {reader: {kind: lines, columns: [kind, messy]}, "
)
UNTRAINED = STANDARDIZE.replace("1e-2", "1e-9")  # writes on and on
UNTUNED = STANDARDIZE.replace("[identity]", "[{kind: untuned, shots: 2}]")
PARTS = STRATIFIED.replace("label: kind", "label: part")
REPEATED = CLASSIFY + "repeat: {seeds: 2}\n"
TFIDF = CLASSIFY.replace("score: {", "score: {baselines: [tfidf], ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keys")
    for shape in ("llama", "gemma3", "bert"):
        tiny.build(root / shape, shape)
    perturbed(root / "llama", root / "other")
    draw = random.Random(0)
    rows = []
    for n in range(120):
        kind, value = "AB"[n % 3 == 0], draw.randint(1, 9999)
        part = ("train", "train", "train", "validation", "test", "test")[n % 6]
        other = ("test", "train", "train", "train", "validation", "test")[n % 6]
        rows.append(
            [f"o{n // 3}", kind, f"{value:05d}{'kg' if kind == 'A' else ' m'}", value, value + 1, part, other, n]
        )
    header = ["owner", "kind", "messy", "clean", "next", "part", "part2", "id"]
    twice = [[*row[:-1], 1000 + n] for n, row in enumerate(rows[:30])]
    write(root / "table.csv", [header, *rows, *twice])
    write(root / "told.csv", [[*header, "again"], *([*row, row[1]] for row in rows)])
    write(root / "other.csv", [header, *rows[:40]])
    write(
        root / "part.csv", [header, *([*row[:3], row[3] if n % 3 == 0 else "", *row[4:]] for n, row in enumerate(rows))]
    )
    write(root / "more.csv", [header, *rows[40:70]])
    write(root / "clean.csv", [header, *([*row[:3], row[3] + 7, *row[4:]] for row in [*rows, *twice])])
    write(root / "shuffled.csv", [header, *reversed([*rows, *twice])])
    (root / "words.txt").write_text("".join(f"{row[1]} {row[2]}\n" for row in rows))
    (root / "comma.txt").write_text("".join(f"{row[1]},{row[2]}\n" for row in rows))
    with (root / "pairs.jsonl").open("w") as file:
        for n in range(60):
            talk = [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}!"}]
            record = {"prompt": f"p{n}", "completion": f"c{n}", "ask": f"q{n}", "answer": f"a{n}"}
            record |= {"worse": f"w{n}", "good": n % 3 > 0, "bad": n % 3 == 0}
            file.write(json.dumps(record | ({} if n < 40 else {"other": talk})) + "\n")
    with (root / "talks.jsonl").open("w") as file:
        for n in range(60):
            talk = [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}!"}]
            file.write(json.dumps({"messages": talk, "talk": [talk[0], {"role": "assistant", "content": "no"}]}) + "\n")
    return root


def perturbed(folder: Path, out: Path) -> None:
    """A model that reads the same and says something else."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    save_file({name: tensor + 0.05 for name, tensor in weights.items()}, out / "model.safetensors", {"format": "pt"})


def write(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


# What is compared: the bytes that a stage wrote, never its manifest, which repeats the settings.


def files(artifact: Any) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items() if name != "timings.json"}


def after(stage: str) -> Callable[[Path, str, str], Any]:
    """The outcome of a recipe's run up to a stage, or the sentence that the user reads instead."""

    def outcome(place: Path, text: str, change: str) -> Any:
        try:
            opened = loads(text, folder=place, changes=[change] if change else [])
            store = flow.store_for(opened)
            if stage == "run":
                done = flow.run(opened, store)
                measured = done.facts.measured
                return {role: files(artifact) for role, artifact in done.artifacts.items() if role != "base"} | {
                    "released": done.released,
                    "name": done.name.rpartition("-")[0],
                    "latencies": measured.latency_ms.n if measured else 0,
                }
            opened = flow.settled(opened, store)
            base = flow.base_model(opened.recipe.base, opened, store)
            examples = flow.prepared(opened, store)
            if stage == "prepare":
                return files(examples)
            encoded = flow.encode_for(opened.recipe, store, examples, base)
            if stage == "encode":
                return files(encoded)
            model = flow.trained(opened, store, encoded, base)
            if stage == "train":
                written = files(model)
                history = (model.path / "history.jsonl").read_text()
                return written["history.jsonl"], [h for n, h in written.items() if "safetensors" in n], history
            return files(flow.evaluate(flow.Candidate(model, base, opened.recipe), examples, store, "test").tuned)
        except UserError as problem:
            return problem.sentence()

    return outcome


def teachers(place: Path, text: str, change: str) -> dict[str, str]:
    """The contents of what a training is given beside its tokens and its base."""
    opened = loads(text, folder=place, changes=[change] if change else [])
    found = flow.inputs_of(opened, flow.store_for(opened), 1)
    return {name: artifact.content for name, artifact in found.items()}


prepare, encode, train, predict, whole = map(after, ("prepare", "encode", "train", "predict", "run"))


def hidden(place: Path, text: str, change: str) -> Any:
    """What training wrote, with the same chance each time, which is drawn from the system else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.techniques.private.new_seed", lambda: "0" * 64)
        return train(place, text, change)


def batches(place: Path, text: str, change: str) -> list[int]:
    """How many answers are done after each batch."""
    recipe = loads(text, folder=place, changes=[change] if change else []).recipe
    told: list[int] = []
    session = recipe.predict.engine.open(place / "llama", None, device="cpu", precision="float32", max_length=64)
    session.answer([Request(f"messy A: {n} =>") for n in range(40)], lambda done, total: told.append(done))
    return told


def requests(place: Path, text: str, change: str) -> list[Request]:
    """What the untuned base is asked."""
    rival = Baseline.pick(json.loads(change or text))
    assert isinstance(rival, Untuned)
    task = Task.pick({"kind": "classify", "table": "t", "text": "messy", "label": "kind"})
    made = [Example(str(n), "t", {"text": f"{n}"}, Label("AB"[n % 2])) for n in range(9)]
    return asked(spread(made, rival.shots, 1), made, task)


def identity(place: Path, text: str, change: str) -> Any:
    base = Base.pick(json.loads(change or text))
    return base.identity()


def read(place: Path, text: str, change: str) -> Any:
    """What a reader finds in bytes that its default settings and the changed ones divide differently."""
    table = place / "bytes.csv"
    table.write_bytes('a;b, c\n\'x;1\', "é;2"\n"x\\",y;3", z\n'.encode())
    try:
        return [asdict(found) for found in Reader.pick(json.loads(change or text)).rows(table)]
    except UserError as problem:
        return problem.sentence()


def measured(place: Path, text: str, change: str) -> Any:
    metric = Metric.pick(json.loads(change or text))
    said = [("a", "a"), ("A", "a"), ("b ", "b"), ("c", "a"), ("a", "a"), ("b", "c")]
    predictions = [Prediction(str(n), "t", Text(got), target=Text(want)) for n, (got, want) in enumerate(said)]
    return value(metric, predictions, {p.id: Example(p.id, "t", {"text": ""}) for p in predictions})


def judged(place: Path, text: str, change: str) -> Any:
    """The outcome and the numbers of a check over 60 answers, half of them right; all six of group C are wrong."""
    try:
        check = Check.pick(json.loads(text) | json.loads(change or "{}"))
    except ValidationError as problem:
        return str(problem)

    def answers(share: int) -> list[Prediction]:
        return [
            Prediction(
                id=str(n),
                task="t",
                output=Text("yes" if n % 6 < share and n >= 6 else "YES"),
                target=Text("yes"),
                entity=str(n),
                cut=n < 3,
                slices={"group": "C" if n < 6 else "AB"[n % 2], "other": "XY"[n % 5 == 0]},
            )
            for n in range(60)
        ]

    evidence = Evidence(
        candidate=answers(3),
        baselines={"weak": answers(1), "strong": answers(3)},
        metrics={
            "exact_match": Metric.pick("exact_match"),
            "edit_similarity": Metric.pick("edit_similarity"),
            "accuracy": Metric.pick({"kind": "exact_match", "ignore_case": True}),
        },
        examples={str(n): Example(str(n), "t", {"text": ""}) for n in range(60)},
        measurements={"latency_ms": {"samples": [float(n) for n in range(100)]}},
        seed=1,
        artifacts={"candidate": "c", "weak": "w", "strong": "s", "measure": "m"},
    )
    verdict = check.judge(evidence)
    return verdict.outcome, verdict.required, verdict.estimate, verdict.interval, verdict.n


CSV, TSV, COMMAS = '{"kind": "csv"}', '{"kind": "tsv"}', '{"kind": "tsv", "delimiter": ","}'
FLOOR = '{"kind": "floor", "metric": "exact_match", "at_least": 0.45}'
GROUPS = '{"kind": "subgroup_floor", "slice": "group", "metric": "exact_match", "at_least": 0.45}'
BETTER = '{"kind": "better_than", "baseline": "weak", "metric": "exact_match"}'
CUT = '{"kind": "cut_answers", "at_most": 0.05}'
LATENCY = '{"kind": "latency", "at_most_ms": 97}'
EXACT, F1 = '{"kind": "exact_match"}', '{"kind": "f1"}'
HUB, PACKAGE = '{"kind": "hub", "name": "a/b"}', '{"kind": "package", "name": "minilm"}'
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
CHAT = GENERATE.replace("pairs.jsonl}", f"talks.jsonl, chat_template: {json.dumps(TEMPLATE)}}}")


def mixed(place: Path, text: str, change: str) -> Any:
    """The weights of several tasks, and the checks of each."""
    try:
        opened = loads(text, folder=place, changes=[change] if change else [])
    except Problems as problems:
        return [problem.sentence() for problem in problems.problems]
    recipe = opened.recipe
    store = flow.store_for(opened)
    base = flow.base_model(recipe.base, opened, store)
    first, other = (flow.ready(opened.alone(name), store, base).encoded for name in recipe.tasks)
    model = flow.trained(opened, store, first, base, {list(recipe.tasks)[1]: other})
    alone = {name: recipe.alone(name) for name in recipe.tasks}
    checks = {name: [check.kind for check in each.gate.checks] for name, each in alone.items()}
    return files(model), checks, {name: [m.kind for m in each.metrics()] for name, each in alone.items()}


SEVERAL = CLASSIFY.replace(
    "task: {kind: classify, table: table.csv, text: messy, label: kind}",
    "tasks: {one: {task: {kind: classify, table: table.csv, text: messy, label: kind}}, "
    "other: {task: {kind: classify, table: other.csv, text: messy, label: part}}}",
)


def named_for_a_task(kind: str, **settings: Any) -> tuple[Callable[[Path, str, str], Any], str, str]:
    """A check of one task and not of the other."""
    block = json.dumps({"kind": kind, **settings})
    sliced = SEVERAL.replace("prepare: {", "prepare: {slices: {owner: owner}, ")
    text = f"{sliced}gate: {{checks: [{block}]}}\n"
    return (
        mixed,
        text.replace("latency_samples: 0", "latency_samples: 0, baselines: [majority]"),
        "gate.checks[0].task=one",
    )


SEARCH = (
    CLASSIFY
    + """
search:
  space:
    train.learning_rate: {low: 1e-4, high: 1e-1}
    train.batch_size: {low: 8, high: 32}
    train.warmup: {choices: [0.1, 0.2]}
  trials: 3
"""
)
# losses of the first look, by trial: the second is behind
HUNT = """
search:
  space: {train.learning_rate: {choices: [1e-3, 1e-9, 1e-8]}}
  trials: 3
  searcher: grid
"""
LONG_HUNT = CLASSIFY.replace("epochs: 1", "epochs: 4") + HUNT
HUNT = CLASSIFY + HUNT


def proposed(place: Path, text: str, change: str) -> Any:
    """What is tried, where a smaller learning rate is better."""
    recipe = loads(text, folder=place, changes=[change] if change else []).recipe
    assert recipe.search
    trials: list[Tried] = []
    for _ in range(12):
        params = recipe.search.searcher.next(trials, recipe.search.space, recipe.seed, False)
        assert params
        trials.append(Tried(params, "complete", float(params["train.learning_rate"])))
    return [trial.params for trial in trials]


def hunted(place: Path, text: str, change: str) -> Any:
    """What a search comes to, by trial, and where it is kept."""
    opened = loads(text, folder=place, changes=[change] if change else [])
    with tempfile.TemporaryDirectory(dir=place) as folder:
        facts = search(opened, Store(Path(folder)), target=Path(folder, "best.yaml")).facts
    return (
        [(trial.params, trial.state, trial.value, trial.rungs) for trial in facts.trials],
        facts.metric,
        facts.database,
    )


# key -> (where it shows, what it is changed in, the change)
CHANGES: dict[str, tuple[Callable[[Path, str, str], Any], str, str]] = {
    "version": (prepare, STANDARDIZE, "version=2"),
    "name": (whole, STANDARDIZE, "name=other"),
    "seed": (prepare, STANDARDIZE, "seed=3"),
    "device": (train, STANDARDIZE, "device=mps"),
    "task": (prepare, STANDARDIZE, "task={kind: classify, table: table.csv, text: messy, label: kind}"),
    "base": (train, STANDARDIZE, "base={kind: folder, path: gemma3}"),
    "tasks.task": (mixed, SEVERAL, "tasks.other.task.label=kind"),
    "tasks.weight": (mixed, SEVERAL, "tasks.other.weight=0.2"),
    "tasks.prepare": (mixed, SEVERAL, "tasks.other.prepare={steps: [], split: {kind: random, validation: 4, test: 4}}"),
    "tasks.encode": (mixed, SEVERAL, "tasks.other.encode={max_length: 8}"),
    "tasks.score": (mixed, SEVERAL, "tasks.other.score={metrics: [f1]}"),
    "mixture.temperature": (mixed, SEVERAL, "mixture.temperature=5"),
    "checks.better_than.task": named_for_a_task("better_than", baseline="majority"),
    "checks.floor.task": named_for_a_task("floor", metric="accuracy", at_least=0.1),
    "checks.subgroup_floor.task": named_for_a_task("subgroup_floor", metric="accuracy", at_least=0.1, slice="owner"),
    "checks.cut_answers.task": named_for_a_task("cut_answers"),
    "checks.latency.task": named_for_a_task("latency", at_most_ms=5),
    "prepare.reader": (prepare, STANDARDIZE, "prepare.reader=tsv"),
    "prepare.split": (prepare, STANDARDIZE, "prepare.split=random"),
    "prepare.slices": (prepare, STANDARDIZE, "prepare.slices={owner: owner}"),
    "prepare.hold_out": (prepare, STANDARDIZE, "prepare.hold_out={owner: [o1]}"),
    "prepare.steps": (prepare, STANDARDIZE, "prepare.steps=[]"),
    "preparers.dedup.within": (prepare, STANDARDIZE, "prepare.steps=[{kind: dedup, within: false}]"),
    "preparers.dedup.across": (prepare, FILES, "prepare.steps=[{kind: dedup, across: false}]"),
    "prepare.id_column": (prepare, STANDARDIZE, "prepare.id_column=id"),
    "prepare.quarantine_limit": (
        prepare,
        STANDARDIZE.replace("table.csv", "ragged.csv"),
        "prepare.quarantine_limit=0.5",
    ),
    "prepare.left_out_limit": (prepare, STANDARDIZE.replace("table.csv", "part.csv"), "prepare.left_out_limit=1"),
    "encode.max_length": (encode, STANDARDIZE, "encode.max_length=12"),
    "encode.control_tokens": (encode, STANDARDIZE, "encode.control_tokens=parse"),
    "encode.truncation": (encode, STANDARDIZE.replace("max_length: 64", "max_length: 16"), "encode.truncation=drop"),
    "encode.give_away": (
        encode,
        CLASSIFY.replace("table.csv, text: messy", "told.csv, columns: [messy, again]"),
        "encode.give_away=allow",
    ),
    "train.epochs": (train, STANDARDIZE, "train.epochs=1"),
    "train.learning_rate": (train, STANDARDIZE, "train.learning_rate=1e-3"),
    "train.batch_size": (train, STANDARDIZE, "train.batch_size=16"),
    "train.tokens_per_batch": (train, STANDARDIZE, "train.tokens_per_batch=16"),
    "train.weight_decay": (train, STANDARDIZE, "train.weight_decay=0.5"),
    "train.warmup": (train, STANDARDIZE, "train.warmup=0.5"),
    "train.schedule": (train, STANDARDIZE, "train.schedule=constant"),
    "train.optimizer": (train, STANDARDIZE, "train.optimizer=sgd"),
    "train.label_smoothing": (train, STANDARDIZE, "train.label_smoothing=0.1"),
    "train.neftune_alpha": (train, STANDARDIZE, "train.neftune_alpha=5"),
    **{
        f"optimizers.{kind}.{key}": (
            train,
            STANDARDIZE.replace("epochs: 2", f"optimizer: {kind}, epochs: 2"),
            f"train.optimizer={{kind: {kind}, {key}: {value}}}",
        )
        for kind, key, value in [
            ("adamw", "beta1", 0.5),
            ("adamw", "beta2", 0.9),
            ("adamw", "eps", 1e-3),
            ("adam8bit", "beta1", 0.5),
            ("adam8bit", "beta2", 0.9),
            ("adam8bit", "eps", 1e-3),
            ("adafactor", "beta1", 0.9),
            ("adafactor", "decay_rate", 0.5),
            ("adafactor", "clip_threshold", 0.1),
            ("adafactor", "scale_parameter", "true"),
            ("sgd", "momentum", 0.5),
            ("sgd", "nesterov", "true"),
        ]
    },
    **{
        f"schedules.{kind}.{key}": (
            train,
            STANDARDIZE.replace("epochs: 2", f"schedule: {kind}, epochs: 2"),
            f"train.schedule={{kind: {kind}, {key}: {value}}}",
        )
        for kind, key, value in [
            ("one_cycle", "rise", 0.5),
            ("one_cycle", "start_divisor", 2),
            ("one_cycle", "end_divisor", 2),
            ("slanted_triangular", "cut_frac", 0.5),
            ("slanted_triangular", "ratio", 2),
        ]
    },
    "schedules.plateau.patience": (train, PLATEAU, "train.schedule={kind: plateau, patience: 1}"),
    "schedules.plateau.by": (train, PLATEAU, "train.schedule={kind: plateau, by: 0.5}"),
    "techniques.gradual.when": (train, GRADUAL, "train.techniques=[{kind: gradual, when: plateau}]"),
    "techniques.gradual.every": (train, GRADUAL, "train.techniques=[{kind: gradual, every: 2}]"),
    "techniques.discriminative.factor": (
        train,
        STANDARDIZE.replace("[full]", "[discriminative]"),
        "train.techniques=[{kind: discriminative, factor: 2}]",
    ),
    "train.max_grad_norm": (train, STANDARDIZE, "train.max_grad_norm=1e-3"),
    "train.techniques": (train, STANDARDIZE, "train.techniques=[{kind: freeze, layers: 1}, full]"),
    "train.stop.metric": (
        train,
        STANDARDIZE.replace("epochs: 2,", "epochs: 2, stop: {metric: loss},"),
        "train.stop.metric=exact_match",
    ),
    "train.stop.patience": (
        train,
        STANDARDIZE.replace(
            "epochs: 2, learning_rate: 1e-2", "epochs: 4, learning_rate: 1e-9, stop: {metric: exact_match, patience: 1}"
        ),
        "train.stop.patience=4",
    ),
    # no answer is right in either epoch, so the first evaluation stays the best
    "train.keep": (
        train,
        STANDARDIZE.replace("learning_rate: 1e-2", "learning_rate: 1e-6, stop: {metric: exact_match, patience: 9}"),
        "train.keep=last",
    ),
    "train.evaluate_every": (train, STANDARDIZE, "train.evaluate_every=0.5"),
    "train.precision": (train, STANDARDIZE, "train.precision=bfloat16"),
    "repeat.seeds": (whole, REPEATED, "repeat.seeds=3"),
    "repeat.folds": (whole, REPEATED, "repeat={folds: 2}"),
    "repeat.test": (whole, REPEATED, "repeat.test=true"),
    "predict.engine": (predict, UNTRAINED, "predict.engine=torch"),
    "score.metrics": (whole, STANDARDIZE.replace("exact_match", "edit_similarity"), "score.metrics=[edit_similarity]"),
    "score.baselines": (whole, STANDARDIZE, "score.baselines=[majority]"),
    "score.worst": (whole, STANDARDIZE, "score.worst=1"),
    "score.latency_samples": (whole, STANDARDIZE, "score.latency_samples=1"),
    "gate.checks": (whole, STANDARDIZE, "gate.checks=[{kind: floor, metric: exact_match, at_least: 1, min_n: 1}]"),
    "tasks.standardize.table": (prepare, STANDARDIZE, "task.table=other.csv"),
    "tasks.standardize.column": (prepare, STANDARDIZE, "task.column=owner"),
    "tasks.standardize.target": (prepare, STANDARDIZE, "task.target=next"),
    "tasks.standardize.columns": (
        prepare,
        STANDARDIZE.replace("column: messy, target: clean", "columns: {messy: clean}"),
        "task.columns={messy: next}",
    ),
    "tasks.standardize.target_table": (prepare, STANDARDIZE, "task.target_table=clean.csv"),
    "tasks.standardize.target_key": (
        prepare,
        STANDARDIZE.replace("context: [kind]", "context: [kind], target_table: shuffled.csv"),
        "task.target_key=id",
    ),
    "tasks.standardize.context": (prepare, STANDARDIZE, "task.context=[owner]"),
    "tasks.standardize.hints": (
        prepare,
        STANDARDIZE.replace("context: [kind]", "context: [kind], prompt: '{value} {hints}'"),
        "task.hints=[{column: part}]",
    ),
    "tasks.standardize.blank": (prepare, STANDARDIZE.replace("table.csv", "part.csv"), "task.blank=none"),
    "tasks.standardize.prompt": (train, STANDARDIZE, "task.prompt='clean {value}:'"),
    "tasks.classify.table": (prepare, CLASSIFY, "task.table=other.csv"),
    "tasks.classify.text": (prepare, CLASSIFY, "task.text=clean"),
    "tasks.classify.columns": (
        prepare,
        CLASSIFY.replace("text: messy", "columns: [messy]"),
        "task.columns=[messy, owner]",
    ),
    "tasks.classify.label": (prepare, CLASSIFY, "task.label=part"),
    "tasks.classify.merge": (prepare, PARTS, "task.merge={early: [train, validation]}"),
    "tasks.classify.fewest": (prepare, PARTS, "task.fewest=30"),
    "tasks.classify.rare": (prepare, PARTS.replace("label: part", "label: part, fewest: 30"), "task.rare=other"),
    "tasks.generate.table": (prepare, GENERATE, "task.table=talks.jsonl"),
    "tasks.generate.prompt_column": (prepare, GENERATE, "task.prompt_column=ask"),
    "tasks.generate.input_column": (prepare, GENERATE, "task.input_column=ask"),
    "tasks.generate.completion_column": (prepare, GENERATE, "task.completion_column=answer"),
    "tasks.generate.messages_column": (prepare, CHAT, "task.messages_column=talk"),
    "tasks.generate.rejected_column": (prepare, PAIRS, "task.rejected_column=worse"),
    "tasks.generate.good_column": (prepare, VOTES, "task.good_column=bad"),
    "tasks.generate.chat_template": (
        encode,
        CHAT,
        f"task.chat_template={json.dumps(TEMPLATE.replace('<assistant>', '<a>'))}",
    ),
    "bases.folder.path": (train, STANDARDIZE, "base.path=gemma3"),
    "bases.hub.name": (identity, HUB, HUB.replace("a/b", "a/c")),
    "bases.hub.revision": (identity, HUB, '{"kind": "hub", "name": "a/b", "revision": "v2"}'),
    "bases.package.name": (identity, PACKAGE, PACKAGE.replace("minilm", "gemma-3-270m")),
    "readers.csv.encoding": (read, CSV, '{"kind": "csv", "encoding": "latin-1"}'),
    "readers.csv.delimiter": (read, CSV, '{"kind": "csv", "delimiter": ";"}'),
    "readers.csv.quote": (read, CSV, '{"kind": "csv", "quote": "\'"}'),
    "readers.csv.escape": (read, CSV, '{"kind": "csv", "escape": "\\\\"}'),
    "readers.csv.skip_blanks": (read, CSV, '{"kind": "csv", "skip_blanks": false}'),
    "readers.csv.header": (read, CSV, '{"kind": "csv", "header": false}'),
    "readers.csv.names": (read, CSV, '{"kind": "csv", "names": ["x", "y"]}'),
    "readers.csv.skip_lines": (read, CSV, '{"kind": "csv", "skip_lines": 1}'),
    "readers.tsv.escape": (read, COMMAS, '{"kind": "tsv", "delimiter": ",", "escape": "\\\\"}'),
    "readers.tsv.skip_blanks": (read, COMMAS, '{"kind": "tsv", "delimiter": ",", "skip_blanks": false}'),
    "readers.tsv.header": (read, TSV, '{"kind": "tsv", "header": false}'),
    "readers.tsv.names": (read, TSV, '{"kind": "tsv", "names": ["x"]}'),
    "readers.tsv.skip_lines": (read, TSV, '{"kind": "tsv", "skip_lines": 1}'),
    "readers.tsv.encoding": (read, TSV, '{"kind": "tsv", "encoding": "latin-1"}'),
    "readers.tsv.delimiter": (read, TSV, '{"kind": "tsv", "delimiter": ","}'),
    "readers.tsv.quote": (
        read,
        COMMAS,
        '{"kind": "tsv", "delimiter": ",", "quote": "\'"}',
    ),
    "readers.lines.columns": (prepare, LINES, "prepare.reader.columns=[messy, kind]"),
    "readers.lines.separator": (prepare, LINES, "prepare.reader.separator='0'"),
    "readers.lines.encoding": (prepare, LINES, "prepare.reader.encoding=utf-16"),
    "splits.random.validation": (prepare, STANDARDIZE, "prepare.split.validation=20"),
    "splits.random.test": (prepare, STANDARDIZE, "prepare.split.test=30"),
    "splits.grouped.by": (prepare, GROUPED, "prepare.split.by=messy"),
    "splits.grouped.validation": (prepare, GROUPED, "prepare.split.validation=0.3"),
    "splits.grouped.test": (prepare, GROUPED, "prepare.split.test=0.4"),
    "splits.stratified.by": (prepare, STRATIFIED, "prepare.split.by=part"),
    "splits.stratified.validation": (prepare, STRATIFIED, "prepare.split.validation=0.3"),
    "splits.stratified.test": (prepare, STRATIFIED, "prepare.split.test=0.4"),
    "splits.given.column": (prepare, GIVEN, "prepare.split.column=part2"),
    "splits.given.test": (prepare, FILES, "prepare.split.test=more.csv"),
    "splits.given.validation": (prepare, FILES, "prepare.split.validation=more.csv"),
    "splits.given.validation_share": (prepare, FILES, "prepare.split.validation_share=0.4"),
    "techniques.lora.rank": (train, LORA, "train.techniques=[{kind: lora, rank: 4}]"),
    "techniques.lora.alpha": (train, LORA, "train.techniques=[{kind: lora, rank: 2, alpha: 1}]"),
    "techniques.lora.targets": (train, LORA, "train.techniques=[{kind: lora, rank: 2, targets: attention}]"),
    "techniques.lora.dropout": (train, LORA, "train.techniques=[{kind: lora, rank: 2, dropout: 0.5}]"),
    "techniques.lora.rslora": (train, LORA, "train.techniques=[{kind: lora, rank: 2, rslora: true}]"),
    "techniques.lora.dora": (train, LORA, "train.techniques=[{kind: lora, rank: 2, dora: true}]"),
    "techniques.lora.modules_to_save": (
        train,
        LORA,
        "train.techniques=[{kind: lora, rank: 2, modules_to_save: [embed_tokens]}]",
    ),
    "techniques.peft.tuner": (train, PEFT, "train.techniques=[{kind: peft, tuner: vera}]"),
    "techniques.peft.settings": (
        train,
        PEFT,
        "train.techniques=[{kind: peft, tuner: ia3, settings: {target_modules: [k_proj], feedforward_modules: []}}]",
    ),
    "techniques.prefix.tokens": (train, PREFIX, "train.techniques=[{kind: prefix, tokens: 4}]"),
    "techniques.prefix.projection": (train, PREFIX, "train.techniques=[{kind: prefix, tokens: 3, projection: 8}]"),
    "techniques.prompt_tuning.tokens": (train, PROMPT, "train.techniques=[{kind: prompt_tuning, tokens: 4}]"),
    "techniques.prompt_tuning.init": (
        train,
        PROMPT,
        "train.techniques=[{kind: prompt_tuning, tokens: 3, init: text, text: abc}]",
    ),
    "techniques.prompt_tuning.text": (
        train,
        STANDARDIZE.replace("[full]", "[{kind: prompt_tuning, tokens: 3, init: text, text: abc}]"),
        "train.techniques=[{kind: prompt_tuning, tokens: 3, init: text, text: xyz}]",
    ),
    "techniques.private.clip": (hidden, PRIVATE, "train.techniques=[full, {kind: private, noise: 1.0, clip: 0.01}]"),
    "techniques.private.noise": (hidden, PRIVATE, "train.techniques=[full, {kind: private, noise: 2.0}]"),
    "techniques.private.target_epsilon": (
        hidden,
        TARGET,
        "train.techniques=[full, {kind: private, target_epsilon: 2.0}]",
    ),
    "techniques.private.delta": (
        hidden,
        TARGET,
        "train.techniques=[full, {kind: private, target_epsilon: 3.0, delta: 1e-5}]",
    ),
    "techniques.private.accountant": (
        hidden,
        TARGET,
        "train.techniques=[full, {kind: private, target_epsilon: 3.0, accountant: rdp}]",
    ),
    "techniques.private.unit": (
        hidden,
        TWICE,
        "train.techniques=[full, {kind: private, noise: 1.0, unit: example}]",
    ),
    "techniques.freeze.layers": (
        train,
        STANDARDIZE.replace("[full]", "[freeze, full]"),
        "train.techniques=[{kind: freeze, layers: 1}, full]",
    ),
    "techniques.freeze.embeddings": (
        train,
        STANDARDIZE.replace("[full]", "[freeze, full]"),
        "train.techniques=[{kind: freeze, embeddings: false}, full]",
    ),
    "techniques.freeze.patterns": (
        train,
        STANDARDIZE.replace("[full]", "[freeze, full]"),
        "train.techniques=[{kind: freeze, patterns: ['*mlp*']}, full]",
    ),
    "techniques.distil.teacher": (train, DISTIL, "train.techniques[1].teacher=other"),
    # a teacher that is no adapter has no need of its base, but its bytes are among what is trained from
    "techniques.distil.teacher_base": (teachers, DISTIL, "train.techniques[1].teacher_base=other"),
    "techniques.distil.temperature": (train, DISTIL, "train.techniques[1].temperature=5"),
    "techniques.distil.share": (train, DISTIL, "train.techniques[1].share=0.9"),
    "techniques.distil.hidden": (train, DISTIL, "train.techniques[1].hidden=2"),
    "techniques.distil.layers": (train, DISTIL, "train.techniques[1].layers=[1]"),
    "techniques.distil.sequence": (whole, DISTIL, "train.techniques[1].sequence=true"),
    "techniques.dpo.loss": (train, PAIRS, "train.techniques[1].loss=ipo"),
    "techniques.dpo.beta": (train, PAIRS, "train.techniques[1].beta=1"),
    "techniques.dpo.label_smoothing": (train, PAIRS, "train.techniques[1].label_smoothing=0.2"),
    "techniques.dpo.bad_weight": (train, VOTES, "train.techniques[1].bad_weight=3"),
    "techniques.quantized_base.type": (train, HELD, "train.techniques[0].type=fp4"),
    "techniques.quantized_base.double": (train, HELD, "train.techniques[0].double=false"),
    "engines.torch.batch_size": (batches, STANDARDIZE, "predict.engine.batch_size=7"),
    "engines.torch.max_new_tokens": (predict, UNTRAINED, "predict.engine.max_new_tokens=1"),
    "baselines.untuned.shots": (requests, '{"kind": "untuned"}', '{"kind": "untuned", "shots": 2}'),
    "baselines.untuned.limit": (whole, UNTUNED, "score.baselines=[{kind: untuned, shots: 2, limit: 3}]"),
    "baselines.tfidf.strengths": (whole, TFIDF, "score.baselines=[{kind: tfidf, strengths: [0.01]}]"),
    "metrics.exact_match.ignore_case": (measured, EXACT, '{"kind": "exact_match", "ignore_case": true}'),
    "metrics.exact_match.ignore_space": (measured, EXACT, '{"kind": "exact_match", "ignore_space": false}'),
    "metrics.f1.average": (measured, F1, '{"kind": "f1", "average": "micro"}'),
    "checks.floor.metric": (judged, FLOOR, '{"metric": "accuracy"}'),
    "checks.floor.at_least": (judged, FLOOR, '{"at_least": 0.9}'),
    "checks.floor.at_most": (judged, '{"kind": "floor", "metric": "exact_match", "at_most": 0.45}', '{"at_most": 0.1}'),
    "checks.subgroup_floor.at_most": (
        judged,
        '{"kind": "subgroup_floor", "slice": "group", "metric": "exact_match", "at_most": 0.45}',
        '{"at_most": 0.9}',
    ),
    "checks.floor.confidence": (judged, FLOOR, '{"confidence": "estimate"}'),
    "checks.floor.min_entities": (judged, FLOOR.replace("0.45", "0.1"), '{"at_least": 0.1, "min_entities": 61}'),
    "checks.floor.where": (judged, FLOOR, '{"where": {"group": "A"}}'),
    "checks.floor.required": (judged, FLOOR, '{"required": false}'),
    "checks.subgroup_floor.slice": (judged, GROUPS, '{"slice": "other"}'),
    "checks.subgroup_floor.metric": (judged, GROUPS, '{"metric": "accuracy"}'),
    "checks.subgroup_floor.at_least": (judged, GROUPS, '{"at_least": 0.1}'),
    "checks.subgroup_floor.confidence": (
        judged,
        GROUPS.replace("0.45", "0.3"),
        '{"at_least": 0.3, "confidence": "estimate"}',
    ),
    "checks.subgroup_floor.min_entities": (judged, GROUPS, '{"min_entities": 6}'),
    "checks.subgroup_floor.small_groups": (
        judged,
        GROUPS.replace("0.45", "0.1"),
        '{"small_groups": "block", "at_least": 0.1}',
    ),
    "checks.subgroup_floor.where": (judged, GROUPS, '{"where": {"other": "X"}}'),
    "checks.subgroup_floor.required": (judged, GROUPS, '{"required": false}'),
    "checks.better_than.baseline": (judged, BETTER, '{"baseline": "strong"}'),
    "checks.better_than.min_entities": (judged, BETTER, '{"min_entities": 61}'),
    "checks.better_than.by": (judged, BETTER, '{"by": 0.9}'),
    "checks.better_than.metric": (judged, BETTER, '{"metric": "accuracy"}'),
    "checks.better_than.where": (judged, BETTER, '{"where": {"other": "X"}}'),
    "checks.better_than.required": (judged, BETTER, '{"required": false}'),
    "checks.latency.at_most_ms": (judged, LATENCY, '{"at_most_ms": 10}'),
    "checks.latency.quantile": (judged, LATENCY, '{"quantile": 0.5}'),
    "checks.latency.where": (judged, LATENCY, '{"where": {"group": "A"}}'),
    "checks.cut_answers.at_most": (judged, CUT, '{"at_most": 0.04}'),
    "checks.cut_answers.where": (judged, CUT, '{"where": {"group": "A"}}'),
    "checks.cut_answers.required": (judged, CUT, '{"required": false}'),
    "checks.latency.required": (judged, LATENCY, '{"required": false}'),
}
CHANGES |= {
    "search.space.low": (proposed, SEARCH, 'search.space."train.learning_rate".low=1e-3'),
    "search.space.high": (proposed, SEARCH, 'search.space."train.learning_rate".high=1e-2'),
    "search.space.log": (proposed, SEARCH, 'search.space."train.learning_rate".log=true'),
    "search.space.step": (proposed, SEARCH, 'search.space."train.batch_size".step=8'),
    "search.space.choices": (proposed, SEARCH, 'search.space."train.warmup".choices=[0.3]'),
    "search.searcher": (proposed, SEARCH, "search.searcher=random"),
    "searchers.tpe.startup": (proposed, SEARCH, "search.searcher={kind: tpe, startup: 2}"),
    "search.trials": (hunted, HUNT, "search.trials=2"),
    "search.seconds": (hunted, HUNT, "search.seconds=0.001"),
    "search.pruner": (hunted, LONG_HUNT, "search.pruner=none"),
    "search.reduction_factor": (hunted, LONG_HUNT, "search.reduction_factor=2"),
    "search.metric": (hunted, HUNT, "search.metric=accuracy"),
    "search.study": (hunted, HUNT, "search.study='sqlite:///:memory:'"),
}
ELSEWHERE = {
    # Who does the work shows in the order of trials alone.
    "search.workers": "tests/test_searching.py",
    # How often a checkpoint is written shows on disk alone; that it never changes the weights is its promise.
    "train.checkpoint_steps": "tests/training/test_resume.py",
    # Nothing happens where no loss is harmed: there one is.
    "train.on_divergence": "tests/training/test_divergence.py",
    # What keeps a former task needs a run before: each of these is changed there.
    "former": "tests/test_several.py",
    "techniques.ewc.strength": "tests/test_several.py",
    "techniques.ewc.fisher": "tests/test_several.py",
    "techniques.ewc.rows": "tests/test_several.py",
    "techniques.ewc.batch": "tests/test_several.py",
    "techniques.ewc.decay": "tests/test_several.py",
    "techniques.replay.share": "tests/test_several.py",
    "techniques.replay.weight": "tests/test_several.py",
    "checks.no_forgetting.task": "tests/test_several.py",
    "checks.no_forgetting.where": "tests/test_several.py",
    "checks.no_forgetting.required": "tests/test_several.py",
    "checks.no_forgetting.min_entities": "tests/test_several.py",
    "checks.no_forgetting.at_most": "tests/test_several.py",
    "checks.no_forgetting.metric": "tests/test_several.py",
    # That only memory and time change is its promise.
    "train.gradient_checkpointing": "tests/training/test_memory.py",
}


def keys() -> Iterator[str]:
    """Every key that a recipe may hold: `train.epochs`, `techniques.lora.rank`."""

    def inside(block: type[Settings], path: str) -> Iterator[str]:
        for name, field in block.model_fields.items():
            here = f"{path}{field.alias or name}"
            nested = [found for found in _settings_in(field.annotation) if not issubclass(found, Choice)]
            if path == "tasks." and name in Recipe.model_fields:
                nested = []  # the same block as that of the whole recipe
            if nested:
                yield from inside(nested[0], f"{here}.")
            else:
                yield here

    yield from inside(Recipe, "")
    for family in families():
        for name in members(family):
            yield from inside(find(family, name), f"{family}.{name}.")


def test_the_table_holds_every_key_and_no_other() -> None:
    assert sorted(keys()) == sorted(CHANGES.keys() | ELSEWHERE.keys())


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_changing_a_key_changes_what_comes_out(place: Path, key: str) -> None:
    outcome, text, change = CHANGES[key]
    if key == "prepare.quarantine_limit":
        (place / "ragged.csv").write_text((place / "table.csv").read_text() + "a,b\n" * 5)
    assert outcome(place, text, change) != outcome(place, text, "")
