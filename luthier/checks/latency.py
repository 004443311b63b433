"""Latency: an answer must come in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.checks import Check, Evidence
from luthier.checks._scored import cited
from luthier.seams import Verdict

FEWEST_REQUESTS = 20


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
        """The verdict from the samples that the stage `measure` took; 20 requests at least."""
        samples: list[float] = evidence.measurements.get("latency_ms", {}).get("samples", [])
        estimate = nearest_rank(samples, self.quantile) if samples else None
        interval = quantile_interval(samples, self.quantile)
        if estimate is None:
            outcome, note = "not enough data", "no latency was measured"
        elif len(samples) < FEWEST_REQUESTS:
            outcome, note = "not enough data", f"{len(samples)} requests; {FEWEST_REQUESTS} are needed"
        else:
            outcome = "passed" if estimate <= self.at_most_ms else "failed"
            note = "" if interval else f"{len(samples)} requests are too few for an interval"
        return Verdict(
            check=f"p{100 * self.quantile:g} latency <= {self.at_most_ms:g} ms",
            outcome=outcome,
            estimate=estimate,
            interval=interval,
            n=len(samples),
            required=self.required,
            threshold=self.at_most_ms,
            unit="ms",
            evidence=cited(evidence, "measure"),
            note=note,
        )


def nearest_rank(samples: Sequence[float], quantile: float) -> float:
    """The smallest sample that at least this share of the samples does not exceed."""
    import numpy as np

    return float(np.quantile(np.asarray(samples), quantile, method="inverted_cdf"))


def quantile_interval(samples: Sequence[float], quantile: float, level: float = 0.95) -> tuple[float, float] | None:
    """An interval for a quantile from two order statistics, whatever the distribution; None where n allows none.

    The number of samples below the true quantile is binomial(n, quantile). For a p95 it takes 72 samples until the
    largest of them is an upper end at 95 %.
    """
    from scipy.stats import binom

    n = len(samples)
    if n == 0:
        return None
    low = int(binom.ppf((1 - level) / 2, n, quantile))  # 1-based ranks
    high = int(binom.ppf((1 + level) / 2, n, quantile)) + 1
    if low < 1 or high > n:
        return None
    ordered = sorted(samples)
    return float(ordered[low - 1]), float(ordered[high - 1])
