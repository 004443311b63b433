"""Virtual tokens and prefixes: what they compute, that they alone train, and that plain peft says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny
import torch

from luthier.batching import Encoded
from luthier.choice import find
from luthier.errors import UserError
from luthier.fit import gradients
from luthier.fronts import cache, table_of
from luthier.generate import by_transformers, generate, scores
from luthier.model import Head, Model, architecture_of, load, load_trained, merged, probing, quiet, save, writing_head
from luthier.objectives import Objective
from luthier.techniques import Running

pytestmark = pytest.mark.slow

LABELS = Head("AutoModelForSequenceClassification", ("a", "b"))
KINDS = ("prompt_tuning", "prefix")
TOKENS = 4
TEXTS = [[5, 6, 7, 2], [8, 9, 10, 11, 12, 2], [30, 2]]
BUILT = ("bart", "opt", "gpt_neo", "t5gemma", "deepseek_v3", "distilbert", "mpnet", "mamba")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fronts")
    found = {each.name: each.build(root / each.name) for each in architectures.ALL if each.name in BUILT}
    return found | {name: tiny.build(root / name, name) for name in ("llama", "gemma3", "gpt2", "bert", "t5")}


def started(folder: Path, kind: str, head: Head | None = None, **settings: Any) -> Model:
    """A model with what stands before its texts, far from where it begins."""
    architecture = architecture_of(folder)
    head = head or (LABELS if architecture == "encoder" else writing_head(architecture))
    model = load(folder, head, device="cpu", precision="float32", seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        find("techniques", kind)(tokens=TOKENS, **settings).start(model, {})  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter in model.trainable().values():
                parameter.add_(0.5 * torch.randn(parameter.shape))
    return model


def vectors(model: Model) -> torch.Tensor:
    found: torch.Tensor = model.forward.prompt_encoder["default"].embedding.weight
    return found


def batch(model: Model) -> list[Encoded]:
    """Three examples to learn from."""
    if model.head.labels:
        return [Encoded(text, (), [n % 2], (), 1) for n, text in enumerate(TEXTS)]
    if model.architecture == "encoder-decoder":
        return [Encoded(text, (), [9, 8, 2][n:], (), 3 - n) for n, text in enumerate(TEXTS)]
    return [Encoded([*t, 9, 2], [False] * len(t) + [True] * 2, (), (), 2) for t in TEXTS]


def objective(model: Model) -> Objective:
    return Objective.pick("classify" if model.head.labels else "causal")


def losses(model: Model, examples: list[Encoded]) -> torch.Tensor:
    """(B,) nats, as training computes them."""
    with torch.no_grad():
        return objective(model).loss(objective(model).outputs(model, examples, "losses"), examples)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt"])
def test_virtual_tokens_are_vectors_put_before_those_of_the_text(folders: dict[str, Path], name: str) -> None:
    model = started(folders[name], "prompt_tuning")
    text = TEXTS[1]
    with torch.no_grad():
        said = model.forward(input_ids=torch.tensor([[*model.front, *text]])).logits[:, TOKENS:]
        by_hand = torch.cat([vectors(model), table_of(model)(torch.tensor(text))])[None]
        told = model.bare(inputs_embeds=by_hand).logits[:, TOKENS:]
    torch.testing.assert_close(said, told, rtol=1e-5, atol=1e-5)
    assert model.front == tuple(range(tiny.sizes(), tiny.sizes() + TOKENS))


def test_an_encoder_decoder_reads_virtual_tokens_in_its_encoder(folders: dict[str, Path]) -> None:
    model = started(folders["t5"], "prompt_tuning")
    written = torch.tensor([[0, 9, 8]])
    with torch.no_grad():
        said = model.forward(input_ids=torch.tensor([[*model.front, *TEXTS[0]]]), decoder_input_ids=written).logits
        by_hand = torch.cat([vectors(model), table_of(model)(torch.tensor(TEXTS[0]))])[None]
        told = model.bare(inputs_embeds=by_hand, decoder_input_ids=written).logits
    torch.testing.assert_close(said, told, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_a_prefix_is_keys_and_values_that_a_cache_begins_with(folders: dict[str, Path], name: str) -> None:
    from transformers import DynamicCache

    model = started(folders[name], "prefix")
    ids = torch.tensor([TEXTS[1]])
    config = model.forward.active_peft_config
    n_heads, width = config.num_attention_heads, config.token_dim // config.num_attention_heads
    with torch.no_grad():
        said = model.forward(input_ids=ids, use_cache=False).logits
        places = vectors(model).view(TOKENS, config.num_layers, 2, n_heads, width)
        by_hand = DynamicCache(config=model.bare.config)
        for layer in range(config.num_layers):
            keys, values = places[:, layer].permute(1, 2, 0, 3)[:, None].unbind(0)
            by_hand.update(keys.clone(), values.clone(), layer)
        told = model.bare(input_ids=ids, past_key_values=by_hand).logits
        without = model.bare(input_ids=ids, past_key_values=DynamicCache(config=model.bare.config)).logits
    torch.testing.assert_close(said, told, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(said, without, atol=1e-3), "the prefix is read"


def test_the_attention_of_an_encoder_finds_the_prefix_as_softmax_over_more_keys_says(folders: dict[str, Path]) -> None:
    model = started(folders["bert"], "prefix")
    attention = model.bare.bert.encoder.layer[0].attention.self
    seen: dict[str, torch.Tensor] = {}
    hook = attention.register_forward_hook(lambda module, args, out: seen.update(read=args[0], made=out[0]))
    ids = torch.tensor([TEXTS[1]])
    with torch.no_grad():
        model.forward.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        first = cache(model, 1).layers[0]
        heads = lambda linear: linear(seen["read"]).view(1, 6, 4, 8).transpose(1, 2)  # noqa: E731
        keys = torch.cat([first.keys, heads(attention.key)], dim=2)
        values = torch.cat([first.values, heads(attention.value)], dim=2)
        shares = (heads(attention.query) @ keys.transpose(2, 3) / 8**0.5).softmax(-1)
        by_hand = (shares @ values).transpose(1, 2).reshape(1, 6, 32)
    hook.remove()
    torch.testing.assert_close(seen["made"], by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "t5", "bert", "bart", "gpt_neo"])
def test_the_loss_of_a_padded_batch_is_that_of_each_example(folders: dict[str, Path], name: str, kind: str) -> None:
    model = started(folders[name], kind)
    examples = batch(model)
    alone = torch.cat([losses(model, [example]) for example in examples])
    torch.testing.assert_close(losses(model, examples), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert"])
def test_the_gradient_of_virtual_tokens_is_that_of_autograd_by_hand(folders: dict[str, Path], name: str) -> None:
    model = started(folders[name], "prompt_tuning")
    examples = batch(model)
    model.forward.eval()
    gradients(model, [examples[:1], examples[1:]], objective(model), Running())
    found = vectors(model).grad
    free = vectors(model).detach().clone().requires_grad_(True)
    table, total = table_of(model), torch.zeros(())
    for example in examples:
        text = torch.cat([free, table(torch.tensor(list(example.ids)))])[None]
        if model.head.labels:
            said, wanted = model.bare(inputs_embeds=text).logits, list(example.targets)
        elif name == "t5":
            before = torch.tensor([[0, *example.targets[:-1]]])
            said, wanted = model.bare(inputs_embeds=text, decoder_input_ids=before).logits[0], list(example.targets)
        else:
            said, wanted = model.bare(inputs_embeds=text).logits[0, -3:-1], list(example.ids[-2:])
        total = total + torch.nn.functional.cross_entropy(said, torch.tensor(wanted), reduction="sum")
    (told,) = torch.autograd.grad(total / sum(example.covers for example in examples), free)
    assert found is not None
    torch.testing.assert_close(found, told, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert"])
def test_the_base_keeps_its_bytes_while_it_trains(folders: dict[str, Path], name: str, kind: str) -> None:
    model = started(folders[name], kind)
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in model.trainable()}
    assert all("prompt_encoder" in n or "modules_to_save" in n for n in model.trainable())
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.03)
    examples, seen = batch(model), []
    for _ in range(25):
        seen.append(gradients(model, [examples], objective(model), Running()))
        optimizer.step()
        optimizer.zero_grad()
    assert min(seen[-3:]) < 0.995 * seen[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert len(frozen) >= len(list(load(folders[name], model.head, device="cpu").bare.parameters())) - 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt", "gpt_neo", "t5", "bart", "t5gemma"])
def test_answers_in_batches_are_those_one_by_one_and_those_of_plain_peft(
    folders: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    import transformers
    from peft import PeftModel

    model = started(folders[name], kind)
    model.bare.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=model.bare.config.to_dict().get("decoder_start_token_id", 2)
    )
    write: dict[str, Any] = {"max_new_tokens": 5, "stop": set()}
    together = [each.tokens for each in generate(model, TEXTS, **write)]
    assert together == [generate(model, [text], **write)[0].tokens for text in TEXTS]
    assert together == [each.tokens for each in by_transformers(model, fronted(model), 5, set(), 1, lambda done: None)]
    save(model, tmp_path / "out", base_name="b", extra={"ends": []})
    again = load_trained(tmp_path / "out", folders[name], device="cpu", precision="float32")
    assert [each.tokens for each in generate(again, TEXTS, **write)] == together
    if model.architecture == "decoder":  # solved examples, which are computed once
        shown = [[5, 9, 30]] * 3
        before = [each.tokens for each in generate(model, TEXTS, prefix=shown[0], **write)]
        assert before == [generate(model, [[*shown[0], *text]], **write)[0].tokens for text in TEXTS]
    with quiet():
        base = getattr(transformers, model.head.auto).from_pretrained(folders[name])
        plain = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    base.generation_config = plain.generation_config = model.bare.generation_config
    for text, answer in zip(TEXTS, together, strict=True):
        ids = torch.tensor([text])
        with pytest.MonkeyPatch.context() as patch:  # peft tells that it counts positions itself, which is meant here
            patch.setattr("peft.peft_model.warnings.warn", lambda *args, **kwargs: None)
            said = plain.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=5,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert said[0, -5:].tolist() == answer


def fronted(model: Model) -> list[list[int]]:
    return [list(model.fronted(text)) for text in TEXTS]


def test_a_prefix_beyond_a_sliding_window_answers_batches_as_one_by_one(folders: dict[str, Path]) -> None:
    model = started(folders["gemma3"], "prefix")
    assert model.bare.config.sliding_window == 64
    texts = [probing(model, n, start=n) for n in (70, 90, 70, 66)]
    together = generate(model, texts, max_new_tokens=5, stop=set())
    assert [each.tokens for each in together] == [
        generate(model, [text], max_new_tokens=5, stop=set())[0].tokens for text in texts
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_a_classifier_scores_batches_as_texts_alone_and_as_plain_peft(
    folders: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    model = started(folders[name], kind, LABELS)
    together = scores(model, TEXTS)
    torch.testing.assert_close(together, torch.cat([scores(model, [text]) for text in TEXTS]), rtol=1e-5, atol=1e-5)
    save(model, tmp_path / "out", base_name="b", extra={})
    again = load_trained(tmp_path / "out", folders[name], device="cpu", precision="float32")
    torch.testing.assert_close(scores(again, TEXTS), together, rtol=0, atol=0)
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(folders[name], num_labels=2)
        plain.config.pad_token_id = 0
        plain = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    for text, row in zip(TEXTS, together, strict=True):
        ids = torch.tensor([text])
        with torch.no_grad():
            said = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        torch.testing.assert_close(said, row, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_bfloat16(folders: dict[str, Path], kind: str) -> None:
    for name in ("llama", "bert", "t5"):
        model = started(folders[name], kind)
        exact = losses(model, batch(model))
        model.precision = "bfloat16"
        torch.testing.assert_close(losses(model, batch(model)), exact, rtol=0.1, atol=0.1)
        if model.head.writes:
            assert len(generate(model, TEXTS, max_new_tokens=3, stop=set())) == 3


def test_virtual_tokens_begin_as_a_text_or_as_tokens_drawn_by_the_seed(folders: dict[str, Path]) -> None:
    technique = find("techniques", "prompt_tuning")
    model = load(folders["gemma3"], writing_head("decoder"), device="cpu", precision="float32")
    technique(tokens=5, init="text", text="abc").start(model, {})  # type: ignore[attr-defined]
    table = table_of(model)
    read = model.tokenizer("abc", add_special_tokens=False)["input_ids"]
    expected = table(torch.tensor([*read, *read[:2]]))
    torch.testing.assert_close(vectors(model), expected, rtol=0, atol=0)  # with Gemma's scaling of embeddings
    drawn = []
    for seed in (1, 1, 2):
        model = load(folders["llama"], writing_head("decoder"), device="cpu", precision="float32")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            technique(tokens=5).start(model, {})  # type: ignore[attr-defined]
        drawn.append(vectors(model).detach().clone())
        of_table = (vectors(model)[:, None] == table_of(model).weight[None]).all(-1).nonzero()[:, 1].tolist()
        assert len(set(of_table)) == 5
        assert not set(of_table) & set(model.tokenizer.all_special_ids)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_text_longer_than_the_virtual_tokens_is_told(folders: dict[str, Path]) -> None:
    model = started(folders["llama"], "prompt_tuning", init="text", text="label it")
    assert model.notes == ["prompt_tuning: of the 8 tokens of its text the first 4 are taken"]


def test_a_projection_makes_the_prefix_while_training_and_is_left_out_of_what_is_saved(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model = started(folders["llama"], "prefix", projection=7)
    assert {name.split(".")[2] for name in model.trainable()} == {"embedding", "transform"}
    said = losses(model, batch(model))
    save(model, tmp_path / "out", base_name="b", extra={})
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: tuple(each.shape) for name, each in weights.items()} == {"prompt_embeddings": (TOKENS, 2 * 2 * 16)}
    again = load_trained(tmp_path / "out", folders["llama"], device="cpu", precision="float32")
    torch.testing.assert_close(losses(again, batch(again)), said, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "head", "why"),
    [
        ("deepseek_v3", "prefix", None, "the keys and values of a DeepseekV3ForCausalLM differ in shape"),
        ("distilbert", "prefix", None, "a DistilBertForSequenceClassification keeps no keys and values"),
        ("mpnet", "prefix", None, "a MPNetForSequenceClassification keeps no keys and values"),
        ("mamba", "prefix", None, "a MambaForCausalLM keeps no keys and values"),
        ("t5", "prompt_tuning", LABELS, "peft cannot do this with a T5ForSequenceClassification .*not supported for"),
        ("t5", "prefix", LABELS, "peft cannot do this with a T5ForSequenceClassification"),
    ],
)
def test_what_peft_cannot_do_is_refused_with_the_reason(
    folders: dict[str, Path], name: str, kind: str, head: Head | None, why: str
) -> None:
    with pytest.raises(UserError, match=rf"train.techniques {kind}: {why}"):
        started(folders[name], kind, head)


@pytest.mark.parametrize("name", ["distilbert", "mpnet", "mamba", "deepseek_v3", "t5gemma"])
def test_virtual_tokens_need_no_cache(folders: dict[str, Path], name: str) -> None:
    model = started(folders[name], "prompt_tuning")
    alone = torch.cat([losses(model, [example]) for example in batch(model)])
    torch.testing.assert_close(losses(model, batch(model)), alone, rtol=1e-4, atol=1e-4)


def test_a_base_that_peft_computes_otherwise_is_refused(folders: dict[str, Path], monkeypatch: Any) -> None:
    from peft import PeftModelForCausalLM

    get_prompt: Callable[..., torch.Tensor] = PeftModelForCausalLM.get_prompt
    monkeypatch.setattr(PeftModelForCausalLM, "get_prompt", lambda self, **options: 2 * get_prompt(self, **options))
    with pytest.raises(UserError, match="peft computes a LlamaForCausalLM otherwise than training would"):
        started(folders["llama"], "prompt_tuning")


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_merged_form(folders: dict[str, Path], kind: str) -> None:
    with pytest.raises(UserError, match=r"stands before every text, and no weights .* are the same; use --to peft"):
        merged(started(folders["llama"], kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_freezing_leaves_what_stands_before_the_text(folders: dict[str, Path], kind: str, first: bool) -> None:
    model = load(folders["bert"], LABELS, device="cpu", precision="float32")
    chain = [find("techniques", "freeze")(patterns=["classifier*"]), find("techniques", kind)(tokens=2)]
    for technique in chain if first else chain[::-1]:
        technique.start(model, {})  # type: ignore[attr-defined]
    assert any("prompt_encoder" in name for name in model.trainable())
    assert not any("classifier" in name for name in model.trainable())
