"""Predict: a model answers the examples of one split."""

from __future__ import annotations

from typing import Any, Literal

from luthier import seams
from luthier.answering import predictions
from luthier.choice import Settings
from luthier.engines import Computing
from luthier.form import Form
from luthier.seams import Example
from luthier.store import Artifact, Out, stage


class Predict(Settings):
    """What decides the answers, beside the model."""

    computing: Computing
    split: Literal["train", "validation", "test"]


@stage(version=4)
def predict(config: Predict, out: Out, examples: Artifact, model: Artifact, base: Artifact) -> dict[str, Any]:
    """File `predictions`, one Prediction per example."""
    folder = model.path / "model"
    if not folder.is_dir():  # a base that was trained before
        folder = model.path
    form = Form.read(folder)
    wanted = list(seams.read(examples.path / config.split, Example))
    session = config.computing.open(folder, base.path, form.max_length)
    with out.timed("predict"):
        found = predictions(session, wanted, form.task, form.objective, lambda done, total: out.progress(done, total))
    seams.write(out.folder / "predictions", found)
    return {"n": len(found), "split": config.split, "cut": sum(p.cut for p in found)}
