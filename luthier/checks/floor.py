"""Floor: a metric must reach a value (a ceiling, for one that is better when lower)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.checks import Evidence, described, within
from luthier.checks._scored import Bounded, cited, defined, metric_of
from luthier.seams import Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate


class Floor(Bounded):
    """Passed when the metric reaches the bound on enough predictions."""

    confidence: Literal["estimate", "interval"] = "estimate"
    """What must reach the bound: the `estimate`, or the worse end of its 95 % `interval`. An estimate that reaches it
    while that end does not is then "not enough data"."""
    min_n: int = Field(default=30, ge=1)
    """Fewest predictions to judge by, 1 or more; with less the verdict is "not enough data"."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects."""
        from luthier.resample import estimate

        metric = metric_of(evidence, self.metric)
        predictions = within(evidence.candidate, self.where)
        found = estimate(metric, predictions, evidence.examples, evidence.seed)
        outcome, note = self._outcome(found)
        return Verdict(
            check=f"{self.named()}{described(self.where)}",
            outcome=outcome,
            estimate=defined(found.estimate),
            interval=found.interval,
            n=found.n,
            required=self.required,
            threshold=self.bound,
            unit=metric.unit,
            evidence=cited(evidence, "candidate"),
            note=note,
        )

    def _outcome(self, found: Estimate) -> tuple[str, str]:
        if found.n < self.min_n:
            return "not enough data", f"{found.n} predictions; {self.min_n} are needed"
        if defined(found.estimate) is None:
            return "not enough data", "the metric is undefined on these predictions"
        if self.misses(found.estimate):
            return "failed", ""
        if self.confidence == "estimate":
            return "passed", ""
        if found.interval is None:
            return "not enough data", f"no interval can be given for {found.entities} entities"
        if any(self.misses(end) for end in found.interval):
            return "not enough data", "the estimate reaches the bound, the worse end of its interval does not"
        return "passed", ""
