"""Conformance: what every member of a family promises, for our own tests and for those who write plugins."""

from __future__ import annotations

import inspect

from luthier.choice import Choice, find, members

UNITLESS = (bool, str)


def conforms(family: str, name: str) -> type[Choice]:
    """Check one member and return its class; AssertionError says which promise is broken."""
    assert name in members(family), f"{name} is not a member of {family}"
    member = find(family, name)
    assert member.kind == name, f"{member.__name__}.kind is '{member.kind}', not '{name}'"
    about = (inspect.getdoc(member) or "").strip()
    assert about, f"{name} has no docstring"
    assert about.split("\n")[0].endswith("."), f"the docstring of {name} begins with a sentence"
    module = inspect.getdoc(inspect.getmodule(member)) or ""
    assert module, f"the module of {name} has no docstring"
    for field, settings in member.model_fields.items():
        assert settings.description, f"{name}.{field} does not say what it is"
    schema = member.model_json_schema()
    assert schema["additionalProperties"] is False, f"{name} accepts keys that nothing reads"
    if family == "metrics":
        _metric(member)
    return member


def _metric(member: type[Choice]) -> None:
    """A metric is additive: the figure of many draws is computed at once from sums of statistics."""
    import numpy as np

    from luthier.metrics import Metric
    from luthier.seams import Prediction

    metric = member()
    assert isinstance(metric, Metric)
    rows = [
        Prediction(id=str(n), task="t", output=output, target=target)
        for n, (output, target) in enumerate([("a", "a"), ("b", "a"), ("a", "b"), ("b", "b"), ("b", "b")])
    ]
    labels = ["a", "b"]
    statistics = np.stack([metric.per_example(row, labels) for row in rows])
    whole = float(metric.combine(statistics.sum(0), labels))
    draws = np.stack([statistics.sum(0), statistics[:1].sum(0) + statistics[3:4].sum(0)])
    together = metric.combine(draws, labels)
    assert together.shape == (2,), f"combine of {member.kind} keeps the leading axes"
    assert float(together[0]) == whole
    perfect, wrong = float(together[1]), float(metric.combine(statistics[1:3].sum(0), labels))
    assert perfect > wrong if metric.higher_is_better else perfect < wrong, f"{member.kind} prefers right answers"
