"""Causal: next-token loss on the answer alone, for decoders and encoder-decoders, with logits only where there is loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.batching import Encoded
from luthier.encoding import (
    Messages,
    Reading,
    answers,
    answers_something,
    asked_text,
    chat,
    ends_of,
    says,
    shortened,
    told_where,
    written_prompts,
)
from luthier.losses import Needs, Outputs, at_positions, per_example, token_losses
from luthier.model import Head, decoder_start, padded, writing_head
from luthier.objectives import Fault, Objective
from luthier.seams import Answered, Example, place

if TYPE_CHECKING:
    import torch

    from luthier.engines import Said
    from luthier.model import Model
    from luthier.tasks import Task


class Causal(Objective):
    """Write the answer and the end token."""

    smooths: ClassVar[bool] = True
    faults: ClassVar[dict[str, Fault]] = {
        "no supervised token": Fault("{n} of {total} examples have no supervised token", "raise encode.max_length"),
        "an answer that does not fit": Fault(
            "{n} of {total} examples have an answer that does not fit", "raise encode.max_length"
        ),
        "an answer without end token": Fault(
            "{n} of {total} examples have an answer without end token", "raise encode.max_length"
        ),
        "a prompt without tokens": Fault(
            "{n} of {total} examples have a prompt in which the tokenizer reads nothing",
            "leave these rows out, or choose a base whose tokenizer has their characters",
        ),
        "an answer that the tokenizer cannot write": Fault(
            "{n} of {total} examples have an answer that the tokenizer cannot write, which no model can get right",
            "choose a base whose tokenizer has these characters, or correct the answers",
            tolerated=0.5,
        ),
        "a control token in an answer": Fault(
            "{n} of {total} examples have an answer that holds a control token, which is left off what a model says, so "
            "that none can get it right",
            "take it out of the answers, or set encode.control_tokens to text",
            tolerated=0.5,
        ),
        "an earlier answer without loss": Fault(
            "{n} of {total} examples have earlier answers that the chat template shows otherwise later (without their "
            "thoughts, say); those are not learned from",
            "give each of them an example of its own to learn them too",
            tolerated=1.0,
        ),
        "an answer that the chat template writes otherwise": Fault(
            "{n} of {total} examples have an answer that the chat template writes otherwise, which no model can get right",
            "write answers as the template does (all with their thoughts, or all without), or give a template in the recipe "
            "that neither adds to them nor begins them in the prompt",
            tolerated=0.5,
        ),
        "text that looks like a control token": Fault(
            "{n} of {total} examples hold text that looks like a control token of the base; it is read as ordinary text",
            "set encode.control_tokens to parse where it is meant as one",
            tolerated=1.0,
        ),
        "text that looks like a control token in a conversation": Fault(
            "{n} of {total} examples hold text that looks like a control token of the base; it is read as ordinary text "
            "here, while transformers' own apply_chat_template reads it as a token",
            "set encode.control_tokens to parse where it is meant as one",
            tolerated=1.0,
        ),
    }

    def head(self, architecture: str, labels: Sequence[str]) -> Head:
        return writing_head(architecture)  # type: ignore[arg-type]

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        prompts = [task.prompt(example) for example in examples]
        texts = [(e, p) for e, p in zip(examples, prompts, strict=True) if isinstance(p, str)]
        asked = iter(written_prompts([asked_text(prompt) for _, prompt in texts], reading))
        wanted = iter(answers([(p, task.completion(e.target)) for e, p in texts if e.target], reading))
        found = []
        for example, prompt in zip(examples, prompts, strict=True):
            if isinstance(prompt, str):
                target = next(wanted) if example.target else []
                found.append(side_by_side(next(asked), target, example.weight, reading))
            else:
                assert example.target is not None, "conversations are learned from with their answers"
                with told_where(place(example)):
                    found.append(chat(prompt, task.completion(example.target), reading, example.weight))
        return found

    def audit(self, encoded: Encoded, example: Example, task: Task, reading: Reading) -> Iterator[str]:
        supervised = list(encoded.targets) or [
            token for token, carries in zip(encoded.ids, encoded.supervised, strict=True) if carries
        ]
        if not supervised:
            yield "no supervised token"
        elif encoded.cut_tokens and (encoded.length > reading.max_length or len(supervised) >= encoded.length - 1):
            yield "an answer that does not fit"
        elif supervised[-1] not in ends_of(reading):
            yield "an answer without end token"
        prompt, answer = task.prompt(example), task.completion(example.target) if example.target else ""
        if isinstance(prompt, str) and nothing_read(encoded, reading):
            yield "a prompt without tokens"
        texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        if reading.control_tokens == "text" and any(map(reading.holds_control, (*texts, answer))):
            yield "text that looks like a control token" + ("" if isinstance(prompt, str) else " in a conversation")
        if not isinstance(prompt, str) and unlearned(encoded, prompt):
            yield "an earlier answer without loss"
        if reading.control_tokens == "parse" and reading.holds_control(answer):
            yield "a control token in an answer"
        elif answer and supervised and not says(last_answer(encoded), answer, reading):
            by_itself = isinstance(prompt, str) or not says(reading.plain([answer])[0], answer, reading)
            yield f"an answer that the {'tokenizer cannot write' if by_itself else 'chat template writes otherwise'}"

    def answer_tokens(self, encoded: Encoded) -> int:
        return len(last_answer(encoded))

    def pieces(self, encoded: Encoded, tokenizer: Any) -> list[tuple[str, bool]]:
        written = [(tokenizer.decode([int(token)]), True) for token in encoded.targets]
        return [*super().pieces(encoded, tokenizer), *written]

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        import numpy as np
        import torch

        if model.architecture == "encoder-decoder":
            return written_by_a_decoder(model, batch, needs)
        inputs, starts = packed(batch, model) if model.packed else in_rows(batch, model)
        # the first token of an example is written by nothing before it
        places = [np.flatnonzero(np.asarray(example.supervised)[1:]) + 1 for example in batch]
        flat = np.concatenate([start + place for start, place in zip(starts, places, strict=True)])
        rows = np.repeat(np.arange(len(batch)), [len(place) for place in places])
        positions_S = torch.from_numpy(flat).to(model.device)
        rows_S = torch.from_numpy(rows).to(model.device)
        wanted_S = inputs["input_ids"].reshape(-1)[positions_S]
        return at_positions(
            model, positions_S - 1, wanted_S, rows_S, needs, **inputs
        )  # the token before writes this one

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        return per_example(token_losses(outputs), outputs.rows, [example.weight for example in batch])

    def decode(self, said: Said, example: Example, task: Task, labels: Sequence[str]) -> Answered:
        answer = task.parse(said.text, example)
        return Answered(answer, said.confidence, [(answer, said.confidence)], said.cut)


def nothing_read(encoded: Encoded, reading: Reading) -> bool:
    """Whether a prompt is its frame alone, or the end token that stands for one of no tokens."""
    before, behind = reading.frame
    n_read = list(encoded.supervised).count(False) if encoded.supervised else len(encoded.ids)
    if reading.architecture == "encoder-decoder":
        return n_read <= len(before) + len(behind)
    return n_read <= len(before) or (not before and list(encoded.ids[:n_read]) == [reading.tokenizer.eos_token_id])


def unlearned(encoded: Encoded, messages: Messages) -> bool:
    """Whether earlier answers of a conversation that is whole carry no loss; an encoder-decoder learns the last alone."""
    if encoded.targets or encoded.cut_tokens:
        return False
    carries = list(encoded.supervised)
    learned = sum(carries[n] and not carries[n - 1] for n in range(1, len(carries)))
    return learned < 1 + sum(answers_something(messages, index) for index in range(len(messages)))


def last_answer(encoded: Encoded) -> list[int]:
    """The tokens of the last answer, which alone is asked for: behind the last token that carries no loss."""
    if encoded.targets:
        return list(encoded.targets)
    start = next((n for n in range(len(encoded.ids), 0, -1) if not encoded.supervised[n - 1]), 0)
    return list(encoded.ids[start:])


def side_by_side(prompt: list[int], target: list[int], weight: float, reading: Reading) -> Encoded:
    """Prompt and answer as one example; the prompt is cut where both do not fit, as far as that helps."""
    room = reading.max_length - len(target)
    cut = max(0, len(prompt) - room)
    if reading.architecture == "encoder-decoder":
        return Encoded(shortened(prompt, max(room, 1), reading), (), target, (), len(target), cut, weight)
    if cut and room > 1:
        prompt = shortened(prompt, room, reading)
    supervised = [False] * len(prompt) + [True] * len(target)
    return Encoded([*prompt, *target], supervised, (), (), sum(supervised[1:]), cut, weight)


def in_rows(batch: Sequence[Encoded], model: Model) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Examples in rows (B, T), padded on the right, and where each begins in (B*T,): behind virtual tokens."""
    ids_BT, mask_BT = padded([model.fronted(example.ids) for example in batch], model)
    starts = [row * ids_BT.shape[1] + len(model.front) for row in range(len(batch))]
    return {"input_ids": ids_BT, "attention_mask": mask_BT}, starts


