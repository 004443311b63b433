"""Text into tokens: prompts, answers with their end token, and conversations through a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.batching import Encoded
from luthier.errors import UserError

Prompt = str | list[dict[str, str]]  # a text, or messages for a chat template


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads: what turns text into its tokens."""

    tokenizer: Any
    architecture: str  # "encoder", "decoder" or "encoder-decoder"
    labels: tuple[str, ...]  # names of a classification head's outputs
    max_length: int  # tokens of one example, prompt and answer together


def asked(prompts: Sequence[Prompt], reading: Reading) -> list[list[int]]:
    """Tokens of what a model reads before it writes, at most `max_length` each; texts are encoded all at once."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(written_prompts(texts, reading))
    return [
        shortened(next(encoded), reading.max_length, reading)
        if isinstance(prompt, str)
        else list(chat(prompt, None, reading, 1.0).ids)[-reading.max_length :]  # the latest turns say what is asked
        for prompt in prompts
    ]


def shortened(ids: list[int], room: int, reading: Reading) -> list[int]:
    """Tokens that fit: a decoder's lose their middle, since the end of a prompt says what is asked; others keep their end token."""
    if len(ids) <= room:
        return ids
    if reading.architecture == "encoder-decoder":
        return [*ids[: room - 1], ids[-1]]
    return ids[: room // 2] + ids[len(ids) - (room - room // 2) :]


def written_prompts(texts: Sequence[str], reading: Reading) -> list[list[int]]:
    """Tokens of prompts: a decoder's begin with its first token, where it has one, and never hold an end token."""
    if not texts:
        return []
    tokenizer = reading.tokenizer
    if reading.architecture == "encoder-decoder":
        return [list(ids) for ids in tokenizer(list(texts))["input_ids"]]
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return [[*start, *ids] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def read_whole(texts: Sequence[str], reading: Reading) -> list[tuple[list[int], int]]:
    """Tokens of texts that a classification head reads, in the tokenizer's own frame, and how many did not fit."""
    if not texts:
        return []
    whole = reading.tokenizer(list(texts))["input_ids"]
    found = [(list(ids), 0) for ids in whole]
    for number in [n for n, ids in enumerate(whole) if len(ids) > reading.max_length]:  # those alone are read again
        short = reading.tokenizer(texts[number], truncation=True, max_length=reading.max_length)["input_ids"]
        found[number] = (list(short), len(whole[number]) - len(short))
    return found


def answers(texts: Sequence[str], reading: Reading) -> list[list[int]]:
    """Tokens of answers and the end token: without it a model never learns to stop."""
    if not texts:
        return []
    end = reading.tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-sequence token", where="base", hint="set eos_token in its files")
    return [[*ids, end] for ids in reading.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def chat(messages: list[dict[str, str]], answer: str | None, reading: Reading, weight: float) -> Encoded:
    """A conversation through the chat template, with loss on every assistant turn and on what ends it."""
    tokenizer = reading.tokenizer
    if tokenizer.chat_template is None:
        raise UserError(
            "the base has no chat template, so messages cannot be rendered",
            where="task.chat_template",
            hint="give a template in the recipe, or use prompt and completion",
        )
    turns = [*messages, {"role": "assistant", "content": answer}] if answer is not None else list(messages)
    if answer is None:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return Encoded(ids=tokenizer(text, add_special_tokens=False)["input_ids"], weight=weight)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    spans = []
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant" and index:  # what a conversation begins with answers nothing
            before = tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(turns[: index + 1], tokenize=False)
            if not whole.startswith(after) or not after.startswith(before):
                raise UserError(
                    "the chat template rewrites earlier turns, so it is unclear which tokens are the assistant's",
                    where="task.chat_template",
                    hint="use a template that only appends",
                )
            spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    supervised = [any(start < end_b and end > start_b for start_b, end_b in spans) for start, end in offsets]
    cut = max(0, len(ids) - reading.max_length)
    if cut and not any(supervised[:cut]):
        ids, supervised = ids[cut:], supervised[cut:]
    return Encoded(ids=ids, supervised=supervised, covers=sum(supervised[1:]), cut_tokens=cut, weight=weight)
