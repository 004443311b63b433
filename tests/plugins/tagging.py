"""Tagging: each tag is a decision of its own, through one classification head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.batching import Encoded
from luthier.encoding import Reading, read_whole
from luthier.engines import Said
from luthier.losses import Needs, Outputs
from luthier.model import Head, padded
from luthier.objectives import Objective
from luthier.seams import Answered, Example, Labels, names_in

if TYPE_CHECKING:
    import torch

    from luthier.model import Model
    from luthier.tasks import Task


class Tagging(Objective):
    """A set of labels."""

    def head(self, architecture: str, labels: Sequence[str]) -> Head:
        return Head("AutoModelForSequenceClassification", tuple(labels))

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        texts = read_whole([str(task.prompt(example)) for example in examples], reading)
        places = {label: place for place, label in enumerate(reading.labels)}
        return [
            Encoded(ids, (), [places[name] for name in names_in(example.target)], (), 1, cut, example.weight)
            for example, (ids, cut) in zip(examples, texts, strict=True)
        ]

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        ids, mask = padded([example.ids for example in batch], model)
        return Outputs(logits=model.forward(input_ids=ids, attention_mask=mask).logits.float())

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        import torch

        wanted_BC = torch.zeros_like(outputs.logits)
        for row, example in enumerate(batch):
            wanted_BC[row, [int(place) for place in example.targets]] = 1.0
        losses_BC = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, wanted_BC, reduction="none")
        return losses_BC.sum(1) * torch.tensor([example.weight for example in batch])

    def decode(self, said: Said, example: Example, task: Task, labels: Sequence[str]) -> Answered:
        shares = [1 / (1 + math.exp(-score)) for score in said.scores]
        chosen = Labels(tuple(label for label, share in zip(labels, shares, strict=True) if share > 0.5))
        return Answered(chosen, min(max(share, 1 - share) for share in shares), [(chosen, 1.0)])
