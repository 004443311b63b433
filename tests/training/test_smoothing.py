"""Label smoothing: the published loss in training, on each way of computing it, and none of it on validation."""

from __future__ import annotations

import random
from pathlib import Path

import plugging
import pytest
import tiny
import torch

from luthier import losses
from luthier import model as models
from luthier.batching import Encoded
from luthier.errors import Problems
from luthier.fit import gradients
from luthier.model import Head, Model, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.stages.train import validation_loss
from luthier.techniques import Running

SHARE = 0.2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {shape: tiny.build(root / shape, shape) for shape in ("llama", "t5", "bert")}


def smoothed(logits_SV: torch.Tensor, wanted_S: torch.Tensor) -> torch.Tensor:
    """-(1 - e) log p(wanted) - e mean(log p), by its definition."""
    logs_SV = logits_SV.log_softmax(-1)
    return -(1 - SHARE) * logs_SV.gather(1, wanted_S[:, None])[:, 0] - SHARE * logs_SV.mean(-1)


def test_the_chunked_loss_is_smoothed_by_its_definition() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(150, 16, requires_grad=True)
    weight, wanted = torch.randn(50, 16), torch.randint(0, 50, (150,))
    upstream = torch.rand(150)
    mine = losses.chunked_cross_entropy(hidden, weight, wanted, SHARE)
    (mine * upstream).sum().backward()
    got, hidden.grad = hidden.grad, None
    expected = smoothed(hidden @ weight.T, wanted)
    (expected * upstream).sum().backward()
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(got, hidden.grad)


def three_answers(shape: str) -> list[Encoded]:
    draw = random.Random(1)
    found = []
    for n in range(3):
        prompt, answer = ([draw.randint(4, 250) for _ in range(3 + n)] for _ in range(2))
        if shape == "t5":
            found.append(Encoded(ids=prompt, targets=[*answer, 2], covers=len(answer) + 1))
        elif shape == "bert":
            found.append(Encoded(ids=[1, *prompt, 2], targets=[n % 2], covers=1))
        else:
            carries = [False] * len(prompt) + [True] * len(answer)
            found.append(Encoded(ids=[*prompt, *answer], supervised=carries, covers=len(answer)))
    return found


def loaded(folder: Path, shape: str) -> Model:
    head = Head("AutoModelForSequenceClassification", ("a", "b")) if shape == "bert" else None
    return models.load(folder, head or writing_head(models.architecture_of(folder)), device="cpu", precision="float32")


@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("shape", ["llama", "t5", "bert"])
def test_training_is_smoothed_and_validation_is_plain(folders: dict[str, Path], shape: str, frozen_head: bool) -> None:
    model = loaded(folders[shape], shape)
    objective = Objective.pick("classify" if shape == "bert" else "causal")
    if frozen_head and shape != "bert":
        model.bare.get_output_embeddings().weight.requires_grad_(False)
    examples = three_answers(shape)
    model.label_smoothing = SHARE
    found = gradients(model, [examples], objective, Running())
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.forward.zero_grad(set_to_none=True)
    outputs = objective.outputs(model, examples, "logits")
    labels = torch.tensor([example.targets[0] for example in examples]) if shape == "bert" else None
    wanted = outputs.wanted if labels is None else labels
    losses_S = smoothed(outputs.logits, wanted)
    losses_S.mean().backward()
    assert found == pytest.approx(float(losses_S.detach().mean()), rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in gradient:
            torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-6)
    model.forward.eval()
    smooth, model.label_smoothing = validation_loss(model, objective, examples), 0.0
    assert smooth == validation_loss(model, objective, examples)
    assert smooth != pytest.approx(found, rel=1e-4)


def test_what_is_no_choice_among_labels_is_not_smoothed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugging.use(plugging.plug_in(tmp_path / "package", tasks="tags", objectives="tagging"), monkeypatch)
    recipe = "version: 1\nname: x\ntask: {kind: tags, table: t}\nbase: {kind: folder, path: b}\n"
    try:
        with pytest.raises(Problems) as told:
            loads(recipe + "train: {label_smoothing: 0.1}\n", folder=tmp_path)
    finally:
        plugging.forget()
    assert "train.label_smoothing: what tags learns is no choice among tokens or labels to smooth" in str(told.value)
