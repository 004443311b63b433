"""Cut answers: hardly any answer may be cut off by the engine's limit, since no metric can tell what it would have said."""

from __future__ import annotations

from pydantic import Field

from luthier.checks import Check, Evidence, described, within
from luthier.checks._scored import below, cited
from luthier.seams import Verdict


class CutAnswers(Check):
    """Passed when at most such a share of the test answers was cut off at `predict.engine.max_new_tokens`.

    It stands in every checklist for a task whose answers are written, unless the recipe names it with other settings.
    The share itself is judged, not an interval: a cut answer is a fault of the settings or of the model and no chance.
    """

    at_most: float = Field(default=0.01, ge=0, le=1)
    """Largest share of answers that may be cut, 0..1."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects."""
        asked = within(evidence.candidate, self.where)
        n_cut = sum(prediction.cut for prediction in asked)
        share = n_cut / len(asked) if asked else None
        outcome = "not enough data" if share is None else "failed" if below(-share, -self.at_most) else "passed"
        return Verdict(
            check=f"answers cut off <= {self.at_most:g}{described(self.where)}",
            outcome=outcome,
            estimate=share,
            interval=None,
            n=len(asked),
            required=self.required,
            threshold=self.at_most,
            unit="share",
            evidence=cited(evidence, "candidate"),
            note=f"{n_cut} of {len(asked)}; raise predict.engine.max_new_tokens, or train until answers end"
            if outcome == "failed"
            else "",
        )
