"""Floor: a metric must reach a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.checks import Check, Evidence, described, within
from luthier.checks._scored import below, cited, defined, metric_of
from luthier.seams import Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate


class Floor(Check):
    """Passed when the metric reaches the floor on enough predictions."""

    metric: str
    """Name of a scored metric, such as `exact_match`."""
    at_least: float = Field(ge=0, le=1)
    """The floor, as a share, 0..1."""
    confidence: Literal["estimate", "interval"] = "estimate"
    """What must reach the floor: the `estimate`, or the lower end of its 95 % `interval`. An estimate that reaches it
    while the lower end does not is then "not enough data"."""
    min_n: int = Field(default=30, ge=1)
    """Fewest predictions to judge by, 1 or more; with less the verdict is "not enough data"."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects."""
        from luthier.resample import estimate, label_set

        metric = metric_of(evidence, self.metric)
        predictions = within(evidence.candidate, self.where)
        found = estimate(metric, predictions, label_set(predictions), evidence.seed)
        outcome, note = self._outcome(found)
        return Verdict(
            check=f"{self.metric} >= {self.at_least:g}{described(self.where)}",
            outcome=outcome,
            estimate=defined(found.estimate),
            interval=found.interval,
            n=found.n,
            required=self.required,
            threshold=self.at_least,
            unit=metric.unit,
            evidence=cited(evidence, "candidate"),
            note=note,
        )

    def _outcome(self, found: Estimate) -> tuple[str, str]:
        if found.n < self.min_n:
            return "not enough data", f"{found.n} predictions; {self.min_n} are needed"
        if defined(found.estimate) is None:
            return "not enough data", "the metric is undefined on these predictions"
        if below(found.estimate, self.at_least):
            return "failed", ""
        if self.confidence == "estimate":
            return "passed", ""
        if found.interval is None:
            return "not enough data", f"no interval can be given for {found.entities} entities"
        if below(found.interval[0], self.at_least):
            return "not enough data", "the estimate reaches the floor, the lower end of its interval does not"
        return "passed", ""
