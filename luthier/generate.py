"""Answers from a model in memory: greedy text with a key-value cache, scores of a classification head, embeddings."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from luthier.fronts import cache
from luthier.model import autocast, decoder_start, greedy, head_replaced, padded, probing, scored

if TYPE_CHECKING:
    import torch

    from luthier.model import Model

# Kinds of models that are answered with the cache below; the sweep over architectures shows that each of them gives what
# transformers' own `generate` gives. All others are answered by that.
ANSWERED_HERE = {
    "llama",
    "gemma",
    "gemma2",
    "gemma3_text",
    "qwen2",
    "qwen3",
    "mistral",
    "mixtral",
    "gpt2",
    "gpt_neox",
    "bloom",
    "opt",
    "phi3",
    "gpt_oss",
    "deepseek_v3",
    "t5",
    "mt5",
    "bart",
    "mbart",
    "pegasus",
}


@dataclass
class Written:
    """What the model wrote for one prompt."""

    tokens: list[int]  # without the stop token
    logprobs: list[float]  # of each token and of the stop token, nats
    finished: bool  # whether a stop token came before the limit
    ended_by: int | None = None  # that token


def generate(
    model: Model,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop: set[int],
    batch: int = 32,
    prefix: Sequence[int] = (),
    tell: Callable[[int], None] = lambda done: None,
) -> list[Written]:
    """Greedy answers. Prompts are sorted by length and answered in batches with a key-value cache.

    `prefix` stands before every prompt, behind virtual tokens, and is computed once. `tell` hears how many are done. Rows
    that have stopped leave the batch, so a long answer does not keep the short ones busy.
    """
    import torch

    prefix = model.fronted(prefix)
    if not answers_itself(model):
        return by_transformers(model, [[*prefix, *prompt] for prompt in prompts], max_new_tokens, stop, batch, tell)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    written: list[Written] = [Written([], [], False) for _ in prompts]
    done = 0
    with torch.inference_mode(), autocast(model), tall_head(model), flat_head(model):
        longest = model.prefix + len(prefix) + max(map(len, prompts), default=0) + max_new_tokens
        padded_behind = _may_share(model, longest)
        shared, before = None, list(prefix)
        if model.architecture == "decoder" and (model.prefix or (prefix and padded_behind)):
            shared, before = _prefix_cache(model, prefix if padded_behind else ()), [] if padded_behind else before
        alike = model.prefix > 0 and not padded_behind
        for rows in _batches(order, [len(prompt) for prompt in prompts], batch, alike):
            texts = [[*before, *prompts[row]] for row in rows]
            state = (
                _seq2seq_state(model, texts)
                if model.architecture == "encoder-decoder"
                else _decoder_state(model, texts, shared)
            )
            _extend(model, state, [written[row] for row in rows], max_new_tokens, stop)
            done += len(rows)
            tell(done)
    return written


def _batches(order: Sequence[int], lengths: Sequence[int], batch: int, alike: bool) -> Iterator[list[int]]:
    """Prompts of a batch each, in order; of one length where they must not be padded."""
    for _, same in groupby(order, key=lambda row: lengths[row] if alike else 0):
        rows = list(same)
        yield from (rows[start : start + batch] for start in range(0, len(rows), batch))


def answers_itself(model: Model) -> bool:
    """Whether a model is answered from here: kinds for which that was shown to be what transformers' own `generate` gives."""
    return model.bare.config.model_type in ANSWERED_HERE


