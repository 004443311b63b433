"""What makes training quick changes nothing: packed encoders, embeddings in use, dropout by 16 bits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from luthier import dropout, fit, losses, used_embeddings
from luthier import model as models
from luthier.batching import Encoded
from luthier.fit import Watch, gradients
from luthier.model import Head, Model
from luthier.objectives import Objective
from luthier.recipe import TrainSettings
from luthier.store import Out, Silent
from luthier.techniques import Running
from luthier.token_arrays import TokenArrays, write

HEAD = Head("AutoModelForSequenceClassification", ("a", "b", "c"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("quick") / "bert", "bert")


def some(n: int = 11, highest: int = 250) -> list[Encoded]:
    draw = random.Random(6)
    return [
        Encoded([1, *(draw.randint(4, highest) for _ in range(draw.randint(1, 70))), 2], targets=[n % 3], covers=1)
        for n in range(n)
    ]


def loaded(folder: Path, precision: str = "float32") -> Model:
    return models.load(folder, HEAD, device="cpu", precision=precision, seed=3)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_a_packed_encoder_says_of_each_text_what_it_says_of_it_alone(
    folder: Path, precision: str, tolerance: float
) -> None:
    model, objective, batch = loaded(folder, precision), Objective.pick("classify"), some()
    assert model.packed
    with torch.no_grad(), models.autocast(model):
        together = objective.outputs(model, batch, "logits").logits
        model.packed = False
        alone = torch.cat([objective.outputs(model, [example], "logits").logits for example in batch])
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("precision", "share"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_packed_and_padded_have_the_same_gradients(folder: Path, precision: str, share: float) -> None:
    model, found = loaded(folder, precision), []
    for packed in (True, False):
        model.packed = packed
        gradients(model, [some()], Objective.pick("classify"), Running())
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.forward.zero_grad(set_to_none=True)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert float((gradient - found[1][name]).norm()) <= share * float(gradient.norm()) + 1e-5, name


def test_a_packed_encoder_is_saved_as_any_other(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    models.save(model, tmp_path / "out", base_name="b", extra={})
    assert "luthier" not in (tmp_path / "out" / "config.json").read_text()


def trained(folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch | None) -> dict[str, torch.Tensor]:
    """Weights after two epochs; with a monkeypatch all embeddings are trained as usual."""
    if monkeypatch is not None:
        monkeypatch.setattr(fit, "only_used", lambda *_: False)
    write(place / "train", some(40, highest=60))
    model = loaded(folder)
    settings = TrainSettings.model_validate(
        {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "precision": "float32"}
    )
    seen: list[bool] = []

    def evaluate(current: Model) -> dict[str, float]:
        table = current.bare.get_input_embeddings()
        seen.append(isinstance(table, used_embeddings.UsedEmbeddings))
        return {"loss": 1.0 / len(seen)}

    out = Out(place / "work", "train", Silent())
    fit.fit(model, TokenArrays(place / "train"), Objective.pick("classify"), settings, evaluate, Watch(), out, 0, {})
    assert seen == [monkeypatch is None] * 2
    assert type(model.bare.get_input_embeddings()) is nn.Embedding
    assert all(parameter.requires_grad for _, parameter in model.named_parameters())
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_training_the_embeddings_in_use_alone_gives_the_very_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("few", "all"):
        (tmp_path / name).mkdir()
    few = trained(folder, tmp_path / "few", None)
    everything = trained(folder, tmp_path / "all", monkeypatch)
    before = dict(loaded(folder).named_parameters())
    assert few.keys() == everything.keys()
    name = next(name for name in few if "word_embeddings" in name)
    assert torch.equal(few[name][100:], before[name][100:]), "nobody reads these tokens"
    assert not torch.equal(few[name][4:60], before[name][4:60])
    for name, weights in few.items():
        # the norm of the gradients is summed in another order: the last bits may differ
        torch.testing.assert_close(weights, everything[name], rtol=1e-4, atol=1e-5)


def test_a_padding_token_that_no_example_holds_is_in_use_all_the_same(tmp_path: Path) -> None:
    model = models.load(tiny.build(tmp_path / "gpt2", "gpt2"), HEAD, device="cpu", precision="float32")
    model.tokenizer.pad_token = "z"
    write(tmp_path / "train", [Encoded([5, 6, 7][: 1 + n % 3], targets=[n % 3], covers=1) for n in range(12)])
    settings = TrainSettings.model_validate({"epochs": 1, "batch_size": 6, "precision": "float32"})
    arrays, out = TokenArrays(tmp_path / "train"), Out(tmp_path / "work", "train", Silent())
    done = fit.fit(model, arrays, Objective.pick("classify"), settings, lambda _: {}, Watch(), out, 0, {})
    assert done.stopped == "finished"


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_so_many_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1000, 1001, requires_grad=True)
    found = dropout.dropped(ones, p)
    n = found.numel()
    assert abs(float((found == 0).sum()) - n * p) < 5 * (n * p * (1 - p)) ** 0.5
    assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.01)
    assert found[found > 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    found.sum().backward()
    assert torch.equal(ones.grad, found.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout.dropped(ones, p), found)


def test_dropout_is_quick_inside_the_block_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with dropout.quick(model):
        assert type(model[1]) is dropout.Dropout
        model.eval()
        assert torch.equal(model[1](torch.ones(9)), torch.ones(9))
    assert type(model[1]) is nn.Dropout


def test_a_head_is_plain_only_where_nothing_follows_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Gemma2Config

    capped = Gemma2Config(
        vocab_size=tiny.sizes(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=64,
        final_logit_softcapping=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(capped).save_pretrained(tmp_path / "capped")
    tiny.tokenizer().save_pretrained(tmp_path / "capped")
    tiny.build(tmp_path / "plain", "llama")
    found = {
        name: models.load(tmp_path / name, models.writing_head("decoder"), device="cpu") for name in ("capped", "plain")
    }
    assert {name: losses.head_kind(model) for name, model in found.items()} == {"capped": "selected", "plain": "plain"}
