"""Objectives: everything that depends on the kind of answer; no other file asks which objective it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.batching import Encoded
from luthier.choice import Choice
from luthier.seams import Answered, Example

if TYPE_CHECKING:
    import torch

    from luthier.encoding import Reading
    from luthier.engines import Said
    from luthier.losses import Needs, Outputs
    from luthier.model import Head, Model
    from luthier.tasks import Task


@dataclass(frozen=True, slots=True)
class Fault:
    """A way in which supervision can be wrong."""

    sentence: str  # with {n} of {total} examples
    hint: str
    tolerated: float = 0.0  # share of the examples up to which it is counted and not refused


class Objective(Choice):
    """What training lowers; each task names its own."""

    family: ClassVar[str] = "objectives"
    faults: ClassVar[dict[str, Fault]] = {}
    smooths: ClassVar[bool] = False  # whether its losses follow the label smoothing that outputs name
    learned_with: ClassVar[str] = ""  # the technique that makes its losses what they are to be, where it needs one

    def head(self, architecture: str, labels: Sequence[str]) -> Head:
        """The Hugging Face class that a model of this architecture gets, with the names of its outputs."""
        raise NotImplementedError

    def encode(self, examples: Sequence[Example], task: Task, reading: Reading) -> list[Encoded]:
        """Each example in tokens with its supervision; an answer is never cut."""
        raise NotImplementedError

    def audit(self, encoded: Encoded, example: Example, task: Task, reading: Reading) -> Iterator[str]:
        """Names of the `faults` that this example's supervision has."""
        return iter(())

    def answer_tokens(self, encoded: Encoded) -> int:
        """Tokens that a model writes to give this example's answer, the end token among them; 0 where it writes none."""
        return 0

    def pieces(self, encoded: Encoded, tokenizer: Any) -> list[tuple[str, bool]]:
        """Tokens as text, each with whether it carries loss, for people."""
        carries = list(encoded.supervised) or [False] * len(encoded.ids)
        return [(tokenizer.decode([int(t)]), bool(loss)) for t, loss in zip(encoded.ids, carries, strict=True)]

    def outputs(self, model: Model, batch: Sequence[Encoded], needs: Needs) -> Outputs:
        """One forward pass over a micro-batch, leaving at least what is needed."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, batch: Sequence[Encoded]) -> torch.Tensor:
        """Per-example sums of losses (B,) in nats, each times its example's weight."""
        raise NotImplementedError

    def figures(self, outputs: Outputs, batch: Sequence[Encoded]) -> dict[str, tuple[float, float]]:
        """Further figures of validation by name, each as a sum and what it is divided by."""
        return {}

    def decode(self, said: Said, example: Example, task: Task, labels: Sequence[str]) -> Answered:
        """What an engine said, as an Answer with confidence and candidates."""
        raise NotImplementedError