def by_transformers(
    model: Model,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop: set[int],
    batch: int,
    tell: Callable[[int], None],
) -> list[Written]:
    """Greedy answers by transformers' own `generate`, in batches of prompts of one length, so that no padding is read."""
    import torch

    if batch > 1 and not in_batches(model):
        batch = 1
    settings = copy.deepcopy(greedy(model))
    settings.update(max_new_tokens=max_new_tokens, eos_token_id=sorted(stop) or None)
    written: list[Written] = [Written([], [], False) for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    done = 0
    with torch.inference_mode(), autocast(model), settled(model, settings), flat_head(model):
        for _, same in groupby(order, key=lambda i: len(prompts[i])):
            rows = list(same)
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                ids = torch.tensor([prompts[row] for row in chosen], device=model.device)
                found = model.forward.generate(
                    **_begun(model, ids),
                    return_dict_in_generate=True,
                    output_logits=True,
                )
                logprobs_BT = torch.stack(
                    [step.float().log_softmax(-1).amax(-1) for step in found.logits], dim=1
                ).tolist()
                tokens_BT = found.sequences[:, -len(found.logits) :].tolist()
                for row, tokens, logprobs in zip(chosen, tokens_BT, logprobs_BT, strict=True):
                    written[row] = up_to_end(tokens, logprobs, stop)
                done += len(chosen)
                tell(done)
    return written


def _begun(model: Model, ids_BT: torch.Tensor) -> dict[str, Any]:
    """What `generate` is given: it leaves out as many tokens as its cache holds, so that any stand for those of a prefix."""
    import torch

    begun = {}
    if model.prefix and model.architecture == "decoder":
        begun = {"past_key_values": cache(model, len(ids_BT))}
        ids_BT = torch.cat([ids_BT[:, :1].expand(-1, model.prefix), ids_BT], dim=1)
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), **begun}


def in_batches(model: Model) -> bool:
    """Whether `generate` answers prompts of one length in a batch as it does one by one; shown once on two of them."""
    if model.in_batches is None:
        model.in_batches = True
        prompts = [probing(model, 6), probing(model, 6, start=9)[::-1]]
        together = by_transformers(model, prompts, 6, set(), 2, lambda done: None)
        alone = [by_transformers(model, [prompt], 6, set(), 1, lambda done: None)[0] for prompt in prompts]
        model.in_batches = [each.tokens for each in together] == [each.tokens for each in alone]
    return model.in_batches


@contextlib.contextmanager
def settled(model: Model, settings: Any) -> Iterator[None]:
    """The model's generation settings are these inside; those that are given to `generate` are filled up from the model's."""
    own, model.bare.generation_config = model.bare.generation_config, settings
    try:
        yield
    finally:
        model.bare.generation_config = own


def up_to_end(tokens: Sequence[int], logprobs: Sequence[float], stop: set[int]) -> Written:
    """What was written before the first token that ends an answer."""
    for place, token in enumerate(tokens):
        if token in stop:
            return Written(list(tokens[:place]), list(logprobs[: place + 1]), True, token)
    return Written(list(tokens), list(logprobs), False)


@dataclass
class _Generating:
    """The state of one batch: what the next forward needs."""

    logits: torch.Tensor  # (B, V) of the position to be written
    cache: Any
    mask: torch.Tensor  # (B, T) attention mask over everything so far
    position: torch.Tensor | None  # (B,) next position of each row
    encoded: Any = None  # encoder output and its mask, for encoder-decoders


def _may_share(model: Model, longest: int) -> bool:
    """A prefix is shared by decoders; not where texts outgrow a sliding window, since padding after it takes up room."""
    window = model.bare.config.to_dict().get("sliding_window")
    return model.architecture == "decoder" and (window is None or longest <= window)


def _prefix_cache(model: Model, prefix: Sequence[int]) -> Any:
    import torch

    begun = cache(model, 1)
    if prefix:
        ids = torch.tensor([list(prefix)], device=model.device)
        model.forward(input_ids=ids, past_key_values=begun, use_cache=True, logits_to_keep=1)
    return begun


def _decoder_state(model: Model, texts: list[list[int]], shared: Any) -> _Generating:
    import torch

    begun = copy.deepcopy(shared) if shared is not None else cache(model, len(texts))
    length = begun.get_seq_length() if shared is not None else 0
    if shared is not None:
        begun.batch_repeat_interleave(len(texts))
    width = max(len(text) for text in texts)
    pad = model.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(text)) + text for text in texts], device=model.device)
    own = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=model.device)
    mask = torch.cat([torch.ones(len(texts), length, dtype=own.dtype, device=model.device), own], dim=1)
    positions = (length + own.cumsum(1) - 1).clamp(min=0)
    outputs = model.forward(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=begun,
        use_cache=True,
        logits_to_keep=1,
    )
    return _Generating(outputs.logits[:, -1].float(), begun, mask, positions[:, -1] + 1)


