"""Preference: of two answers to one prompt the better one becomes the more likely, for decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.batching import Encoded
from luthier.encoding import Reading
from luthier.losses import Needs, Outputs, per_example, token_losses
from luthier.objectives.causal import Causal, last_answer
from luthier.seams import Example, Text
from luthier.seams import Preference as Preferred

if TYPE_CHECKING:
    import torch

    from luthier.model import Model
    from luthier.tasks import Task


class Preference(Causal):
    """The log-probability of the chosen answer over that of the rejected one, as a technique such as dpo takes it further.

    Its own loss, by which the best weights are chosen, is -log sigmoid(log p(chosen) - log p(rejected)): no reference is
    in it. An example covers 1, so that losses are means over pairs.
    """

    learned_with: ClassVar[str] = "dpo"
    smooths: ClassVar[bool] = False  # log-probabilities are those of the answers themselves

    def own(self, example: Example) -> list[str]:
        """The answers to the prompt of an example, in the order in which it holds them."""
        assert isinstance(example.target, Preferred)
        return [example.target.chosen, example.target.rejected]

    def two(self, examples: Sequence[Example]) -> list[list[str]]:
        """The two answers that each example holds."""
        return [self.own(example) for example in examples]

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        pairs = self.two(examples)
        sides = [
            super(Preference, self).encode(
                [replace(example, target=Text(pair[side])) for example, pair in zip(examples, pairs, strict=True)],
                task,
                reading,
            )
            for side in (0, 1)
        ]
        return [end_to_end(one, other) for one, other in zip(*sides, strict=True)]

    def audit(self, encoded: Encoded, example: Example, task: Task, reading: Reading) -> Iterator[str]:
        names = [
            name
            for half, answer in zip(halves(encoded), self.own(example), strict=False)
            for name in super(Preference, self).audit(half, replace(example, target=Text(answer)), task, reading)
        ]
        # the last answers alone are compared
        yield from (name for name in dict.fromkeys(names) if name != "an earlier answer without loss")

    def answer_tokens(self, encoded: Encoded) -> int:
        return super().answer_tokens(halves(encoded)[0])

    def pieces(self, encoded: Encoded, tokenizer: Any) -> list[tuple[str, bool]]:
        return [piece for half in halves(encoded) for piece in super(Preference, self).pieces(half, tokenizer)]

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        both = [half for example in batch for half in halves(example)]
        found = super().outputs(model, both, needs)
        assert found.rows is not None
        found.log_probs = -per_example(token_losses(found), found.rows, [1.0] * len(both)).reshape(-1, 2)
        return found

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        import torch

        return -torch.nn.functional.logsigmoid(margins(outputs)) * weights(outputs, batch)

    def figures(self, outputs: Outputs, batch: Sequence[Encoded]) -> dict[str, tuple[float, float]]:
        """In which share of the pairs the chosen answer is more likely than the rejected one."""
        return {"preference_accuracy": (float((margins(outputs) > 0).sum()), float(len(batch)))}


def margins(outputs: Outputs) -> torch.Tensor:
    """How much more likely the first answers are than the second, (B,) nats."""
    assert outputs.log_probs is not None
    return outputs.log_probs[:, 0] - outputs.log_probs[:, 1]


def weights(outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
    """The weights of the examples (B,) where the log-probabilities are."""
    assert outputs.log_probs is not None
    return outputs.log_probs.new_tensor([example.weight for example in batch])


def end_to_end(one: Encoded, other: Encoded) -> Encoded:
    """Two answers to one prompt as one example; `numbers` say where the first ends. Their last answers alone carry loss."""
    parts = [only_last(half) for half in (one, other)]
    return Encoded(
        [token for half in parts for token in half.ids],
        [carries for half in parts for carries in half.supervised],
        [token for half in parts for token in half.targets],
        [float(len(one.ids)), float(len(one.targets))],
        int(all(half.covers for half in parts)),
        max(one.cut_tokens, other.cut_tokens),
        one.weight,
    )


def only_last(encoded: Encoded) -> Encoded:
    """An example whose earlier answers, of a conversation, carry no loss."""
    if encoded.targets:
        return encoded
    n = len(last_answer(encoded))
    return replace(encoded, supervised=[False] * (len(encoded.ids) - n) + [True] * n)


def halves(encoded: Encoded) -> tuple[Encoded, Encoded]:
    """The two answers of `end_to_end`, each with its prompt."""
    n_ids, n_targets = int(encoded.numbers[0]), int(encoded.numbers[1])
    first, second = (
        Encoded(
            encoded.ids[ids],
            encoded.supervised[ids],
            encoded.targets[targets],
            covers=encoded.covers,
            cut_tokens=encoded.cut_tokens,
        )
        for ids, targets in (
            (slice(0, n_ids), slice(0, n_targets)),
            (slice(n_ids, None), slice(n_targets, None)),
        )
    )
    return first, second
