"""Learning from a teacher: the loss on numbers, the teacher as it answers in use, and students of some blocks."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from luthier import flow, seams
from luthier.batching import Encoded
from luthier.errors import Problems, UserError
from luthier.fit import gradients
from luthier.model import Head, Model, architecture_of, load, save, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.runs import Run, export
from luthier.seams import Example
from luthier.store import Artifact, Store
from luthier.techniques import Running, Technique, Together
from luthier.techniques.distil import softened

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: {name}
task: {{kind: {task}}}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: random, validation: 10, test: 20}}}}
encode: {{max_length: 48}}
train: {{precision: float32, epochs: 1, learning_rate: 1e-3, batch_size: 8, keep: last, techniques: {techniques}}}
predict: {{engine: {{kind: torch, max_new_tokens: 6}}}}
score: {{latency_samples: 0}}
"""
WRITE = "standardize, table: table.csv, column: messy, target: clean"
LETTER = WRITE.replace("clean", "kind")
LABEL = "classify, table: table.csv, text: messy, label: kind"
LABELS = Head("AutoModelForSequenceClassification", ("A", "B"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distil")
    for shape in ("llama", "gemma3", "gpt2", "t5", "bert", "mpnet"):
        tiny.build(root / shape, shape)
        tiny.build(root / f"dropping {shape}", shape, dropout=0.3)
    rows = [("AB"[n % 2], "BA"[n % 2], f"{n:03d} {'kg' if n % 2 else 'm'}", n) for n in range(80)]
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("kind", "other", "messy", "clean"), *rows])
    return root


def opened(folder: Path, seed: int = 0) -> Model:
    head = LABELS if architecture_of(folder) == "encoder" else writing_head(architecture_of(folder))
    return load(folder, head, device="cpu", precision="float32", seed=seed)


def teaching(folder: Path) -> dict[str, Artifact]:
    return {"teacher": Artifact(folder, "teacher", "teacher", {})}


def examples_for(model: Model, n: int = 4) -> list[Encoded]:
    found = []
    for k in range(n):
        ids = [1, *range(5, 9 + k), 2]
        if not model.head.writes:
            found.append(Encoded(ids, (), [k % 2], (), 1, 0, 1.0 + k % 2))
        elif model.architecture == "decoder":
            supervised = [False] * 4 + [True] * (len(ids) - 4)
            found.append(Encoded(ids, supervised, (), (), sum(supervised), 0, 1.0 + k % 2))
        else:
            found.append(Encoded(ids, (), ids[1:], (), len(ids) - 1, 0, 1.0 + k % 2))
    return found


def taught(model: Model, folder: Path, **settings: Any) -> Together:
    return Together(
        [Technique.pick({"kind": "distil", "teacher": str(folder), **settings}).start(model, teaching(folder))]
    )


def objective_of(model: Model) -> Objective:
    return Objective.pick("causal" if model.head.writes else "classify")


def saved(model: Model, folder: Path) -> Path:
    """A folder of Hugging Face, as somebody else would have written it."""
    model.forward.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def moved(folder: Path, out: Path) -> Path:
    """A model of the same kind that says something else."""
    model = opened(folder, seed=1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.bare.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return saved(model, out)


def test_the_teachers_loss_is_that_of_the_paper_on_three_numbers() -> None:
    wanted, said = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.5, 0.0, 1.0]], requires_grad=True)
    for temperature in (1.0, 2.0):

        def shares(logits: list[float], t: float = temperature) -> list[float]:
            powers = [math.exp(x / t) for x in logits]
            return [x / sum(powers) for x in powers]

        p, q = shares([1.0, 2.0, 0.0]), shares([0.5, 0.0, 1.0])
        by_hand = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        found = softened(wanted, said, temperature)
        assert float(found.detach()) == pytest.approx(by_hand, rel=1e-5)
        (gradient,) = torch.autograd.grad(found.sum(), said)
        by_hand = [temperature * (b - a) for a, b in zip(p, q, strict=True)]
        torch.testing.assert_close(gradient[0], torch.tensor(by_hand))


