"""Learning from better and worse answers: the published losses on numbers, references from before the first step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier import flow, runs, seams
from luthier.batching import Encoded
from luthier.encoding import Reading
from luthier.errors import Problems, UserError
from luthier.fit import gradients
from luthier.model import Head, Model, architecture_of, load, writing_head
from luthier.objectives import Objective
from luthier.objectives.preference import halves
from luthier.pairs import write_pairs
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.seams import Example, Preference
from luthier.store import Store
from luthier.tasks import Task
from luthier.techniques import Technique, Together, learning_rate_for
from luthier.techniques.dpo import dpo, ipo, key_of, kto

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: preferred
task: {kind: generate, table: pairs.jsonl, completion_column: chosen, rejected_column: rejected}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 12, test: 20}}
encode: {max_length: 64}
train: {precision: float32, epochs: 2, learning_rate: 1e-3, batch_size: 8, keep: last, techniques: [full, dpo]}
predict: {engine: {kind: torch, max_new_tokens: 4}}
score: {latency_samples: 0}
"""
VOTES = RECIPE.replace(
    "completion_column: chosen, rejected_column: rejected", "completion_column: said, good_column: good"
)
VOTES = VOTES.replace("dpo]", "{kind: dpo, loss: kto}]")
GENERATE = {"kind": "generate", "table": "t", "completion_column": "chosen"}
AHEAD = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dpo")
    for shape in ("llama", "gpt2", "t5", "bert"):
        tiny.build(root / shape, shape)
    with (root / "pairs.jsonl").open("w") as file:
        for n in range(80):
            said = {"said": f"{n}" if n % 3 else "no", "good": n % 3 > 0}
            file.write(json.dumps({"prompt": f"say {n}:", "chosen": f"{n}", "rejected": f"{n + 7}!", **said}) + "\n")
    return root


def opened(folder: Path) -> Model:
    return load(folder, writing_head(architecture_of(folder)), device="cpu", precision="float32")


def pairs_of(model: Model, objective: str = "preference", n: int = 5) -> list[Encoded]:
    """Pairs of unlike length and weight, or votes of which every other one is bad."""
    examples = [
        Example(
            str(k),
            "generate",
            {"text": f"say {k} {'x' * k}"},
            Preference(f"{k * 111}", f"no {k}" if objective == "preference" else "")
            if objective == "preference" or k % 2
            else Preference("", f"no {k}"),
            weight=1.0 + k % 2,
        )
        for k in range(n)
    ]
    task = Task.pick(GENERATE | ({"rejected_column": "r"} if objective == "preference" else {"good_column": "g"}))
    reading = Reading(model.tokenizer, model.architecture, (), 64)
    return Objective.pick(objective).encode(examples, task, reading)


def started(model: Model, examples: list[Encoded], objective: str = "preference", **settings: Any) -> Together:
    running = Together([Technique.pick({"kind": "dpo", **settings}).start(model, {})])
    running.before(examples, lambda batch, needs: Objective.pick(objective).outputs(model, batch, needs))
    return running


def test_the_losses_are_those_of_the_papers_on_three_numbers() -> None:
    beta = 0.1
    by_hand = [-math.log(1 / (1 + math.exp(-beta * h))) for h in (2.0, -1.0, 0.5)]
    torch.testing.assert_close(dpo(AHEAD, beta), torch.tensor(by_hand))
    smoothed = [
        -0.9 * math.log(1 / (1 + math.exp(-0.1 * h))) - 0.1 * math.log(1 / (1 + math.exp(0.1 * h)))
        for h in (2, -1, 0.5)
    ]
    torch.testing.assert_close(dpo(AHEAD, beta, 0.1), torch.tensor(smoothed))
    torch.testing.assert_close(ipo(AHEAD, beta), torch.tensor([(h - 5.0) ** 2 for h in (2.0, -1.0, 0.5)]))
    good = torch.tensor([True, False, True])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.1 * (2.0 - 0.3), 0.1 * (0.3 + 1.0), 0.1 * (0.5 - 0.3))]
    torch.testing.assert_close(
        kto(AHEAD, good, 0.3, beta, 2.0), torch.tensor([1 - sigmoid[0], 2 * (1 - sigmoid[1]), 1 - sigmoid[2]])
    )


