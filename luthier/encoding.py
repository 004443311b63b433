"""Text into tokens: prompts, answers with their end token, and conversations through a chat template."""

from __future__ import annotations

from typing import Any

from luthier.batching import Encoded
from luthier.errors import UserError


def asked(prompt: str | list[dict[str, str]], tokenizer: Any, architecture: str, max_length: int) -> list[int]:
    """Tokens of what a model reads before it answers, at most `max_length`."""
    if isinstance(prompt, list):
        return chat(prompt, None, tokenizer, max_length, 1.0).ids
    if architecture == "decoder":
        return shortened(prompt_ids(prompt, tokenizer), max_length)
    return list(tokenizer(prompt, truncation=True, max_length=max_length)["input_ids"])


def shortened(ids: list[int], room: int) -> list[int]:
    """Tokens with their middle cut out where they do not fit: the end of a prompt says what is asked."""
    return ids if len(ids) <= room else ids[: room // 2] + ids[len(ids) - (room - room // 2) :]


def prompt_ids(prompt: str, tokenizer: Any) -> list[int]:
    """Tokens of a prompt with the beginning token, where the model has one, and never an end token."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids] if tokenizer.bos_token_id is not None else ids


def answer_ids(text: str, tokenizer: Any) -> list[int]:
    """Tokens of an answer and the end token: without it a model never learns to stop."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token", where="base", hint="set eos_token in its files")
    return [*ids, tokenizer.eos_token_id]


def chat(messages: list[dict[str, str]], answer: str | None, tokenizer: Any, max_length: int, weight: float) -> Encoded:
    """A conversation through the chat template, with loss on every assistant turn and on what ends it."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the base has no chat template, so messages cannot be rendered", where="task.chat_template",
            hint="give a template in the recipe, or use prompt and completion",
        )  # fmt: skip
    turns = [*messages, {"role": "assistant", "content": answer}] if answer is not None else list(messages)
    if answer is None:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return Encoded(ids=tokenizer(text, add_special_tokens=False)["input_ids"], weight=weight)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    spans = []
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(turns[: index + 1], tokenize=False)
            if not whole.startswith(after) or not after.startswith(before):
                raise UserError(
                    "the chat template rewrites earlier turns, so it is unclear which tokens are the assistant's",
                    where="task.chat_template", hint="use a template that only appends",
                )  # fmt: skip
            spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    supervised = [any(start < end_b and end > start_b for start_b, end_b in spans) for start, end in offsets]
    cut = max(0, len(ids) - max_length)
    if cut and not any(supervised[:cut]):
        ids, supervised = ids[cut:], supervised[cut:]
    return Encoded(ids=ids, supervised=supervised, cut_tokens=cut, weight=weight)