@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5", "bert", "mpnet"])
def test_a_teacher_that_is_the_student_has_nothing_to_teach(place: Path, tmp_path: Path, shape: str) -> None:
    model = opened(place / shape)
    teacher = saved(model, tmp_path / "teacher")
    running = taught(model, teacher, share=1.0, hidden=1.0)
    model.forward.eval()
    batch, objective = examples_for(model), objective_of(model)
    outputs = objective.outputs(model, batch, running.needs)
    outputs.again = lambda other, needs: objective.outputs(other, batch, needs)
    found = running.losses(batch, objective.loss(outputs, batch), outputs)
    torch.testing.assert_close(found, torch.zeros(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", ["gpt2", "t5", "bert"])
def test_the_teacher_answers_without_dropout_and_never_moves(place: Path, tmp_path: Path, shape: str) -> None:
    model = opened(place / f"dropping {shape}")
    running = taught(model, moved(place / f"dropping {shape}", tmp_path / "teacher"), hidden=1.0)
    teacher = running.running[0].teacher
    before = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    batch = examples_for(model)
    gradients(model, [batch], objective_of(model), running)
    assert model.forward.training
    assert not any(module.training for module in teacher.forward.modules())
    with torch.no_grad():
        said = [objective_of(teacher).outputs(teacher, batch, "hidden") for _ in range(2)]
    assert torch.equal(said[0].logits, said[1].logits)
    assert torch.equal(said[0].hidden, said[1].hidden)
    assert all(torch.equal(before[name], parameter) for name, parameter in teacher.named_parameters())
    assert all(parameter.grad is None for _, parameter in teacher.named_parameters())


@pytest.mark.parametrize("shape", ["llama", "t5", "bert", "mpnet"])
@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_loss_and_gradient_are_those_computed_by_hand(place: Path, tmp_path: Path, shape: str, hidden: float) -> None:
    """One example at a time, through transformers' own forward passes."""
    model = opened(place / shape)
    folder = moved(place / shape, tmp_path / "teacher")
    for module in model.bare.modules():
        if isinstance(module, torch.nn.Dropout):  # MPNet's
            module.p = 0.0
    running = taught(model, folder, share=0.3, temperature=3.0, hidden=hidden)
    batch = examples_for(model)
    loss = gradients(model, [batch[:3], batch[3:]], objective_of(model), running)
    found = {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}
    model.forward.zero_grad()
    teacher = opened(folder)
    covered, total = sum(e.covers * e.weight for e in batch), torch.zeros(())
    for example in batch:
        ids = torch.tensor([list(example.ids)])
        inputs = {"input_ids": ids, "output_hidden_states": True}
        if shape == "t5":
            inputs["decoder_input_ids"] = torch.tensor([[0, *example.targets[:-1]]])
        with torch.no_grad():
            wise = teacher.bare(**inputs)
        own = model.bare(**inputs)
        states = [
            said.decoder_hidden_states[-1][0] if shape == "t5" else said.hidden_states[-1][0] for said in (wise, own)
        ]
        logits = [said.logits[0] for said in (wise, own)]
        if shape == "llama":
            places = torch.arange(len(example.ids))[torch.tensor(example.supervised)] - 1
            targets = ids[0, places + 1]
            states, logits = [s[places] for s in states], [x[places] for x in logits]
        elif shape == "t5":
            targets = torch.tensor(example.targets)
            states = [s * 32**-0.5 for s in states]  # what T5's head reads; a cosine does not see it
        else:
            targets = torch.tensor(example.targets)
            states, logits = [s.mean(0, keepdim=True) for s in states], [x[None] for x in logits]
        right = torch.nn.functional.cross_entropy(logits[1], targets, reduction="sum")
        p, q = (logits[0] / 3).softmax(-1), (logits[1] / 3).log_softmax(-1)
        apart = 9 * torch.nn.functional.kl_div(q, p, reduction="sum")
        turned = (1 - torch.nn.functional.cosine_similarity(states[0], states[1], dim=-1)).sum()
        total = total + example.weight * (0.7 * right + 0.3 * apart + hidden * turned)
    (total / covered).backward()
    assert loss == pytest.approx(float(total.detach()) / covered, rel=1e-4)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "t5", "bert", "mpnet"])
