"""LoRA and freezing: which modules they touch, and that what was trained is what is saved, merged and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny
import torch

from luthier.choice import find
from luthier.errors import UserError
from luthier.model import (
    Head,
    Model,
    architecture_of,
    limit_answers,
    load,
    load_trained,
    merged,
    numbered_parameters,
    save,
    writing_head,
)

LABELS = Head("AutoModelForSequenceClassification", ("a", "b"))


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_an_adapter_says_what_the_trained_model_said_whatever_the_seed(
    tmp_path: Path, shape: str, targets: str
) -> None:
    base = tiny.build(tmp_path / shape, shape)
    model = load(base, LABELS, device="cpu", precision="float32", seed=1)
    find("techniques", "lora")(rank=2, targets=targets).start(model, {})  # type: ignore[attr-defined]
    ids = torch.tensor([[1, 5, 6, 2]])
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.1)
        said = model.forward.eval()(input_ids=ids).logits
        save(model, tmp_path / "out", base_name="b", extra={})
        again = load_trained(tmp_path / "out", base, device="cpu", precision="float32").forward(input_ids=ids).logits
    torch.testing.assert_close(again, said)
    touched = {name.partition(".lora_")[0] for name in model.trainable() if ".lora_" in name}
    assert touched
    assert not [name for name in touched if "pooler" in name or "score" in name or "classifier" in name]
    if targets == "attention":
        assert all("attn" in name or "attention" in name for name in touched)
        assert not [name for name in touched if "mlp" in name or "intermediate" in name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lora")
    names = ("gpt_neox", "bloom", "albert", "mixtral", "mamba", "deepseek_v3", "bart", "mbart", "t5", "electra", "xlm")
    found = {each.name: each.build(root / each.name) for each in architectures.ALL if each.name in names}
    return found | {"gpt2": tiny.build(root / "gpt2", "gpt2"), "llama": tiny.build(root / "llama", "llama")}


def opened(folder: Path, head: Head | None = None) -> Model:
    return load(folder, head or writing_head(architecture_of(folder)), device="cpu", precision="float32")


def adapted(model: Model, **settings: Any) -> set[str]:
    """Full names of the modules that get an adapter."""
    find("techniques", "lora")(rank=2, **settings).start(model, {})  # type: ignore[attr-defined]
    return {
        name.partition(".lora_")[0].removeprefix("base_model.model.") for name in model.trainable() if ".lora_" in name
    }


def both(model: Model, first: str, freeze: dict[str, Any], lora: dict[str, Any]) -> None:
    """Start freeze and lora, `first` one of them."""
    steps = [find("techniques", "freeze")(**freeze), find("techniques", "lora")(rank=2, **lora)]
    for step in steps if first == "freeze" else steps[::-1]:
        step.start(model, {})  # type: ignore[attr-defined]


def test_attention_is_told_by_the_whole_path(folders: dict[str, Path]) -> None:
    found = adapted(opened(folders["gpt2"]), targets="attention")
    assert {name.split(".", 3)[3] for name in found} == {"attn.c_attn", "attn.c_proj"}, "mlp.c_proj is none of it"
    found = adapted(opened(folders["bloom"]), targets="attention")
    assert {name.split(".", 3)[3] for name in found} == {"self_attention.query_key_value", "self_attention.dense"}


def test_experts_get_adapters_and_their_routers_do_not(folders: dict[str, Path]) -> None:
    model = opened(folders["mixtral"])
    found = adapted(model)
    assert {"model.layers.0.mlp.experts", "model.layers.1.self_attn.q_proj"} <= found
    assert not [name for name in found if "gate" in name.rpartition(".")[2]]
    assert [note.partition(":")[2] for note in model.notes] == [" mlp.gate.weight"]
    model = opened(folders["deepseek_v3"])
    assert not [name for name in adapted(model) if name.endswith("mlp.gate")]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["experts"], ["experts.gate_up_proj", "experts.down_proj"]),
        (["gate_up_proj", "q_proj"], ["experts.gate_up_proj", "self_attn.q_proj"]),
        (["mlp.experts.down_proj"], ["experts.down_proj"]),
    ],
)
def test_experts_are_found_by_name(folders: dict[str, Path], targets: list[str], names: list[str]) -> None:
    model = opened(folders["mixtral"])
    adapted(model, targets=targets)
    ids = torch.tensor([list(range(1, 60))])
    model.forward(input_ids=ids, labels=ids).loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(moved) == 2 * 2 * len(names), "A and B of both layers"
    said = model.forward.peft_config["default"]
    assert {n.split(".", 3)[3] for n in (*said.target_modules, *(said.target_parameters or []))} == {
        name if name.startswith("self_attn") else f"mlp.{name}" for name in names
    }


def test_names_of_what_cannot_be_adapted_are_told(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"'mlp' holds other modules and is none to adapt; its linear modules are"):
        adapted(opened(folders["llama"]), targets=["mlp"])
    with pytest.raises(UserError, match=r"peft cannot adapt this base: Target module LlamaRMSNorm"):
        adapted(opened(folders["llama"]), targets=["input_layernorm"])
    with pytest.raises(UserError, match=r"the base has no module 'gate_up_proj'"):
        adapted(opened(folders["mixtral"]), targets=["gate_up_proj"], dora=True)


@pytest.mark.parametrize("shape", ["llama", "t5"])
def test_an_adapter_on_the_head_alone_is_trained(folders: dict[str, Path], shape: str) -> None:
    from luthier.losses import head_kind

    model = opened(folders[shape])
    assert head_kind(model) in ("plain", "selected"), "asked before the adapter is there, as when a base is tried out"
    adapted(model, targets=["lm_head"])
    assert head_kind(model) == "selected"


@pytest.mark.parametrize("settings", [{"dora": True}, {"dropout": 0.1}])
def test_what_is_left_alone_is_said_with_its_share(folders: dict[str, Path], settings: dict[str, Any]) -> None:
    model = opened(folders["mixtral"])
    assert "model.layers.0.mlp.experts" not in adapted(model, **settings)
    assert "mlp.experts.down_proj" in model.notes[0]
    assert 0.8 < float(model.notes[0].split("leaves ")[1].split("%")[0]) / 100 < 1


def test_mamba_gets_adapters_where_its_code_calls_the_modules(folders: dict[str, Path]) -> None:
    model = opened(folders["mamba"])
    assert {name.rpartition(".")[2] for name in adapted(model)} == {"in_proj", "x_proj"}
    assert "out_proj" in model.notes[0]
    with pytest.raises(UserError, match="has no linear modules in its attention; use `all-linear`"):
        adapted(opened(folders["mamba"]), targets="attention")


def test_names_that_are_not_there_are_told_with_those_that_are(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="has no module 'q_proj'; its linear modules are c_attn, c_fc, c_proj"):
        adapted(opened(folders["gpt2"]), targets=["c_attn", "q_proj"])
    assert {name.rpartition(".")[2] for name in adapted(opened(folders["gpt2"]), targets=["attn.c_proj"])} == {"c_proj"}


def test_named_targets_leave_frozen_blocks_alone(folders: dict[str, Path]) -> None:
    model = opened(folders["gpt2"])
    find("techniques", "freeze")(layers=1).start(model, {})  # type: ignore[attr-defined]
    assert adapted(model, targets=["c_fc"]) == {"transformer.h.1.mlp.c_fc"}


@pytest.mark.parametrize("name", ["gpt_neox", "bloom", "albert", "gpt2", "mamba"])
def test_embeddings_and_blocks_are_found_under_any_name(folders: dict[str, Path], name: str) -> None:
    model = opened(folders[name], LABELS if name == "albert" else None)
    find("techniques", "freeze")(layers=1, embeddings=True).start(model, {})  # type: ignore[attr-defined]
    table = model.bare.get_input_embeddings()
    assert not any(parameter.requires_grad for parameter in table.parameters())
    numbers = numbered_parameters(model.bare)
    assert {0, *([] if name == "albert" else [1])} == {n for n in numbers.values() if n is not None}
    assert not [n for n, p in model.bare.named_parameters() if numbers[n] == 0 and p.requires_grad]
    if name != "albert":
        assert [n for n, p in model.bare.named_parameters() if numbers[n] == 1 and p.requires_grad]


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]])
def test_a_merged_folder_is_the_adapter_over_its_base_where_weights_are_shared(
    folders: dict[str, Path], tmp_path: Path, targets: list[str]
) -> None:
    from transformers import AutoModelForCausalLM

    model = opened(folders["llama"])
    assert model.bare.config.tie_word_embeddings
    adapted(model, targets=targets)
    ids = torch.tensor([[1, 5, 6, 2]])
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.1)
        said = model.forward.eval()(input_ids=ids).logits
        merged(model).save_pretrained(tmp_path / "merged")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
        assert model.bare.config.tie_word_embeddings, "the model itself stays as it was"
    torch.testing.assert_close(again, said, rtol=1e-4, atol=1e-4)


def test_a_table_that_only_lends_its_weights_is_told(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"'model.shared' only lends its weights .*; name the tables that are"):
        adapted(opened(folders["bart"]), targets=["shared", "q_proj"])


@pytest.mark.parametrize("name", ["bart", "t5", "mbart"])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_what_is_tied_to_tables_of_encoder_and_decoder_is_merged_exactly(
    folders: dict[str, Path], tmp_path: Path, name: str, target: str
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = opened(folders[name])
    adapted(model, targets=[target, "q" if name == "t5" else "q_proj"])
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 2]]), "decoder_input_ids": torch.tensor([[2, 7, 8]])}
    with torch.no_grad():
        for number, parameter in enumerate(model.trainable().values()):
            parameter.add_(0.05 + 0.01 * number)
        said = model.forward.eval()(**inputs).logits
        merged(model).save_pretrained(tmp_path / "merged")
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()(**inputs).logits
    torch.testing.assert_close(again, said, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", ["freeze", "lora"])
def test_a_table_cannot_be_frozen_and_adapted_in_either_order(folders: dict[str, Path], first: str) -> None:
    with pytest.raises(UserError, match=r"embed_tokens.*lora's targets"):
        both(opened(folders["llama"]), first, {"embeddings": True}, {"targets": ["embed_tokens", "q_proj"]})


@pytest.mark.parametrize("first", ["freeze", "lora"])
def test_a_tied_head_cannot_be_adapted_where_its_table_is_frozen(folders: dict[str, Path], first: str) -> None:
    with pytest.raises(UserError, match=r"lm_head.*lora's targets"):
        both(opened(folders["llama"]), first, {"embeddings": True}, {"targets": ["lm_head", "q_proj"]})


@pytest.mark.parametrize("first", ["freeze", "lora"])
@pytest.mark.parametrize("pattern", ["*.q_proj.weight", "model.layers.?.self_attn.q_proj.weight", "*q_proj*"])
@pytest.mark.parametrize("dora", [False, True])
def test_no_adapter_moves_a_weight_that_a_pattern_names(
    folders: dict[str, Path], first: str, pattern: str, dora: bool
) -> None:
    model = opened(folders["llama"])
    both(model, first, {"embeddings": False, "patterns": [pattern]}, {"dora": dora})
    assert model.trainable()
    assert not [name for name in model.trainable() if "q_proj" in name]


@pytest.mark.parametrize("first", ["freeze", "lora"])
def test_modules_that_a_pattern_freezes_train_no_adapter(folders: dict[str, Path], first: str) -> None:
    model = opened(folders["llama"])
    both(model, first, {"patterns": ["*.mlp.*"]}, {})
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in model.trainable()} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    assert model.notes == []


@pytest.mark.parametrize("first", ["freeze", "lora"])
@pytest.mark.parametrize("pattern", ["classifier*", "bert.pooler*"])
def test_a_frozen_new_head_is_not_trained_in_either_order(tmp_path: Path, first: str, pattern: str) -> None:
    base = tiny.build(tmp_path / "bert", "bert")
    model = load(base, LABELS, device="cpu", precision="float32", seed=1)
    both(model, first, {"embeddings": False, "patterns": [pattern]}, {})
    whole = {name for name in model.trainable() if ".lora_" not in name}
    assert whole
    assert not [name for name in whole if pattern.strip("*").rpartition(".")[2] in name]
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.1)
        ids = torch.tensor([[1, 5, 6, 2]])
        said = model.forward.eval()(input_ids=ids).logits
        save(model, tmp_path / "out", base_name="b", extra={})
        again = load_trained(tmp_path / "out", base, device="cpu", precision="float32").forward(input_ids=ids).logits
    torch.testing.assert_close(again, said)


@pytest.mark.parametrize("target", ["classifier", "pooler.dense"])
def test_a_new_head_needs_no_adapter(tmp_path: Path, target: str) -> None:
    model = load(tiny.build(tmp_path / "bert", "bert"), LABELS, device="cpu", precision="float32")
    model.drawn = (*model.drawn, "bert.pooler.dense.weight")
    with pytest.raises(UserError, match=f"'{target}' is new to the base, so that lora trains it whole already"):
        adapted(model, targets=[target, "query"])


def test_freezing_all_that_lora_would_adapt_is_told_as_that(folders: dict[str, Path]) -> None:
    model = opened(folders["llama"])
    find("techniques", "freeze")(layers=2).start(model, {})  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"freeze holds every module that lora would adapt; freeze less of it"):
        adapted(model)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("bloom", ["transformer.word_embeddings_layernorm.weight"]),
        ("xlm", ["transformer.layer_norm_emb.weight"]),
        ("bart", ["model.encoder.layernorm_embedding.weight", "model.decoder.layernorm_embedding.weight"]),
        ("albert", ["albert.encoder.embedding_hidden_mapping_in.weight"]),
        ("electra", ["electra.embeddings_project.weight"]),
        ("gpt_neox", []),
    ],
)
def test_norms_and_projections_beside_the_tables_freeze_with_them(
    folders: dict[str, Path], name: str, beside: list[str]
) -> None:
    model = opened(folders[name], LABELS if architecture_of(folders[name]) == "encoder" else None)
    find("techniques", "freeze")(embeddings=True).start(model, {})  # type: ignore[attr-defined]
    trains = dict(model.bare.named_parameters())
    assert [n for n in beside if trains[n].requires_grad] == []
    head = model.bare.get_output_embeddings()
    assert name != "gpt_neox" or head.weight.requires_grad, "embed_out is the head"
    assert any(parameter.requires_grad for parameter in trains.values())


def test_exported_settings_of_generation_are_what_was_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    model = opened(folders["llama"])
    settings = model.bare.generation_config
    settings.update(
        do_sample=True, temperature=0.7, repetition_penalty=1.3, num_beams=4, forced_eos_token_id=5, min_length=9
    )
    model.ends = (2, 7)
    adapted(model)
    save(model, tmp_path, base_name="b", extra={})
    limit_answers(tmp_path, 11)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2, 7]
    assert written["max_new_tokens"] == 11
    assert written["do_sample"] is False
    assert not {"temperature", "repetition_penalty", "forced_eos_token_id", "min_length"} & written.keys()
    assert load_trained(tmp_path, folders["llama"], device="cpu").bare.generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head", "mlp.down_proj"])
def test_named_modules_are_trained_whole_and_saved_and_merged(
    folders: dict[str, Path], tmp_path: Path, target: str
) -> None:
    from transformers import AutoModelForCausalLM

    model = opened(folders["llama"])
    assert model.bare.config.tie_word_embeddings
    adapted(model, modules_to_save=[target])
    whole = [name for name in model.trainable() if ".modules_to_save." in name]
    assert whole
    assert all(f".{target}.modules_to_save.default.weight" in name for name in whole)
    assert not any(target in name for name in model.trainable() if ".lora_" in name)
    ids = torch.tensor([[1, 5, 6, 2]])
    with torch.no_grad():
        for number, parameter in enumerate(model.trainable().values()):
            parameter.add_(0.05 + 0.001 * number)
        said = model.forward.eval()(input_ids=ids).logits
        save(model, tmp_path / "out", base_name="b", extra={})
        again = load_trained(tmp_path / "out", folders["llama"], device="cpu", precision="float32")
        torch.testing.assert_close(again.forward(input_ids=ids).logits, said, rtol=0, atol=0)
        merged(model).save_pretrained(tmp_path / "merged")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(plain(input_ids=ids).logits, said, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"modules_to_save": ["embed_toks"]}, "no module of the base called 'embed_toks'; did you mean 'embed_tokens'"),
        ({"modules_to_save": ["q_proj"], "targets": ["q_proj"]}, "q_proj' is trained whole, and so gets no adapter"),
    ],
)
def test_a_module_to_save_that_cannot_be_is_told(folders: dict[str, Path], settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        adapted(opened(folders["llama"]), **settings)


@pytest.mark.parametrize("first", ["freeze", "lora"])
def test_what_is_frozen_is_not_trained_whole_in_either_order(folders: dict[str, Path], first: str) -> None:
    with pytest.raises(UserError, match="embed_tokens"):
        both(opened(folders["llama"]), first, {"embeddings": True}, {"modules_to_save": ["embed_tokens"]})
