"""Torch: the reference engine; batched greedy generation with a key-value cache, and classification."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.encoding import asked
from luthier.engines import Engine
from luthier.model import classify, generate
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    from luthier.model import Loaded
    from luthier.tasks import Task


class Torch(Engine):
    """Plain PyTorch on the recipe's device."""

    batch_size: int = Field(32, ge=1)
    """Prompts answered at once."""
    max_new_tokens: int = Field(48, ge=1)
    """Longest answer in tokens; an answer that reaches it without an end token is marked by a confidence of 0."""

    def predict(
        self, loaded: Loaded, task: Task, examples: Sequence[Example], max_length: int,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:  # fmt: skip
        prompts = [tuple(asked(task.prompt(e), loaded.tokenizer, loaded.architecture, max_length)) for e in examples]
        distinct = list(dict.fromkeys(prompts))  # tables repeat themselves: each distinct prompt is answered once
        texts = [list(prompt) for prompt in distinct]
        answers: list[tuple[str, float, list[tuple[str, float]]]] = []
        if not texts:
            return []
        if loaded.purpose == "label":
            for row in classify(
                loaded, texts, batch=self.batch_size, tell=lambda done: tell(done, len(texts))
            ).tolist():
                ranked = sorted(zip(loaded.labels, row, strict=True), key=lambda pair: -pair[1])[:5]
                answers.append((ranked[0][0], ranked[0][1], [(label, round(p, 6)) for label, p in ranked]))
        else:
            for written in generate(
                loaded, texts, max_new_tokens=self.max_new_tokens, stop=stop_tokens(loaded), batch=self.batch_size,
                tell=lambda done: tell(done, len(texts)),
            ):  # fmt: skip
                text = task.parse(loaded.tokenizer.decode(written.tokens, skip_special_tokens=True))
                sure = math.exp(sum(written.logprobs) / len(written.logprobs)) if written.finished else 0.0
                answers.append((text, sure, [(text, round(sure, 6))]))
        found = dict(zip(distinct, answers, strict=True))
        return [
            Prediction(
                id=example.id, task=example.task, output=found[prompt][0], confidence=round(found[prompt][1], 6),
                candidates=found[prompt][2], target=example.answer(), slices=dict(example.slices),
                weight=example.weight, entity=example.entity,
            )
            for example, prompt in zip(examples, prompts, strict=True)
        ]  # fmt: skip


def stop_tokens(loaded: Loaded) -> set[int]:
    """Tokens that end an answer: the tokenizer's end token and those of the model's generation settings."""
    stop = {loaded.tokenizer.eos_token_id}
    settings = loaded.model.generation_config
    named = settings.eos_token_id if settings is not None else None
    if named is not None:
        stop |= set(named if isinstance(named, list) else [named])
    return {token for token in stop if token is not None}
