"""Tiny models made from a config with a fixed seed: real architectures, no downloads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

TEXT = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;-=>/+()|\n"


def tokenizer(kind: str = "decoder") -> Any:
    """A byte-level tokenizer: every text is representable and nothing is learned from anywhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if kind == "encoder":
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
        )
    if kind == "encoder-decoder":
        made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


@cache
def sizes() -> int:
    """Vocabulary size of the tiny tokenizer."""
    return len(tokenizer())


def build(folder: Path, shape: str, dropout: float = 0.0) -> Path:
    """A model folder of one of the shapes llama, gemma3, gpt2, bert, mpnet, t5."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        BertConfig,
        Gemma3TextConfig,
        GemmaConfig,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        MPNetConfig,
        Qwen2Config,
        Qwen3Config,
        T5Config,
    )

    common = {"vocab_size": sizes(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shapes: dict[str, tuple[Any, Any, str]] = {
        "llama": (
            AutoModelForCausalLM,
            LlamaConfig(**common, **small, num_key_value_heads=2, tie_word_embeddings=True),
            "decoder",
        ),
        "gemma3": (
            AutoModelForCausalLM,
            Gemma3TextConfig(**common, **small, num_key_value_heads=1, head_dim=8, sliding_window=64),
            "decoder",
        ),
        "gpt2": (
            AutoModelForCausalLM,
            GPT2Config(
                **common, n_embd=32, n_layer=2, n_head=4, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout
            ),
            "decoder",
        ),
        "gemma": (AutoModelForCausalLM, GemmaConfig(**common, **small, num_key_value_heads=1, head_dim=8), "decoder"),
        "mistral": (
            AutoModelForCausalLM,
            MistralConfig(**common, **small, num_key_value_heads=2, sliding_window=None),
            "decoder",
        ),
        "qwen2": (AutoModelForCausalLM, Qwen2Config(**common, **small, num_key_value_heads=2), "decoder"),
        "qwen3": (AutoModelForCausalLM, Qwen3Config(**common, **small, num_key_value_heads=2, head_dim=8), "decoder"),
        "bert": (
            AutoModelForMaskedLM,
            BertConfig(**common, **small, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout),
            "encoder",
        ),
        "mpnet": (AutoModelForMaskedLM, MPNetConfig(**common, **small), "encoder"),
        "t5": (
            AutoModelForSeq2SeqLM,
            T5Config(
                **common,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
                dropout_rate=dropout,
            ),
            "encoder-decoder",
        ),
    }
    auto, config, kind = shapes[shape]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = auto.from_config(config)
    model.save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder
