"""The gradients of rows apart are those of a loop over them, whatever the layer, and are clipped to the bound."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from luthier.row_gradients import CannotSplit, MixesRows, Watched, held
from luthier.techniques.private import add_each, scales

pytestmark = pytest.mark.slow


class RootMean(nn.Module):
    """A norm as Llama has it, for which there is no rule."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Scaled(nn.Module):
    """An adapter as peft has IA3: its weights are in a dict and it computes with them itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.vectors = nn.ParameterDict({"default": nn.Parameter(torch.randn(width))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.vectors["default"]


class Net(nn.Module):
    """Embeddings with shared positions, a layer twice, a tied output: what makes rows hard to tell apart."""

    def __init__(self, layer: nn.Module, width: int, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, width, padding_idx=0)
        self.positions = nn.Embedding(9, width)
        self.layer = layer
        self.head = nn.Linear(width, 11, bias=not tied)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids) + self.positions(torch.arange(input_ids.shape[1])[None])
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


def losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids)
    return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def layer(draw: random.Random) -> tuple[nn.Module, int]:
    width = draw.choice([4, 6, 8, 12])
    makers: list[Any] = [
        lambda: nn.Linear(width, width, bias=draw.random() < 0.5),
        lambda: nn.LayerNorm(width),
        lambda: RootMean(width),
        lambda: Scaled(width),
        lambda: nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)),
    ]
    return draw.choice(makers)(), width


@pytest.mark.parametrize("case", range(30))
def test_norms_of_rows_equal_those_of_a_loop(case: int) -> None:
    draw = random.Random(case)
    torch.manual_seed(case)
    made, width = layer(draw)
    model = Net(made, width, tied=draw.random() < 0.5)
    ids = torch.randint(0, 11, (draw.randint(2, 6), draw.randint(2, 8)))
    watched = Watched(model, list(model.parameters()))
    watched.on = True
    by_rows = losses(model, ids)
    found = watched.norms(by_rows)
    assert watched.agrees(by_rows) == ""
    alone = []
    for row in ids:
        gradients = torch.autograd.grad(losses(model, row[None]).sum(), list(model.parameters()), allow_unused=True)
        alone.append(sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5)
    assert found.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("case", range(5))
def test_no_row_is_longer_than_the_bound_after_clipping(case: int) -> None:
    torch.manual_seed(case)
    model = Net(nn.Linear(8, 8), 8, tied=bool(case % 2))
    ids = torch.randint(0, 11, (5, 6))
    bound = 0.3
    watched = Watched(model, list(model.parameters()))
    watched.on = True
    by_rows = losses(model, ids)
    factors = scales(watched.norms(by_rows), bound)
    clipped = by_rows * factors.to(by_rows.dtype)
    for row in range(len(ids)):
        gradients = torch.autograd.grad(clipped[row], watched.parameters, retain_graph=True)
        length = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
        assert length <= bound * (1 + 1e-6)
        assert length == pytest.approx(bound, rel=1e-5), "gradients longer than the bound come out at it"
    clipped.sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    add_each(losses(model, ids), watched.parameters, bound)
    one_by_one = [p.grad for p in model.parameters() if p.grad is not None]
    for one, other in zip(together, one_by_one, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_short_gradient_is_left_as_it_is() -> None:
    assert scales(torch.tensor([0.0, 0.5, 4.0], dtype=torch.float64), 2.0).tolist() == pytest.approx(
        [1, 1, 0.5], rel=1e-5
    )


def test_a_batch_norm_is_seen_to_mix_rows() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    watched = Watched(model, list(model.parameters()))
    watched.on = True
    with pytest.raises(MixesRows):
        watched.exact_norms(model(torch.randn(4, 3))[:, 0])


def test_what_has_no_row_for_each_example_cannot_be_split() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 2)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids) + self.table(torch.tensor([1, 2, 3])).sum(0)

    model = Biased()
    watched = Watched(model, list(model.parameters()))
    watched.on = True
    rows = model(input_ids=torch.tensor([[1, 2], [3, 1]])).sum((1, 2))
    with pytest.raises(CannotSplit):
        watched.norms(rows)
    assert watched.agrees(rows) == "what Embedding gives has no row for each example"


def test_nothing_is_kept_while_a_model_is_not_watched() -> None:
    model = Net(nn.Linear(4, 4), 4, tied=False)
    watched = Watched(model, list(model.parameters()))
    model(input_ids=torch.ones(2, 3, dtype=torch.long))
    assert not watched.uses
    watched.on = True
    with torch.no_grad():
        model(input_ids=torch.ones(2, 3, dtype=torch.long))
    assert not watched.uses
    watched.remove()
    model(input_ids=torch.ones(2, 3, dtype=torch.long))
    assert not watched.uses


def test_weights_in_dicts_belong_to_the_module_that_computes_with_them() -> None:
    assert [name for name, _ in held(Scaled(2))] == ["vectors.default"]
