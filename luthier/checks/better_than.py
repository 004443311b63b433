"""Better than: the candidate must beat a baseline on the very same examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.checks import Evidence, described, within
from luthier.checks._scored import WHERE, Scored, below, cited, defined, known, metric_of
from luthier.errors import UserError
from luthier.metrics import Metric
from luthier.seams import Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate


class BetterThan(Scored):
    """Passed when the gain is as large as asked and its 95 % interval, paired and by entity, lies above 0."""

    baseline: str
    """Name of a scored baseline, such as `untuned`."""
    by: float = Field(default=0.0, ge=0)
    """Smallest gain in the metric's unit, 0 or more (of a share, 0.05 is five percentage points)."""
    metric: str = ""
    """Name of a scored metric; left empty, the first one."""

    def misfit(self, metric: Metric) -> str:
        """A gain in shares is at most 1."""
        return (
            f"by {self.by:g} is no share; write a number from 0 to 1" if metric.unit == "share" and self.by > 1 else ""
        )

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects; a gain whose interval holds 0 is not shown."""
        from luthier.resample import paired

        if self.baseline not in evidence.baselines:
            raise UserError(f"no baseline '{self.baseline}' was scored", where=WHERE, hint=known(evidence.baselines))
        name = self.metric or next(iter(evidence.metrics), "")
        metric = metric_of(evidence, name)
        baseline = within(evidence.baselines[self.baseline], self.where)
        asked = {prediction.id for prediction in baseline}  # a rival may have answered a sample of the rows
        candidate = [p for p in within(evidence.candidate, self.where) if p.id in asked]
        found = paired(metric, candidate, baseline, evidence.examples, evidence.seed)
        outcome, note = self._outcome(metric, found)
        return Verdict(
            check=f"{name} {'above' if metric.higher_is_better else 'below'} {self.baseline}"
            + (f" by {self.by:g}" if self.by else "")
            + described(self.where),
            outcome=outcome,
            estimate=defined(found.estimate),
            interval=found.interval,
            n=found.n,
            required=self.required,
            threshold=self.by,
            unit=metric.unit,
            evidence=cited(evidence, "candidate", self.baseline),
            note=note,
            entities=found.entities,
        )

    def _outcome(self, metric: Metric, found: Estimate) -> tuple[str, str]:
        if few := self.too_few(metric, found.entities):
            return "not enough data", few
        if defined(found.estimate) is None:
            return "not enough data", "the difference is undefined on these predictions"
        if below(found.estimate, self.by):
            return "failed", ""
        if found.interval is None:
            return "not enough data", f"no interval can be given for {found.entities} entities"
        if found.interval[0] <= 0:
            return "not enough data", "the interval of the difference includes 0"
        return "passed", ""
