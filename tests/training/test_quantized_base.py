"""Adapters on a base in 4 bits: its bytes stay, what it computes is what bitsandbytes computes, and it is opened as it was."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier import flow, quantized, runs
from luthier.errors import Problems, UserError
from luthier.model import Head, Model, architecture_of, blocks, load, load_trained, merged, save, writing_head
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.store import Store
from luthier.techniques import Technique

pytestmark = pytest.mark.slow

HOW = {"type": "nf4", "double": True}
SHAPES = ["llama", "gemma3", "gpt2", "t5", "bert"]
LABELS = Head("AutoModelForSequenceClassification", ("A", "B"))
RECIPE = """\
version: 1
name: small
task: {{kind: {task}}}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: random, validation: 10, test: 20}}}}
encode: {{max_length: 48}}
train: {{precision: float32, epochs: 2, learning_rate: 1e-2, batch_size: 8, techniques: [quantized_base, {{kind: lora, rank: 4}}]}}
predict: {{engine: {{kind: torch, max_new_tokens: 6}}}}
score: {{latency_samples: 0}}
"""
WRITE = "standardize, table: table.csv, column: messy, target: kind"
LABEL = "classify, table: table.csv, text: messy, label: kind"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """New matrices are the same in each test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantized")
    for shape in SHAPES:
        tiny.build(root / shape, shape)
    with (root / "table.csv").open("w", newline="") as file:
        rows = [("AB"[n % 2], f"{n:03d} {'kg' if n % 2 else 'm'}") for n in range(80)]
        csv.writer(file).writerows([("kind", "messy"), *rows])
    return root


def opened(folder: Path, **settings: Any) -> Model:
    head = LABELS if architecture_of(folder) == "encoder" else writing_head(architecture_of(folder))
    return load(folder, head, device="cpu", precision="float32", **settings)


def said(model: Model) -> torch.Tensor:
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 7, 2]])}
    if model.architecture == "encoder-decoder":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return model.forward.eval()(**inputs).logits


def held(model: Model) -> dict[str, tuple[bytes, bytes]]:
    """The bytes of the 4-bit weights and of their scales."""
    return {
        name: (p.detach().numpy().tobytes(), p.quant_state.absmax.numpy().tobytes())
        for name, p in model.bare.named_parameters()
        if quantized.is_quantized(p)
    }


def by_table(module: torch.nn.Module) -> torch.Tensor:
    """The weights of a 4-bit module from its definition: of each number of 4 bits the value, times the scale of its block."""
    from bitsandbytes import functional

    state, packed = module.weight.quant_state, module.weight.data.flatten()
    scales = state.absmax
    if state.nested:
        scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    n = state.shape.numel()
    numbers = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n].long()
    return (state.code[numbers] * scales.repeat_interleave(64)[:n]).reshape(state.shape)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (7, 9), (384, 128)])
def test_what_is_computed_is_each_weights_nearest_value_times_its_blocks_scale(
    kind: str, double: bool, shape: tuple[int, int]
) -> None:
    """Also where rows are not whole blocks, for which the library's kernel takes the scales of other blocks."""
    from luthier.four_bits import weight_of

    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, x = torch.nn.Linear(shape[1], shape[0]), torch.randn(3, shape[1], requires_grad=True)
    module = quantized.four_bits(plain, {"type": kind, "double": double}, torch.float32)
    weight = plain.weight.detach()
    torch.testing.assert_close(weight_of(module), by_table(module))
    scales = torch.cat([block.abs().max().expand(len(block)) for block in weight.flatten().split(64)])
    nearest = module.weight.quant_state.code[
        (weight.flatten()[:, None] / scales[:, None] - module.weight.quant_state.code).abs().argmin(1)
    ]
    torch.testing.assert_close(weight_of(module).flatten(), nearest * scales, rtol=0, atol=2e-2 * float(scales.max()))
    found = module.eval()(x)
    torch.testing.assert_close(found, x @ by_table(module).T + plain.bias)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, by_table(module).sum(0).expand(3, -1))
    if shape[1] % 64 == 0:  # and this is what the library's own module says
        from bitsandbytes.nn import Linear4bit

        torch.testing.assert_close(Linear4bit.forward(module.train(), x), found)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_modules_of_the_blocks_are_held_and_nothing_else(place: Path, shape: str) -> None:
    plain, model = opened(place / shape), opened(place / shape, quantization=HOW)
    names = {name.rpartition(".")[0] for name in held(model)}
    known = blocks(model.bare)
    assert names
    assert all(any(name.startswith(f"{block}.") for block in known) for name in names)
    assert not [name for name in names if name.endswith((".wo", "lm_head", "classifier", "pooler.dense"))]
    same = dict(plain.bare.named_parameters())
    for name, parameter in model.bare.named_parameters():
        assert quantized.is_quantized(parameter) or torch.equal(parameter, same[name])
    assert quantized.n_weights(model.bare.parameters()) == quantized.n_weights(plain.bare.parameters())
    assert quantized.memory(model.bare) < quantized.memory(plain.bare)
    (note,) = model.notes[-1:]
    assert "of the base's weights are held in 4 bits (nf4): " in note


