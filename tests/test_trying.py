"""What a base's own code fails on is found before training, and told with the most that it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from luthier.batching import Encoded
from luthier.encoding import Reading
from luthier.errors import UserError
from luthier.generate import in_batches
from luthier.losses import head_kind
from luthier.model import Head, architecture_of, load, probing, reads_padding, writing_head
from luthier.objectives import Objective
from luthier.seams import Example, Label, Text
from luthier.tasks import Task
from luthier.trying import try_out

LABELS = Head("AutoModelForSequenceClassification", ("a", "b"))
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def built(folder: Path, auto: str, config: Any) -> Path:
    torch.manual_seed(0)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    tiny.tokenizer("encoder" if auto == "AutoModelForMaskedLM" else "decoder").save_pretrained(folder)
    return folder


def tried(folder: Path, lengths: list[int], *, n_asked: int = 8, n_written: int = 4) -> Any:
    """The model of a folder after it was tried out on examples of so many letters."""
    architecture = architecture_of(folder)
    writes = architecture != "encoder"
    head = writing_head(architecture) if writes else Head("AutoModelForSequenceClassification", ("a", "b"))
    model = load(folder, head, device="cpu", precision="float32")
    reading = Reading(model.tokenizer, architecture, head.labels, 999)
    if writes:
        task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
        rows = [Example("1", "generate", {"text": "x" * n}, Text("ab")) for n in lengths]
    else:
        task = Task.pick({"kind": "classify", "table": "t", "text": "x", "label": "y"})
        objective = Objective.pick("classify")
        rows = [Example("1", "classify", {"text": "x" * n}, Label("a")) for n in lengths]
    try_out(model, objective, objective.encode(rows, task, reading), n_asked, n_written)
    return model


def test_a_base_that_computes_what_is_asked_is_left_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    model = tried(tiny.build(tmp_path, "llama", dropout=0.1), [3, 30], n_asked=40)
    assert torch.equal(torch.get_rng_state(), before), "dropout drew from a stream of its own"
    assert not model.forward.training
    assert all(parameter.grad is None for parameter in model.bare.parameters())


def test_a_window_beyond_the_positions_is_told_with_the_most_that_works(tmp_path: Path) -> None:
    config = transformers.LongformerConfig(
        **BODY,
        vocab_size=tiny.sizes(),
        max_position_embeddings=42,
        attention_window=[32, 32],
        pad_token_id=1,
        sep_token_id=2,
    )
    folder = built(tmp_path, "AutoModelForMaskedLM", config)
    tried(folder, [3, 30])
    with pytest.raises(
        UserError, match=r"cannot be trained on a text of 38 tokens \(.*\); set encode.max_length to 32"
    ):
        tried(folder, [3, 36])


def test_a_base_that_trains_on_one_length_alone_is_refused(tmp_path: Path) -> None:
    config = transformers.ReformerConfig(
        **BODY, vocab_size=tiny.sizes(), axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16], is_decoder=False
    )
    with pytest.raises(
        UserError, match=r"ReformerFor\w+ cannot be trained on a text of 5 tokens .*choose another base"
    ):
        tried(built(tmp_path, "AutoModelForMaskedLM", config), [3, 8])


def test_a_longest_question_with_its_answer_is_computed_before_training(tmp_path: Path) -> None:
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=1, max_seq_len=24, vocab_size=tiny.sizes())
    folder = built(tmp_path, "AutoModelForCausalLM", config)
    tried(folder, [3, 8], n_asked=20, n_written=4)
    with pytest.raises(
        UserError, match=r"MptForCausalLM cannot read 20 tokens and write 5 \(.*lower encode.max_length"
    ):
        tried(folder, [3, 8], n_asked=20, n_written=5)


def test_what_is_wrong_with_a_base_is_told_in_its_own_sentence(tmp_path: Path) -> None:
    config = transformers.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=tiny.sizes())
    config.decoder_start_token_id = None
    folder = built(tmp_path, "AutoModelForSeq2SeqLM", config)
    plain = tiny.tokenizer("encoder-decoder")
    plain.bos_token = None
    plain.save_pretrained(folder)
    with pytest.raises(UserError, match=r"^base: names no token for its decoder to begin with; set decoder_start"):
        tried(folder, [3, 8])


def test_weights_that_are_no_numbers_are_told_before_training(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = tiny.build(tmp_path, "llama") / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be trained on a text of 4 tokens .*not finite"):
        tried(tmp_path, [1, 8])


@pytest.mark.parametrize("size", [6, 7, 13])
def test_small_vocabularies_are_tried_out_with_the_tokens_that_they_have(tmp_path: Path, size: int) -> None:
    model = load(tiny.build(tmp_path / "bert", "bert"), LABELS, device="cpu", precision="float32")
    model.bare.resize_token_embeddings(size)
    assert max(probing(model, 9)) == size - 1
    assert reads_padding(model) is False
    model = load(tiny.build(tmp_path / "llama", "llama"), writing_head("decoder"), device="cpu", precision="float32")
    model.bare.resize_token_embeddings(size)
    assert head_kind(model) == "plain"
    assert in_batches(model)
    objective = Objective.pick("causal")
    try_out(model, objective, [Encoded([1, 2, 3], [False, True, True], covers=2)], n_asked=9, n_written=4)
