"""Private training does what its claim says: rows are drawn by chance, clipped, noised and counted; else it is refused."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pydantic import ValidationError

from luthier import flow
from luthier.accounting import Spent, epsilon
from luthier.batching import Encoded
from luthier.errors import Problems, UserError
from luthier.fit import gradients
from luthier.model import Head, Model, load, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.row_gradients import Watched
from luthier.techniques import Plan, Running, Technique, Together, conflicts
from luthier.techniques import private as privacy
from luthier.techniques.private import Private, PrivateRunning

pytestmark = pytest.mark.slow

SHAPES = {"bert": "encoder", "llama": "decoder", "t5": "encoder-decoder", "gemma3": "decoder", "gpt2": "decoder"}
CLASSIFY = """\
version: 1
name: private
task: {kind: classify, table: table.csv, text: text, label: kind}
base: {kind: folder, path: bert}
prepare: {split: {kind: random, validation: 6, test: 8}}
encode: {max_length: 16}
train:
  epochs: 2
  batch_size: 4
  learning_rate: 1e-3
  techniques: [full, {kind: private, noise: 1.0}]
score: {latency_samples: 0}
"""
WRITE = """\
version: 1
name: private
task: {kind: generate, table: table.csv, prompt_column: text, completion_column: kind}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 6, test: 8}}
encode: {max_length: 16}
train:
  epochs: 2
  batch_size: 4
  learning_rate: 1e-3
  techniques: [{kind: lora, rank: 2}, {kind: private, noise: 1.0}]
predict: {engine: {kind: torch, max_new_tokens: 2}}
score: {latency_samples: 0}
"""


@pytest.fixture(autouse=True)
def _known_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn from the system is fixed, so that what holds by chance alone holds each time."""
    monkeypatch.setattr(privacy, "new_seed", lambda: "5" * 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("private")
    for shape in (*SHAPES, "mpnet"):
        tiny.build(root / shape, shape)
    draw = random.Random(1)
    rows = [[f"{n % 17} {draw.randint(0, 999)}", "AB"[n % 2], f"o{n // 2}", 1 + n % 2] for n in range(44)]
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "kind", "owner", "weight"], *rows])
    return root


def model_of(place: Path, shape: str) -> Model:
    head = writing_head(SHAPES[shape]) if shape != "bert" else Head("AutoModelForSequenceClassification", ("a", "b"))  # type: ignore[arg-type]
    return load(place / shape, head, device="cpu", precision="float32")


def examples_of(shape: str, n: int) -> list[Encoded]:
    draw = random.Random(n)
    found = []
    for number in range(n):
        ids = [draw.randint(5, 200) for _ in range(4 + number % 5)]
        if shape == "bert":
            found.append(Encoded(ids, (), [number % 2], (), 1))
        elif shape == "t5":
            found.append(Encoded(ids, (), ids[:3], (), 3))
        else:
            found.append(Encoded(ids, [False, False, *[True] * (len(ids) - 2)], (), (), len(ids) - 2))
    return found


def started(model: Model, techniques: Sequence[Any], plan: Plan) -> Together:
    running = Together([Technique.pick(each).start(model, {}) for each in techniques])
    model.packed = False
    running.expect(plan)
    return running


def objective(shape: str) -> Objective:
    return Objective.pick("classify" if shape == "bert" else "causal")


