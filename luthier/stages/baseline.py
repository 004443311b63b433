"""Baseline: a simple rival answers the examples of one split, having seen the training split."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from luthier import seams
from luthier.baselines import Baseline as Rival
from luthier.baselines import Setting
from luthier.choice import Settings
from luthier.engines import Computing, Session
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task


class Baseline(Settings):
    """What decides the rival's answers."""

    rival: Rival
    task: Task
    """Its form alone."""
    computing: Computing | None
    """None for a rival that needs no model."""
    split: Literal["train", "validation", "test"]
    max_length: int
    control_tokens: Literal["text", "parse"]
    seed: int


@stage(version=4)
def baseline(config: Baseline, out: Out, examples: Artifact, base: Artifact | None = None) -> dict[str, Any]:
    """File `predictions`, one Prediction per example that the rival was asked. `base` where it needs a model."""
    training = list(seams.read(examples.path / "train", Example))
    wanted = {example.id: example for example in seams.read(examples.path / config.split, Example)}
    computing, folder = config.computing, base.path if base else Path()

    def session() -> Session:
        assert computing is not None, f"{config.rival.kind} asks a model and does not say so"
        return computing.open(folder, None, config.max_length, config.task.template_of_chats(), config.control_tokens)

    setting = Setting(
        base=folder,
        task=config.task,
        session=session,
        seed=config.seed,
        device=computing.device if computing else "",
        precision=computing.precision if computing else "",
        max_length=config.max_length,
        control_tokens=config.control_tokens,
        tell=lambda done, total: out.progress(done, total),
    )
    hidden = [dataclasses.replace(example, target=None) for example in wanted.values()]
    with out.timed("predict"):
        answers = list(config.rival.predict(training, hidden, setting))
    seams.write(
        out.folder / "predictions", (seams.prediction(wanted[asked.id], answered) for asked, answered in answers)
    )
    return {"baseline": config.rival.kind, "n": len(answers)}
