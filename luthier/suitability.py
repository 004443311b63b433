"""Whether a base can do what is asked of it, found before any training and told in words: its kind, weights, vocabulary,
positions and precision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import Head, Model

EXACT = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # weights, and the whole numbers of buffers
NAMED = 3  # weights named in a message
BUFFER = re.compile(
    r"(position_ids|token_type_ids|inv_freq|masked_bias|(attn|attention)\.bias)$"
)  # which old files hold


def check_kind(folder: Path, head: Head) -> None:
    """UserError where transformers has no such head for this kind of base."""
    import transformers

    config = config_of(folder)
    if type(config) not in getattr(transformers, head.auto)._model_mapping:
        kind = config.model_type
        what = "no head that writes" if head.writes else "no classification head" if head.labels else "no plain body"
        raise UserError(
            f"is a {kind}, for which transformers has {what} ({head.auto})",
            where=str(folder),
            hint="choose another base for this task",
        )


def check_files(folder: Path, config: Mapping[str, Any]) -> None:
    """UserError where weight files are missing or cut, or hold numbers that only a quantized model has."""
    from safetensors import SafetensorError, safe_open

    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise quantized_base(f"({method or 'unknown method'})", folder)
    index = folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.exists() else set()
    files = sorted(folder.glob("*.safetensors"))
    if missing := sorted(named - {file.name for file in files}):
        told = f"lacks {missing[0]}" + (f" and {len(missing) - 1} more of its weight files" if missing[1:] else "")
        raise UserError(f"{told}, which {index.name} names", where=str(folder), hint="fetch the model again")
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as problem:
            raise UserError(
                f"is no whole safetensors file ({first_line(problem)})", where=str(file), hint="fetch the model again"
            ) from None
        if odd := sorted(n for n, kind in kinds.items() if kind not in EXACT and not BUFFER.search(n)):
            raise quantized_base(f"(weights of type {kinds[odd[0]]}, such as {odd[0]})", folder)


def quantized_base(how: str, folder: Path) -> UserError:
    """What is told of weights that are rounded to a few bits."""
    return UserError(
        f"is quantized {how}, and its weights cannot be trained exactly",
        where=str(folder),
        hint="take the full-precision model that it was made from",
    )


def config_of(folder: Path) -> Any:
    """The configuration of a model folder; UserError where transformers cannot read it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"config.json cannot be read ({first_line(problem)})", where=str(folder), hint="fetch it again"
        ) from None


def check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """UserError where ordinary text, or what stands around each, may become a token that the model has no embedding for.

    Other control tokens beyond the embeddings, such as those of images, are never made from text.
    """
    from luthier.encoding import Reading

    n_embeddings = embeddings_of(folder)
    added = tokenizer.added_tokens_decoder
    last = max(len(tokenizer) - 1, *added) if added else len(tokenizer) - 1
    numbers = range(n_embeddings, last + 1)
    named = zip(numbers, tokenizer.convert_ids_to_tokens(list(numbers)), strict=True)
    beyond = [
        number for number, token in named if token is not None and not (number in added and added[number].special)
    ]
    if not numbers:
        return
    before, behind = Reading(tokenizer, "decoder", (), 0).frame
    used = [number for number in (tokenizer.eos_token_id, *before, *behind) if number in numbers]
    if beyond or used:
        raise no_embedding(tokenizer, (beyond + used)[0], n_embeddings, str(folder))


def embeddings_of(folder: Path) -> int:
    """How many tokens a base has embeddings for."""
    return int(config_of(folder).get_text_config().vocab_size)


def no_embedding(tokenizer: Any, token: int, n_embeddings: int, where: str) -> UserError:
    """What is told of a token that the model cannot read."""
    return UserError(
        f"the tokenizer of the base has {len(tokenizer)} tokens and the model {n_embeddings} embeddings; "
        f"'{tokenizer.convert_ids_to_tokens(token)}' has none",
        where=where,
        hint="take the tokenizer that belongs to the model, or resize its embeddings and save it again",
    )


def positions(folder: Path, head: Head) -> int | None:
    """Most tokens that a base reads (an encoder-decoder: reads and writes, each), or None where nothing limits them.

    Tables of positions are looked at themselves, without weights: RoBERTa keeps two rows of its table for itself.
    """
    import torch
    import transformers

    with torch.device("meta"):
        return positions_of(getattr(transformers, head.auto).from_config(config_of(folder)))


def positions_of(model: nn.Module) -> int | None:
    """Most tokens that a model reads, from its tables of positions or its configuration."""
    from torch import nn

    found = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in last or last == "wpe") and "relative" not in last:
            offset = getattr(module, "offset", None)
            if not isinstance(offset, int):
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - offset)
    text = model.config.get_text_config()
    written = [getattr(text, "max_seq_len", None)]  # MPT's biases of attention end there
    if found or uses_positions(text):  # a table may hold rows beside those of positions
        written.append(getattr(text, "max_position_embeddings", None))
    found += [most for most in written if isinstance(most, int) and most > 0]
    return min(found, default=None)


