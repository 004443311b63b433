"""Spread: how much the figures of repeated trainings vary; arithmetic over their scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from luthier.choice import Settings
from luthier.facts import Scores, Spread, SpreadFacts
from luthier.store import Artifact, Out, stage

TUNED = "tuned"


class Repeats(Settings):
    """What was repeated."""

    kind: Literal["seeds", "folds"]
    names: list[str]
    """Of the repeats, in order, such as `seed 7`."""


@stage(version=1)
def spread(config: Repeats, out: Out, **scores: Artifact) -> dict[str, Any]:
    """File `spread.json`. Inputs: scores as `<split>_<number>`, where repeat `number` is that of `names`."""
    splits = sorted({role.rpartition("_")[0] for role in scores}, reverse=True)  # validation before test
    found = SpreadFacts(
        kind=config.kind,
        names=config.names,
        figures={split: over([scores[f"{split}_{number}"] for number in range(len(config.names))]) for split in splits},
    )
    (out.folder / "spread.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return found.model_dump(mode="json")


def over(repeats: Sequence[Artifact]) -> dict[str, Spread]:
    """The spread of each metric over the scores of several models."""
    read = [Scores.model_validate_json((a.path / "scores.json").read_text(encoding="utf-8")) for a in repeats]
    systems = [scores.systems[TUNED].metrics for scores in read]
    return {
        metric: spread_of([each[metric].estimate for each in systems], systems[0][metric].unit) for metric in systems[0]
    }


def spread_of(values: Sequence[float | None], unit: str) -> Spread:
    """Mean, sample standard deviation (n - 1) and range of the values that are defined; each None below one, or two."""
    measured = [value for value in values if value is not None and math.isfinite(value)]
    return Spread(
        values=list(values),
        n=len(measured),
        mean=statistics.fmean(measured) if measured else None,
        deviation=statistics.stdev(measured) if len(measured) > 1 else None,
        least=min(measured, default=None),
        most=max(measured, default=None),
        unit=unit,
    )
