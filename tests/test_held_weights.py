"""Answering in bfloat16: weights are rounded once and the head multiplies rows alone, and every bit stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch.profiler import ProfilerActivity, profile

from luthier.engines import Request
from luthier.engines.torch import Torch, TorchSession
from luthier.generate import flat_head, generate, scores
from luthier.model import Head, Model, autocast, hold_casts, load, writing_head
from luthier.techniques import Technique

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPTS = [[5, 6, 7, 8, 9, 10], [9, 8, 7], [20, 21, 22, 23]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("bases"), {}

    def build(shape: str) -> Path:
        if shape not in made:
            made[shape] = tiny.build(root / shape, shape)
        return made[shape]

    return build


def opened(folder: Path, technique: str = "", precision: str = "bfloat16") -> Model:
    """A model in bfloat16; with an adapter of weights that say something, where a technique is named."""
    kind = {"bert": "encoder", "t5": "encoder-decoder"}.get(folder.name, "decoder")
    head = writing_head(kind) if kind != "encoder" else Head("AutoModelForSequenceClassification", ("a", "b"))  # type: ignore[arg-type]
    model = load(folder, head, device="cpu", precision=precision)
    if technique:
        torch.manual_seed(0)
        Technique.pick({"kind": "lora", "rank": 4, "dora": technique == "dora"}).start(model, {})
        for name, parameter in model.forward.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
        model.forward.eval()
    return model


def linear(model: Model) -> list[torch.dtype]:
    """Precision of the weight of each linear module of the model's own."""
    return [module.weight.dtype for module in model.forward.modules() if type(module) is torch.nn.Linear]


@pytest.mark.parametrize("technique", ["", "lora"])
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "qwen2", "t5", "bert"])
def test_held_weights_change_no_bit_of_what_a_model_says(
    base: Callable[[str], Path], shape: str, technique: str
) -> None:
    model, former = (opened(base(shape), technique) for _ in range(2))
    hold_casts(model)
    assert set(linear(model)) <= {torch.bfloat16}
    if model.head.labels:
        assert scores(model, PROMPTS).tolist() == scores(former, PROMPTS).tolist()
    else:
        written = [generate(each, PROMPTS, max_new_tokens=9, stop={2}) for each in (model, former)]
        assert written[0] == written[1]
    table = model.bare.get_input_embeddings().weight
    assert table.dtype == torch.float32, "what is looked up was never rounded"


def test_a_model_that_reads_its_weights_in_another_way_stays_as_it_was(base: Callable[[str], Path]) -> None:
    model = opened(base("llama"), "dora")
    before = dict(model.forward.named_parameters())
    said = generate(model, PROMPTS, max_new_tokens=5, stop={2})
    hold_casts(model)
    assert generate(model, PROMPTS, max_new_tokens=5, stop={2}) == said
    assert dict(model.forward.named_parameters()) == before


def test_in_float32_nothing_is_held(base: Callable[[str], Path]) -> None:
    model = opened(base("llama"), precision="float32")
    hold_casts(model)
    assert set(linear(model)) == {torch.float32}


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_answering_casts_no_weight_and_copies_no_head(base: Callable[[str], Path], shape: str) -> None:
    session = Torch(max_new_tokens=3).open(base(shape), None, device="cpu", precision="bfloat16", max_length=64)
    assert isinstance(session, TorchSession)
    weights = {tuple(m.weight.shape) for m in session.model.bare.modules() if type(m) is torch.nn.Linear}
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        session.answer([Request("a b c")])
    found = [(event.name, [tuple(shape) for shape in event.input_shapes]) for event in seen.events()]
    assert not [shapes for name, shapes in found if name == "aten::_to_copy" and shapes[0] in weights]
    assert not [shapes for name, shapes in found if name == "aten::bmm" and shapes[1][-1] == tiny.sizes()]
    assert any(name == "aten::mm" and shapes[1][-1] == tiny.sizes() for name, shapes in found)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_head_that_gets_rows_alone_says_the_same(base: Callable[[str], Path], precision: str) -> None:
    model = opened(base("gemma3"), "lora", precision)
    inputs = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]), "logits_to_keep": 1}
    with torch.inference_mode(), autocast(model):
        before = model.forward(**inputs).logits
        with flat_head(model):
            assert torch.equal(model.forward(**inputs).logits, before)