TRAINED = {
    "full": ["full"],
    "lora": [{"kind": "lora", "rank": 2}],
    "dora": [{"kind": "lora", "rank": 2, "dora": True}],
    "freeze": [{"kind": "freeze", "layers": 1}, "full"],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trained", TRAINED)
def test_a_step_is_the_clipped_gradient_of_each_row_summed_and_divided_by_the_expected_batch(
    place: Path, shape: str, trained: str
) -> None:
    torch.manual_seed(0)
    model, examples, clip = model_of(place, shape), examples_of(shape, 9), 0.5
    blind = {"kind": "private", "noise": 1e-6, "clip": clip, "accountant": "rdp"}
    running = started(model, [*TRAINED[trained], blind], Plan(9, 6, 10))
    for name, parameter in model.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # else the matrices A have no gradient
    chosen = running.batches(3, [], [example.length for example in examples], 64)
    rows = [row for micro in chosen for row in micro]
    assert 1 < len(rows) < 9
    gradients(model, [[examples[row] for row in micro] for micro in chosen], objective(shape), running)
    found = {
        name: parameter.grad.clone() for name, parameter in model.trainable().items() if parameter.grad is not None
    }
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.trainable().items()}
    model.forward.zero_grad()
    lengths = []
    for row in rows:
        outputs = objective(shape).outputs(model, [examples[row]], "losses")
        (objective(shape).loss(outputs, [examples[row]]).sum() / examples[row].covers).backward()
        own = {name: p.grad for name, p in model.trainable().items() if p.grad is not None}
        lengths.append(sum(float(g.double().square().sum()) for g in own.values()) ** 0.5)
        for name, gradient in own.items():
            expected[name] += gradient * min(1.0, clip / lengths[-1])
        model.forward.zero_grad()
    assert max(lengths) > clip
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name] / 6, atol=2e-5), name


@pytest.mark.parametrize("shape", ["bert", "llama"])
def test_accumulation_changes_nothing_of_a_step_nor_does_computing_rows_one_by_one(place: Path, shape: str) -> None:
    examples = examples_of(shape, 12)
    found = []
    for budget, alone in ((4096, ""), (16, ""), (4096, "asked for")):
        torch.manual_seed(0)
        model = model_of(place, shape)
        techniques = ["freeze", "full", {"kind": "private", "noise": 0.5, "accountant": "rdp"}]
        running = started(model, techniques, Plan(12, 8, 10))
        of_private = running.running[-1]
        assert isinstance(of_private, PrivateRunning)
        of_private.compared, of_private.alone = [len(model.trainable()), 2], alone
        chosen = running.batches(1, [], [example.length for example in examples], budget)
        gradients(model, [[examples[row] for row in micro] for micro in chosen], objective(shape), running)
        assert of_private.alone == alone
        gradient = torch.cat([p.grad.flatten() for p in model.trainable().values() if p.grad is not None])
        found.append((sorted(row for micro in chosen for row in micro), len(chosen), gradient))
    rows, n_quick, quick = found[0]
    for same, n, other in found[1:]:
        assert rows == same and n > n_quick
        assert torch.allclose(quick, other, atol=1e-6)


def test_noise_has_the_deviation_that_is_counted_and_comes_with_an_empty_step_too(place: Path) -> None:
    model = model_of(place, "bert")
    running = started(model, ["full", {"kind": "private", "noise": 3.0, "clip": 0.2}], Plan(1000, 50, 10))
    running.batches(0, [], [5] * 1000, 64)
    assert gradients(model, [], objective("bert"), running) == 0.0
    noise = torch.cat([p.grad.flatten() for p in model.trainable().values() if p.grad is not None]) * 50
    assert len(noise) == sum(p.numel() for p in model.trainable().values()), "every weight that trains gets noise"
    n, deviation = len(noise), 3.0 * 0.2
    assert float(noise.var()) == pytest.approx(deviation**2, abs=3 * deviation**2 * (2 / n) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=3 * deviation / n**0.5)


def test_each_row_enters_a_step_by_its_own_chance(place: Path) -> None:
    model = model_of(place, "bert")
    running = started(model, ["full", {"kind": "private", "noise": 1.0}], Plan(200, 10, 10))
    steps = [running.batches(step, [], [5] * 200, 64) for step in range(500)]
    sizes = [sum(map(len, step)) for step in steps]
    rate, trials = 10 / 200, 200 * 500
    assert sum(sizes) / trials == pytest.approx(rate, abs=4 * (rate * (1 - rate) / trials) ** 0.5)
    assert np.var(sizes) == pytest.approx(200 * rate * (1 - rate), rel=0.3), "the sizes vary as a binomial's do"
    counts = np.bincount([row for step in steps for micro in step for row in micro], minlength=200)
    assert abs(counts - 500 * rate).max() < 5 * (500 * rate * (1 - rate)) ** 0.5, "no row is preferred"
    assert steps[3] == running.batches(3, [], [5] * 200, 64), (
        "a step that is taken again after a crash has the same rows"
    )


