"""Train: tokens and a base become a model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from luthier import model as models
from luthier import seams
from luthier.answering import predictions
from luthier.batching import Encoded, cut
from luthier.choice import Settings
from luthier.engines.torch import TorchSession
from luthier.facts import EncodedFacts, TrainedFacts
from luthier.fit import Watch, fit
from luthier.form import Form
from luthier.metrics import Metric
from luthier.model import Model
from luthier.objectives import Objective
from luthier.recipe import TrainSettings
from luthier.resample import value
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.token_arrays import TokenArrays
from luthier.trying import try_out

ANSWERED_AT_ONCE = 32  # validation examples, when a metric watches training
TOKENS_AT_ONCE = 2048  # when the validation loss is computed


class Evaluation(Settings):
    """What watches training beside the loss."""

    metric: Metric
    max_new_tokens: int


class Train(Settings):
    """What decides the weights."""

    # resuming is exact, and the longest answer is only tried out
    unkeyed: ClassVar[dict[str, Any]] = {"settings": {"checkpoint_steps"}, "longest_answer": True}

    settings: TrainSettings
    """Precision settled, techniques without paths."""
    evaluation: Evaluation | None
    """Set where early stopping watches a metric; the loss alone needs none."""
    seed: int
    device: str
    base_name: str
    longest_answer: int
    """Tokens that it may write."""


@stage(version=3)
def train(config: Train, out: Out, encoded: Artifact, base: Artifact, **inputs: Artifact) -> dict[str, Any]:
    """Folder `model` (Hugging Face layout, or an adapter as peft writes it) and `history.jsonl`.

    Further inputs: those of techniques, as `<technique>.<name>`.
    """
    settings = config.settings
    form = Form.read(encoded.path)
    objective = form.objective
    model = models.load(base.path, form.head(), device=config.device, precision=settings.precision, seed=config.seed)
    form.settle(model)
    told = len(model.notes)
    for note in model.notes:
        out.say(note)
    learned, validation = (TokenArrays(encoded.path / split) for split in ("train", "validation"))
    lengths = learned.lengths()
    extremes = [learned[int(n)] for n in (lengths.argmin(), lengths.argmax())]
    try_out(model, objective, extremes, EncodedFacts(**encoded.facts).longest_asked, config.longest_answer)
    n_base = sum(parameter.numel() for parameter in model.bare.parameters())
    judge = Judge(config, form, encoded, model, objective, validation)
    given: dict[str, dict[str, Artifact]] = {}
    for role, artifact in inputs.items():
        technique, _, name = role.partition(".")
        given.setdefault(technique, {})[name] = artifact
    with out.timed("fit"):
        progress = fit(
            model,
            learned,
            objective,
            settings,
            judge.figures,
            judge.watch(),
            out,
            config.seed,
            given,
        )
    for note in model.notes[told:]:
        out.say(note)
    models.save(model, out.folder / "model", base_name=config.base_name, extra=form.model_dump(mode="json"))
    shutil.copyfile(out.checkpoints / "history.jsonl", out.folder / "history.jsonl")
    last = last_step(out.folder / "history.jsonl")
    return TrainedFacts(
        trainable_parameters=sum(parameter.numel() for parameter in model.trainable().values()),
        base_parameters=n_base,
        parameters=sum(parameter.numel() for _, parameter in model.named_parameters()),
        steps=progress.step,
        epochs=last["epoch"],
        stopped=progress.stopped,
        best=progress.best,
        supervised_tokens=progress.tokens,
        precision=model.precision,
        device=model.device,
        techniques=[technique.model_dump(mode="json") for technique in settings.techniques],
        adapter=model.adapted,
        notes=model.notes,
        final_loss=last["loss"],
        architecture=model.architecture,
    ).model_dump(mode="json")


def last_step(history: Path) -> dict[str, Any]:
    """The entry of the last optimizer step."""
    found: dict[str, Any] = {}
    with history.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            found = entry if "loss" in entry else found
    return found


class Judge:
    """Evaluates on the validation split while the model trains: the loss, and the metric that watches."""

    def __init__(
        self,
        config: Train,
        form: Form,
        encoded: Artifact,
        model: Model,
        objective: Objective,
        validation: TokenArrays,
    ) -> None:
        self.config, self.objective, self.validation = config, objective, validation
        self.examples: list[Example] = []
        if config.evaluation is not None:
            self.task = form.task
            self.examples = list(seams.read(encoded.path / "asked", Example))
            self.by_id = {example.id: example for example in self.examples}
            self.session = TorchSession(
                model, form.max_length, config.evaluation.max_new_tokens, ANSWERED_AT_ONCE, remember=True
            )

    def watch(self) -> Watch:
        """How its figures are judged."""
        evaluation, stop = self.config.evaluation, self.config.settings.stop
        return Watch(
            metric=evaluation.metric.kind if evaluation else "loss",
            higher_is_better=evaluation.metric.higher_is_better if evaluation else False,
            patience=stop.patience if stop else 0,
            keep_best=self.config.settings.keep == "best",
        )

    def figures(self, model: Model) -> dict[str, float]:
        """The loss in nats per supervised token and the metric in its unit; nothing without a validation split."""
        if not len(self.validation):
            return {}
        figures = {"loss": validation_loss(model, self.objective, self.validation)}
        if self.config.evaluation is not None:
            metric = self.config.evaluation.metric
            found = predictions(self.session, self.examples, self.task, self.objective)
            figures[metric.kind] = value(metric, found, self.by_id)
        return figures


def validation_loss(model: Model, objective: Objective, validation: Sequence[Encoded]) -> float:
    """Mean loss per supervised token (nats) over the validation split."""
    import torch

    lengths = [example.length for example in validation]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    total, covered = 0.0, 0.0
    with torch.inference_mode(), models.autocast(model):
        for micro in cut(order, lengths, TOKENS_AT_ONCE):
            batch = [validation[i] for i in micro]
            total += float(objective.loss(objective.outputs(model, batch, "losses"), batch).sum())
            covered += sum(example.covers * example.weight for example in batch)
    return total / (covered or 1.0)
