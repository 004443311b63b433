"""Forgotten: how well the former task is answered before and after, on the same rows; no model is touched."""

from __future__ import annotations

from typing import Any

from luthier import seams
from luthier.choice import Settings
from luthier.facts import Figure, ForgottenFacts, Kept
from luthier.metrics import Metric
from luthier.resample import Estimate, estimate, paired
from luthier.seams import Example, Prediction
from luthier.store import Artifact, Out, stage


class Forgotten(Settings):
    """What is measured."""

    run: str
    metrics: list[Metric]
    seed: int


@stage(version=1)
def forgotten(config: Forgotten, out: Out, examples: Artifact, before: Artifact, after: Artifact) -> dict[str, Any]:
    """Each metric of the former task with both figures and their difference, paired by entity."""
    asked = {example.id: example for example in seams.read(examples.path / "test", Example)}
    was, now = (list(seams.read(artifact.path / "predictions", Prediction)) for artifact in (before, after))
    found = []
    for metric in config.metrics:
        figure = lambda result, metric=metric: as_figure(result, metric)  # noqa: E731
        found.append(
            Kept(
                metric=metric.kind,
                higher_is_better=metric.higher_is_better,
                before=figure(estimate(metric, was, asked, config.seed)),
                after=figure(estimate(metric, now, asked, config.seed)),
                gain=figure(paired(metric, now, was, asked, config.seed)),
            )
        )
    return ForgottenFacts(run=config.run, metrics=found).model_dump(mode="json")


def as_figure(found: Estimate, metric: Metric) -> Figure:
    """For pages and manifests."""
    value = None if found.estimate != found.estimate else found.estimate
    return Figure(estimate=value, interval=found.interval, n=found.n, entities=found.entities, unit=metric.unit)
