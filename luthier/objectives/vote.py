"""Vote: single answers, each known to be good or bad, for techniques that learn from such (Ethayarajh et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from luthier.batching import Encoded
from luthier.encoding import Reading
from luthier.losses import Outputs
from luthier.objectives.preference import Preference, weights
from luthier.seams import Example
from luthier.seams import Preference as Preferred

if TYPE_CHECKING:
    import torch

    from luthier.tasks import Task


class Vote(Preference):
    """A good answer becomes more likely, a bad one less.

    Beside its own answer each example holds that of the next one, which does not belong to its prompt: how likely such
    answers become says how far the model has gone from where it was. Its own loss is that of the good answers, in nats.
    """

    def own(self, example: Example) -> list[str]:
        assert isinstance(example.target, Preferred)
        return [example.target.chosen or example.target.rejected]

    def two(self, examples: Sequence[Example]) -> list[list[str]]:
        said = [self.own(example) for example in examples]
        return [one + other for one, other in zip(said, [*said[1:], *said[:1]], strict=True)]

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        return [
            replace(encoded, numbers=[*encoded.numbers, 1.0 if is_good(example) else -1.0])
            for encoded, example in zip(super().encode(examples, task, reading), examples, strict=True)
        ]

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        assert outputs.log_probs is not None
        good_B = outputs.log_probs.new_tensor([example.numbers[2] > 0 for example in batch])
        return -outputs.log_probs[:, 0] * good_B * weights(outputs, batch)

    def figures(self, outputs: Outputs, batch: Sequence[Encoded]) -> dict[str, tuple[float, float]]:
        return {}


def is_good(example: Example) -> bool:
    """Whether it was judged good."""
    assert isinstance(example.target, Preferred)
    return bool(example.target.chosen)
