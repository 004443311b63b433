"""Untuned: the base model as it is, with examples in the prompt (decoders) or by the nearest labelled neighbour (encoders)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.baselines import Baseline, Setting, answered
from luthier.encoding import asked, prompt_ids, shortened
from luthier.errors import UserError
from luthier.model import architecture_of, embed, generate, load
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    from luthier.model import Loaded


class Untuned(Baseline):
    """The base before any training."""

    shots: int = Field(5, ge=0)
    """Training examples in the prompt of a decoder, drawn by the seed and spread over the columns or labels."""
    limit: int = Field(0, ge=0)
    """Answer only so many examples, drawn by the seed, where the test split is large and time short; 0 answers all."""

    def predict(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        if self.limit and self.limit < len(examples):
            chosen = set(random.Random(f"limit/{setting.seed}").sample(sorted(e.id for e in examples), self.limit))
            examples = [example for example in examples if example.id in chosen]
        architecture = architecture_of(setting.base)
        loaded = (
            load(setting.base, purpose="text", device=setting.device, precision=setting.precision)
            if architecture != "encoder"
            else None
        )
        if loaded is None:
            return self.neighbours(train, examples, setting)
        return self.few_shot(loaded, train, examples, setting)

    def few_shot(
        self, loaded: Loaded, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> list[Prediction]:
        """Answers after `shots` solved examples; each example is one line, and a line break ends the answer."""
        shots = spread(train, self.shots, setting.seed)
        task, tokenizer = setting.task, loaded.tokenizer
        solved = "".join(f"{line(task.prompt(shot))}{task.completion(str(shot.answer()))}\n" for shot in shots)
        if task.objective == "classify":
            solved = "".join(f"{line(task.prompt(shot))} => {shot.answer()}\n" for shot in shots)
        prefix = (
            prompt_ids(solved, tokenizer)
            if loaded.architecture == "decoder"
            else tokenizer(solved, add_special_tokens=False)["input_ids"]
        )
        ask = [f"{line(task.prompt(e))}{' =>' if task.objective == 'classify' else ''}" for e in examples]
        distinct = list(dict.fromkeys(ask))
        texts = [
            shortened(tokenizer(text, add_special_tokens=False)["input_ids"], setting.max_length) for text in distinct
        ]
        stop = line_ends(tokenizer) | {tokenizer.eos_token_id}
        written = generate(
            loaded, texts, max_new_tokens=setting.engine.max_new_tokens, stop=stop, batch=setting.engine.batch_size,
            prefix=prefix, tell=lambda done: setting.tell(done, len(texts)),
        )  # fmt: skip
        found = {
            text: (task.parse(tokenizer.decode(w.tokens, skip_special_tokens=True)), math.exp(sum(w.logprobs) / max(1, len(w.logprobs))))
            for text, w in zip(distinct, written, strict=True)
        }  # fmt: skip
        return [answered(example, *found[text]) for example, text in zip(examples, ask, strict=True)]

    def neighbours(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        """The label of the training example whose embedding is nearest by cosine."""
        if setting.task.objective != "classify":
            raise UserError(
                "an encoder cannot write text", where="score.baselines untuned", hint="leave it out for this base"
            )
        loaded = load(
            setting.base, purpose="label", labels=["a", "b"], device=setting.device, precision=setting.precision
        )
        vectors = [
            embed(
                loaded, [asked(setting.task.prompt(e), loaded.tokenizer, "encoder", setting.max_length) for e in part]
            )
            for part in (train, examples)
        ]
        nearest = (vectors[1] @ vectors[0].T).max(dim=1)
        return [
            answered(example, str(train[place].answer()), max(0.0, min(1.0, similarity)))
            for example, place, similarity in zip(
                examples, nearest.indices.tolist(), nearest.values.tolist(), strict=True
            )
        ]


def spread(train: Sequence[Example], n: int, seed: int) -> list[Example]:
    """`n` examples, one of each column or label in turn."""
    draw = random.Random(f"shots/{seed}")
    groups: dict[str, list[Example]] = {}
    for example in sorted(train, key=lambda e: e.id):
        answer = example.answer() if example.target and "label" in example.target else ""
        groups.setdefault(example.slices.get("column") or answer or "", []).append(example)
    for group in groups.values():
        draw.shuffle(group)
    order = sorted(groups)
    draw.shuffle(order)
    rounds = [group[turn] for turn in range(n) for name in order if turn < len(group := groups[name])]
    return rounds[:n]


def line(prompt: str | list[dict[str, str]]) -> str:
    """A prompt on one line."""
    text = prompt if isinstance(prompt, str) else " ".join(f"{m['role']}: {m['content']}" for m in prompt)
    return " ".join(text.split())


def line_ends(tokenizer: object) -> set[int]:
    """Tokens that hold a line break."""
    return {token for text, token in tokenizer.get_vocab().items() if "\n" in text or text in ("<0x0A>", "Ċ", "ĊĊ")}  # type: ignore[attr-defined]
