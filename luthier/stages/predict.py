"""Predict: a trained model answers the examples of one split."""

from __future__ import annotations

from typing import Any, Literal

from luthier import seams
from luthier.choice import Settings
from luthier.engines import Engine
from luthier.model import load_trained
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task


class Predict(Settings):
    """What decides the answers."""

    task: Task
    engine: Engine
    split: Literal["validation", "test"]
    max_length: int
    device: str
    precision: str


@stage(version=1)
def predict(config: Predict, out: Out, examples: Artifact, model: Artifact, base: Artifact) -> dict[str, Any]:
    """File `predictions`, one Prediction per example."""
    wanted = list(seams.read(examples.path / config.split, Example))
    loaded = load_trained(model.path / "model", base.path, device=config.device, precision=config.precision)
    with out.timed("predict"):
        predictions = config.engine.predict(
            loaded, config.task, wanted, config.max_length, lambda done, total: out.progress(done, total)
        )
    seams.write(out.folder / "predictions", predictions)
    return {"n": len(predictions), "split": config.split, "unfinished": sum(p.confidence == 0.0 for p in predictions)}