def uses_positions(config: Any) -> bool:
    """Whether the length that a configuration names is one: not where positions are biases of the attention alone."""
    relative = getattr(config, "relative_attention", False) and not getattr(config, "position_biased_input", True)
    return not (relative or getattr(config, "alibi", False))


def check_lengths(max_length: int, most: int | None) -> None:
    """UserError where the recipe allows longer examples than the base can read."""
    if most is not None and max_length > most:
        raise UserError(
            f"encode.max_length is {max_length}, but the base reads {most} tokens at most",
            where="encode.max_length",
            hint=f"write {most} or less, or choose a base with more positions",
        )


def check_weights(
    bare: nn.Module, told: Mapping[str, Any], head: Head, folder: Path
) -> tuple[tuple[str, ...], list[str]]:
    """Names of the parameters that were drawn anew, and what is worth telling; UserError unless they are the head's.

    Outside its body a classifier is new: head, pooler and projection are drawn, and an old head's weights fit nothing.
    """
    missing, unexpected = sorted(told["missing_keys"]), sorted(told["unexpected_keys"])
    mismatched = sorted(entry[0] for entry in told["mismatched_keys"])
    inside = lambda name: in_body(name, bare)  # noqa: E731
    wrong = [name for name in (*missing, *mismatched) if head.writes or inside(name)]
    more = [name for name in unexpected if inside(name) and not BUFFER.search(name)]
    own = {name for name, _ in bare.base_model.named_children()}
    strange = [name for name in more if part_of_body(name, bare) in own]
    if wrong or strange:
        told_names = [f"{len(wrong)} are missing or of another size ({some(wrong)})"] if wrong else []
        others = strange or (unexpected if wrong else [])
        told_names += [f"{len(others)} fit nothing in it ({some(others)})"] if others else []
        raise UserError(
            f"its weights do not fill a {type(bare).__name__}: {'; '.join(told_names)}",
            where=str(folder),
            hint="fetch it again, or save it again with the config that belongs to its weights",
        )
    notes = []
    if unused := sorted({name.rpartition(".")[0] for name in more}):  # such as Funnel's decoder, to a classifier
        notes.append(f"a {type(bare).__name__} does not use all of the base: {len(more)} weights ({some(unused)})")
    drawn = {*missing, *mismatched}
    if head.labels:
        drawn |= renewed(bare, head, folder, drawn)
    if mismatched or drawn > set(missing):
        notes.append("the base was a classifier of other labels: its head is replaced by a new one")
    return tuple(sorted(drawn)), notes


def in_body(name: str, bare: nn.Module) -> bool:
    """Whether a weight is the body's, so that the model is not what it was without it; a pooler belongs to the head."""
    parts = name.split(".")
    alone = bare.base_model is bare  # no head at all
    inside = parts[0] in dict(bare.named_children()) if alone else parts[0] == bare.base_model_prefix
    return inside and "pooler" not in parts


def part_of_body(name: str, bare: nn.Module) -> str:
    """The part of the body that a weight's name puts it into."""
    parts = name.split(".")
    return parts[0] if bare.base_model is bare else parts[1] if len(parts) > 1 else ""


def renewed(bare: nn.Module, head: Head, folder: Path, drawn: set[str]) -> set[str]:
    """Draw the last layer of a head anew that was loaded from a classifier of other labels; names of its parameters."""
    import torch
    from torch import nn

    old = config_of(folder).id2label or {}
    if tuple(old[number] for number in sorted(old)) == head.labels:
        return set()
    found = set()
    for name, module in bare.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == len(head.labels) and not in_body(f"{name}.", bare):
            own = {f"{name}.{part}" for part, _ in module.named_parameters()}
            if own & drawn:
                continue
            with torch.no_grad():
                module.weight.normal_(0.0, getattr(bare.config, "initializer_range", 0.02))
                if module.bias is not None:
                    module.bias.zero_()
            found |= own
    return found


def some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def settle_precision(model: Model) -> None:
    """Fall back to float32 where the base's own code does not compute in bfloat16, shown by forward passes of two tokens."""
    if model.precision == "float32":
        return
    problem = failure(model)
    if not problem:
        return
    model.precision = "float32"
    if not failure(model):
        name = type(model.bare).__name__
        model.notes.append(f"computing in float32: {name} does not work in bfloat16 ({problem})")


def failure(model: Model) -> str:
    """Why a forward pass of two tokens in the model's precision fails, or nothing."""
    try:
        tried(model)
    except (RuntimeError, TypeError, ValueError) as problem:
        return first_line(problem)
    return ""


def tried(model: Model, n: int = 1) -> torch.Tensor:
    """The logits of a forward pass of `n` ordinary tokens and the end token in the model's precision; of a body without a
    head its last states."""
    import torch

    from luthier.model import autocast, probing

    end = model.tokenizer.eos_token_id
    ids = [*probing(model, n), end] if end is not None else probing(model, n + 1)
    inputs = {"input_ids": torch.tensor([ids], device=model.device)}
    if model.architecture == "encoder-decoder" and not model.head.labels:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.inference_mode(), autocast(model):
        outputs = model.forward(**inputs)
    found: torch.Tensor = outputs["logits" if "logits" in outputs else "last_hidden_state"]
    return found
