"""Torch: the reference engine; batched greedy generation with a key-value cache, and classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier import suitability
from luthier.encoding import Reading, asked, ends_of, open_turn, read_whole, written_prompts
from luthier.engines import Engine, Request, Said, Session, Tell, untold
from luthier.generate import Written, generate, scores
from luthier.model import ABOUT, architecture_of, hold_casts, load, load_trained, writing_head

if TYPE_CHECKING:
    from luthier.model import Model


class Torch(Engine):
    """Plain PyTorch on the recipe's device."""

    batch_size: int = Field(32, ge=1)
    """Prompts answered at once."""

    def open(
        self,
        folder: Path,
        base: Path | None,
        *,
        device: str,
        precision: str,
        max_length: int,
        chat_template: str = "",
        control_tokens: Literal["text", "parse"] = "text",
    ) -> Session:
        if (folder / ABOUT).exists():
            model = load_trained(folder, base, device=device, precision=precision)
        else:
            model = load(folder, writing_head(architecture_of(folder), folder), device=device, precision=precision)
            model.control_tokens = control_tokens
            open_turn(model.tokenizer, chat_template)
        hold_casts(model)
        return TorchSession(model, max_length, self.max_new_tokens, self.batch_size)


class TorchSession(Session):
    """A model in memory that answers; also what training evaluates with."""

    def __init__(
        self, model: Model, max_length: int, max_new_tokens: int, batch_size: int, *, remember: bool = False
    ) -> None:
        self.remembered: dict[str, list[int]] | None = {} if remember else None  # tokens, where the same is asked again
        self.model, self.max_new_tokens, self.batch_size = model, max_new_tokens, batch_size
        self.labels = model.labels
        self.ends_by_text: dict[str, set[int]] = {"": set()}  # stop text -> tokens that hold it
        self.reading = Reading(
            model.tokenizer, model.architecture, model.labels, max_length, control_tokens=model.control_tokens
        )
        self.ends = (set(model.ends) or untuned_ends(model, self.reading)) if model.head.writes else set()

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        if not self.model.head.writes:
            texts = self.tokens(requests)
            found = scores(self.model, texts, batch=self.batch_size, tell=lambda done: tell(done, len(texts)))
            return [Said(scores=row) for row in found.tolist()]
        said: dict[int, Said] = {}
        for before, stop in dict.fromkeys((request.before, request.stop) for request in requests):
            chosen = [n for n, request in enumerate(requests) if (request.before, request.stop) == (before, stop)]
            done = len(said)
            written = self._written(
                [requests[n] for n in chosen],
                before,
                stop,
                lambda more, done=done: tell(done + more, len(requests)),
            )
            said |= zip(chosen, (self._said(each, stop) for each in written), strict=True)
        return [said[n] for n in range(len(requests))]

    def fits(self, requests: Sequence[Request]) -> bool:
        most = suitability.positions_of(self.model.bare)
        shown = max((len(self._prefix(before)) for before in {request.before for request in requests}), default=0)
        taken = (
            len(self.model.front)
            + self.model.prefix
            + shown
            + (self.max_new_tokens if self.model.architecture == "decoder" else 0)
        )
        if most is None or taken + self.reading.max_length <= most:
            return True  # whatever the prompts are, and they need not be read for it
        return taken + max(map(len, self.tokens(requests)), default=0) <= most

    def _prefix(self, before: str) -> list[int]:
        """Tokens of solved examples, without an end token behind them."""
        if not before:
            return []
        prefix = written_prompts([before], self.reading)[0]
        _, behind = self.reading.frame
        if self.model.architecture == "encoder-decoder" and behind and prefix[-len(behind) :] == behind:
            prefix = prefix[: -len(behind)]
        return prefix

    def _written(self, requests: Sequence[Request], before: str, stop: str, tell: object) -> list[Written]:
        tokenizer = self.model.tokenizer
        if stop not in self.ends_by_text:  # a look at the whole vocabulary, once
            self.ends_by_text[stop] = tokens_with(stop, tokenizer)
        texts, prefix = self.tokens(requests), self._prefix(before)
        start, _ = self.reading.frame
        if before and start:  # the solved examples begin with it
            texts = [ids[len(start) :] if ids[: len(start)] == start else ids for ids in texts]
        return generate(
            self.model,
            texts,
            max_new_tokens=self.max_new_tokens,
            stop=self.ends | self.ends_by_text[stop],
            batch=self.batch_size,
            prefix=prefix,
            tell=tell,  # type: ignore[arg-type]
        )

    def tokens(self, requests: Sequence[Request]) -> list[list[int]]:
        """The tokens of each prompt, cut to fit."""
        known = self.remembered if self.remembered is not None else {}
        new = {request.key(): request.prompt for request in requests if request.key() not in known}
        if self.model.head.writes:
            known |= zip(new, asked(list(new.values()), self.reading), strict=True)
        else:
            whole = read_whole([str(prompt) for prompt in new.values()], self.reading)
            known |= zip(new, (ids for ids, _ in whole), strict=True)
        return [known[request.key()] for request in requests]

    def _said(self, written: Written, stop: str) -> Said:
        tokens, logprobs = written.tokens, written.logprobs
        if stop and written.ended_by is not None and written.ended_by not in self.ends:
            tokens = [*tokens, written.ended_by]  # it may hold the end of the answer before the text that stops
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True)
        sure = math.exp(sum(logprobs) / len(logprobs)) if written.finished else 0.0
        return Said(text=text.split(stop)[0] if stop else text, confidence=sure, cut=not written.finished)


def untuned_ends(model: Model, reading: Reading) -> set[int]:
    """Tokens that end what an untuned base writes: its end tokens by tokenizer, chat template and generation settings."""
    ends = set(ends_of(reading))
    settings = model.bare.generation_config
    named = settings.eos_token_id if settings is not None else None
    if named is not None:
        ends |= set(named if isinstance(named, list) else [named])
    return ends


def tokens_with(text: str, tokenizer: object) -> set[int]:
    """Tokens whose text holds this one."""
    vocabulary = range(len(tokenizer))  # type: ignore[arg-type]
    words = tokenizer.batch_decode([[token] for token in vocabulary])  # type: ignore[attr-defined]
    return {token for token, word in zip(vocabulary, words, strict=True) if text in word}
