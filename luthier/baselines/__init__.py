"""Baselines: what a result must be compared with, predicted over the very same examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.choice import Choice
from luthier.seams import Example, Prediction


@dataclass(slots=True)
class Setting:
    """What a baseline may use beside the examples; those that need no model ignore it."""

    base: Path  # folder of the untuned base model
    task: Any  # the recipe's task Choice
    engine: Any  # the engine that predicts
    seed: int
    device: str
    precision: str  # of the model that the rival is compared with
    max_length: int
    tell: Callable[[int, int], None] = lambda done, total: None  # hears how many answers are done, and of how many


class Baseline(Choice):
    """A simple rival."""

    family: ClassVar[str] = "baselines"
    tasks: ClassVar[tuple[str, ...]] = ()  # task kinds it is made for; empty means all

    def predict(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        """One prediction for each of `examples`, in order, having seen `train` and no target of `examples`."""
        raise NotImplementedError


def answered(
    example: Example, output: str, confidence: float = 1.0, candidates: list[tuple[str, float]] | None = None
) -> Prediction:
    """A prediction of `example` that carries over what scoring needs."""
    return Prediction(
        id=example.id, task=example.task, output=output, confidence=confidence, candidates=candidates or [],
        target=example.answer(), slices=dict(example.slices), weight=example.weight, entity=example.entity,
    )  # fmt: skip
