"""Gradual unfreezing: the output layer trains first, then one more block from time to time, the embeddings last.

Howard and Ruder 2018 (ULMFiT, arXiv 1801.06146, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import UserError
from luthier.techniques import Running, Technique
from luthier.techniques._depth import layers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import Model
    from luthier.store import Artifact


class Unfreezing(Running):
    """Holds what is freed step by step, the top first."""

    def __init__(self, stages: Sequence[Sequence[nn.Parameter]], when: str, every: int) -> None:
        self.stages, self.when, self.every = stages, when, every
        self.freed, self.judged = 1, 0  # stages that train; evaluations that came before the last one was freed
        self.free()

    def free(self) -> None:
        """Train the stages that are freed and hold the others."""
        for number, parameters in enumerate(self.stages):
            for parameter in parameters:
                parameter.requires_grad_(number < self.freed)

    def epoch(self, n: int, history: Sequence[Mapping[str, Any]]) -> bool:
        before = self.freed
        if self.when == "epochs":
            self.freed = min(1 + n // self.every, len(self.stages))
        elif self.freed < len(self.stages):
            losses = [each["validation"]["loss"] for each in history]
            self.freed += len(losses) - self.judged >= self.every and stalled(losses, self.every)
        if self.freed == before:
            return False
        self.judged = len(history)
        self.free()
        return True

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"freed": self.freed, "judged": self.judged}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        self.freed, self.judged = facts["freed"], facts["judged"]


class Gradual(Technique):
    """Train what is above the blocks first, then the last block too, and so on down; the embeddings come last.

    Where nothing above the blocks is a matrix, since the output head is tied to the embeddings or is no part of what
    trains, the last block trains from the start. With lora the adapters are freed block by block; what freeze holds stays
    held.
    """

    excludes: ClassVar[dict[str, str]] = {
        "prompt_tuning": "its virtual tokens are one piece, of which nothing can be freed later",
        "prefix": "its virtual tokens are one piece, of which nothing can be freed later",
    }
    running: ClassVar[type[Running]] = Unfreezing
    starts_last: ClassVar[bool] = True

    when: Literal["epochs", "plateau"] = "epochs"
    """When the next block is freed: after so many epochs, or at the end of an epoch by which the loss on validation no
    longer improves."""
    every: int = Field(1, ge=1)
    """Epochs from one block to the next; with `plateau`, evaluations without improvement after which one is freed."""

    @property
    def watches(self) -> bool:
        return self.when == "plateau"

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        stages = [parameters for parameters in layers(model).values() if parameters]
        if stages and all(parameter.ndim < 2 for parameter in stages[0]):
            stages = [[*stages[0], *stages[1]], *stages[2:]] if stages[1:] else stages
        if len(stages) < 2:
            raise UserError(
                "what trains is one piece, of which nothing can be freed later",
                where="train.techniques gradual",
                hint="leave it out, or freeze less",
            )
        return Unfreezing(stages, self.when, self.every)


def stalled(losses: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` losses is below the best one before them."""
    best = [float("inf"), *accumulate(losses, min)]
    return len(losses) > patience and best[-1] >= best[-1 - patience]
