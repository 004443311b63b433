"""Gradient checkpointing: the same gradients from less memory, for whole models and for adapters."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny
import torch
import transformers

from luthier import dropout, recompute
from luthier import model as models
from luthier.batching import Encoded
from luthier.choice import find
from luthier.errors import UserError
from luthier.fit import gradients
from luthier.model import Head, Model, writing_head
from luthier.objectives import Objective
from luthier.techniques import Running

SHAPES = ["gpt2", "bert", "t5"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {shape: tiny.build(root / shape, shape, dropout=0.1) for shape in SHAPES}


def loaded(folder: Path, shape: str) -> Model:
    head = Head("AutoModelForSequenceClassification", ("a", "b")) if shape == "bert" else None
    return models.load(folder, head or writing_head(models.architecture_of(folder)), device="cpu", precision="float32")


def some(shape: str) -> list[Encoded]:
    if shape == "bert":
        return [Encoded(ids=list(range(4, 4 + n)), targets=[n % 2], covers=1) for n in (3, 40, 9)]
    if shape == "t5":
        return [Encoded(ids=list(range(4, 4 + n)), targets=[5, 6, 2], covers=3) for n in (3, 40, 9)]
    return [Encoded(ids=list(range(4, 4 + n)), supervised=[False] + [True] * (n - 1), covers=n - 1) for n in (3, 40, 9)]


def step(model: Model, shape: str, wanted: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a step under dropout, and the bytes that were kept for them."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with dropout.quick(model.forward), recompute.blocks(model, wanted):
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradients(model, [some(shape)], Objective.pick("classify" if shape == "bert" else "causal"), Running())
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.forward.zero_grad(set_to_none=True)
    return found, kept


@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_computed_again_have_the_same_gradients(folders: dict[str, Path], shape: str, technique: str) -> None:
    model = loaded(folders[shape], shape)
    find("techniques", technique)().start(model, {})  # type: ignore[attr-defined]
    for name, parameter in model.named_parameters():  # B of an adapter is 0 at first, and then A has no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    plain, much = step(model, shape, False)
    again, little = step(model, shape, True)
    assert plain.keys() == again.keys() == model.trainable().keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(float(gradient.abs().max()) > 0 for name, gradient in plain.items() if "lora" in name)
    assert little < 0.8 * much
    assert not model.bare.is_activation_checkpointing


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_said_of_caches_that_nobody_asked_for(
    folders: dict[str, Path], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(folders[shape], shape)
    before = model.bare.config.to_dict()
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "warning", lambda _, text, *rest, **more: said.append(text))
    transformers.logging.get_logger("transformers").warning_once.__func__.cache_clear()
    step(model, shape, True)
    assert said == []
    assert model.bare.config.to_dict() == before, "an exported model keeps its settings"


def test_a_base_that_cannot_is_told_so(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(folders["bert"], "bert")
    monkeypatch.setattr(type(model.bare), "supports_gradient_checkpointing", False)
    with pytest.raises(UserError) as told, recompute.blocks(model, True):
        pass
    assert told.value.sentence().startswith("train.gradient_checkpointing: the base cannot compute its blocks again")