def packed(batch: Sequence[Encoded], model: Model) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Examples end to end in one row (1, T) without padding, and where each begins; positions begin again at 0.

    transformers reads such positions as a mask that keeps the examples from seeing each other.
    """
    import numpy as np
    import torch

    lengths = [len(example.ids) for example in batch]
    ids_T = np.concatenate([np.asarray(example.ids, dtype=np.int64) for example in batch])
    positions_T = np.concatenate([np.arange(length) for length in lengths])
    inputs = {"input_ids": ids_T, "position_ids": positions_T}
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return {name: torch.from_numpy(row)[None].to(model.device) for name, row in inputs.items()}, starts


def written_by_a_decoder(model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
    """What the decoder of an encoder-decoder writes, at its real positions alone."""
    import torch

    ids_BT, mask_BT = padded([model.fronted(example.ids) for example in batch], model)
    wanted_BT, wanted_mask_BT = padded([example.targets for example in batch], model)
    start = torch.full_like(wanted_BT[:, :1], decoder_start(model))
    positions_S = wanted_mask_BT.reshape(-1).nonzero()[:, 0]
    return at_positions(
        model,
        positions_S,
        wanted_BT.reshape(-1)[positions_S],
        torch.div(positions_S, wanted_BT.shape[1], rounding_mode="floor"),
        needs,
        input_ids=ids_BT,
        attention_mask=mask_BT,
        decoder_input_ids=torch.cat([start, wanted_BT[:, :-1]], dim=1),
    )