def test_the_gradients_are_those_computed_by_hand() -> None:
    beta = 0.1
    share = [1 / (1 + math.exp(beta * h)) for h in (2.0, -1.0, 0.5)]  # sigmoid(-beta h)
    (found,) = torch.autograd.grad(dpo(AHEAD, beta).sum(), AHEAD)
    torch.testing.assert_close(found, torch.tensor([-beta * s for s in share]))
    (found,) = torch.autograd.grad(ipo(AHEAD, beta).sum(), AHEAD)
    torch.testing.assert_close(found, torch.tensor([2 * (h - 5.0) for h in (2.0, -1.0, 0.5)]))
    (found,) = torch.autograd.grad(kto(AHEAD, torch.tensor([True, False, True]), 0.0, beta, 1.0).sum(), AHEAD)
    slope = [s * (1 - s) for s in share]
    torch.testing.assert_close(found, torch.tensor([-beta * slope[0], beta * slope[1], -beta * slope[2]]))


@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5"])
def test_log_probabilities_are_those_of_each_answer_by_itself(place: Path, shape: str) -> None:
    model = opened(place / shape)
    batch = pairs_of(model)
    with torch.no_grad():
        found = Objective.pick("preference").outputs(model, batch, "losses").log_probs
        for pair, row in zip(batch, found, strict=True):
            for half, value in zip(halves(pair), row, strict=True):
                alone = Objective.pick("causal").outputs(model, [half], "logits")
                by_hand = alone.logits.log_softmax(-1).gather(1, alone.wanted[:, None]).sum()
                torch.testing.assert_close(value, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "t5"])
@pytest.mark.parametrize(("loss", "first"), [("dpo", math.log(2)), ("ipo", 25.0)])
def test_before_the_first_step_the_loss_is_that_of_no_difference(
    place: Path, shape: str, loss: str, first: float
) -> None:
    model = opened(place / shape)
    batch = pairs_of(model)
    running = started(model, batch, loss=loss)
    objective = Objective.pick("preference")
    assert gradients(model, [batch], objective, running) == pytest.approx(first, rel=1e-5)


def test_before_the_first_step_half_of_each_judged_answer_is_lost(place: Path) -> None:
    model = opened(place / "llama")
    batch = pairs_of(model, "vote")
    running = started(model, batch, "vote", loss="kto", bad_weight=3.0)
    weights = [e.weight * (1.0 if e.numbers[2] > 0 else 3.0) for e in batch]
    found = gradients(model, [batch], Objective.pick("vote"), running)
    assert found == pytest.approx(0.5 * sum(weights) / sum(e.weight for e in batch), rel=1e-5)


def test_a_gradient_of_the_model_is_the_chosen_answers_less_the_rejected_ones(place: Path) -> None:
    """At the start each pair weighs beta/2: the gradient is that much times the difference of two likelihood gradients."""
    model = opened(place / "llama")
    batch = pairs_of(model)
    running = started(model, batch)
    gradients(model, [batch], Objective.pick("preference"), running)
    found = {name: p.grad.clone() for name, p in model.trainable().items()}
    model.forward.zero_grad()
    said = Objective.pick("preference").outputs(model, batch, "losses").log_probs
    weights = torch.tensor([e.weight for e in batch])
    (-0.05 * weights / weights.sum() * (said[:, 0] - said[:, 1])).sum().backward()
    for name, parameter in model.trainable().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("objective", ["preference", "vote"])