def test_what_is_drawn_does_not_follow_from_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    one, other = privacy.new_seed(), privacy.new_seed()
    assert one != other and len(one) == 64
    assert privacy.draw(one, 1, "noise").random() != privacy.draw(other, 1, "noise").random()
    assert privacy.draw(one, 1, "noise").random() != privacy.draw(one, 2, "noise").random()
    assert privacy.draw(one, 1, "noise").random() != privacy.draw(one, 1, "rows").random()


def test_dropout_comes_from_what_is_drawn_in_secret(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in ("1" * 64, "1" * 64, "2" * 64):
        monkeypatch.setattr(privacy, "new_seed", lambda seed=seed: seed)
        torch.manual_seed(0)
        running = started(model_of(place, "bert"), ["full", {"kind": "private", "noise": 1.0}], Plan(9, 3, 10))
        running.batches(0, [], [5] * 9, 64)
        found.append(float(torch.rand(1)))
    assert found[0] == found[1] != found[2]


def prepared(place: Path, text: str, *changes: str) -> tuple[Any, Any]:
    opened = loads(text, folder=place, changes=list(changes))
    return opened, flow.store_for(opened, root=place / f"store-{abs(hash((text, changes)))}")


def ran(place: Path, text: str, *changes: str) -> Any:
    opened, store = prepared(place, text, *changes)
    return flow.run(opened, store)


@pytest.fixture(scope="module")
def done(place: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy, "new_seed", lambda: "5" * 64)
        return ran(place, CLASSIFY)


def test_the_claim_stands_in_the_manifest_and_follows_from_the_steps(done: Any) -> None:
    claim = done.facts.trained.privacy
    assert (claim.rows, claim.steps, claim.steps_taken, claim.rate) == (30, 16, 16, 4 / 30)
    assert claim.delta == 30**-1.1
    spent = [Spent(1.0, claim.rate, 16)]
    assert claim.epsilon == claim.epsilon_prv == epsilon(spent, claim.delta, "prv")
    assert claim.epsilon_rdp == epsilon(spent, claim.delta, "rdp")
    assert done.artifacts["model"].manifest["facts"]["privacy"]["epsilon"] == claim.epsilon


def test_report_and_card_state_the_claim_and_what_it_leaves_out(done: Any) -> None:
    for page in ("report.html", "model/README.md"):
        text = (done.folder / page).read_text()
        assert f"{done.facts.trained.privacy.epsilon:.3g}" in text
        assert "Privacy" in text
        assert "validation and test" in text


def test_the_training_loss_which_is_of_single_rows_is_kept_nowhere(done: Any) -> None:
    entries = done.facts.history
    steps = [entry for entry in entries if "learning_rate" in entry]
    assert len(steps) == 16
    assert all(entry["loss"] is None and entry["tokens"] is None for entry in steps)
    assert done.facts.trained.final_loss is None and done.facts.trained.supervised_tokens is None


def test_the_seed_is_gone_when_training_has_ended(done: Any, place: Path) -> None:
    root = done.folder.parent.parent
    for file in root.rglob("*"):
        if file.is_file():
            assert b"5" * 64 not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (WRITE, ()),
        (WRITE, ("base.path=t5",)),
        (WRITE, ("base.path=gemma3", "train.techniques=[full, {kind: private, noise: 1.0}]")),
        (WRITE, ("base.path=t5", "train.techniques=[full, {kind: private, noise: 1.0}]")),
        (CLASSIFY, ("train.techniques=[{kind: lora, rank: 2}, {kind: private, noise: 1.0}]",)),
        (CLASSIFY, ("train.techniques=[{kind: freeze, layers: 1}, full, {kind: private, noise: 1.0}]",)),
        (CLASSIFY, ("base.path=mpnet",)),
    ],
)
def test_private_trains_every_architecture(place: Path, text: str, changes: tuple[str, ...]) -> None:
    facts = ran(place, text, *changes).facts
    assert facts.trained.privacy.steps_taken == 16
    assert facts.trained.precision == "float32"


