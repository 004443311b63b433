"""Baseline: a simple rival answers the examples of one split, having seen the training split."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from luthier import seams
from luthier.baselines import Baseline as Rival
from luthier.baselines import Setting
from luthier.choice import Settings
from luthier.engines import Computing
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task


class Baseline(Settings):
    """What decides the rival's answers."""

    rival: Rival
    task: Task
    """Its form alone."""
    computing: Computing
    split: Literal["train", "validation", "test"]
    max_length: int
    seed: int


@stage(version=2)
def baseline(config: Baseline, out: Out, examples: Artifact, base: Artifact) -> dict[str, Any]:
    """File `predictions`, one Prediction per example that the rival was asked."""
    training = list(seams.read(examples.path / "train", Example))
    wanted = {example.id: example for example in seams.read(examples.path / config.split, Example)}
    setting = Setting(
        base=base.path,
        task=config.task,
        session=lambda: config.computing.open(base.path, None, config.max_length),
        seed=config.seed,
        device=config.computing.device,
        precision=config.computing.precision,
        max_length=config.max_length,
        tell=lambda done, total: out.progress(done, total),
    )
    hidden = [dataclasses.replace(example, target=None) for example in wanted.values()]
    with out.timed("predict"):
        answers = list(config.rival.predict(training, hidden, setting))
    seams.write(
        out.folder / "predictions", (seams.prediction(wanted[asked.id], answered) for asked, answered in answers)
    )
    return {"baseline": config.rival.kind, "n": len(answers)}
