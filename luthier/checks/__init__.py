"""Checks of the gate: each turns stored evidence into one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from luthier.choice import Choice
from luthier.metrics import Metric
from luthier.seams import Example, Prediction, Verdict, compared, name_of


@dataclass(slots=True)
class Former:
    """The task of a former run, answered by what was started from and by what was made of it."""

    before: list[Prediction]
    after: list[Prediction]  # of the same examples
    metrics: dict[str, Metric]  # as that run scored them
    examples: Mapping[str, Example]  # by id


@dataclass(slots=True)
class Evidence:
    """All that a check may look at: stored predictions and measurements, never a model."""

    candidate: list[Prediction]
    baselines: dict[str, list[Prediction]]  # name -> predictions of the same examples
    metrics: dict[str, Metric]  # name -> metric, as scored
    examples: Mapping[str, Example]  # those that were asked, by id
    measurements: dict[str, Any]  # facts of the stage `measure`
    seed: int
    artifacts: dict[str, str] = field(default_factory=dict)  # "candidate", "measure", baseline name -> artifact id
    former: Former | None = None


class Check(Choice):
    """One line of the release checklist."""

    family: ClassVar[str] = "checks"

    needs_former: ClassVar[bool] = False  # whether it looks at the task of a former run

    task: str = ""
    """Of a recipe with several tasks, the one that is checked; by default each of them."""
    where: dict[str, str | bool | int | float | None] = {}
    """Only predictions whose slices have these values, where null and "" are a blank cell; `{}` is all of them."""
    required: bool = True
    """Whether anything but "passed" stops the release; false makes it advisory."""

    def misfit(self, metric: Metric) -> str:
        """Why this check does not suit the metric that it names, or nothing."""
        return ""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict, with estimate, interval, n and the ids of the evidence."""
        raise NotImplementedError


def within(predictions: list[Prediction], where: Mapping[str, object]) -> list[Prediction]:
    """The predictions whose slices match `where`; true and false are compared as the words."""
    wanted = {name: compared(slice_value(value)) for name, value in where.items()}
    return [
        p
        for p in predictions
        if all(name in p.slices and compared(p.slices[name]) == value for name, value in wanted.items())
    ]


def slice_value(value: object) -> str:
    """A value as a slice holds it."""
    return name_of(value)


def described(where: Mapping[str, object]) -> str:
    """` where unseen=false`, or nothing."""
    return (
        " where " + ", ".join(f"{name}={slice_value(value) or '(empty)'}" for name, value in where.items())
        if where
        else ""
    )