def test_a_private_adapter_that_is_saved_and_loaded_says_what_it_said_in_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier import model as models

    kept: list[Model] = []
    save = models.save
    monkeypatch.setattr(models, "save", lambda model, *a, **k: (kept.append(model), save(model, *a, **k)))
    done = ran(place, WRITE, "seed=4")
    (trained,) = kept
    loaded = models.load_trained(done.artifacts["model"].path / "model", place / "llama", precision="float32")
    ids = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        one, other = (model.forward.eval()(input_ids=ids).logits for model in (trained, loaded))
        plain = loaded.forward.get_base_model()
        with loaded.forward.disable_adapter():
            base = plain(input_ids=ids).logits
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, base, atol=1e-5), "noise and gradients reached the adapter"
    said = [
        model.forward.generate(input_ids=ids, max_new_tokens=5, do_sample=False).tolist() for model in (trained, loaded)
    ]
    assert said[0] == said[1]


def test_the_noise_for_a_target_is_found_and_kept_to(place: Path) -> None:
    claim = ran(place, CLASSIFY, "train.techniques=[full, {kind: private, target_epsilon: 2}]").facts.trained.privacy
    assert 1.95 < claim.epsilon <= 2
    assert 0.5 < claim.noise < 1


def test_training_that_stops_early_is_counted_as_planned(place: Path) -> None:
    changes = ("train.stop={metric: loss, patience: 1}", "train.evaluate_every=0.125", "train.learning_rate=1e-9")
    claim = ran(place, CLASSIFY, *changes).facts.trained.privacy
    assert claim.steps_taken < claim.steps == 16
    assert claim.epsilon == epsilon([Spent(1.0, claim.rate, 16)], claim.delta, "prv") > claim.epsilon_of_steps_taken


class Killed(Exception):
    """The process ends here."""


def interrupted(place: Path, at: int, monkeypatch: pytest.MonkeyPatch, *changes: str) -> tuple[Any, Any]:
    """A training that ends at a step, with a checkpoint of the one before."""
    opened, store = prepared(place, CLASSIFY, "train.checkpoint_steps=1", f"name=at{at}", *changes)
    finish = PrivateRunning.finish

    def dies(self: PrivateRunning) -> None:
        if self.taken == at:
            raise Killed
        finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(PrivateRunning, "finish", dies)
        with pytest.raises(Killed):
            flow.run(opened, store)
    return opened, store


