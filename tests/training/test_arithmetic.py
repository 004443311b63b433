"""The arithmetic of training: what is lowered, over what it is averaged, and that how it is computed changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny
import torch

from luthier import losses
from luthier import model as models
from luthier.batching import Encoded, cut, pack, plan
from luthier.choice import find
from luthier.fit import gradients, groups
from luthier.generate import generate
from luthier.model import Head, Model, writing_head
from luthier.objectives import Objective
from luthier.techniques import Running, Technique, conflicts

TEXT_SHAPES = ["llama", "gemma3", "gpt2", "t5"]
ALL_SHAPES = [*TEXT_SHAPES, "gemma", "mistral", "qwen2", "qwen3"]
PRECISIONS = ["float32", "bfloat16"]  # every processor computes both; bfloat16 keeps 8 bits, so 2^-8 = 0.004 of a value


def loaded_in(precision: str, folder: Path) -> Model:
    head = writing_head(models.architecture_of(folder))
    return models.load(folder, head, device="cpu", precision=precision)


def assert_near(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], precision: str, share: float) -> None:
    """Gradients agree: in float32 value by value to `share`; in bfloat16 each as a whole, to 3 % of its norm."""
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        if precision == "float32":
            torch.testing.assert_close(gradient, theirs[name], rtol=share, atol=share / 1000)
        else:
            assert float((gradient - theirs[name]).norm()) <= 0.03 * float(theirs[name].norm()) + 1e-5, name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {shape: tiny.build(root / shape, shape) for shape in [*ALL_SHAPES, "bert"]}


def some(shape: str, n: int = 9) -> list[Encoded]:
    draw = random.Random(4)
    found = []
    for _ in range(n):
        prompt, answer = ([draw.randint(4, 250) for _ in range(draw.randint(3, 12))] for _ in range(2))
        if shape == "t5":
            found.append(Encoded(ids=prompt, targets=[*answer, 2], covers=len(answer) + 1))
        else:
            carries = [False] * (1 + len(prompt)) + [True] * (1 + len(answer))
            found.append(Encoded(ids=[1, *prompt, *answer, 2], supervised=carries, covers=len(answer) + 1))
    return found


def taken(loaded: Model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in loaded.named_parameters() if p.grad is not None}
    loaded.forward.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_accumulated_micro_batches_have_the_gradient_of_one_big_batch(
    folders: dict[str, Path], shape: str, precision: str
) -> None:
    loaded = loaded_in(precision, folders[shape])
    examples, objective = some(shape), Objective.pick("causal")
    lengths = [e.length for e in examples]
    whole = gradients(loaded, [examples], objective, Running())
    expected = taken(loaded)
    divide = pack if loaded.packed else cut
    pieces = [[examples[i] for i in micro] for micro in divide(range(len(examples)), lengths, 40)]
    assert len(pieces) > 3
    summed = gradients(loaded, pieces, objective, Running())
    assert summed == pytest.approx(whole, rel=1e-6 if precision == "float32" else 1e-3)
    assert_near(taken(loaded), expected, precision, 1e-4)


@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_at_supervised_positions_is_the_loss_of_the_full_forward(
    folders: dict[str, Path], shape: str, frozen_head: bool, precision: str
) -> None:
    loaded = loaded_in(precision, folders[shape])
    if frozen_head:  # the chunked path, which never keeps logits
        loaded.bare.get_output_embeddings().weight.requires_grad_(False)
    examples = some(shape)
    mean = gradients(loaded, [examples], Objective.pick("causal"), Running())
    n = sum(e.covers for e in examples)
    mine = taken(loaded)
    total = torch.zeros(())
    for e in examples:  # one at a time, no padding, all logits, labels as transformers means them
        ids = torch.tensor([e.ids])
        with models.autocast(loaded):
            if shape == "t5":
                total = total + loaded.forward(input_ids=ids, labels=torch.tensor([e.targets])).loss * len(e.targets)
            else:
                labels = torch.where(torch.tensor([e.supervised]), ids, -100)
                total = total + loaded.forward(input_ids=ids, labels=labels).loss * e.covers
    (total / n).backward()
    assert mean == pytest.approx(float(total.detach() / n), rel=1e-5 if precision == "float32" else 2e-3)
    assert_near(mine, taken(loaded), precision, 2e-3)


def test_long_answers_are_computed_in_chunks_with_the_same_result() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(150, 16, requires_grad=True)
    weight, wanted = torch.randn(50, 16), torch.randint(0, 50, (150,))
    upstream = torch.rand(150)
    mine = losses.chunked_cross_entropy(hidden, weight, wanted)
    (mine * upstream).sum().backward()
    got, hidden.grad = hidden.grad, None
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, wanted, reduction="none")
    (expected * upstream).sum().backward()
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(got, hidden.grad)


def test_an_example_weight_scales_its_part_of_the_loss(folders: dict[str, Path]) -> None:
    loaded = loaded_in("float32", folders["llama"])
    light, heavy = some("llama", 2)
    heavy.weight = 3.0
    weighted = gradients(loaded, [[light, heavy]], Objective.pick("causal"), Running())
    heavy.weight = 1.0
    repeated = gradients(loaded, [[light, heavy, heavy, heavy]], Objective.pick("causal"), Running())
    assert weighted == pytest.approx(repeated, rel=1e-5)


def test_every_example_is_seen_once_in_an_epoch_and_micro_batches_hold_like_lengths() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(5, 60) for _ in range(333)]
    steps = plan(lengths, 16, 256, seed=3, epoch=0)
    seen = [i for step in steps for micro in step for i in micro]
    assert sorted(seen) == list(range(333))
    assert steps == plan(lengths, 16, 256, seed=3, epoch=0)
    assert steps != plan(lengths, 16, 256, seed=3, epoch=1)
    assert steps != plan(lengths, 16, 256, seed=4, epoch=0)
    computed = sum(len(micro) * max(lengths[i] for i in micro) for step in steps for micro in step)
    assert computed < 1.4 * sum(lengths)  # uncut batches of 16 compute 1.7 times as much
    assert all(
        len(micro) * max(lengths[i] for i in micro) <= 256 or len(micro) == 1 for step in steps for micro in step
    )


def test_packed_micro_batches_have_no_padding_and_stay_within_the_budget() -> None:
    lengths = [30, 10, 25, 50, 5, 90, 7]
    assert pack(range(7), lengths, 60) == [[0, 1], [2], [3, 4], [5], [6]]
    assert set(ALL_SHAPES) - {"t5", "gemma3"} | {"gemma3_text"} == models.PACKABLE


def test_weight_decay_spares_biases_and_norms(folders: dict[str, Path]) -> None:
    loaded = loaded_in("float32", folders["gpt2"])
    found = {group["name"]: group for group in groups(loaded, Running(), 1e-3, 0.1)}
    assert found["matrices"]["weight_decay"] == 0.1
    assert found["biases and norms"]["weight_decay"] == 0.0
    assert all(p.ndim < 2 for p in found["biases and norms"]["params"])
    assert sum(len(g["params"]) for g in found.values()) == len(list(loaded.named_parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "t5"])
@pytest.mark.parametrize("order", [("freeze", "lora"), ("lora", "freeze")])
def test_freeze_and_lora_together_train_adapters_above_the_frozen_layers_only(
    folders: dict[str, Path], shape: str, order: tuple[str, str]
) -> None:
    loaded = loaded_in("float32", folders[shape])
    made = {"freeze": find("techniques", "freeze")(layers=1), "lora": find("techniques", "lora")(rank=2)}
    for kind in order:
        made[kind].start(loaded, {})  # type: ignore[attr-defined]
    trained = list(loaded.trainable())
    assert trained
    assert all("lora" in name for name in trained)
    numbers = models.numbered_parameters(loaded.forward)
    assert {numbers[name] for name in trained} == {1}


def test_freeze_leaves_named_parameters_and_embeddings_alone(folders: dict[str, Path]) -> None:
    loaded = models.load(folders["bert"], Head("AutoModelForSequenceClassification", ("a", "b")), precision="float32")
    before = {n: p.detach().clone() for n, p in loaded.named_parameters()}
    find("techniques", "freeze")(layers=1, patterns=["*.pooler.*"]).start(loaded, {})  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(groups(loaded, Running(), 1e-2, 0.0), lr=1e-2)
    gradients(loaded, [[Encoded(ids=[1, 5, 6, 2], targets=[1], covers=1)]], Objective.pick("classify"), Running())
    optimizer.step()
    changed = {n for n, p in loaded.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not [n for n in changed if "embeddings" in n or "layer.0." in n or "pooler" in n]


def test_techniques_that_cannot_work_together_are_refused_with_the_reason() -> None:
    full, lora = Technique.pick("full"), Technique.pick("lora")
    reason = "full and lora do not combine: lora trains small matrices beside frozen weights, full trains the weights"
    assert conflicts([full, lora]) == reason
    assert conflicts([lora, Technique.pick("lora")]) == "lora is named twice; once is enough"
    assert conflicts([lora, Technique.pick("freeze")]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_batched_generation_writes_what_transformers_writes(
    folders: dict[str, Path], shape: str, precision: str
) -> None:
    loaded = loaded_in(precision, folders[shape])
    prompts = [e.ids[: max(3, len(e.ids) - 3)] for e in some(shape, 5)]
    written = generate(loaded, prompts, max_new_tokens=12, stop={2, 77}, batch=3)
    for prompt, answer in zip(prompts, written, strict=True):
        with models.autocast(loaded):
            expected = loaded.bare.generate(
                torch.tensor([prompt]),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=[2, 77],
                pad_token_id=0,
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            )[0].tolist()
        new = expected[1:] if shape == "t5" else expected[len(prompt) :]
        theirs = [t for t in new if t not in (2, 77)]
        assert len(answer.logprobs) == len(answer.tokens) + answer.finished
        if precision == "bfloat16" and answer.tokens != theirs:
            assert_parted_at_a_tie(loaded, prompt, answer.tokens, theirs, shape)
            continue
        assert answer.tokens == theirs
        assert answer.finished == any(t in (2, 77) for t in new)


def assert_parted_at_a_tie(loaded: Model, prompt: list[int], mine: list[int], theirs: list[int], shape: str) -> None:
    """Two greedy answers part only where the two tokens are level to within bfloat16: 2 % of the largest logit."""
    at = next(i for i, (a, b) in enumerate(zip([*mine, 2], [*theirs, 2], strict=False)) if a != b)
    pair = [[*tokens, 2][at] for tokens in (mine, theirs)]
    with torch.no_grad():
        if shape == "t5":
            logits = loaded.forward(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *mine[:at]]])
            ).logits
        else:
            logits = loaded.forward(input_ids=torch.tensor([[*prompt, *mine[:at]]])).logits
    last_V = logits[0, -1]
    assert abs(float(last_V[pair[0]] - last_V[pair[1]])) <= 0.02 * float(last_V.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("length", [30, 80])  # within and beyond gemma3's sliding window of 64
def test_a_shared_prefix_is_computed_once_with_the_same_answers(
    folders: dict[str, Path], shape: str, length: int, precision: str
) -> None:
    loaded = loaded_in(precision, folders[shape])
    prefix = [1, *range(40, 40 + length)]
    prompts = [e.ids[1:-3] for e in some(shape, 5)]
    apart = generate(loaded, [[*prefix, *p] for p in prompts], max_new_tokens=8, stop={2})
    shared = generate(loaded, prompts, max_new_tokens=8, stop={2}, prefix=prefix, batch=2)
    for prompt, mine, theirs in zip(prompts, shared, apart, strict=True):
        if precision == "bfloat16" and mine.tokens != theirs.tokens:
            assert_parted_at_a_tie(loaded, [*prefix, *prompt], mine.tokens, theirs.tokens, shape)
            continue
        assert mine.tokens == theirs.tokens
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4 if precision == "float32" else 0.05)
