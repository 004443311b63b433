"""Train: tokens and a base become a model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from luthier import model as models
from luthier import seams
from luthier.answering import predictions
from luthier.batching import Encoded, cut
from luthier.choice import Settings
from luthier.engines.torch import TorchSession
from luthier.errors import UserError
from luthier.facts import EncodedFacts, Grouping, LearnedTask, TrainedFacts
from luthier.fit import Watch, fit
from luthier.form import Form
from luthier.metrics import Metric
from luthier.mixing import Mixture, Part, Sample, Several, mean_over
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


class Beside(Settings):
    """A further task that the model learns, or keeps."""

    name: str
    weight: float = 1.0
    """What each of its losses is multiplied by; with 0 its examples are left out."""
    share: float = 1.0
    """Share of its examples that are learned from, a sample that is drawn once."""
    watched: bool = True
    """Whether the figures that decide about stopping are means over it too."""
    evaluation: Evaluation | None = None


class Train(Settings):
    """What decides the weights."""

    # resuming is exact, and the longest answer is only tried out
    unkeyed: ClassVar[dict[str, Any]] = {"settings": {"checkpoint_steps"}, "longest_answer": True}

    settings: TrainSettings
    """Precision settled, techniques without paths."""
    evaluation: Evaluation | None
    """Set where early stopping watches a metric; the loss alone needs none."""
    name: str = ""
    """Of the task, where there are several."""
    weight: float = 1.0
    """What each of its losses is multiplied by."""
    beside: list[Beside] = []
    """Further tasks, whose encoded examples enter as `tasks.<name>`."""
    temperature: float = 1.0
    """Of the mixture: an epoch draws examples of a task by its number to the power 1/T."""
    seed: int
    device: str
    base_name: str
    longest_answer: int
    """Tokens that it may write."""


@stage(version=5)
def train(config: Train, out: Out, encoded: Artifact, base: Artifact, **inputs: Artifact) -> dict[str, Any]:
    """Folder `model` (Hugging Face layout, or an adapter as peft writes it) and `history.jsonl`.

    Further inputs: those of techniques, as `<technique>.<name>`, and the encoded examples of further tasks, as
    `tasks.<name>`. What those have of their own is in `heads/<name>`, of which the stage part makes a model folder.
    """
    settings = config.settings
    form = Form.read(encoded.path)
    objective = form.objective
    model = models.load(base.path, form.head(), device=config.device, precision=settings.precision, seed=config.seed)
    form.settle(model)
    told = len(model.notes)
    for note in model.notes:
        out.say(note)
    given: dict[str, dict[str, Artifact]] = {}
    for role, artifact in inputs.items():
        technique, _, name = role.partition(".")
        given.setdefault(technique, {})[name] = artifact
    others = given.pop("tasks", {})
    forms = {each.name: Form.read(others[each.name].path) for each in config.beside}
    for each in config.beside:
        models.add_task(model, each.name, forms[each.name].head(), base.path, config.seed)
        forms[each.name].settle(model.view(each.name))
    n_base = sum(parameter.numel() for parameter in model.bare.parameters())
    own = TokenArrays(encoded.path / "train")
    parts = [Part(config.name, objective, own, config.weight)]
    for each in config.beside:
        whole = TokenArrays(others[each.name].path / "train")
        rows = whole if each.share == 1 else Sample(whole, each.share, config.seed)
        parts.append(Part(each.name, forms[each.name].objective, rows, each.weight))
    for part, artifact in zip(parts, [encoded, *others.values()], strict=True):
        facts = EncodedFacts(**artifact.facts)
        seen = model.view(part.name)
        try_out(seen, part.objective, extremes(part), facts.longest_asked, config.longest_answer)
    learned = [part for part in parts if part.weight and len(part.examples)]
    for part in parts:
        if part not in learned:  # nothing is learned for its head
            for _, parameter in models.own_parameters(model.view(part.name)):
                parameter.requires_grad_(False)
    judges = {config.name: Judge(config.evaluation, form, encoded, model, config.name)}
    for each in config.beside:
        if each.watched:
            judges[each.name] = Judge(each.evaluation, forms[each.name], others[each.name], model, each.name)
    check_watched(settings, sum(len(judge.validation) for judge in judges.values()))
    alone = not config.beside and config.weight == 1
    mixture = Mixture(learned, config.temperature)
    with out.timed("fit"):
        progress = fit(
            model,
            own if alone else mixture,
            objective if alone else Several(learned),
            settings,
            lambda seen: figures_of(judges),
            watch(config),
            out,
            config.seed,
            given,
        )
    for note in model.notes[told:]:
        out.say(note)
    models.save(model, out.folder / "model", base_name=config.base_name, extra=form.model_dump(mode="json"))
    for each in config.beside:
        extra = forms[each.name].model_dump(mode="json")
        models.save_other(model, each.name, out.folder / "heads" / each.name, base_name=config.base_name, extra=extra)
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
        groups=[Grouping(**grouping) for grouping in progress.groups],
        adapter=model.adapted,
        notes=model.notes,
        final_loss=last["loss"],
        architecture=model.architecture,
        tasks=[] if alone else learned_tasks(parts, mixture, judges),
    ).model_dump(mode="json")


def check_watched(settings: TrainSettings, n_validation: int) -> None:
    """UserError where something waits for figures on validation, and there is none."""
    waiting = [("train.techniques", technique.kind) for technique in settings.techniques if technique.watches]
    waiting += [("train.schedule", settings.schedule.kind)] if settings.schedule.watches else []
    if waiting and not n_validation:
        where, kind = waiting[0]
        raise UserError(
            f"{kind} waits until validation no longer improves, and there are no validation examples",
            where=where,
            hint="give prepare.split a share for validation",
        )


def last_step(history: Path) -> dict[str, Any]:
    """The entry of the last optimizer step."""
    found: dict[str, Any] = {}
    with history.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            found = entry if "loss" in entry else found
    return found


def learned_tasks(parts: Sequence[Part], mixture: Mixture, watched: Iterable[str]) -> list[LearnedTask]:
    """For the report: what each task brought."""
    drawn = {part.name: n for part, n in zip(mixture.parts, mixture.counts(), strict=True)}
    names = set(watched)
    return [
        LearnedTask(
            name=part.name,
            weight=part.weight,
            examples=len(part.examples) if part.name in drawn else 0,
            drawn=drawn.get(part.name, 0),
            watched=part.name in names,
        )
        for part in parts
    ]


def extremes(part: Part) -> list[Encoded]:
    """The shortest and the longest example of a part."""
    lengths = part.examples.lengths()
    return [part.examples[int(n)] for n in (lengths.argmin(), lengths.argmax())] if len(lengths) else []


def watch(config: Train) -> Watch:
    """How evaluations are judged."""
    evaluation, stop = config.evaluation, config.settings.stop
    return Watch(
        metric=evaluation.metric.kind if evaluation else "loss",
        higher_is_better=evaluation.metric.higher_is_better if evaluation else False,
        patience=stop.patience if stop else 0,
        keep_best=config.settings.keep == "best",
    )


def figures_of(judges: Mapping[str, Judge]) -> dict[str, float]:
    """What is found on validation: of several tasks the plain mean of each figure, and that of each task."""
    found = {name: judge.figures() for name, judge in judges.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    return mean_over({name: figures for name, figures in found.items() if figures})


class Judge:
    """Evaluates one task on its validation split while the model trains: the loss, and the metric that watches."""

    def __init__(self, evaluation: Evaluation | None, form: Form, encoded: Artifact, model: Model, name: str) -> None:
        self.evaluation, self.form, self.model, self.name = evaluation, form, model, name
        self.validation = TokenArrays(encoded.path / "validation")
        if evaluation is not None:
            self.examples = list(seams.read(encoded.path / "asked", Example))
            self.by_id = {example.id: example for example in self.examples}
            self.session = TorchSession(
                model.view(name), form.max_length, evaluation.max_new_tokens, ANSWERED_AT_ONCE, remember=True
            )

    def figures(self) -> dict[str, float]:
        """The loss in nats per supervised token and the metric in its unit; nothing without a validation split."""
        if not len(self.validation):
            return {}
        seen = self.model.view(self.name)
        seen.forward.eval()
        figures = {"loss": validation_loss(seen, self.form.objective, self.validation)}
        if self.evaluation is not None:
            metric = self.evaluation.metric
            found = predictions(self.session, self.examples, self.form.task, self.form.objective)
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
