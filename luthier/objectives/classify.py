"""Classify: cross-entropy of one label per example through a classification head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from luthier.batching import Encoded
from luthier.encoding import Reading, read_whole
from luthier.losses import Needs, Outputs, smoothing
from luthier.model import Head, head_replaced, reads_padding, scored
from luthier.objectives import Objective
from luthier.seams import Answered, Example, Label

if TYPE_CHECKING:
    import torch

    from luthier.engines import Said
    from luthier.model import Model
    from luthier.tasks import Task

CANDIDATES = 5  # labels kept with each answer


class Classify(Objective):
    """One label out of the known ones."""

    smooths: ClassVar[bool] = True

    def head(self, architecture: str, labels: Sequence[str]) -> Head:
        return Head("AutoModelForSequenceClassification", tuple(labels))

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        texts = read_whole([str(task.prompt(example)) for example in examples], reading)
        places = {label: place for place, label in enumerate(reading.labels)}
        return [
            Encoded(ids, (), [places[str(example.target)]], (), 1, cut, example.weight)
            for example, (ids, cut) in zip(examples, texts, strict=True)
        ]

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        texts = [example.ids for example in batch]
        if needs == "hidden":
            return with_hidden(model, texts)
        return Outputs(logits=class_logits(model, texts), smoothing=smoothing(model))

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        import torch

        assert outputs.logits is not None
        place = outputs.logits.device
        wanted_B = torch.tensor([int(example.targets[0]) for example in batch], device=place)
        weights_B = torch.tensor([example.weight for example in batch], device=place)
        losses_B = torch.nn.functional.cross_entropy(
            outputs.logits, wanted_B, reduction="none", label_smoothing=outputs.smoothing
        )
        return losses_B * weights_B

    def decode(self, said: Said, example: Example, task: Task, labels: Sequence[str]) -> Answered:
        highest = max(said.scores)
        shares = [math.exp(score - highest) for score in said.scores]
        total = sum(shares)
        ranked = sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])[:CANDIDATES]
        candidates: list[tuple[Label, float]] = [(Label(label), share / total) for label, share in ranked]
        return Answered(candidates[0][0], candidates[0][1], list(candidates))


def class_logits(model: Model, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (B, C) of texts, without padding where the model can."""
    if model.packed and model.architecture == "encoder":
        return packed_logits(model, texts)
    return scored(model, texts)


def with_hidden(model: Model, texts: Sequence[Sequence[int]]) -> Outputs:
    """Logits (B, C), with the mean over each text's own tokens of the last hidden states of the body (B, D).

    For models that read no padding: all texts are computed in one batch.
    """
    import torch

    seen: list[torch.Tensor] = []
    reads_padding(model)  # is shown once, by passes of its own
    hook = model.bare.base_model.register_forward_hook(lambda body, read, left: seen.append(left[0]))
    try:
        logits = class_logits(model, texts)
    finally:
        hook.remove()
    (hidden_BTD,) = seen
    if len(hidden_BTD) == len(texts):
        means = [row[: len(text)].mean(0) for row, text in zip(hidden_BTD, texts, strict=True)]
    else:  # end to end, with some padding behind
        lengths = [len(text) for text in texts]
        parts = hidden_BTD[0].split([*lengths, hidden_BTD.shape[1] - sum(lengths)])
        means = [part.mean(0) for part in parts[: len(texts)]]
    return Outputs(logits=logits, smoothing=smoothing(model), hidden=torch.stack(means).float())


def packed_logits(model: Model, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (B, C) from one row that holds all texts, of a classifier that pools its texts' first tokens."""
    import numpy as np
    import torch

    from luthier.packed_rows import MULTIPLE, rows_of

    lengths = [len(text) for text in texts]
    extra = -sum(lengths) % MULTIPLE
    padding_T = np.full(extra, model.tokenizer.pad_token_id, dtype=np.int64)
    flat_T = np.concatenate([*(np.asarray(text, dtype=np.int64) for text in texts), padding_T])
    positions_T = np.concatenate([*(np.arange(length) for length in lengths), np.zeros(extra, dtype=np.int64)])
    starts_B = torch.tensor([0, *lengths[:-1]], device=model.device).cumsum(0)
    pooler = model.bare.base_model.pooler
    read = pooler.forward
    with head_replaced(pooler, lambda hidden_1TD: read(hidden_1TD[0].index_select(0, starts_B)[:, None])):
        logits: torch.Tensor = model.forward(
            input_ids=torch.from_numpy(flat_T)[None].to(model.device),
            position_ids=torch.from_numpy(positions_T)[None].to(model.device),
            rows=rows_of(lengths, len(flat_T), model.device),
        ).logits
    return logits.float()
