"""What a base cannot do is told in a sentence before any training, and what it can is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    BloomConfig,
    FlaubertConfig,
    FlaubertWithLMHeadModel,
    FunnelConfig,
    MptConfig,
    MraConfig,
    OPTConfig,
    RobertaConfig,
    YosoConfig,
)

from luthier import suitability
from luthier.errors import UserError
from luthier.flow import check_answers_fit
from luthier.model import Head, architecture_of, decoder_start, load, load_tokenizer, writing_head
from luthier.recipe import Recipe
from luthier.store import Artifact, Silent

LABELS = Head("AutoModelForSequenceClassification", ("a", "b", "c"))


@pytest.fixture
def base(tmp_path: Path) -> Callable[[str], Path]:
    return lambda shape: tiny.build(tmp_path / shape, shape)


def opened(folder: Path, head: Head | None = None, **settings: Any) -> Any:
    head = head or writing_head(architecture_of(folder))
    return load(folder, head, device="cpu", **{"precision": "float32", **settings})


def changed(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_a_quantized_base_is_named_as_such(base: Callable[[str], Path], method: str) -> None:
    folder = base("llama")
    changed(folder, quantization_config={"quant_method": method})
    with pytest.raises(UserError, match=rf"is quantized \({method}\).*full-precision"):
        architecture_of(folder)


def test_a_base_that_says_that_it_is_quantized_and_not_how_is_refused(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    changed(folder, quantization_config={})
    with pytest.raises(UserError, match=r"is quantized \(unknown method\)"):
        architecture_of(folder)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_few_bits_are_refused_without_a_config_that_says_so(base: Callable[[str], Path], kind: Any) -> None:
    folder = base("llama")
    file = folder / "model.safetensors"
    rounded = {name: (w * 100).to(kind) if "down_proj" in name else w for name, w in load_file(file).items()}
    save_file(rounded, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is quantized \(weights of type \w+, such as model.layers.0.mlp.down_proj"):
        architecture_of(folder)


def test_weights_of_another_size_are_named_for_a_model_that_writes_too(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    changed(folder, intermediate_size=24)
    for head in (None, LABELS):
        with pytest.raises(UserError, match=r"6 are missing or of another size \(model.layers.0.mlp.down_proj"):
            opened(folder, head)


def test_a_weight_file_that_is_cut_is_named(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"model.safetensors: is no whole safetensors file"):
        architecture_of(folder)


def test_a_weight_file_that_is_missing_is_named(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-\d+.safetensors, which model.safetensors.index.json"):
        architecture_of(folder)


def test_generation_settings_that_transformers_refuses_are_told(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    (folder / "generation_config.json").write_text('{"suppress_tokens": [7, 9], "forced_bos_token_id": 9}')
    with pytest.raises(UserError, match=r"transformers cannot load it \(Every token in `forced_bos_token_id`"):
        opened(folder)


def test_an_adapter_given_as_a_base_is_told_from_a_folder_without_config(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is an adapter, not a whole model; merge it"):
        architecture_of(tmp_path)


def renamed(folder: Path, name: Callable[[str], str | None]) -> None:
    file = folder / "model.safetensors"
    kept = {new: tensor for old, tensor in load_file(file).items() if (new := name(old)) is not None}
    save_file(kept, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (lambda n: f"_orig_mod.{n}", r"are missing.*fit nothing in it \(_orig_mod"),
        (lambda n: None if ".1." in n else n, r"9 are missing or of another size \(model\.layers\.1\."),
        (lambda n: n.replace("layers.1", "layers.7"), r"fit nothing in it \(model\.layers\.7\."),
    ],
)
def test_weights_that_do_not_fill_the_model_are_named(
    base: Callable[[str], Path], name: Callable[[str], str | None], sentence: str
) -> None:
    folder = base("llama")
    renamed(folder, name)
    for head in (None, LABELS):
        with pytest.raises(UserError, match=sentence):
            opened(folder, head)


def test_parts_of_a_base_that_a_classifier_does_not_have_are_told(tmp_path: Path) -> None:
    config = FunnelConfig(block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=64, vocab_size=tiny.sizes())
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer("encoder").save_pretrained(tmp_path)
    (note,) = opened(tmp_path, LABELS).notes
    assert re.match(
        r"a FunnelForSequenceClassification does not use all of the base: \d+ weights \(funnel.decoder", note
    )
    renamed(tmp_path, lambda name: name.replace("blocks.1.", "blocks.7."))
    with pytest.raises(UserError, match=r"fit nothing in it \(funnel.encoder.blocks.7"):
        opened(tmp_path, LABELS)


def test_a_bert_that_writes_and_a_flaubert_that_reads_are_known_as_such(tmp_path: Path) -> None:
    small = {"vocab_size": tiny.sizes(), "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}
    BertLMHeadModel(BertConfig(**small, is_decoder=True)).save_pretrained(tmp_path / "bert")
    assert architecture_of(tmp_path / "bert") == "decoder"
    changed(tmp_path / "bert", is_decoder=False)
    assert architecture_of(tmp_path / "bert") == "encoder"
    config = FlaubertConfig(emb_dim=32, n_layers=1, n_heads=4, vocab_size=tiny.sizes())
    FlaubertWithLMHeadModel(config).save_pretrained(tmp_path / "flaubert")
    assert architecture_of(tmp_path / "flaubert") == "encoder"


def test_buffers_that_old_files_hold_are_no_weights(base: Callable[[str], Path]) -> None:
    folder = base("bert")
    file = folder / "model.safetensors"
    more = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    save_file({**load_file(file), **more}, file, metadata={"format": "pt"})
    assert opened(folder, LABELS).notes == []


def test_more_layers_than_the_config_tells_are_refused(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    changed(folder, num_hidden_layers=1, layer_types=None)
    with pytest.raises(UserError, match=r"9 fit nothing in it \(model\.layers\.1\."):
        opened(folder)


def classifier(folder: Path, labels: dict[int, str], **settings: Any) -> Path:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=tiny.sizes(), pad_token_id=0, **small, id2label=labels, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer("encoder").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "renews"),
    [
        ({0: "x", 1: "y"}, True),  # of another size
        ({0: "x", 1: "y", 2: "z"}, True),  # of other labels
        ({0: "a", 1: "b", 2: "c"}, False),
    ],
)
def test_the_head_of_a_classifier_of_other_labels_is_replaced_and_it_is_said(
    tmp_path: Path, labels: dict[int, str], renews: bool
) -> None:
    folder = classifier(tmp_path / "bert", labels, problem_type="multi_label_classification")
    old = load_file(folder / "model.safetensors")
    model = opened(folder, LABELS)
    assert [note for note in model.notes if "its head is replaced by a new one" in note] == model.notes
    assert bool(model.notes) == renews
    assert ("classifier.weight" in model.drawn) == renews
    same = model.bare.classifier.weight.shape == old["classifier.weight"].shape and torch.equal(
        model.bare.classifier.weight, old["classifier.weight"]
    )
    assert same != renews
    assert torch.equal(model.bare.bert.pooler.dense.weight, old["bert.pooler.dense.weight"])
    assert model.bare.config.problem_type == "single_label_classification", "the base's own is not carried over"
    assert torch.equal(opened(folder, LABELS).bare.classifier.weight, model.bare.classifier.weight), (
        "one seed, one head"
    )


def test_a_tokenizer_with_more_tokens_than_embeddings_is_told_with_both_numbers(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert opened(folder), "no text becomes a control token, so that one needs no embedding"
    tokenizer.add_tokens(["<sum>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        UserError, match=rf"has {tiny.sizes() + 2} tokens and the model {tiny.sizes()} embeddings; '<sum>'"
    ):
        opened(folder)


def test_an_added_token_to_pad_with_that_has_no_embedding_is_replaced(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id == tiny.sizes()
    found = load_tokenizer(folder)
    assert found.pad_token == "<eos>"
    assert opened(folder).tokenizer.pad_token_id == found.eos_token_id < tiny.sizes()


@pytest.mark.parametrize("name", ["eos_token", "bos_token"])
def test_what_stands_around_a_text_needs_an_embedding(base: Callable[[str], Path], name: str) -> None:
    folder = base("llama")
    tokenizer = tiny.tokenizer("encoder")
    tokenizer.add_special_tokens({name: "[NEW]"})
    if name == "bos_token":
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="[NEW] $A", special_tokens=[("[NEW]", tiny.sizes())]
        )
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"{tiny.sizes()} embeddings; '\[NEW\]' has none"):
        opened(folder)


def test_a_token_to_pad_with_is_the_tokenizers_or_the_models_or_asked_for(base: Callable[[str], Path]) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = base("bert")
    plain = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer("encoder").backend_tokenizer)
    plain.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token_id == 0
    changed(folder, pad_token_id=None)
    with pytest.raises(UserError, match=r"names no token to pad with.*set pad_token"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (RobertaConfig(pad_token_id=1, max_position_embeddings=34), 32),
        (BertConfig(max_position_embeddings=34), 34),
        (OPTConfig(max_position_embeddings=34, num_hidden_layers=1, hidden_size=16, num_attention_heads=2), 34),
        (YosoConfig(max_position_embeddings=34, num_hidden_layers=1), 34),
        (MraConfig(max_position_embeddings=34, num_hidden_layers=1), 34),
        (MptConfig(max_seq_len=34, d_model=32, n_heads=4, n_layers=1), 34),
        (BloomConfig(hidden_size=32, n_head=4, n_layer=1), None),
    ],
)
def test_positions_are_counted_in_the_table_itself(config: Any, most: int) -> None:
    with torch.device("meta"):
        assert suitability.positions_of(AutoModel.from_config(config)) == most


@pytest.mark.parametrize(("shape", "most"), [("gpt2", 1024), ("llama", 2048), ("t5", None), ("bert", 512)])
def test_the_positions_of_a_folder_need_no_weights(base: Callable[[str], Path], shape: str, most: int | None) -> None:
    folder = base(shape)
    (folder / "model.safetensors").unlink()
    assert suitability.positions(folder, Head("AutoModel")) == most
    if most is not None:
        with pytest.raises(UserError, match=f"the base reads {most} tokens at most; write {most} or less"):
            suitability.check_lengths(most + 1, most)
    suitability.check_lengths(512, most)


@pytest.mark.parametrize(
    ("writes", "new", "fits"),
    [
        ("behind the prompt", 16, True),
        ("behind the prompt", 17, False),
        ("apart", 64, True),
        ("apart", 65, False),
        ("", 99, True),
    ],
)
def test_prompt_and_longest_answer_are_held_against_the_positions(writes: str, new: int, fits: bool) -> None:
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "name": "r",
            "task": {"kind": "generate", "table": "t"},
            "base": {"kind": "folder", "path": "b"},
            "encode": {"max_length": 48},
            "predict": {"engine": {"kind": "torch", "max_new_tokens": new}},
        }
    )
    facts = {
        "flow": {"step": "", "arrived": 0, "kept": 0, "fates": {}},
        "splits": {},
        **dict.fromkeys(("examples", "tokens", "supervised_tokens", "truncated", "cut_tokens"), 0),
        **dict.fromkeys(("longest", "longest_asked", "asked_cut"), 0),
        "auto": "",
        "positions": 64,
        "writes": writes,
        "conversations": False,
        "answer_tokens": [],
        "counted": {},
        "most_of_one_entity": 1,
    }
    encoded = Artifact(Path(), "encode-1", "", {"facts": facts})
    if fits:
        check_answers_fit(recipe, encoded, Silent())
    else:
        with pytest.raises(UserError, match="go beyond the 64 positions of the base; lower one of them"):
            check_answers_fit(recipe, encoded, Silent())


def test_a_kind_without_a_classification_head_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="is a mamba, for which transformers has no classification head"):
        suitability.check_kind(tmp_path, LABELS)
    suitability.check_kind(tmp_path, writing_head("decoder"))


def test_the_first_token_of_a_decoder_is_taken_as_its_own_class_takes_it(base: Callable[[str], Path]) -> None:
    from transformers import MBartConfig, MBartForConditionalGeneration

    model = opened(base("t5"))
    assert decoder_start(model) == 0
    config = MBartConfig(
        vocab_size=tiny.sizes(),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model.bare = MBartForConditionalGeneration(config)
    assert config.decoder_start_token_id is None
    assert decoder_start(model) == 2, "mBART puts the last token in front"


def test_a_base_that_fails_in_bfloat16_is_computed_in_float32_and_says_so(base: Callable[[str], Path]) -> None:
    folder = base("llama")
    model = opened(folder, precision="bfloat16")
    assert (model.precision, model.notes) == ("bfloat16", [])
    whole = model.bare.forward

    def forward(**inputs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("value cannot be converted to type c10::BFloat16 without overflow")
        return whole(**inputs)

    model.bare.forward = forward
    suitability.settle_precision(model)
    assert model.precision == "float32"
    assert "computing in float32: LlamaForCausalLM does not work in bfloat16 (value cannot" in model.notes[0]
