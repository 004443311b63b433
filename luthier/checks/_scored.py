"""What checks on predictions share: finding the metric or baseline that a check names, and citing its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable

from luthier.checks import Evidence
from luthier.errors import UserError
from luthier.metrics import Metric

WHERE = "gate.checks"


def metric_of(evidence: Evidence, name: str) -> Metric:
    """The scored metric of that name, where a higher value is better."""
    if name not in evidence.metrics:
        raise UserError(f"no metric '{name}' was scored", where=WHERE, hint=known(evidence.metrics))
    metric = evidence.metrics[name]
    if not metric.higher_is_better:
        raise UserError(
            f"metric '{name}' is better when lower, which this check cannot judge",
            where=WHERE,
            hint="use another metric",
        )
    return metric


def known(names: Iterable[str]) -> str:
    """`known: accuracy, f1`."""
    return f"known: {', '.join(sorted(names)) or 'none'}"


def below(value: float, floor: float) -> bool:
    """Whether a value misses a floor by more than rounding: 0.3 - 0.25 is a gain of 0.05."""
    return value < floor - 1e-9


def cited(evidence: Evidence, *names: str) -> list[str]:
    """Artifact ids of the named evidence, as far as it is stored."""
    return [evidence.artifacts[name] for name in names if name in evidence.artifacts]


def defined(value: float) -> float | None:
    """The value, or None where it is undefined: nan is no JSON."""
    return None if math.isnan(value) else value