def test_cutting_a_batch_changes_neither_loss_nor_gradient(place: Path, objective: str) -> None:
    model = opened(place / "llama")
    batch = pairs_of(model, objective)
    found = []
    for cut in ([batch], [[pair] for pair in batch]):
        running = started(model, batch, objective, **({"loss": "kto"} if objective == "vote" else {}))
        with torch.no_grad():
            model.bare.get_input_embeddings().weight += 0.01  # so that it is not where it was
        losses = [gradients(model, cut, Objective.pick(objective), running) for _ in range(2)]
        found.append((losses, [p.grad.clone() for p in model.trainable().values()]))
        model.forward.zero_grad()
        with torch.no_grad():
            model.bare.get_input_embeddings().weight -= 0.01
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_shift_of_kto_is_how_far_answers_to_other_prompts_have_gone_in_the_step_before(place: Path) -> None:
    model = opened(place / "llama")
    batch = pairs_of(model, "vote")
    running = started(model, batch, "vote", loss="kto")
    objective = Objective.pick("vote")
    with torch.no_grad():
        before = objective.outputs(model, batch, "losses").log_probs[:, 1]
        model.bare.get_input_embeddings().weight *= 1.5
        after = objective.outputs(model, batch, "losses").log_probs[:, 1]
    (own,) = running.running
    assert own.shift == 0.0
    gradients(model, [batch[:2], batch[2:]], objective, running)
    assert own.shift == pytest.approx(max(0.0, float((after - before).mean())), abs=1e-4)
    tensors, facts = running.state()
    again = Together([Technique.pick({"kind": "dpo", "loss": "kto"}).start(model, {})])
    again.restore(tensors, json.loads(json.dumps(facts)))
    assert (again.running[0].reference, again.running[0].shift) == (own.reference, own.shift)


def test_an_answer_to_another_prompt_stands_beside_a_judged_one(place: Path) -> None:
    model = opened(place / "llama")
    batch = pairs_of(model, "vote")
    texts = [[model.tokenizer.decode(half.ids, skip_special_tokens=True) for half in halves(e)] for e in batch]
    assert texts[1] == ["say 1 x111", "say 1 xno 2"]
    assert texts[4] == ["say 4 xxxxno 4", "say 4 xxxxno 0"]
    assert [e.numbers[2] for e in batch] == [-1, 1, -1, 1, -1]
    assert len({key_of(e) for e in batch}) == 5


def test_conversations_are_compared_by_their_last_answers_alone(place: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    model = opened(place / "llama")
    model.tokenizer.chat_template = template
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    example = Example("1", "generate", {"messages": talk}, Preference("good", "bad"))
    task = Task.pick(GENERATE | {"rejected_column": "r"})
    reading = Reading(model.tokenizer, model.architecture, (), 200)
    (pair,) = Objective.pick("preference").encode([example], task, reading)
    said = [
        model.tokenizer.decode([t for t, carries in zip(half.ids, half.supervised, strict=True) if carries])
        for half in halves(pair)
    ]
    assert said == ["good<eos>", "bad<eos>"]
    assert not list(Objective.pick("preference").audit(pair, example, task, reading))


def run(place: Path, text: str, *changes: str) -> tuple[Run, Store]:
    loaded = loads(text, folder=place, changes=changes)
    store = flow.store_for(loaded)
    return flow.run(loaded, store), store


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["full", "{kind: lora, rank: 4}"])
@pytest.mark.parametrize("base", ["llama", "t5"])
def test_chosen_answers_become_more_likely_than_rejected_ones(place: Path, technique: str, base: str) -> None:
    # the tiny model learns that a rejected answer ends in an exclamation mark
    done, _ = run(
        place,
        RECIPE,
        f"base.path={base}",
        f"train.techniques=[{technique}, {{kind: dpo, beta: 0.5}}]",
        "train.epochs=6",
        "train.learning_rate=1e-2",
    )
    told = [entry["validation"] for entry in done.facts.history if "validation" in entry]
    assert told[-1]["preference_accuracy"] == 1.0
    assert {"loss", "preference_accuracy"} == set(told[-1])
    steps = [entry["loss"] for entry in done.facts.history if "learning_rate" in entry]
    assert steps[0] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[-1] < 0.4
    targets = [str(p.target) for p in runs.predictions_of(done.artifacts["tuned"])]
    assert all(target.isdigit() for target in targets), "what was answered is compared with the chosen answer"


