"""No forgetting: what the base could do of a former task, the model that was made of it can still do."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from luthier.checks import Evidence, described, within
from luthier.checks._scored import Scored, below, cited, defined
from luthier.seams import Verdict


class NoForgetting(Scored):
    """What the model lost of a former task, on the same test rows, must be little.

    Passed when the loss, and the upper end of its 95 % interval, paired and by entity, is at most so much.
    """

    needs_former: ClassVar[bool] = True

    at_most: float = Field(0.02, ge=0)
    """Largest loss that may pass, in the metric's unit, 0 or more (of a share, 0.02 is two percentage points)."""
    metric: str = ""
    """A metric of the former run; left empty, its first one."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the former task's rows that `where` selects."""
        from luthier.resample import paired

        former = evidence.former
        assert former is not None, "a recipe with this check names a former run"
        name = self.metric or next(iter(former.metrics))
        metric = former.metrics[name]
        before, after = within(former.before, self.where), within(former.after, self.where)
        found = paired(metric, after, before, former.examples, evidence.seed)  # a gain: below 0 where it got worse
        outcome, note = "passed", ""
        if few := self.too_few(metric, found.entities):
            outcome, note = "not enough data", few
        elif defined(found.estimate) is None:
            outcome, note = "not enough data", "the difference is undefined on these predictions"
        elif below(found.estimate, -self.at_most):
            outcome = "failed"
        elif found.interval is None or below(found.interval[0], -self.at_most):
            outcome, note = "not enough data", f"the interval of the loss reaches beyond {self.at_most:g}"
        loss = defined(found.estimate)
        return Verdict(
            check=f"{name} of the former task falls by {self.at_most:g} at most" + described(self.where),
            outcome=outcome,
            estimate=None if loss is None else 0.0 - loss,
            interval=None if found.interval is None else (0.0 - found.interval[1], 0.0 - found.interval[0]),
            n=found.n,
            required=self.required,
            threshold=self.at_most,
            unit=metric.unit,
            evidence=cited(evidence, "former.before", "former.after"),
            note=note,
            entities=found.entities,
        )
