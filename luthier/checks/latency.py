"""Latency: an answer must come in time."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.checks import Check, Evidence
from luthier.checks._scored import cited
from luthier.facts import LatencyFacts
from luthier.seams import Verdict


class Latency(Check):
    """Passed when a quantile of the time of single, warmed-up requests is at most so long."""

    at_most_ms: float = Field(gt=0)
    """Longest time, in milliseconds, above 0."""
    quantile: float = Field(default=0.95, gt=0, lt=1)
    """Share of requests that must be at least as fast, between 0 and 1; 0.95 is the p95."""

    @model_validator(mode="after")
    def _over_all_requests(self) -> Self:
        if self.where:
            raise PydanticCustomError("choice", "latency is measured over all requests; leave out `where`")
        return self

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict from the samples that the stage `measure` took; too few for an interval are not enough."""
        latency = LatencyFacts(**evidence.measurements.get("latency_ms", {"samples": []}))
        estimate, interval = latency.quantile(self.quantile), latency.interval(self.quantile)
        if estimate is None:
            outcome, note = "not enough data", "no latency was measured"
        elif interval is None:
            note = f"{latency.n} requests give no interval; {fewest_requests(self.quantile)} are needed"
            outcome, note = "not enough data", f"{note} (score.latency_samples)"
        else:
            outcome, note = "passed" if estimate <= self.at_most_ms else "failed", ""
        return Verdict(
            check=f"p{100 * self.quantile:g} latency <= {self.at_most_ms:g} ms",
            outcome=outcome,
            estimate=estimate,
            interval=interval,
            n=latency.n,
            required=self.required,
            threshold=self.at_most_ms,
            unit="ms",
            evidence=cited(evidence, "measure"),
            note=note,
        )


def fewest_requests(quantile: float, level: float = 0.95) -> int:
    """The number of requests from which the quantile has an interval: 72 for the p95."""
    return math.ceil(math.log((1 - level) / 2) / math.log(max(quantile, 1 - quantile)))
