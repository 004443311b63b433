"""What stands before every text that a model reads, trained and kept by peft: virtual tokens, or keys and values.

Virtual tokens have numbers from the end of the vocabulary on, and the embedding table knows their vectors. So they are
tokens like others to all that counts positions, masks, pads and caches. A prefix is a key-value cache that is begun with.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.model import autocast

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import Model


def place_before(model: Model) -> None:
    """Put what peft has wrapped around a model before every text that it reads; nothing where that is another adapter."""
    tuned = model.forward
    config = tuned.active_peft_config
    if not config.is_prompt_learning:
        return
    if config.peft_type == "PROMPT_TUNING":
        table = table_of(model)
        teach(table, tuned.prompt_encoder[tuned.active_adapter].embedding)
        model.front = tuple(range(table.num_embeddings, table.num_embeddings + config.num_virtual_tokens))
    else:
        model.prefix = config.num_virtual_tokens
        begin_with_prefix(model)
    tuned.forward = model.bare.__call__  # peft's own would put it there once more
    if model.head.writes:
        tuned.generate = model.bare.generate
    model.packed = False  # each text has its own
    model.reads_padding = model.in_batches = model.head_kind = None


def table_of(model: Model) -> nn.Embedding:
    """The embedding table that texts are read with."""
    reader = model.bare.get_encoder() if model.architecture == "encoder-decoder" else model.bare
    table: nn.Embedding = reader.get_input_embeddings()
    return table


def teach(table: nn.Embedding, virtual: nn.Embedding) -> None:
    """Let a table give vectors of virtual tokens to the numbers behind its own."""
    import torch

    plain, n = table.forward, table.num_embeddings

    def forward(ids: torch.Tensor) -> torch.Tensor:
        beyond = ids >= n
        found: torch.Tensor = plain(ids.clamp(max=n - 1))
        if not beyond.any():
            return found
        return torch.where(beyond[..., None], virtual((ids - n).clamp(min=0)).to(found.dtype), found)

    table.forward = forward


def begin_with_prefix(model: Model) -> None:
    """Let every forward pass that brings no cache begin with the prefix; of a decoder apart, one with an empty cache too."""
    import torch

    writes_apart = model.architecture == "encoder-decoder" and model.head.writes

    def begun(module: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> tuple[Any, Any] | None:
        given = inputs.get("past_key_values")
        if given is not None and (given.get_seq_length() or not writes_apart):
            return None
        ids = inputs.get("input_ids", args[0] if args else None)
        if writes_apart:  # whoever gives labels alone has the decoder's input made of them
            ids = next(each for name in ("decoder_input_ids", "labels") if (each := inputs.get(name)) is not None)
        if given is not None:  # an empty one of `generate`
            for number, layer in enumerate(cache(model, len(ids)).self_attention_cache.layers):
                given.self_attention_cache.update(layer.keys, layer.values, number)
            return None
        mask = inputs.get("attention_mask")
        if mask is not None and not writes_apart:
            mask = torch.cat([mask.new_ones(len(ids), model.prefix), mask], dim=1)
        return args, {**inputs, "past_key_values": cache(model, len(ids)), "attention_mask": mask}

    takes_cache(model).register_forward_pre_hook(begun, with_kwargs=True)


def takes_cache(model: Model) -> nn.Module:
    """The module that is given a cache: the body of a classifier that passes none on to it."""
    bare = model.bare
    passes = "past_key_values" in inspect.signature(bare.forward).parameters
    return bare if passes else bare.base_model


def cache(model: Model, rows: int) -> Any:
    """A key-value cache of so many rows in which nothing but the prefix is, where there is one."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    config = model.bare.config
    if not model.prefix:
        own = DynamicCache(config=config)
        apart = model.architecture == "encoder-decoder"
        return EncoderDecoderCache(own, DynamicCache(config=config)) if apart else own
    with autocast(model):
        begun = model.forward.get_prompt(rows)
    if model.precision == "bfloat16":  # as what is computed behind it
        for layer in getattr(begun, "self_attention_cache", begun).layers:
            layer.keys, layer.values = layer.keys.to(torch.bfloat16), layer.values.to(torch.bfloat16)
    return begun
