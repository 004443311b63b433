"""Several tasks in one training: whose examples share a step, and which head and objective a micro-batch belongs to."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.batching import Encoded
from luthier.objectives import Objective
from luthier.token_arrays import TokenArrays

if TYPE_CHECKING:
    import torch

    from luthier.losses import Needs, Outputs
    from luthier.model import Model


@dataclass(frozen=True)
class Part:
    """What one task brings: its examples and how they are learned."""

    name: str
    objective: Objective
    examples: TokenArrays | Sample
    weight: float = 1.0  # each of its losses is multiplied by it


class Sample(Sequence[Encoded]):
    """A share of some examples, the same ones each time: at least one of them where the share is above 0."""

    def __init__(self, whole: TokenArrays, share: float, seed: int) -> None:
        n = min(len(whole), max(1, round(share * len(whole)))) if share else 0
        self.whole, self.kept = whole, sorted(random.Random(f"sample/{seed}").sample(range(len(whole)), n))

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, number: Any) -> Any:
        return self.whole[self.kept[number]]

    def lengths(self) -> np.ndarray:
        """Tokens computed for each example, (n,)."""
        found: np.ndarray = self.whole.lengths()[self.kept]
        return found

    def tokens(self) -> np.ndarray:
        """The distinct tokens that are read, sorted."""
        read = [np.asarray(example.ids) for example in self] or [np.zeros(0, dtype=np.int32)]
        return np.unique(np.concatenate(read))


class Mixture(Sequence[Encoded]):
    """The examples of several tasks as one sequence, each told with the number of its part and weighed by it."""

    def __init__(self, parts: Sequence[Part], temperature: float = 1.0) -> None:
        self.parts, self.temperature = list(parts), temperature
        self.ends = list(accumulate(len(part.examples) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, number: Any) -> Any:
        part = self.part_of(number)
        before = self.ends[part - 1] if part else 0
        example: Encoded = self.parts[part].examples[number - before]
        weight = self.parts[part].weight
        return example if part == 0 and weight == 1 else replace(example, part=part, weight=example.weight * weight)

    def part_of(self, number: int) -> int:
        """Number of the part that an example belongs to."""
        return bisect_right(self.ends, number)

    def lengths(self) -> np.ndarray:
        """Tokens computed for each example, (n,)."""
        return np.concatenate([part.examples.lengths() for part in self.parts])

    def tokens(self) -> np.ndarray:
        """The distinct tokens that are read, sorted."""
        return np.unique(np.concatenate([part.examples.tokens() for part in self.parts]))

    def drawn(self, seed: int, epoch: int) -> list[int]:
        """The examples of an epoch, in no order: each once at temperature 1, else so many of each part as `shares` says.

        Of a part that is drawn more than once around, each example comes as often as any other, or once more.
        """
        if self.temperature == 1:
            return list(range(len(self)))
        draw = random.Random(f"mixture/{seed}/{epoch}")
        found: list[int] = []
        for start, end, n in zip([0, *self.ends], self.ends, self.counts(), strict=False):
            whole, rest = divmod(n, end - start)
            found += [*range(start, end)] * whole + draw.sample(range(start, end), rest)
        return found

    def counts(self) -> list[int]:
        """Examples that an epoch draws from each part; together as many as there are, to within rounding."""
        sizes = [len(part.examples) for part in self.parts]
        if self.temperature == 1:
            return sizes
        shares = by_temperature(sizes, self.temperature)
        return [round(share * len(self)) for share in shares]


def by_temperature(counts: Sequence[int], temperature: float) -> list[float]:
    """Shares proportional to n^(1/T) (Raffel et al. 2020, section 3.5.2): T = 1 as they come, T towards infinity equal."""
    powers = [count ** (1 / temperature) for count in counts]
    return [power / sum(powers) for power in powers]


class Several:
    """The objectives of several tasks as one: a micro-batch holds examples of one part, and goes through its head."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        """One forward pass over a micro-batch, as its task sees the model."""
        part = self.parts[batch[0].part]
        seen = model.view(part.name)
        if seen.forward.training != model.forward.training:
            seen.forward.train(model.forward.training)
        return part.objective.outputs(seen, batch, needs)

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        """Per-example sums of losses (B,) in nats, each times its example's weight."""
        return self.parts[batch[0].part].objective.loss(outputs, batch)


def mean_over(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each figure as the plain mean over the tasks, and beside it that of every task as `<figure> of <task>`."""
    names = {name: None for each in figures.values() for name in each}
    found = {name: sum(each[name] for each in figures.values()) / len(figures) for name in names}
    return found | {f"{name} of {task}": value for task, each in figures.items() for name, value in each.items()}