def test_the_blocks_that_are_kept_are_those_of_the_base_and_the_folder_loads(
    place: Path, tmp_path: Path, shape: str
) -> None:
    model = opened(place / shape)
    before = {name: tensor.clone() for name, tensor in model.bare.state_dict().items()}
    kept = [0] if shape == "t5" else [1]
    Technique.pick({"kind": "distil", "teacher": "t", "share": 0, "layers": kept}).start(model, {})
    after = model.bare.state_dict()
    blocks_of = {"t5": ".block.{}.", "gpt2": ".h.{}."}.get(
        shape, ".layers.{}." if "bert" not in shape and shape != "mpnet" else ".layer.{}."
    )
    part = blocks_of.format(kept[0])
    moved_to = {name.replace(part, blocks_of.format(0)): tensor for name, tensor in before.items() if part in name}
    assert moved_to
    for name, tensor in after.items():
        wanted = moved_to[name] if blocks_of.format(0) in name else before[name]
        assert torch.equal(tensor, wanted), name
    assert not any(blocks_of.format(1) in name for name in after)
    save(model, tmp_path / "out", base_name="b", extra={})
    again = load(tmp_path / "out", model.head, device="cpu", precision="float32")
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if shape == "t5" else {})}
    with torch.no_grad():
        said, known = again.forward(**inputs).logits, model.forward.eval()(**inputs).logits
    if model.head.writes:
        torch.testing.assert_close(said, known)
    if shape not in ("bert", "mpnet", "t5"):  # its cache knows its place
        with torch.no_grad():
            first = model.forward(input_ids=ids[:, :3], use_cache=True)
            rest = model.forward(input_ids=ids[:, 3:], past_key_values=first.past_key_values)
        torch.testing.assert_close(rest.logits, known[:, 3:], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_kept_is_told(place: Path) -> None:
    def kept(shape: str, *layers: int) -> Running:
        return Technique.pick({"kind": "distil", "teacher": "t", "share": 0, "layers": list(layers)}).start(
            opened(place / shape), {}
        )

    with pytest.raises(UserError, match="there is no block 2 in the base, which has 2; use 0 to 1"):
        kept("llama", 0, 2)
    with pytest.raises(UserError, match="of the blocks 1 alone could not be read again; keep block 0"):
        kept("t5", 1)


def test_labels_are_matched_by_name(place: Path, tmp_path: Path) -> None:
    turned = load(
        place / "bert", Head("AutoModelForSequenceClassification", ("B", "A")), device="cpu", precision="float32"
    )
    model = opened(place / "bert")
    with torch.no_grad():
        turned.bare.classifier.weight.copy_(model.bare.classifier.weight.flip(0))
        turned.bare.load_state_dict({**model.bare.state_dict(), "classifier.weight": turned.bare.classifier.weight})
    running = taught(model, saved(turned, tmp_path / "teacher"), share=1.0)
    model.forward.eval()
    batch, objective = examples_for(model), objective_of(model)
    outputs = objective.outputs(model, batch, running.needs)
    outputs.again = lambda other, needs: objective.outputs(other, batch, needs)
    torch.testing.assert_close(running.losses(batch, outputs.logits[:, 0], outputs), torch.zeros(4), rtol=0, atol=1e-5)
    other = load(
        place / "bert", Head("AutoModelForSequenceClassification", ("A", "C")), device="cpu", precision="float32"
    )
    with pytest.raises(UserError, match=r"have other labels: 'B' is the student's alone; .*sequence: true"):
        taught(model, saved(other, tmp_path / "other"))


def test_a_teacher_of_other_tokens_is_refused(place: Path, tmp_path: Path) -> None:
    teacher = saved(opened(place / "llama"), tmp_path / "teacher")
    written = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = written["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (teacher / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"reads other tokens than the base.*sequence: true"):
        taught(opened(place / "llama"), teacher)


def test_states_of_another_size_are_refused(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    wide = LlamaConfig(
        vocab_size=tiny.sizes(), hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "wide")
    tiny.tokenizer().save_pretrained(tmp_path / "wide")
    taught(opened(place / "llama"), tmp_path / "wide")
    with pytest.raises(
        UserError, match="states of the teacher have 64 numbers, those of the student 32, so they cannot"
    ):
        taught(opened(place / "llama"), tmp_path / "wide", hidden=1.0)


def test_a_teacher_of_another_kind_of_answer_is_refused(place: Path, tmp_path: Path) -> None:
    teacher = saved(opened(place / "bert"), tmp_path / "teacher")
    with pytest.raises(UserError, match="is an encoder, which cannot write text"):
        taught(opened(place / "llama"), teacher)
    with pytest.raises(UserError, match="holds no classifier whose labels it names"):
        taught(opened(place / "bert"), place / "bert")


def run(place: Path, base: str, techniques: str, *changes: str, task: str = "", name: str = "s") -> tuple[Run, Store]:
    task = task or (LABEL if base in ("bert", "mpnet") else WRITE)
    text = RECIPE.format(name=name, task=task, base=base, techniques=techniques)
    loaded = loads(text, folder=place, changes=changes)
    store = flow.store_for(loaded)
    return flow.run(loaded, store), store


def weights(done: Run) -> dict[str, torch.Tensor]:
    (file,) = (done.artifacts["model"].path / "model").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "technique"), [("llama", "full"), ("llama", "{kind: lora, rank: 2}"), ("bert", "full")]
)
def test_a_share_of_nothing_is_training_without_a_teacher(place: Path, base: str, technique: str) -> None:
    plain, _ = run(place, base, f"[{technique}]")
    distil = f"{{kind: distil, teacher: {base}, share: 0}}"
    found, _ = run(place, base, f"[{technique}, {distil}]")
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(found)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama", "t5", "bert"])
def test_a_student_of_fewer_blocks_learns_what_its_teacher_says(place: Path, tmp_path: Path, base: str) -> None:
    """The teacher is exported by Luthier, and the student that learned from it stands nearer to it than one that did not."""
    teacher, store = run(place, base, "[full]", "train.epochs=4", "train.learning_rate=1e-2", name="teacher")
    folder = export(store, teacher.name, "hf", "float32", tmp_path / "teacher")
    change = ("train.epochs=3", "train.learning_rate=3e-3")
    far, _ = run(place, base, f"[full, {{kind: distil, teacher: {folder}, share: 0, layers: [0]}}]", *change)
    near, _ = run(
        place, base, f"[full, {{kind: distil, teacher: {folder}, share: 1, hidden: 0.5, layers: [0]}}]", *change
    )
    assert near.facts.trained.parameters < teacher.facts.trained.parameters
    config = json.loads((near.folder / "model" / "config.json").read_text())
    assert config["num_layers" if base == "t5" else "num_hidden_layers"] == 1
    wise = opened(folder)
    batch = examples_for(wise, 8)
    apart = []
    for done in (far, near):
        student = opened(done.folder / "model")
        with torch.no_grad():
            said = [objective_of(wise).outputs(each, batch, "logits").logits for each in (wise, student)]
        apart.append(float(softened(*said, 1.0).sum()))
    assert apart[1] < apart[0]
    assert {"distil.teacher"} <= set(near.artifacts["model"].manifest["inputs"])


@pytest.mark.slow
@pytest.mark.parametrize(("base", "teacher"), [("llama", "gpt2"), ("t5", "llama"), ("bert", "mpnet")])
def test_a_teachers_answers_become_what_is_learned(place: Path, base: str, teacher: str) -> None:
    wise, _ = run(
        place,
        teacher,
        "[full]",
        "train.epochs=8",
        "train.learning_rate=1e-2",
        name="wise",
        task=(LABEL if base == "bert" else LETTER).replace("kind", "other"),  # so that it is told what comes from it
    )
    folder, task = wise.folder / "model", LABEL if base == "bert" else LETTER
    done, _ = run(place, base, f"[full, {{kind: distil, teacher: {folder}, sequence: true}}]", task=task)
    step = done.facts.flow[-2]
    assert step.step == "answers of the teacher"
    assert step.adds_up
    assert step.kept == sum(done.facts.prepared.splits.values())
    told = {role: list(seams.read(done.artifacts[role].path / "train", Example)) for role in ("examples", "taught")}
    asked = {e.id: e for e in told["examples"]}
    assert len(told["taught"]) == done.facts.prepared.splits["train"]
    assert all(e.input == asked[e.id].input for e in told["taught"])
    assert {str(e.target) for e in told["taught"]} <= {"A", "B"}
    assert sum(e.target != asked[e.id].target for e in told["taught"]) > 0.7 * len(told["taught"])
    assert done.artifacts["tuned"].manifest["inputs"]["examples"]["id"] == done.artifacts["examples"].id
    manifest = done.artifacts["taught"].manifest
    assert set(manifest["inputs"]) == {"examples", "teacher"}


@pytest.mark.slow
def test_a_teacher_may_be_an_adapter_over_its_base(place: Path, tmp_path: Path) -> None:
    change = ("train.learning_rate=3e-2", "train.epochs=6")
    wise, store = run(place, "llama", "[{kind: lora, rank: 8}]", *change, name="adapter", task=LETTER)
    folder = export(store, wise.name, "peft", "float32", tmp_path / "adapter")
    with pytest.raises(UserError, match="is an adapter and needs its base model; name the base as teacher_base"):
        run(place, "llama", f"[full, {{kind: distil, teacher: {folder}}}]")
    (folder / "model.json").unlink()  # as others write it
    settings = f"teacher: {folder}, teacher_base: llama"
    done, _ = run(place, "llama", f"[full, {{kind: distil, {settings}, share: 0.9}}]")
    assert {"distil.teacher", "distil.teacher_base"} <= set(done.artifacts["model"].manifest["inputs"])
    other, _ = run(place, "llama", f"[full, {{kind: distil, {settings}, sequence: true}}]", task=LETTER)
    assert "taught" in other.artifacts
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["{kind: lora, rank: 2}", "{kind: freeze, layers: 1}"])
@pytest.mark.parametrize("base", ["llama", "bert", "t5"])
def test_it_combines_with_lora_and_freeze(place: Path, first: str, base: str, tmp_path: Path) -> None:
    folder = moved(place / base, tmp_path / "teacher")
    done, _ = run(place, base, f"[{first}, {{kind: distil, teacher: {folder}, share: 1}}]")
    plain, _ = run(place, base, f"[{first}]")
    assert weights(done).keys() == weights(plain).keys()
    assert any(not torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(done).items())
    assert done.facts.trained.trainable_parameters == plain.facts.trained.trainable_parameters


@pytest.mark.parametrize(
    ("techniques", "sentence"),
    [
        ("[full, {kind: distil, teacher: t, sequence: true, temperature: 3}]", "temperature: with `sequence`"),
        ("[full, {kind: distil, teacher: t, layers: [2, 1]}]", "layers: give rising numbers from 0"),
        ("[lora, {kind: distil, teacher: t, layers: [0]}]", "do not combine: an adapter stands on the whole base"),
        ("[replay, {kind: distil, teacher: t}]", "do not combine: the teacher does not answer the former task"),
        ("[dpo, {kind: distil, teacher: t}]", "both decide `losses`; use one of them"),
    ],
)
def test_what_does_not_fit_is_told_when_the_recipe_is_loaded(place: Path, techniques: str, sentence: str) -> None:
    with pytest.raises(Problems) as told:
        loads(RECIPE.format(name="s", task=WRITE, base="llama", techniques=techniques), folder=place)
    assert any(sentence in problem.sentence() for problem in told.value.problems)
