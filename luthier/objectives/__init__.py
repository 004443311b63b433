"""Objectives: how an example becomes tokens with loss on some of them, and how that loss is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.batching import Encoded
from luthier.choice import Choice
from luthier.seams import Example

if TYPE_CHECKING:
    import torch

    from luthier.model import Loaded
    from luthier.tasks import Task


class Objective(Choice):
    """What training lowers; each task names its own."""

    family: ClassVar[str] = "objectives"

    def encode(
        self, example: Example, task: Task, tokenizer: Any, architecture: str, labels: Sequence[str], max_length: int
    ) -> Encoded:
        """The example in tokens with its supervision; without a target, the prompt alone."""
        raise NotImplementedError

    def loss(self, loaded: Loaded, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
        """Per-example sums of losses (B,) in nats, weighted, and how many tokens (or labels) they cover."""
        raise NotImplementedError
