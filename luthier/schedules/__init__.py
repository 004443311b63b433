"""Schedules: the learning rate over the steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from luthier.choice import Choice

WARMUP = 0.05  # share of the steps, where the recipe says nothing


class Schedule(Choice):
    """How the learning rate goes on from its peak, or all of its way where it `rises` by itself."""

    family: ClassVar[str] = "schedules"
    rises: ClassVar[bool] = False  # whether its shape begins with a rise, which leaves no place for a warm-up
    watches: ClassVar[bool] = False  # whether it needs figures on a validation split

    def factor(self, step: float, total: float, figures: Sequence[float]) -> float:
        """Share of the peak at a step (from 0) out of `total`.

        `figures`: what was found on validation so far in the metric that watches training, each lower where better.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of a run: a linear rise to the peak, unless the schedule has one of its own, then the schedule."""

    peak: float
    total: int  # optimizer steps
    warmup: float  # share of the steps (below 1) or number of steps
    schedule: Schedule

    def factor(self, step: int, figures: Sequence[float] = ()) -> float:
        """Share of the peak learning rate at a step (from 0)."""
        if self.schedule.rises:
            return self.schedule.factor(step, self.total, figures)
        rising = self.warmup if self.warmup >= 1 else self.warmup * self.total
        if step < rising:
            return (step + 1) / (rising + 1)
        return self.schedule.factor(step - rising, self.total - rising, figures)
