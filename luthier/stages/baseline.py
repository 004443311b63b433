"""Baseline: a simple rival answers the examples of the test split, having seen the training split."""

from __future__ import annotations

import dataclasses
from typing import Any

from luthier import seams
from luthier.baselines import Baseline as BaselineChoice
from luthier.baselines import Setting
from luthier.choice import Settings
from luthier.engines import Engine
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task


class Baseline(Settings):
    """What decides the rival's answers."""

    baseline: BaselineChoice
    task: Task
    engine: Engine
    max_length: int
    seed: int
    device: str
    precision: str


@stage(version=1)
def baseline(config: Baseline, out: Out, examples: Artifact, base: Artifact) -> dict[str, Any]:
    """File `predictions`, one Prediction per test example that the rival was asked."""
    training = list(seams.read(examples.path / "train", Example))
    wanted = list(seams.read(examples.path / "test", Example))
    setting = Setting(
        base=base.path, task=config.task, engine=config.engine, seed=config.seed, device=config.device,
        precision=config.precision, max_length=config.max_length, tell=lambda done, total: out.progress(done, total),
    )  # fmt: skip
    hidden = [dataclasses.replace(example, target=None) for example in wanted]
    with out.timed("predict"):
        predictions = config.baseline.predict(training, hidden, setting)
    answers = {example.id: example.answer() for example in wanted}
    for prediction in predictions:
        prediction.target = answers[prediction.id]
    seams.write(out.folder / "predictions", predictions)
    return {"baseline": config.baseline.kind, "n": len(predictions)}