@pytest.mark.parametrize("shape", SHAPES)
def test_training_leaves_the_bytes_of_the_base(place: Path, shape: str) -> None:
    model = opened(place / shape, quantization=HOW)
    Technique.pick("quantized_base").start(model, {})
    Technique.pick({"kind": "lora", "rank": 2}).start(model, {})
    before, frozen = held(model), {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trains = model.trainable()
    assert trains
    assert all("lora_" in name or "modules_to_save" in name for name in trains)
    optimizer = torch.optim.AdamW(list(trains.values()), lr=1e-2)
    first = said(model)
    for _ in range(3):
        model.forward.train()
        inputs = {"input_ids": torch.tensor([[1, 5, 6, 7, 2]])}
        if model.architecture == "encoder-decoder":
            inputs["decoder_input_ids"] = inputs["input_ids"]
        model.forward(**inputs).logits.pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        said(model)  # an evaluation in between changes nothing either
    assert not torch.equal(said(model), first)
    assert held(model) == before
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_opened_as_it_was_trained_and_merged_into_the_same_weights_in_full(
    place: Path, tmp_path: Path, shape: str
) -> None:
    model = opened(place / shape, quantization=HOW)
    Technique.pick({"kind": "lora", "rank": 2}).start(model, {})
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.1)
    save(model, tmp_path / "out", base_name="b", extra={})
    assert json.loads((tmp_path / "out" / "model.json").read_text())["quantization"] == HOW
    assert {f.name for f in (tmp_path / "out").glob("*.safetensors")} == {"adapter_model.safetensors"}
    again = load_trained(tmp_path / "out", place / shape, device="cpu", precision="float32")
    assert held(again).keys() == held(model).keys()
    assert torch.equal(said(again), said(model))
    written = load_trained(tmp_path / "out", place / shape, device="cpu", precision="float32", dequantized=True)
    written.forward = written.bare = merged(written)
    assert not held(written)
    torch.testing.assert_close(said(written), said(model), rtol=1e-4, atol=1e-4)
    if shape == "gpt2":
        return  # its adapter stands beside a plain linear module, which its base in full precision has not
    plain = load_trained_in_full(tmp_path / "out", place / shape)
    further = (said(plain) - said(model)).abs().max()
    assert further > 20 * (said(written) - said(model)).abs().max(), "over the full base it would say something else"


def load_trained_in_full(folder: Path, base: Path) -> Model:
    told = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({k: v for k, v in told.items() if k != "quantization"}))
    return load_trained(folder, base, device="cpu", precision="float32")


def run(place: Path, base: str, *changes: str) -> tuple[Run, Store]:
    text = RECIPE.format(task=LABEL if base == "bert" else WRITE, base=base)
    loaded = loads(text, folder=place, changes=changes)
    store = flow.store_for(loaded)
    return flow.run(loaded, store), store


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama", "t5", "bert"])
def test_a_run_trains_answers_applies_and_is_exported(place: Path, tmp_path: Path, base: str) -> None:
    told: list[str] = []

    class Hearing:
        def progress(self, what: str, done: float, total: float, figures: object) -> None:
            pass

        def say(self, line: str) -> None:
            told.append(line)

    done, store = run(place, base)
    facts = done.facts.trained
    assert facts.adapter
    assert facts.base_parameters == sum(p.numel() for p in opened(place / base).bare.parameters())
    assert any("in 4 bits" in note for note in facts.notes)
    assert not store.verify()
    store.listener = Hearing()
    folder = runs.export(store, done.name, "hf", "float32", tmp_path / "out")
    (sentence,) = [line for line in told if "its logits differ by" in line]
    assert float(sentence.split("differ by ")[1].split()[0]) < 1e-4
    whole = opened(folder)
    trained = load_trained(done.folder / "model", place / base, device="cpu", precision="float32")
    torch.testing.assert_close(said(whole), said(trained), rtol=1e-4, atol=1e-4)
    runs.apply(store, done.name, place / "table.csv", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("techniques", "sentence"),
    [
        ("[quantized_base]", "quantized_base needs lora: weights in 4 bits cannot train, only matrices beside them"),
        ("[quantized_base, full]", "quantized_base and full do not combine"),
        ("[freeze, lora, quantized_base]", "quantized_base and freeze do not combine"),
    ],
)
def test_what_cannot_train_is_told_when_the_recipe_is_loaded(place: Path, techniques: str, sentence: str) -> None:
    with pytest.raises(Problems) as told:
        loads(RECIPE.format(task=WRITE, base="llama"), folder=place, changes=[f"train.techniques={techniques}"])
    assert any(sentence in problem.sentence() for problem in told.value.problems)


def test_without_the_library_its_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=r"need the library bitsandbytes; install it with: pip install 'luthier\[qlora\]'"
    ):
        opened(place / "llama", quantization=HOW)
