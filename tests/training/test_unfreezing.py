"""Gradual unfreezing and learning rates by layer: what is held keeps its bytes, and what is freed moves as far as stated."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier import model as models
from luthier import token_arrays
from luthier.batching import Encoded
from luthier.checkpoint import Progress
from luthier.choice import find
from luthier.errors import UserError
from luthier.facts import Grouping
from luthier.fit import Watch, fit, groups, take_step
from luthier.fit import start as started
from luthier.model import Head, Model, writing_head
from luthier.objectives import Objective
from luthier.recipe import TrainSettings
from luthier.techniques import Technique, conflicts
from luthier.techniques._depth import layers
from luthier.techniques.gradual import stalled
from luthier.token_arrays import TokenArrays

pytestmark = pytest.mark.slow

SHAPES = ["bert", "llama", "t5"]  # encoder; decoder and encoder-decoder with heads tied to their embeddings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {shape: tiny.build(root / shape, shape) for shape in SHAPES}


@pytest.fixture
def learned(tmp_path: Path) -> dict[str, TokenArrays]:
    draw = random.Random(2)
    found: dict[str, list[Encoded]] = {shape: [] for shape in SHAPES}
    for n in range(12):
        ids = [draw.randint(4, 250) for _ in range(draw.randint(4, 9))]
        found["bert"].append(Encoded(ids=[1, *ids, 2], targets=[n % 2], covers=1))
        found["llama"].append(Encoded(ids=[1, *ids], supervised=[False, *[True] * len(ids)], covers=len(ids)))
        found["t5"].append(Encoded(ids=[*ids, 2], targets=[*ids[:3], 2], covers=4))
    for shape, examples in found.items():
        token_arrays.write(tmp_path / shape, examples)
    return {shape: TokenArrays(tmp_path / shape) for shape in SHAPES}


def loaded(folder: Path, shape: str) -> Model:
    head = Head("AutoModelForSequenceClassification", ("a", "b")) if shape == "bert" else None
    return models.load(folder, head or writing_head(models.architecture_of(folder)), device="cpu", precision="float32")


def objective_of(shape: str) -> Objective:
    return Objective.pick("classify" if shape == "bert" else "causal")


@dataclass
class Listening:
    """What training writes beside, and says."""

    checkpoints: Path
    said: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.said.append(line)

    def progress(self, *_: Any, **__: Any) -> None:
        pass


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {models.plain_name(name): parameter.detach().clone() for name, parameter in model.named_parameters()}


def trained(
    model: Model, examples: TokenArrays, shape: str, place: Path, losses: Sequence[float] = (), **settings: Any
) -> tuple[Progress, list[dict[str, torch.Tensor]], list[str]]:
    """Progress, the weights before and at each evaluation (after each epoch), and what was said."""
    seen, waiting, out = [weights(model)], list(losses), Listening(place)

    def evaluate(here: Model) -> dict[str, float]:
        seen.append(weights(here))
        return {"loss": waiting.pop(0) if waiting else 1.0}

    recipe = TrainSettings.model_validate(
        {"learning_rate": 1e-2, "batch_size": 4, "precision": "float32", "keep": "last", **settings}
    )
    watch = Watch(keep_best=False)
    progress = fit(model, examples, objective_of(shape), recipe, evaluate, watch, out, 1, {})  # type: ignore[arg-type]
    return progress, seen, out.said


def moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


TOP = {"bert": {"classifier", "pooler"}, "llama": {"model.norm"}, "t5": {"final_layer_norm"}}


def layer_of(name: str, shape: str) -> str:
    """By hand: which layer a parameter belongs to, in models of two blocks."""
    lists = {"bert": "layer", "llama": "layers", "t5": "block"}[shape]
    for number in (0, 1):
        if f".{lists}.{number}." in name:
            return f"block {number}"
    return "above the blocks" if any(part in name for part in TOP[shape]) else "embeddings"


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_are_divided_from_the_top_down(folders: dict[str, Path], shape: str) -> None:
    model = loaded(folders[shape], shape)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = layers(model)
    assert list(found) == ["above the blocks", "block 1", "block 0", "embeddings"]
    for layer, parameters in found.items():
        assert parameters
        assert {layer_of(names[id(parameter)], shape) for parameter in parameters} == {layer}
    assert sum(map(len, found.values())) == len(names)


def test_stacks_of_unlike_height_are_counted_from_the_top(folders: dict[str, Path]) -> None:
    model = loaded(folders["t5"], "t5")
    del model.bare.decoder.block[1]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {layer: {names[id(p)].split(".")[0] for p in parameters} for layer, parameters in layers(model).items()}
    assert found["block 1"] == {"encoder", "decoder"}
    assert found["block 0"] == {"encoder"}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_epoch_frees_what_is_stated_and_what_is_held_keeps_its_bytes(
    folders: dict[str, Path], learned: dict[str, TokenArrays], tmp_path: Path, shape: str, every: int
) -> None:
    model = loaded(folders[shape], shape)
    techniques = [{"kind": "gradual", "every": every}]
    progress, seen, said = trained(
        model, learned[shape], shape, tmp_path / "c", epochs=4 * every, techniques=techniques, weight_decay=0.1
    )
    # a tied head is no layer of its own, so the last block trains with the norms above it from the start
    order = [{"above the blocks"}, {"block 1"}, {"block 0"}, {"embeddings"}]
    order = order if shape == "bert" else [order[0] | order[1], *order[2:]]
    for epoch in range(4 * every):
        free = set().union(*order[: 1 + epoch // every])
        expected = {name for name in seen[0] if layer_of(name, shape) in free}
        assert moved(seen[epoch], seen[epoch + 1]) == expected, f"in epoch {epoch}"
        assert moved(seen[0], seen[epoch + 1]) == expected
    steps = [grouping["step"] for grouping in progress.groups]
    assert steps == [3 * every * n for n in range(len(order))]
    assert sum(line.startswith("trained from step") for line in said) == len(order)


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 1, False),
        ([1.0], 1, False),
        ([1.0, 0.9], 1, False),
        ([1.0, 1.0], 1, True),
        ([1.0, 1.1, 0.9], 2, False),
        ([1.0, 1.1, 1.0], 2, True),
    ],
)
def test_a_loss_stalls_when_none_of_the_last_is_below_the_best(
    losses: list[float], patience: int, expected: bool
) -> None:
    assert stalled(losses, patience) is expected


def test_at_a_plateau_a_block_is_freed_when_validation_no_longer_improves(
    folders: dict[str, Path], learned: dict[str, TokenArrays], tmp_path: Path
) -> None:
    model = loaded(folders["bert"], "bert")
    losses = [1.0, 0.9, 0.95, 0.91, 0.8, 0.8, 0.9, 0.9]  # two in a row that are no better: after epochs 4 and 7
    techniques = [{"kind": "gradual", "when": "plateau", "every": 2}]
    progress, seen, _ = trained(model, learned["bert"], "bert", tmp_path / "c", losses, epochs=8, techniques=techniques)
    assert [grouping["step"] for grouping in progress.groups] == [0, 3 * 4, 3 * 7]
    assert not [name for name in moved(seen[0], seen[4]) if layer_of(name, "bert") != "above the blocks"]
    assert {layer_of(name, "bert") for name in moved(seen[4], seen[7])} == {"above the blocks", "block 1"}


@pytest.mark.parametrize("order", [("lora", "gradual"), ("gradual", "lora")])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_lora_adapters_are_freed_block_by_block(
    folders: dict[str, Path], learned: dict[str, TokenArrays], tmp_path: Path, shape: str, order: tuple[str, str]
) -> None:
    model = loaded(folders[shape], shape)
    base = {id(p) for p in model.bare.parameters()}
    chosen = {"lora": {"kind": "lora", "rank": 2}, "gradual": {"kind": "gradual"}}
    progress, _, _ = trained(
        model, learned[shape], shape, tmp_path / "c", epochs=4, techniques=[chosen[kind] for kind in order]
    )
    names = [[group["name"] for group in grouping["groups"]] for grouping in progress.groups]
    assert len(names) == (3 if shape == "bert" else 2)  # the new head, block 1, block 0
    freed = progress.trained
    numbers = models.numbered_parameters(model.forward)
    adapters = [numbers[name] for name in freed if "lora_" in name]
    assert adapters == sorted(adapters, reverse=True)
    assert set(adapters) == {0, 1}
    assert not [name for name, p in model.trainable().items() if id(p) in base and "classifier" not in name]


@pytest.mark.parametrize("shape", SHAPES)
def test_under_sgd_each_parameter_moves_by_its_own_learning_rate(folders: dict[str, Path], shape: str) -> None:
    """w - lr / 2.6^depth * gradient, with the depth counted by hand."""
    model, objective = loaded(folders[shape], shape), objective_of(shape)
    settings = TrainSettings.model_validate(
        {"optimizer": {"kind": "sgd", "momentum": 0}, "learning_rate": 0.1, "techniques": ["discriminative"]}
    )
    running = started(model, settings, {}, 0)
    found = groups(model, running, 0.1, 0.0)
    optimizer = settings.optimizer.over(found)
    example = {
        "bert": Encoded(ids=[1, 5, 6, 2], targets=[1], covers=1),
        "llama": Encoded(ids=[1, 5, 6, 2], supervised=[False, True, True, True], covers=3),
        "t5": Encoded(ids=[5, 6, 2], targets=[7, 2], covers=2),
    }[shape]
    before, gradient = weights(model), {}
    model.forward.train()
    objective.loss(objective.outputs(model, [example], "losses"), [example]).sum().backward()
    for name, parameter in model.named_parameters():
        gradient[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / example.covers
    model.forward.zero_grad(set_to_none=True)
    state = Stepping(model, running, optimizer)
    take_step(state, [[example]], objective, 1e9)  # type: ignore[arg-type]
    depths = {"above the blocks": 0, "block 1": 1, "block 0": 2, "embeddings": 3}
    for name, parameter in model.named_parameters():
        rate = 0.1 / 2.6 ** depths[layer_of(name, shape)]
        torch.testing.assert_close(parameter.detach(), before[name] - rate * gradient[name], rtol=1e-5, atol=1e-7)
    assert [group["name"] for group in found] == list(depths)
    assert [group["lr"] for group in found] == pytest.approx([0.1, 0.0384615, 0.0147929, 0.0056896], rel=1e-5)


@dataclass
class Stepping:
    """What a step reads of the state of training."""

    model: Model
    running: Any
    optimizer: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)


def test_layers_spare_biases_and_norms_from_weight_decay(folders: dict[str, Path]) -> None:
    model = loaded(folders["bert"], "bert")
    running = started(model, TrainSettings.model_validate({"techniques": ["discriminative"]}), {}, 0)
    found = groups(model, running, 1.0, 0.1)
    assert [group["name"] for group in found][:3] == [
        "above the blocks: matrices",
        "above the blocks: biases and norms",
        "block 1: matrices",
    ]
    for group in found:
        assert group["weight_decay"] == (0.1 if group["name"].endswith("matrices") else 0.0)
        assert all((parameter.ndim >= 2) == group["name"].endswith("matrices") for parameter in group["params"])
    assert sum(len(group["params"]) for group in found) == len(list(model.named_parameters()))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shape", SHAPES)
def test_ulmfit_whole_freezes_unfreezes_and_divides_the_learning_rate(
    folders: dict[str, Path], learned: dict[str, TokenArrays], tmp_path: Path, shape: str, order: int
) -> None:
    model = loaded(folders[shape], shape)
    techniques = ["freeze", "gradual", "discriminative"][::order]
    progress, seen, said = trained(
        model, learned[shape], shape, tmp_path / "c", epochs=4, techniques=techniques, schedule="slanted_triangular"
    )
    last = Grouping(**progress.groups[-1])
    assert [group.name for group in last.groups] == ["above the blocks", "block 1", "block 0"]
    assert [group.learning_rate for group in last.groups] == pytest.approx([1e-2, 1e-2 / 2.6, 1e-2 / 2.6**2])
    assert not [name for name in moved(seen[0], seen[-1]) if layer_of(name, shape) == "embeddings"]
    history = (tmp_path / "c" / "history.jsonl").read_text()
    assert '"learning_rate": 0.0003125' in history  # the first of 12 steps: 1/32 of the peak
    sizes = {name: p.numel() for name, p in model.trainable().items()}
    assert sum(group.parameters for group in last.groups) == sum(sizes.values())
    assert said[-4:] == last.table()
    assert said[-4].split() == [
        "trained",
        "from",
        "step",
        f"{last.step + 1}",
        *["tensors", "parameters", "learning", "rate"],
        "weight",
        "decay",
    ]


def test_the_table_of_groups_is_told_for_every_run(
    folders: dict[str, Path], learned: dict[str, TokenArrays], tmp_path: Path
) -> None:
    model = loaded(folders["bert"], "bert")
    progress, _, said = trained(model, learned["bert"], "bert", tmp_path / "c", epochs=1, weight_decay=0.01)
    n = {
        name: [p.numel() for p in model.trainable().values() if (p.ndim >= 2) == (name == "matrices")]
        for name in ("matrices", "rest")
    }
    (grouping,) = progress.groups
    assert grouping == {
        "step": 0,
        "groups": [
            {
                "name": "matrices",
                "tensors": len(n["matrices"]),
                "parameters": sum(n["matrices"]),
                "learning_rate": 0.01,
                "weight_decay": 0.01,
            },
            {
                "name": "biases and norms",
                "tensors": len(n["rest"]),
                "parameters": sum(n["rest"]),
                "learning_rate": 0.01,
                "weight_decay": 0.0,
            },
        ],
    }
    assert said[:3] == Grouping(**grouping).table()
    # where the rows in use alone are trained, the table of embeddings counts whole, since the others would not move
    other = loaded(folders["bert"], "bert")
    small, _, _ = trained(other, learned["bert"], "bert", tmp_path / "d", epochs=1)
    assert [group["parameters"] for group in small.groups[0]["groups"]] == [sum(n["matrices"]), sum(n["rest"])]


def test_what_cannot_be_freed_step_by_step_is_refused(folders: dict[str, Path]) -> None:
    assert "gradual and prompt_tuning do not combine" in conflicts([Technique.pick("gradual"), Other()])
    assert "discriminative and prompt_tuning do not combine" in conflicts([Technique.pick("discriminative"), Other()])
    model = loaded(folders["bert"], "bert")
    find("techniques", "freeze")(layers=2).start(model, {})  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="what trains is one piece"):
        find("techniques", "gradual")().start(model, {})  # type: ignore[attr-defined]


class Other(Technique):
    """Stands for the one of that name."""


Other.kind = "prompt_tuning"
