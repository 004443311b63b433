"""Train: examples and a base become a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luthier import model as models
from luthier import seams
from luthier.batching import Encoded
from luthier.choice import Settings
from luthier.engines import Engine
from luthier.fit import fit
from luthier.metrics import Metric
from luthier.objectives import Objective
from luthier.recipe import Train as TrainSettings
from luthier.resample import label_set, totals
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task


class Train(Settings):
    """What decides the weights."""

    task: Task
    train: TrainSettings
    engine: Engine
    metrics: list[Metric]
    max_length: int
    seed: int
    device: str
    base_name: str


@stage(version=1)
def train(config: Train, out: Out, examples: Artifact, base: Artifact) -> dict[str, Any]:
    """Folder `model` (Hugging Face layout, or an adapter as peft writes it) and `history.jsonl`."""
    task = config.task
    labels = examples.facts["label_names"]
    purpose: models.Purpose = "label" if task.objective == "classify" else "text"
    loaded = models.load(
        base.path,
        purpose=purpose,
        labels=labels,
        device=config.device,
        precision=config.train.precision,
        seed=config.seed,
    )
    if template := task.model_dump().get("chat_template"):
        loaded.tokenizer.chat_template = template
    objective = Objective.pick(task.objective)
    parts = {split: list(seams.read(examples.path / split, Example)) for split in ("train", "validation")}
    encoded = {
        split: [
            objective.encode(e, task, loaded.tokenizer, loaded.architecture, labels, config.max_length) for e in part
        ]
        for split, part in parts.items()
    }
    total = sum(p.numel() for p in loaded.model.parameters())

    def evaluate(current: models.Loaded) -> dict[str, float]:
        if not parts["validation"]:
            return {}
        figures = {"loss": validation_loss(current, objective, encoded["validation"])}
        stop = config.train.stop
        if stop and stop.metric != "loss":
            metric = next(m for m in config.metrics if m.kind == stop.metric)
            predictions = config.engine.predict(current, task, parts["validation"], config.max_length)
            names = label_set(predictions)
            figures[metric.kind] = float(metric.combine(totals(metric, predictions, names), names))
        return figures

    with out.timed("fit"):
        progress = fit(loaded, encoded["train"], objective, config.train, evaluate, out, config.seed)
    models.save(loaded, out.folder / "model", base_name=config.base_name, extra={"task": task.model_dump(mode="json")})
    (out.folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in progress.history))
    last: dict[str, Any] = next((entry for entry in reversed(progress.history) if "loss" in entry), {})
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    return {
        "parameters": {
            "trainable": trainable, "base": total, "total": sum(p.numel() for p in loaded.model.parameters()),
        },
        "steps": progress.step, "epochs": last.get("epoch", 0.0), "stopped": progress.stopped, "best": progress.best,
        "supervised_tokens": progress.tokens, "precision": loaded.precision, "device": loaded.device,
        "techniques": [technique.model_dump(mode="json") for technique in config.train.techniques],
        "adapter": models.is_adapted(loaded.model), "final_loss": last.get("loss"),
    }  # fmt: skip


def validation_loss(loaded: models.Loaded, objective: Objective, encoded: Sequence[Encoded]) -> float:
    """Mean loss per supervised token (nats) over the validation split."""
    import torch

    from luthier.batching import cut

    lengths = [example.length for example in encoded]
    order = sorted(range(len(encoded)), key=lambda i: lengths[i])
    total, n = 0.0, 0
    with torch.inference_mode(), models.autocast(loaded):
        for micro in cut(order, lengths, 2048):
            losses, covered = objective.loss(loaded, [encoded[i] for i in micro])
            total, n = total + float(losses.sum()), n + covered
    return total / n
