"""Optimizers: each step by hand, what one is refused for, and that unread rows may be left out where it says so."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch

from luthier import used_embeddings
from luthier.errors import UserError
from luthier.optimizers import Optimizer
from luthier.recipe import TrainSettings
from luthier.techniques import learning_rate_for

W = [[0.5, -1.0], [2.0, 0.25]]
G = [[[0.1, -0.2], [0.3, 0.4]], [[-0.5, 0.1], [0.2, 0.0]]]  # of two steps


def stepped(block: Any, weights: Any, gradients: Any, lr: float = 0.1, weight_decay: float = 0.0) -> torch.Tensor:
    parameter = torch.nn.Parameter(torch.tensor(weights))
    optimizer = Optimizer.pick(block).over([{"params": [parameter], "lr": lr, "weight_decay": weight_decay}])
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach()


def test_sgd_moves_by_momentum() -> None:
    # velocity: g1, then 0.9 g1 + g2
    expected = [0.5 - 0.1 * 0.1 - 0.1 * (0.9 * 0.1 - 0.5), -1.0 + 0.1 * 0.2 - 0.1 * (0.9 * -0.2 + 0.1)]
    assert stepped("sgd", W, G)[0].tolist() == pytest.approx(expected)
    # Nesterov: the gradient and 0.9 of the velocity after it
    expected = [0.5 - 0.1 * (0.1 + 0.9 * 0.1)]
    assert stepped({"kind": "sgd", "nesterov": True}, W, G[:1])[0, :1].tolist() == pytest.approx(expected)
    # decay is added to the gradient
    assert float(stepped({"kind": "sgd", "momentum": 0}, W, G[:1], weight_decay=0.5)[0, 0]) == pytest.approx(
        0.5 - 0.1 * (0.1 + 0.5 * 0.5)
    )


def test_adamw_moves_by_the_means_of_gradients_and_of_their_squares() -> None:
    w, m, v = 0.5, 0.0, 0.0
    for t, g in enumerate((0.1, -0.5), 1):
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w -= 0.1 * 0.01 * w
        w -= 0.1 * (m / (1 - 0.8**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-6)
    found = stepped({"kind": "adamw", "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}, W, G, weight_decay=0.01)
    assert float(found[0, 0]) == pytest.approx(w, rel=1e-6)


def test_adafactor_is_that_of_the_paper() -> None:
    """Algorithm 4 with row and column means: u = g / sqrt(r c / mean r), scaled down to a root mean square of 1."""
    w, r, c = torch.tensor(W).double(), torch.zeros(2).double(), torch.zeros(2).double()
    for t, gradient in enumerate(G, 1):
        g = torch.tensor(gradient).double()
        keep = 1 - t**-0.8
        squares = g**2 + 1e-30
        r, c = keep * r + (1 - keep) * squares.mean(1), keep * c + (1 - keep) * squares.mean(0)
        u = g / (r[:, None] * c[None] / r.mean()).sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()) / 1.0)
        w = w - 0.1 * u
    torch.testing.assert_close(stepped("adafactor", W, G).double(), w, rtol=1e-5, atol=1e-6)
    # a bias keeps its squares whole; by its own size where that is asked
    bias = [0.3, -0.4]
    size = math.sqrt((0.09 + 0.16) / 2)
    found = stepped({"kind": "adafactor", "scale_parameter": True}, bias, [[0.1, -0.2]])
    assert found.tolist() == pytest.approx([0.3 - 0.1 * size, -0.4 + 0.1 * size], rel=1e-5)


def test_adafactor_is_that_of_transformers_with_each_setting_in_its_place() -> None:
    from transformers.optimization import Adafactor

    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(4)]
    gradients = [[torch.randn(6, 4), torch.randn(4)] for _ in range(5)]
    chosen = {"beta1": 0.8, "decay_rate": 0.5, "clip_threshold": 0.3, "scale_parameter": True}

    def descend(over: Any) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = over([{"params": parameters, "lr": 0.1, "weight_decay": 0.01}])
        for step, pair in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            for parameter, gradient in zip(parameters, pair, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    mine = descend(Optimizer.pick({"kind": "adafactor", **chosen}).over)
    theirs = descend(lambda groups: Adafactor(groups, relative_step=False, **{**chosen, "decay_rate": -0.5}))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_adafactor_remembers_a_row_and_a_column_of_a_matrix() -> None:
    parameter = torch.nn.Parameter(torch.ones(30, 50))
    optimizer = Optimizer.pick("adafactor").over([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}])
    parameter.grad = torch.ones(30, 50)
    optimizer.step()
    kept = sum(v.numel() for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor))
    assert kept == 30 + 50 + 1  # and the root mean square of the parameter


def test_adam8bit_is_adamw_to_within_its_rounding() -> None:
    torch.manual_seed(0)
    start = torch.randn(64, 128)
    target = torch.randn(64, 128)

    def descend(kind: str) -> tuple[torch.Tensor, int]:
        parameter = torch.nn.Parameter(start.clone())
        optimizer = Optimizer.pick(kind).over([{"params": [parameter], "lr": 0.05, "weight_decay": 0.0}])
        for _ in range(30):
            parameter.grad = 2 * (parameter.detach() - target)
            optimizer.step()
        n_bytes = sum(v.nbytes for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor))
        return parameter.detach(), n_bytes

    (eight, small), (whole, large) = descend("adam8bit"), descend("adamw")
    assert float((eight - whole).norm()) < 0.05 * float((whole - start).norm())
    assert small < 0.3 * large


def test_adam8bit_is_refused_before_any_work_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as told:
        Optimizer.pick("adam8bit").check("mps")
    assert told.value.sentence().startswith("train.optimizer: adam8bit does not run on mps")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        Optimizer.pick("adam8bit").check("cpu")
    assert "needs the library bitsandbytes, which is not installed" in told.value.sentence()
    assert "pip install 'luthier[qlora]'" in told.value.sentence()


def test_sgd_asks_for_a_learning_rate_of_its_own() -> None:
    with pytest.raises(ValueError, match="learning_rate: sgd has no recommended one"):
        TrainSettings.model_validate({"optimizer": "sgd"})
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        Optimizer.pick({"kind": "sgd", "nesterov": True, "momentum": 0})
    assert TrainSettings.model_validate({"optimizer": "sgd", "learning_rate": 0.1}).optimizer.kind == "sgd"


@pytest.mark.parametrize(
    ("techniques", "expected"),
    [
        ([], 1e-5),
        (["full"], 1e-5),
        (["freeze"], 1e-5),
        (["lora"], 2e-4),
        (["freeze", "lora", "gradual"], 2e-4),
        (["full", "discriminative"], 1e-4),  # full has no opinion against another's
        (["discriminative", "full"], 1e-4),
    ],
)
def test_a_recipe_without_a_learning_rate_starts_low(techniques: list[str], expected: float) -> None:
    assert learning_rate_for(TrainSettings.model_validate({"techniques": techniques}).techniques) == expected


class Reading(torch.nn.Module):
    """An embedding with a layer above it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(300, 16)
        self.top = torch.nn.Linear(16, 1)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def set_input_embeddings(self, module: torch.nn.Module) -> None:
        self.embed = module

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.top(self.embed(ids)).square().sum()


@pytest.mark.parametrize("block", ["adamw", "sgd", {"kind": "sgd", "nesterov": True}, {"kind": "sgd", "momentum": 0}])
def test_training_the_rows_in_use_alone_changes_no_bit(block: Any) -> None:
    import numpy as np

    def trained(used: np.ndarray | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Reading()
        with used_embeddings.alone(model, used):
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer = Optimizer.pick(block).over([{"params": parameters, "lr": 0.1, "weight_decay": 0.0}])
            for step in range(5):
                model.train()
                model(torch.tensor([[3, 5, 7 + step]])).backward()
                optimizer.step()
                optimizer.zero_grad()
            assert (sum(parameter.numel() for parameter in parameters) < 4000) == (used is not None)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    whole, small = trained(None), trained(np.array([3, 5, 7, 8, 9, 10, 11]))
    assert all(torch.equal(whole[name], small[name]) for name in whole)


def test_those_whose_steps_depend_on_the_whole_table_say_so() -> None:
    assert [kind for kind in ("adafactor", "adam8bit", "adamw", "sgd") if Optimizer.pick(kind).unmoved] == [
        "adamw",
        "sgd",
    ]