def _seq2seq_state(model: Model, texts: list[list[int]]) -> _Generating:
    import torch

    width = max(len(text) for text in texts)
    pad = model.tokenizer.pad_token_id
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts], device=model.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
    plain = model.bare
    encoded = plain.get_encoder()(input_ids=ids, attention_mask=mask)
    begun = cache(model, len(texts))
    start = torch.full((len(texts), 1), decoder_start(model), device=model.device)
    outputs = model.forward(
        encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, past_key_values=begun, use_cache=True
    )
    return _Generating(outputs.logits[:, -1].float(), begun, mask, None, encoded)


def _extend(model: Model, state: _Generating, rows: list[Written], limit: int, stop: set[int]) -> None:
    import torch

    alive = list(range(len(rows)))
    for step in range(limit + 1):
        highest, tokens = state.logits.max(dim=-1)
        logprobs = highest - state.logits.logsumexp(dim=-1)
        keep = []
        for place, (row, token, logprob) in enumerate(zip(alive, tokens.tolist(), logprobs.tolist(), strict=True)):
            if token in stop:
                rows[row].finished, rows[row].ended_by = True, token
                rows[row].logprobs.append(logprob)
            elif step < limit:
                rows[row].tokens.append(token)
                rows[row].logprobs.append(logprob)
                keep.append(place)
        if not keep or step == limit:
            return
        if len(keep) < len(alive):
            kept = torch.tensor(keep, device=model.device)
            alive = [alive[place] for place in keep]
            tokens = tokens[kept]
            state.cache.batch_select_indices(kept)
            state.mask = state.mask[kept]
            if state.position is not None:
                state.position = state.position[kept]
            else:
                state.encoded.last_hidden_state = state.encoded.last_hidden_state[kept]
        if state.position is None:
            outputs = model.forward(
                encoder_outputs=state.encoded,
                attention_mask=state.mask,
                decoder_input_ids=tokens[:, None],
                past_key_values=state.cache,
                use_cache=True,
            )
        else:
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(keep), 1)], dim=1)
            outputs = model.forward(
                input_ids=tokens[:, None],
                attention_mask=state.mask,
                position_ids=state.position[:, None],
                past_key_values=state.cache,
                use_cache=True,
            )
            state.position = state.position + 1
        state.logits = outputs.logits[:, -1].float()


def scores(
    model: Model, texts: Sequence[list[int]], *, batch: int = 64, tell: Callable[[int], None] = lambda done: None
) -> torch.Tensor:
    """What the classification head says of each text, (N, C), in the order of `texts`."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts), len(model.labels))
    with torch.inference_mode(), autocast(model):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found[rows] = scored(model, [texts[row] for row in rows]).cpu()
            tell(start + len(rows))
    return found


def embed(model: Model, texts: Sequence[list[int]], *, batch: int = 64) -> torch.Tensor:
    """Mean of the last hidden states, of unit length, (N, D): how sentence encoders are commonly read."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    body = model.bare.base_model
    found: torch.Tensor | None = None
    with torch.inference_mode(), autocast(model):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids, mask = padded([texts[row] for row in rows], model)
            hidden_BTD = body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            mean_BD = (hidden_BTD * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            if found is None:
                found = torch.zeros(len(texts), mean_BD.shape[1])
            found[rows] = torch.nn.functional.normalize(mean_BD, dim=-1).cpu()
    return found if found is not None else torch.zeros(0, 1)


@contextlib.contextmanager
def tall_head(model: Model) -> Iterator[None]:
    """Compute the output head as `weight @ hidden.T`, which is up to 40 % faster on CPUs for a few rows."""
    import torch

    head = model.bare.get_output_embeddings()
    if (
        type(head) is not torch.nn.Linear
        or head.bias is not None
        or model.device != "cpu"
        or model.precision != "float32"
    ):
        yield
        return
    weight_VD = head.weight
    with head_replaced(head, lambda hidden: (weight_VD @ hidden.flatten(0, -2).T).T.unflatten(0, hidden.shape[:-1])):
        yield


@contextlib.contextmanager
def flat_head(model: Model) -> Iterator[None]:
    """Give the output head rows alone, (B, D).

    Where a head trains no more, torch multiplies a last position that was cut out of a longer text, (B, 1, D), in bfloat16 on
    CPUs by a copy of the whole head for each text: a second for 262,144 tokens. The logits are the same to the last bit.
    """
    head = model.bare.get_output_embeddings()
    if head is None or model.device != "cpu" or model.precision == "float32":
        yield
        return
    plain = head.forward
    with head_replaced(head, lambda hidden: plain(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])):
        yield