@pytest.mark.slow
def test_judged_answers_are_learned_from_and_bad_ones_never_tested_on(place: Path) -> None:
    done, _ = run(place, VOTES)
    step = next(step for step in done.facts.flow if step.step == "with a right answer")
    assert step.adds_up
    assert step.fates == {"no right answer to compare with": step.arrived - step.kept}
    assert step.fates["no right answer to compare with"] > 0
    examples = done.artifacts["examples"].path
    for split in ("validation", "test"):
        assert all(e.target.chosen for e in seams.read(examples / split, Example))
    assert any(not e.target.chosen for e in seams.read(examples / "train", Example))
    steps = [entry["loss"] for entry in done.facts.history if "learning_rate" in entry]
    assert steps[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.slow
def test_pairs_are_the_right_answers_beside_a_models_own_wrong_ones_on_training_rows(
    place: Path, tmp_path: Path
) -> None:
    plain = (
        RECIPE.replace(", rejected_column: rejected", "").replace("[full, dpo]", "[full]").replace("preferred", "plain")
    )
    done, store = run(place, plain, "train.epochs=8", "train.learning_rate=1e-2")
    told = write_pairs(store, done.name, tmp_path / "own.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    train = {e.id: e for e in seams.read(done.artifacts["examples"].path / "train", Example)}
    assert told["rows"] == len(train) == sum(told[fate] for fate in ("right", "cut", "empty", "pairs"))
    assert len(rows) == told["pairs"] > 0
    for row in rows:
        assert row["prompt"] == train[row["id"]].input["text"]
        assert row["chosen"] == str(train[row["id"]].target)
        assert row["rejected"].strip() not in ("", row["chosen"])
    assert done.facts.test_openings == runs.reopen(store, done.name).facts.test_openings, "the test stays shut"
    learned = loads(
        RECIPE.replace("pairs.jsonl", str(tmp_path / "own.jsonl")), folder=place, changes=["prepare.split=random"]
    )
    assert flow.prepared(learned, flow.store_for(learned)).facts["flow"][1]["kept"] == len(rows)
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        write_pairs(store, done.name, tmp_path / "own.jsonl")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.techniques=[full]", "answers that are better or worse are learned from by the technique dpo; add it"),
        (
            "train.techniques=[{kind: dpo, loss: kto}]",
            "with `loss: kto` learns from single answers that are good or bad",
        ),
        (
            "task={kind: generate, table: pairs.jsonl}",
            "learns from pairs of a better and a worse answer: use task generate",
        ),
        (
            "task={kind: classify, table: pairs.jsonl, text: prompt, label: chosen}",
            "learns from pairs of a better and a worse answer: use task generate",
        ),
        (
            "train.techniques=[{kind: dpo, loss: ipo, label_smoothing: 0.1}]",
            "label_smoothing is for `loss: dpo`, not ipo",
        ),
        ("train.techniques=[{kind: dpo, bad_weight: 2}]", "bad_weight is for `loss: kto`, not dpo"),
        ("train.techniques=[dpo, replay]", "dpo and replay do not combine: examples of a former task are no pairs"),
        (
            "tasks={a: {task: {kind: generate, table: a}}}",
            "dpo does not learn several tasks: it compares answers to one task",
        ),
        ("task.good_column=good", "rows are pairs of answers by rejected_column already"),
    ],
)
def test_what_does_not_fit_is_told_when_the_recipe_is_loaded(place: Path, change: str, sentence: str) -> None:
    with pytest.raises(Problems) as told:
        loads(RECIPE, folder=place, changes=[change])
    assert any(sentence in problem.sentence() for problem in told.value.problems)


def test_a_classification_head_is_refused(place: Path) -> None:
    model = load(place / "bert", Head("AutoModelForSequenceClassification", ("A", "B")), device="cpu")
    with pytest.raises(UserError, match="a classification head writes none"):
        Technique.pick("dpo").start(model, {})


def test_half_of_the_usual_learning_rate_is_recommended() -> None:
    assert learning_rate_for([Technique.pick("full"), Technique.pick("dpo")]) == 5e-6
    assert learning_rate_for([Technique.pick("dpo")]) == 5e-6
    assert learning_rate_for([Technique.pick("lora"), Technique.pick("dpo")]) == 1e-4
