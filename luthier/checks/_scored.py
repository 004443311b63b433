"""What checks on predictions share: how many entities they need, bounds, the metric that they name, and citing evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from luthier.checks import Check, Evidence
from luthier.errors import UserError
from luthier.metrics import Metric

if TYPE_CHECKING:
    from luthier.resample import Estimate

WHERE = "gate.checks"
NAMED = 5  # groups that a note names; the rest is counted


class Scored(Check):
    """A check of a metric, which needs enough independent entities."""

    # recipes of earlier versions call it min_n
    min_entities: int | None = Field(default=None, ge=1, validation_alias=AliasChoices("min_entities", "min_n"))
    """Fewest entities (suppliers, patients; rows, where the split names none) to judge by, 1 or more; with less the
    verdict is "not enough data". Left out, 10 for a metric that is a mean of scores from 0 to 1 and 20 for others: from
    there on their 95 % intervals cover what they promise."""

    def needed(self, metric: Metric) -> int:
        """Entities that this check needs."""
        return self.min_entities or metric.fewest_entities

    def too_few(self, metric: Metric, entities: int) -> str:
        """`3 entities; 10 are needed`, or nothing."""
        return f"{entities} entities; {self.needed(metric)} are needed" if entities < self.needed(metric) else ""


class Bounded(Scored):
    """A check that a metric reaches a value: a floor, or a ceiling for a metric that is better when lower."""

    metric: str
    """Name of a scored metric, such as `exact_match`."""
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    """The floor, in the metric's unit (a share is 0..1), for a metric that is better when higher."""
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    """The ceiling, in the metric's unit, for a metric that is better when lower."""
    confidence: Literal["interval", "estimate"] = "interval"
    """What must reach the bound: the worse end of the 95 % `interval`, or the `estimate` alone. An estimate that reaches
    it while that end does not is "not enough data"."""

    def misfit(self, metric: Metric) -> str:
        """Why the bound does not suit the metric, or nothing; told when the recipe is loaded."""
        right, wrong = ("at_least", "at_most") if metric.higher_is_better else ("at_most", "at_least")
        direction = "higher" if metric.higher_is_better else "lower"
        if getattr(self, wrong) is not None:
            return f"{self.metric} is better when {direction}; write {right}, not {wrong}"
        if getattr(self, right) is None:
            return f"needs {right}, the worst value of {self.metric} that may pass"
        if metric.unit == "share" and not 0 <= self.bound <= 1:
            return f"{right} {self.bound:g} is no share; write a number from 0 to 1"
        return ""

    @property
    def bound(self) -> float:
        """The value to reach."""
        return self.at_least if self.at_least is not None else self.at_most or 0.0

    def misses(self, value: float) -> bool:
        """Whether a value misses the bound by more than rounding."""
        return below(value, self.bound) if self.at_least is not None else below(-value, -self.bound)

    def shown(self, found: Estimate) -> bool:
        """Whether an estimate that reaches the bound is enough, by its interval where that is asked for."""
        if self.confidence == "estimate":
            return True
        return found.interval is not None and not any(self.misses(end) for end in found.interval)

    def named(self) -> str:
        """`exact_match >= 0.9`."""
        return f"{self.metric} {'>=' if self.at_least is not None else '<='} {self.bound:g}"


def metric_of(evidence: Evidence, name: str) -> Metric:
    """The scored metric of that name."""
    if name not in evidence.metrics:
        raise UserError(f"no metric '{name}' was scored", where=WHERE, hint=known(evidence.metrics))
    return evidence.metrics[name]


def known(names: Iterable[str]) -> str:
    """`known: accuracy, f1`."""
    return f"known: {', '.join(sorted(names)) or 'none'}"


def listed(names: Sequence[str]) -> str:
    """`DE, FR`, or the first five `and 213 more`."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def below(value: float, floor: float) -> bool:
    """Whether a value misses a floor by more than rounding: 0.3 - 0.25 is a gain of 0.05."""
    return value < floor - 1e-9


def cited(evidence: Evidence, *names: str) -> list[str]:
    """Artifact ids of the named evidence, as far as it is stored."""
    return [evidence.artifacts[name] for name in names if name in evidence.artifacts]


def defined(value: float) -> float | None:
    """The value, or None where it is undefined: nan is no JSON."""
    return None if math.isnan(value) else value
