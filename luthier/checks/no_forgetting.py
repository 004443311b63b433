"""No forgetting: what the base could do of a former task, the model that was made of it can still do."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from luthier.checks import Evidence, described, within
from luthier.checks._scored import WHERE, Scored, below, cited, defined, known
from luthier.errors import UserError
from luthier.seams import Verdict


class NoForgetting(Scored):
    """Passed when the loss on the former task's test rows, paired and by entity, is at most so much, and so is the upper
    end of its 95 % interval."""

    needs_former: ClassVar[bool] = True

    at_most: float = Field(0.02, ge=0)
    """Largest loss that may pass, in the metric's unit, 0 or more (of a share, 0.02 is two percentage points)."""
    metric: str = ""
    """A metric of the former run; left empty, its first one."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the former task's rows that `where` selects."""
        from luthier.resample import paired

        former = evidence.former
        if former is None:
            raise UserError("no former task was asked", where=WHERE, hint="name its run under `former`")
        name = self.metric or next(iter(former.metrics), "")
        if name not in former.metrics:
            raise UserError(f"the former run scored no metric '{name}'", where=WHERE, hint=known(former.metrics))
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
