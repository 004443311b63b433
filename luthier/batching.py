"""Which examples are computed together: effective batches of a fixed size, cut into micro-batches of a token budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

Step = list[list[int]]  # one optimizer step: micro-batches of example numbers

WINDOW = 16  # optimizer steps whose examples are sorted by length together


@dataclass(slots=True)
class Encoded:
    """One example in tokens."""

    ids: list[int]  # what the model reads (for encoder-decoders: what the encoder reads)
    supervised: list[bool] = field(default_factory=list)  # which of `ids` carry loss, for decoders
    labels: list[int] = field(default_factory=list)  # what the decoder of an encoder-decoder writes
    label: int = -1  # class number, for classification
    cut_tokens: int = 0  # tokens of the input that did not fit
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens computed."""
        return len(self.ids) + len(self.labels)

    @property
    def n_supervised(self) -> int:
        """Tokens (or, for classification, labels) that carry loss."""
        if self.label >= 0:
            return 1
        return len(self.labels) or sum(self.supervised)


def plan(lengths: Sequence[int], batch_size: int, tokens_per_batch: int, seed: int, epoch: int) -> list[Step]:
    """The steps of one epoch, a function of its arguments alone.

    All examples are shuffled; within windows of 16 steps they are sorted by length, so that micro-batches hold
    examples of like length and hardly any padding; then the order of the steps is shuffled. Every example appears once.
    """
    draw = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    steps: list[Step] = []
    size = batch_size * WINDOW
    for start in range(0, len(order), size):
        window = sorted(order[start : start + size], key=lambda i: lengths[i])
        steps += [cut(window[at : at + batch_size], lengths, tokens_per_batch) for at in range(0, len(window), batch_size)]
    draw.shuffle(steps)
    return steps


def cut(batch: Sequence[int], lengths: Sequence[int], tokens_per_batch: int) -> Step:
    """Cut a batch into micro-batches whose padded size stays within the token budget (one example always fits)."""
    micro: Step = [[]]
    longest = 0
    for example in sorted(batch, key=lambda i: lengths[i]):
        longest = max(longest, lengths[example])
        if micro[-1] and longest * (len(micro[-1]) + 1) > tokens_per_batch:
            micro.append([])
            longest = lengths[example]
        micro[-1].append(example)
    return micro