@pytest.mark.parametrize("at", [1, 5])
def test_a_training_that_is_killed_goes_on_with_the_same_noise_and_counts_every_step(
    place: Path, done: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, store = interrupted(place, at, monkeypatch)
    (checkpoint,) = store.work.glob("train-*/checkpoints/last/manifest.json")
    running = json.loads(checkpoint.read_text())["facts"]["running"]["1"]
    assert running["taken"] == at
    assert running["spent"] == epsilon([Spent(1.0, running["rate"], at)], running["delta"], "rdp") > 0
    monkeypatch.setattr(privacy, "new_seed", lambda: "7" * 64)  # another process would draw another one
    again = flow.run(opened, store)
    assert again.artifacts["model"].content == done.artifacts["model"].content
    assert again.facts.trained.privacy == done.facts.trained.privacy


# each: what is wrong, and the words of its refusal


def refused(place: Path, text: str, *changes: str) -> str:
    with pytest.raises((Problems, UserError)) as found:
        ran(place, text, *changes)
    problem = found.value
    return "; ".join(p.sentence() for p in problem.problems) if isinstance(problem, Problems) else problem.sentence()


def weighted(place: Path) -> str:
    with pytest.raises(UserError) as found:
        started(model_of(place, "bert"), [{"kind": "private", "noise": 1}], Plan(9, 3, 10, weighted=True))
    return found.value.sentence()


def fixed_batches(place: Path) -> str:
    """Batches that were not drawn: the loop of somebody else that calls only the moments of the gradient."""
    model = model_of(place, "bert")
    running = started(model, ["full", {"kind": "private", "noise": 1}], Plan(9, 3, 10))
    with pytest.raises(AssertionError) as found:
        gradients(model, [examples_of("bert", 3)], objective("bert"), running)
    return str(found.value)


def steps_without_rows(place: Path) -> str:
    model = model_of(place, "bert")
    running = started(model, ["full", {"kind": "private", "noise": 1}], Plan(9, 3, 10))
    running.batches(0, [], [5] * 9, 64)
    gradients(model, [], objective("bert"), running)
    with pytest.raises(AssertionError) as found:
        gradients(model, [], objective("bert"), running)
    return str(found.value)


def several_of_one(place: Path) -> str:
    return refused(place, CLASSIFY.replace("{kind: random, validation: 6, test: 8}", "{kind: grouped, by: owner}"))


def augmented(place: Path) -> str:
    from luthier.seams import Example, Label
    from luthier.stages import encode as stage

    found: list[Any] = []
    examples = [
        Example(str(n), "t", {"text": "a"}, Label("a"), entity=f"e{n}", parent="p" if n < 3 else "") for n in range(6)
    ]
    audit = stage.Audit.__new__(stage.Audit)
    audit.of_one = stage.Counter()
    for example in examples:
        audit.belongs(example)
    found.append(max(audit.of_one.values()))
    facts = type("Facts", (), {"most_of_one_entity": found[0]})()
    with pytest.raises(UserError) as problem:
        Private(noise=1).suits(facts)  # type: ignore[arg-type]
    return problem.value.sentence()


def resumed_otherwise(place: Path) -> str:
    """A checkpoint that another batch size was trained with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy, "new_seed", lambda: "5" * 64)
        _, store = interrupted(place, 3, patch, "seed=9")
        (checkpoints,) = store.work.glob("train-*/checkpoints")
        opened, other = prepared(
            place, CLASSIFY, "train.checkpoint_steps=1", "name=at3", "seed=9", "train.batch_size=5"
        )
        with pytest.raises(Killed):
            patch.setattr(PrivateRunning, "finish", lambda self: (_ for _ in ()).throw(Killed()))
            flow.run(opened, other)
        patch.undo()
        (target,) = other.work.glob("train-*/checkpoints")
        shutil.rmtree(target)
        shutil.copytree(checkpoints, target)
        with pytest.raises(UserError) as found:
            flow.run(opened, other)
    return found.value.sentence()


class Penal(Running):
    def penalty(self) -> torch.Tensor | None:
        return None


class Wrapping(Running):
    def losses(self, batch: Any, losses_B: torch.Tensor, outputs: Any) -> torch.Tensor:
        return losses_B


class Ordered(Running):
    def batches(self, *args: Any) -> Any:
        return []


def beside(running: type[Running]) -> Callable[[Path], str]:
    other = type("Other", (Technique,), {"running": running, "kind": "other", "__module__": "other"})
    return lambda place: conflicts([other(), Private(noise=1)])


def batch_norm(place: Path) -> str:
    model = model_of(place, "bert")
    model.bare.extra = torch.nn.BatchNorm1d(3)
    with pytest.raises(UserError) as found:
        Private(noise=1).start(model, {})
    return found.value.sentence()


def keeping(place: Path) -> str:
    """A base with a running mean of its own."""
    model = model_of(place, "bert")
    model.bare.register_buffer("mean", torch.zeros(1))
    running = started(model, ["full", {"kind": "private", "noise": 1}], Plan(9, 9, 10))
    model.bare.register_forward_pre_hook(lambda module, _: setattr(module, "mean", module.mean + 1))
    examples = examples_of("bert", 9)
    chosen = running.batches(0, [], [e.length for e in examples], 64)
    with pytest.raises(UserError) as found:
        gradients(model, [[examples[row] for row in micro] for micro in chosen], objective("bert"), running)
    return found.value.sentence()


def mixing(place: Path) -> str:
    """A base that sets every text beside the mean of its batch."""
    model = model_of(place, "bert")
    head = model.bare.classifier
    model.bare.dropout.register_forward_hook(lambda module, args, output: output - output.mean(0, keepdim=True))
    assert head is not None
    running = started(model, ["full", {"kind": "private", "noise": 1}], Plan(9, 9, 10))
    examples = [Encoded([5, 6, 7, 8 + n], (), [n % 2], (), 1) for n in range(9)]
    chosen = running.batches(0, [], [e.length for e in examples], 64)
    with pytest.raises(UserError) as found:
        gradients(model, [[examples[row] for row in micro] for micro in chosen], objective("bert"), running)
    return found.value.sentence()


def settings(**values: Any) -> Callable[[Path], str]:
    def wrong(place: Path) -> str:
        with pytest.raises(ValidationError) as found:
            Private(**values)
        return str(found.value)

    return wrong


def large_delta(place: Path) -> str:
    with pytest.raises(UserError) as found:
        started(model_of(place, "bert"), [{"kind": "private", "noise": 1, "delta": 0.01}], Plan(100, 3, 10))
    return found.value.sentence()


def no_bound(place: Path) -> str:
    with pytest.raises(UserError) as found:
        started(model_of(place, "bert"), [{"kind": "private", "noise": 1e-4}], Plan(100, 3, 10))
    return found.value.sentence()


def hinted(place: Path) -> str:
    text = WRITE.replace(
        "{kind: generate, table: table.csv, prompt_column: text, completion_column: kind}",
        "{kind: standardize, table: table.csv, column: text, target: kind, hints: [rules]}",
    )
    return refused(place, text)


def several_tasks(place: Path) -> str:
    task = "{kind: classify, table: table.csv, text: text, label: kind}"
    both = f"tasks: {{one: {{task: {task}}}, other: {{task: {task.replace('label: kind', 'label: owner')}}}}}"
    return refused(place, CLASSIFY.replace(f"task: {task}", both))


MISCONFIGURED: dict[str, tuple[Callable[[Path], str], str]] = {
    "weighted rows": (weighted, "some examples weigh more or less than others"),
    "fixed batches": (fixed_batches, "rows are drawn before their gradients are clipped"),
    "a step that drew no rows": (steps_without_rows, "a step without rows that were drawn is not counted"),
    "batches in another technique's order": (beside(Ordered), "both decide `batches`"),
    "several rows of one person": (several_of_one, "an entity has 2 training examples"),
    "several examples made from one": (augmented, "an entity has 3 training examples"),
    "resumed with another batch size": (resumed_otherwise, "its steps would be counted wrongly"),
    "delta that allows to show a row": (large_delta, "delta 0.01 is not below 1/100"),
    "no noise": (settings(noise=0), "greater than 0"),
    "noise that bounds nothing": (no_bound, "noise 0.0001 over 10 steps protects nobody"),
    "noise beside a target": (settings(noise=1, target_epsilon=3), "give either noise or target_epsilon"),
    "neither noise nor target": (settings(), "give either noise or target_epsilon"),
    "a penalty past the clipping": (beside(Penal), "private and other do not combine: a penalty reaches the weights"),
    "a loss over several rows": (beside(Wrapping), "private and other do not combine: a loss that another"),
    "batch normalisation": (batch_norm, "the base mixes the rows of a batch in extra"),
    "a base that mixes rows": (mixing, "what the base computes for one row depends on the other rows"),
    "a base that keeps something of rows": (keeping, "the base keeps something of the rows in mean"),
    "bfloat16": (lambda place: refused(place, CLASSIFY, "train.precision=bfloat16"), "private computes in float32"),
    "a penalty for what was known before": (
        lambda place: conflicts([Technique.pick({"kind": "ewc"}), Private(noise=1)]),
        "ewc do not combine: a penalty reaches",
    ),
    "rows of a former task": (
        lambda place: conflicts([Technique.pick({"kind": "replay"}), Private(noise=1)]),
        "private and replay do not combine: replayed rows",
    ),
    "several tasks": (several_tasks, "private trains one task"),
    "repeats": (lambda place: refused(place, CLASSIFY + "repeat: {seeds: 2}\n"), "repeat: private counts one training"),
    "a search": (
        lambda place: refused(place, CLASSIFY + "search: {space: {train.epochs: {choices: [1, 2]}}, trials: 2}\n"),
        "search: private counts one training",
    ),
    "hints that were learned from rows": (hinted, "private and task.hints do not combine"),
}


@pytest.mark.parametrize("case", MISCONFIGURED)
def test_a_training_whose_claim_would_be_wrong_is_refused(place: Path, case: str) -> None:
    wrong, words = MISCONFIGURED[case]
    assert words in wrong(place)


def test_one_example_of_several_is_protected_where_that_is_asked_for(place: Path) -> None:
    text = CLASSIFY.replace("{kind: random, validation: 6, test: 8}", "{kind: grouped, by: owner}")
    facts = ran(place, text, "train.techniques=[full, {kind: private, noise: 1.0, unit: example}]").facts
    assert facts.trained.privacy.unit == "example" and facts.encoded.most_of_one_entity == 2


def test_examples_are_never_packed_under_private(place: Path) -> None:
    from luthier.fit import start
    from luthier.recipe import TrainSettings

    model = model_of(place, "llama")
    assert model.packed
    start(model, TrainSettings(techniques=[Technique.pick("full"), Private(noise=1)]), {}, 0)
    assert not model.packed


def test_the_quick_way_is_compared_in_two_steps_and_anew_where_more_is_freed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, agrees = [], Watched.agrees

    def noted(self: Watched, losses_B: torch.Tensor) -> str:
        compared.append(len(self.parameters))
        return agrees(self, losses_B)

    monkeypatch.setattr(Watched, "agrees", noted)
    techniques = "train.techniques=[full, gradual, {kind: private, noise: 1.0}]"
    ran(place, CLASSIFY, techniques, "train.epochs=4", "name=freed")
    assert len(compared) == 8
    assert compared[::2] == compared[1::2] == sorted({*compared})


def test_every_row_of_an_embedding_table_gets_noise_whether_it_is_read_or_not(place: Path, done: Any) -> None:
    from luthier import model as models

    base = models.load(place / "bert", Head("AutoModelForSequenceClassification", ("A", "B")), precision="float32")
    trained = models.load_trained(done.artifacts["model"].path / "model", None, precision="float32")
    before, after = (m.bare.get_input_embeddings().weight for m in (base, trained))
    assert bool((before != after).any(dim=1).all())


def test_a_run_is_attacked_and_its_pages_say_how_that_went(place: Path, done: Any) -> None:
    store = flow.Store(done.folder.parent.parent)
    opened = store.openings(done.facts.prepared.test_split)
    again = flow.attack(store, done.name)
    found = again.facts.membership
    assert (found.attack, found.references, found.members, found.others) == ("loss", 0, 30, 8)
    assert 0 <= found.auc_interval[0] <= found.auc <= found.auc_interval[1] <= 1
    assert found.found is None, "eight rows are too few to count one in a hundred"
    for page in ("report.html", "model/README.md"):
        assert "Membership inference by the loss alone" in (again.folder / page).read_text()
    assert again.name == done.name
    assert len(store.openings(done.facts.prepared.test_split)) == len(opened) + 1, "the test split was looked at"


def test_references_are_trained_on_halves_that_hold_each_row_once(place: Path, done: Any) -> None:
    from luthier import seams
    from luthier.seams import Example

    store = flow.Store(done.folder.parent.parent)
    again = flow.attack(store, done.name, pairs=1)
    found = again.facts.membership
    assert (found.attack, found.references) == ("lira", 2)
    halves = [
        store.artifacts / made["id"]
        for role, made in again.artifacts["attack"].manifest["inputs"].items()
        if "half" in role
    ]
    rows = [{e.id for e in seams.read(half / "train", Example)} for half in halves]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 38, "all of training and test, and nothing of validation"
