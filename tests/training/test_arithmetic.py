"""The arithmetic of training: what is lowered, over what it is averaged, and that how it is computed changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny
import torch

from luthier import model as models
from luthier.batching import Encoded, cut, pack, plan
from luthier.choice import find
from luthier.fit import groups, one_step, schedule
from luthier.objectives import Objective
from luthier.techniques import Technique, conflicts

TEXT_SHAPES = ["llama", "gemma3", "gpt2", "t5"]
ALL_SHAPES = [*TEXT_SHAPES, "gemma", "mistral", "qwen2", "qwen3"]


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
            found.append(Encoded(ids=prompt, labels=[*answer, 2]))
        else:
            carries = [False] * (1 + len(prompt)) + [True] * (1 + len(answer))
            found.append(Encoded(ids=[1, *prompt, *answer, 2], supervised=carries))
    return found


def gradients(loaded: models.Loaded) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_accumulated_micro_batches_have_the_gradient_of_one_big_batch(folders: dict[str, Path], shape: str) -> None:
    loaded = models.load(folders[shape], purpose="text", device="cpu")
    examples, objective = some(shape), Objective.pick("causal")
    lengths = [e.length for e in examples]
    whole, n = one_step(loaded, [examples], objective, [])
    expected = gradients(loaded)
    divide = pack if models.packs(loaded) else cut
    pieces = [[examples[i] for i in micro] for micro in divide(range(len(examples)), lengths, 40)]
    assert len(pieces) > 3
    summed, n_again = one_step(loaded, pieces, objective, [])
    assert n == n_again == sum(e.n_supervised for e in examples)
    assert summed == pytest.approx(whole, rel=1e-6)
    for name, gradient in gradients(loaded).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("frozen_head", [False, True])
def test_loss_at_supervised_positions_is_the_loss_of_the_full_forward(
    folders: dict[str, Path], shape: str, frozen_head: bool
) -> None:
    loaded = models.load(folders[shape], purpose="text", device="cpu")
    if frozen_head:  # the chunked path, which never keeps logits
        loaded.model.get_output_embeddings().weight.requires_grad_(False)
    examples = some(shape)
    mean, n = one_step(loaded, [examples], Objective.pick("causal"), [])
    mine = gradients(loaded)
    total = torch.zeros(())
    for e in examples:  # one at a time, no padding, all logits, labels as transformers means them
        ids = torch.tensor([e.ids])
        if shape == "t5":
            total = total + loaded.model(input_ids=ids, labels=torch.tensor([e.labels])).loss * len(e.labels)
        else:
            labels = torch.where(torch.tensor([e.supervised]), ids, -100)
            total = total + loaded.model(input_ids=ids, labels=labels).loss * e.n_supervised
    (total / n).backward()
    assert mean == pytest.approx(float(total.detach() / n), rel=1e-5)
    for name, gradient in gradients(loaded).items():
        torch.testing.assert_close(mine[name], gradient, rtol=2e-3, atol=2e-6)


def test_long_answers_are_computed_in_chunks_with_the_same_result() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(150, 16, requires_grad=True)
    weight, wanted = torch.randn(50, 16), torch.randint(0, 50, (150,))
    upstream = torch.rand(150)
    mine = models.chunked_cross_entropy(hidden, weight, wanted)
    (mine * upstream).sum().backward()
    got, hidden.grad = hidden.grad, None
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, wanted, reduction="none")
    (expected * upstream).sum().backward()
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(got, hidden.grad)


def test_an_example_weight_scales_its_part_of_the_loss(folders: dict[str, Path]) -> None:
    loaded = models.load(folders["llama"], purpose="text", device="cpu")
    light, heavy = some("llama", 2)
    heavy.weight = 3.0
    weighted, _ = one_step(loaded, [[light, heavy]], Objective.pick("causal"), [])
    heavy.weight = 1.0
    repeated, _ = one_step(loaded, [[light, heavy, heavy, heavy]], Objective.pick("causal"), [])
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


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]), ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("cosine", 0, [1.0, 0.853553, 0.5, 0.146447]), ("linear", 2, [1 / 3, 2 / 3, 1.0, 0.5]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1.0, 0.5]),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule(kind: str, warmup: float, expected: list[float]) -> None:
    assert [schedule(step, 4, warmup, kind) for step in range(4)] == pytest.approx(expected, abs=1e-6)


def test_weight_decay_spares_biases_and_norms(folders: dict[str, Path]) -> None:
    loaded = models.load(folders["gpt2"], purpose="text", device="cpu")
    found = {group["name"]: group for group in groups(loaded.model, [], 1e-3, 0.1)}
    assert found["matrices"]["weight_decay"] == 0.1
    assert found["biases and norms"]["weight_decay"] == 0.0
    assert all(p.ndim < 2 for p in found["biases and norms"]["params"])
    assert sum(len(g["params"]) for g in found.values()) == len(list(loaded.model.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "t5"])
@pytest.mark.parametrize("order", [("freeze", "lora"), ("lora", "freeze")])
def test_freeze_and_lora_together_train_adapters_above_the_frozen_layers_only(
    folders: dict[str, Path], shape: str, order: tuple[str, str]
) -> None:
    loaded = models.load(folders[shape], purpose="text", device="cpu")
    made = {"freeze": find("techniques", "freeze")(layers=1), "lora": find("techniques", "lora")(rank=2)}
    for kind in order:
        loaded.model = made[kind].attach(loaded.model)  # type: ignore[attr-defined]
    trained = [n for n, p in loaded.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    assert {models.layer_of(name) for name in trained} == {1}


def test_freeze_leaves_named_parameters_and_embeddings_alone(folders: dict[str, Path]) -> None:
    loaded = models.load(folders["bert"], purpose="label", labels=["a", "b"], device="cpu")
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    find("techniques", "freeze")(layers=1, patterns=["*.pooler.*"]).attach(loaded.model)  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(groups(loaded.model, [], 1e-2, 0.0), lr=1e-2)
    one_step(loaded, [[Encoded(ids=[1, 5, 6, 2], label=1)]], Objective.pick("classify"), [])
    optimizer.step()
    changed = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not [n for n in changed if "embeddings" in n or "layer.0." in n or "pooler" in n]


def test_techniques_that_cannot_work_together_are_refused_with_the_reason() -> None:
    full, lora = Technique.pick("full"), Technique.pick("lora")
    reason = "full and lora do not combine: lora trains small matrices beside frozen weights, full trains the weights"
    assert conflicts([full, lora]) == reason
    assert conflicts([lora, Technique.pick("lora")]) == "lora is named twice; once is enough"
    assert conflicts([lora, Technique.pick("freeze")]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_batched_generation_writes_what_transformers_writes(folders: dict[str, Path], shape: str) -> None:
    loaded = models.load(folders[shape], purpose="text", device="cpu")
    prompts = [e.ids[: max(3, len(e.ids) - 3)] for e in some(shape, 5)]
    written = models.generate(loaded, prompts, max_new_tokens=12, stop={2, 77}, batch=3)
    for prompt, answer in zip(prompts, written, strict=True):
        expected = loaded.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=[2, 77], pad_token_id=0,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        )[0].tolist()  # fmt: skip
        new = expected[1:] if shape == "t5" else expected[len(prompt) :]
        assert answer.tokens == [t for t in new if t not in (2, 77)]
        assert answer.finished == any(t in (2, 77) for t in new)
        assert len(answer.logprobs) == len(answer.tokens) + answer.finished


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("length", [30, 80])  # within and beyond gemma3's sliding window of 64
def test_a_shared_prefix_is_computed_once_with_the_same_answers(
    folders: dict[str, Path], shape: str, length: int
) -> None:
    loaded = models.load(folders[shape], purpose="text", device="cpu")
    prefix = [1, *range(40, 40 + length)]
    prompts = [e.ids[1:-3] for e in some(shape, 5)]
    apart = models.generate(loaded, [[*prefix, *p] for p in prompts], max_new_tokens=8, stop={2})
    shared = models.generate(loaded, prompts, max_new_tokens=8, stop={2}, prefix=prefix, batch=2)
    assert [w.tokens for w in shared] == [w.tokens for w in apart]
    assert [x for w in shared for x in w.logprobs] == pytest.approx([x for w in apart for x in w.logprobs], abs=1e-4)
