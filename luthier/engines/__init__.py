"""Engines compute answers: the reference is torch; others are used after their answers were compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.choice import Choice, Settings

if TYPE_CHECKING:
    from luthier.encoding import Prompt

Tell = Callable[[int, int], None]  # hears how many are done, and of how many


def untold(done: int, total: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked."""

    prompt: Prompt
    before: str = ""  # solved examples that stand before the prompt; the same for many requests
    stop: str = ""  # text that ends an answer beside the model's own end tokens; it is not part of the answer

    def key(self) -> str:
        """Equal for requests that are one and the same question."""
        return f"{self.before}\0{self.stop}\0{self.prompt!r}"


@dataclass(slots=True)
class Said:
    """What a model said: text, or one score for each label of its head."""

    text: str = ""
    scores: Sequence[float] = ()  # logits (C,)
    confidence: float = 0.0  # exp(mean token log-probability), 0..1; 0 where no end came before the limit
    cut: bool = False  # whether the limit came before the end


class Session:
    """A model that is open and answers."""

    labels: tuple[str, ...] = ()  # names of a classification head's outputs

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        """One answer for each request, in order."""
        raise NotImplementedError

    def fits(self, requests: Sequence[Request]) -> bool:
        """Whether the model can read these prompts with the solved examples before them, and answer."""
        return True


class Engine(Choice):
    """A way of running a model."""

    family: ClassVar[str] = "engines"

    max_new_tokens: int = Field(48, ge=1)
    """Longest answer in tokens; an answer that reaches it without an end token is cut off: its confidence is 0,
    and it is counted (the check `cut_answers`)."""

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
        """Open a model folder that Luthier wrote, over its base where it is an adapter, or an untuned base as it is.

        `max_length`: tokens of a prompt, which is cut to them. `device` and `precision` are settled, never `auto`.
        `chat_template` and `control_tokens`: the recipe's own, for an untuned base; a trained model holds them.
        """
        raise NotImplementedError


class Computing(Settings):
    """By what answers are computed: the same for a model and for the untuned base beside it."""

    engine: Engine
    device: str
    """Settled, never `auto`."""
    precision: str
    """Settled, never `auto`."""

    def open(
        self,
        folder: Path,
        base: Path | None,
        max_length: int,
        chat_template: str = "",
        control_tokens: Literal["text", "parse"] = "text",
    ) -> Session:
        """Open a model folder, or an untuned base, which is asked as the recipe says."""
        return self.engine.open(
            folder,
            base,
            device=self.device,
            precision=self.precision,
            max_length=max_length,
            chat_template=chat_template,
            control_tokens=control_tokens,
        )
