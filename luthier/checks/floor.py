"""Floor: a metric must reach a value (a ceiling, for one that is better when lower)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.checks import Evidence, described, within
from luthier.checks._scored import Bounded, cited, defined, metric_of
from luthier.metrics import Metric
from luthier.seams import Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate


class Floor(Bounded):
    """Passed when the metric reaches the bound, by the worse end of its 95 % interval, on enough entities."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects."""
        from luthier.resample import estimate

        metric = metric_of(evidence, self.metric)
        predictions = within(evidence.candidate, self.where)
        found = estimate(metric, predictions, evidence.examples, evidence.seed)
        outcome, note = self._outcome(metric, found)
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
            entities=found.entities,
        )

    def _outcome(self, metric: Metric, found: Estimate) -> tuple[str, str]:
        if few := self.too_few(metric, found.entities):
            return "not enough data", few
        if defined(found.estimate) is None:
            return "not enough data", "the metric is undefined on these predictions"
        if self.misses(found.estimate):
            return "failed", ""
        if self.shown(found):
            return "passed", ""
        if found.interval is None:
            return "not enough data", f"no interval can be given for {found.entities} entities"
        return "not enough data", "the estimate reaches the bound, the worse end of its interval does not"
