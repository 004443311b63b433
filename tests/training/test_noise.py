"""NEFTune: noise of the published size on what is read, for each example by its own length, and none on validation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from luthier import model as models
from luthier import neftune, used_embeddings
from luthier.batching import Encoded
from luthier.choice import find
from luthier.fit import gradients
from luthier.model import Head, Model, writing_head
from luthier.objectives import Objective
from luthier.techniques import Running

ALPHA, WIDTH = 5.0, 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {shape: tiny.build(root / shape, shape) for shape in ("llama", "t5", "bert")}


def loaded(folders: dict[str, Path], shape: str) -> Model:
    head = Head("AutoModelForSequenceClassification", ("a", "b")) if shape == "bert" else None
    folder = folders[shape]
    return models.load(folder, head or writing_head(models.architecture_of(folder)), device="cpu", precision="float32")


def some(shape: str) -> list[Encoded]:
    if shape == "bert":
        return [Encoded(ids=list(range(4, 4 + n)), targets=[n % 2], covers=1) for n in (3, 40)]
    if shape == "t5":
        return [Encoded(ids=list(range(4, 4 + n)), targets=[5, 6, 2], covers=3) for n in (3, 40)]
    return [Encoded(ids=list(range(4, 4 + n)), supervised=[False] + [True] * (n - 1), covers=n - 1) for n in (3, 40)]


def seen_by(model: Model, examples: list[Encoded], alpha: float) -> list[torch.Tensor]:
    """What the table gives out in a step, after noise, at each call."""
    found: list[torch.Tensor] = []
    objective = Objective.pick("classify" if model.head.labels else "causal")
    gradients(model, [examples], objective, Running())  # what is shown of a model once is shown now
    with neftune.noise(model, alpha):
        hooks = [
            table.register_forward_hook(lambda _, ids, out: found.append(out.detach().clone()))
            for table in neftune.tables(model.bare)
        ]
        torch.manual_seed(3)
        gradients(model, [examples], objective, Running())
        for hook in hooks:
            hook.remove()
    model.forward.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", ["llama", "t5", "bert"])
def test_each_example_gets_noise_by_its_own_length(folders: dict[str, Path], shape: str, packed: bool) -> None:
    model = loaded(folders, shape)
    model.packed = model.packed and packed
    examples = some(shape)
    plain, noisy = (seen_by(model, examples, alpha) for alpha in (0.0, ALPHA))
    added = noisy[0] - plain[0]
    parts = [added[0, :3], added[0, 3:43]] if model.packed else [added[0, :3], added[1, :40]]
    for length, part in zip((3, 40), parts, strict=True):
        size = ALPHA / math.sqrt(length * WIDTH)
        assert float(part.abs().max()) <= size * (1 + 1e-6)
        assert float(part.abs().max()) > 0.9 * size
        assert float(part.std()) == pytest.approx(size / math.sqrt(3), rel=0.25)  # of a uniform one
    if shape == "t5":  # what the decoder is given is as it was
        assert torch.equal(noisy[1], plain[1])
    again = seen_by(model, examples, ALPHA)
    assert torch.equal(again[0], noisy[0]), "the step's seed decides it"


def test_nothing_is_added_in_evaluation_nor_when_training_is_over(folders: dict[str, Path]) -> None:
    model = loaded(folders, "bert")
    texts = [example.ids for example in some("bert")]
    before = models.scored(model, texts)
    with neftune.noise(model, ALPHA):
        model.forward.eval()
        assert torch.equal(models.scored(model, texts), before)
        model.forward.train()
        assert not torch.equal(models.scored(model, texts), before)
    assert torch.equal(models.scored(model, texts), before)


def test_adapters_and_tables_of_used_rows_get_it_too(folders: dict[str, Path]) -> None:
    adapted = loaded(folders, "llama")
    find("techniques", "lora")(rank=2).start(adapted, {})  # type: ignore[attr-defined]
    plain, noisy = (seen_by(adapted, some("llama"), alpha) for alpha in (0.0, ALPHA))
    assert not torch.equal(plain[0], noisy[0])
    small = loaded(folders, "bert")
    with used_embeddings.alone(small.bare, np.arange(50)):
        plain, noisy = (seen_by(small, some("bert"), alpha) for alpha in (0.0, ALPHA))
    assert not torch.equal(plain[0], noisy[0])
