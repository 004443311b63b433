"""Untuned: the base model as it is, with examples in the prompt (decoders) or by the nearest labelled neighbour (encoders)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from luthier.baselines import Baseline, Setting
from luthier.encoding import Reading, read_whole
from luthier.engines import Request
from luthier.errors import UserError
from luthier.generate import embed
from luthier.model import Head, architecture_of, load
from luthier.seams import Answered, Example


class Untuned(Baseline):
    """The base before any training, in the engine, precision and stop rules of the model that it is compared with."""

    needs_model: ClassVar[bool] = True
    answers: ClassVar[tuple[str, ...]] = ("text", "label", "labels", "number", "ranking")

    shots: int = Field(5, ge=0)
    """Training examples in the prompt of a decoder, drawn by the seed and spread over the columns or labels."""
    limit: int = Field(0, ge=0)
    """Answer only so many examples, drawn by the seed, where the test split is large and time short; 0 answers all."""

    def predict(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        if self.limit and self.limit < len(examples):
            chosen = set(random.Random(f"limit/{setting.seed}").sample(sorted(e.id for e in examples), self.limit))
            examples = [example for example in examples if example.id in chosen]
        if architecture_of(setting.base) == "encoder":
            return self.neighbours(train, examples, setting)
        return self.few_shot(train, examples, setting)

    def few_shot(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        """Answers after `shots` solved examples, as earlier turns of a conversation or one on each line."""
        session, shots = setting.session(), self.shots
        while True:  # fewer solved examples where the base has no room for all of them
            requests = asked(spread(train, shots, setting.seed), examples, setting.task)
            distinct = {request.key(): request for request in requests}
            if not shots or session.fits(list(distinct.values())):
                break
            shots -= 1
        answers = session.answer(list(distinct.values()), setting.tell)
        said = dict(zip(distinct, answers, strict=True))
        for example, request in zip(examples, requests, strict=True):
            found = said[request.key()]
            yield example, Answered(setting.task.parse(found.text, example), found.confidence, cut=found.cut)

    def neighbours(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        """The answer of the training example whose embedding is nearest by cosine."""
        if setting.task.answers not in ("label", "labels"):
            raise UserError(
                "an encoder cannot write text", where="score.baselines untuned", hint="leave it out for this base"
            )
        # the head is not used: embeddings are read from the body
        model = load(setting.base, Head("AutoModel"), device=setting.device, precision=setting.precision)
        reading = Reading(model.tokenizer, model.architecture, (), setting.max_length, setting.control_tokens)
        learned, wanted = (
            embed(model, [ids for ids, _ in read_whole([str(setting.task.prompt(e)) for e in part], reading)])
            for part in (train, examples)
        )
        nearest = (wanted @ learned.T).max(dim=1)
        for example, place, similarity in zip(examples, nearest.indices.tolist(), nearest.values.tolist(), strict=True):
            answer = train[place].target
            assert answer is not None
            yield example, Answered(answer, max(0.0, min(1.0, similarity)))


def asked(shots: Sequence[Example], examples: Sequence[Example], task: Any) -> list[Request]:
    """What the base is asked: a conversation goes on after solved ones; a text follows solved ones, each on its line.

    Where one table holds both, each is shown those of its own kind. An answer on a line of its own ends with the line,
    or, where answers have several lines, with an empty line.
    """
    shown = [(task.prompt(shot), task.completion(shot.target)) for shot in shots]
    turns = [
        turn
        for prompt, answer in shown
        if isinstance(prompt, list)
        for turn in (*prompt, {"role": "assistant", "content": answer})
        if turn["role"] != "system"
    ]
    solved = [joined(line(prompt) + task.cue, answer) for prompt, answer in shown if isinstance(prompt, str)]
    end = "" if not solved else "\n\n" if any("\n" in text for text in solved) else "\n"
    before = "".join(f"{text}{end}" for text in solved)
    requests = []
    for prompt in map(task.prompt, examples):
        chat = isinstance(prompt, list)
        requests.append(
            Request(with_turns(prompt, turns)) if chat else Request(f"{line(prompt)}{task.cue}", before, end)
        )
    return requests


def joined(prompt: str, answer: str) -> str:
    """Prompt and answer with at least one blank between them, since a prompt on one line has lost its last line end."""
    return f"{prompt}{'' if answer[:1].isspace() else ' '}{answer}"


def with_turns(prompt: list[dict[str, str]], turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """A conversation with solved ones before its first user turn, behind what the system says."""
    system = [turn for turn in prompt if turn["role"] == "system"]
    return [*system, *turns, *(turn for turn in prompt if turn["role"] != "system")]


def spread(train: Sequence[Example], n: int, seed: int) -> list[Example]:
    """`n` examples, one of each column or label in turn."""
    draw = random.Random(f"shots/{seed}")
    groups: dict[str, list[Example]] = {}
    for example in sorted(train, key=lambda e: e.id):
        answer = str(example.target) if example.target is not None and example.target.kind == "label" else ""
        groups.setdefault(example.slices.get("column") or answer, []).append(example)
    for group in groups.values():
        draw.shuffle(group)
    order = sorted(groups)
    draw.shuffle(order)
    rounds = [group[turn] for turn in range(n) for name in order if turn < len(group := groups[name])]
    return rounds[:n]


def line(prompt: str) -> str:
    """A prompt on one line."""
    return " ".join(prompt.split())
