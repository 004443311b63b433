"""Which examples are computed together: effective batches of a fixed size, cut into micro-batches of a token budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Step = list[list[int]]  # one optimizer step: micro-batches of example numbers

PADDING = 0.25  # share of a micro-batch beyond which it is cut


@dataclass(slots=True)
class Encoded:
    """One example in tokens, with what it is to learn."""

    ids: Sequence[int]  # what the model reads (for encoder-decoders: what the encoder reads)
    supervised: Sequence[bool] = ()  # which of `ids` carry loss, for decoders
    targets: Sequence[int] = ()  # what the decoder of an encoder-decoder writes, or numbers of classes
    numbers: Sequence[float] = ()  # figures to learn
    covers: int = 0  # tokens (or labels) that carry loss: what the loss is averaged over
    cut_tokens: int = 0  # tokens of the input that did not fit
    weight: float = 1.0
    part: int = 0  # number of the task that it belongs to, where several are trained together

    @property
    def length(self) -> int:
        """Tokens computed."""
        return len(self.ids) + len(self.targets)


def plan(
    lengths: Sequence[int],
    batch_size: int,
    tokens_per_batch: int,
    seed: int,
    epoch: int,
    *,
    packed: bool = False,
    drawn: Sequence[int] | None = None,
    part_of: Callable[[int], int] | None = None,
) -> list[Step]:
    """The steps of one epoch, a function of its arguments alone; every example, or each that is `drawn`, appears once.

    A micro-batch holds examples of one part alone.
    Which examples share an optimizer step is random. Sorting whole epochs by length would save a little more padding,
    but then a step sees one kind of example alone (all the telephone numbers, say) and training becomes unsteady.
    """
    draw = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths))) if drawn is None else list(drawn)
    draw.shuffle(order)
    divide = pack if packed else cut
    steps = []
    for at in range(0, len(order), batch_size):
        parts: dict[int, list[int]] = {}
        for number in order[at : at + batch_size]:
            parts.setdefault(part_of(number) if part_of else 0, []).append(number)
        steps.append([micro for part in sorted(parts) for micro in divide(parts[part], lengths, tokens_per_batch)])
    return steps


def cut(batch: Sequence[int], lengths: Sequence[int], tokens_per_batch: int) -> Step:
    """Sort a batch by length and cut it into micro-batches within the token budget and with little padding.

    One example always fits. A micro-batch of eight or more ends where another example would make more than a
    quarter of it padding: below that, many small batches cost more than the padding.
    """
    micro: Step = [[]]
    tokens = 0
    for example in sorted(batch, key=lambda i: (lengths[i], i)):
        here = micro[-1]
        size = lengths[example] * (len(here) + 1)  # sorted, so this example is the longest
        wasteful = len(here) >= 8 and size * (1 - PADDING) > tokens + lengths[example]
        if here and (size > tokens_per_batch or wasteful):
            micro.append([])
            tokens = 0
        micro[-1].append(example)
        tokens += lengths[example]
    return micro


def pack(batch: Sequence[int], lengths: Sequence[int], tokens_per_batch: int) -> Step:
    """Cut a batch into micro-batches that stand end to end in one row each: no padding, any order of lengths."""
    micro: Step = [[]]
    for example in batch:
        if micro[-1] and sum(lengths[i] for i in micro[-1]) + lengths[example] > tokens_per_batch:
            micro.append([])
        micro[-1].append(example)
    return micro
