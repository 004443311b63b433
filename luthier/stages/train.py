"""Train: tokens and a base become a model folder; and the range test, which takes some of the same steps and keeps none."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from pydantic import computed_field

from luthier import divergence, rising, seams
from luthier import model as models
from luthier.answering import predictions
from luthier.batching import Encoded, cut
from luthier.checkpoint import HISTORY, LAST, carry, newest_whole
from luthier.choice import Settings
from luthier.engines.torch import TorchSession
from luthier.errors import UserError
from luthier.facts import Divergence, EncodedFacts, Grouping, LearnedTask, RangeFacts, TrainedFacts
from luthier.fit import Watch, fit
from luthier.form import Form
from luthier.metrics import Metric
from luthier.mixing import Mixture, Part, Sample, Several, mean_over
from luthier.model import Model
from luthier.objectives import Objective
from luthier.quantized import n_weights
from luthier.recipe import TrainSettings
from luthier.resample import value
from luthier.rising import Rise
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.token_arrays import TokenArrays
from luthier.trying import try_out

ANSWERED_AT_ONCE = 32  # validation examples, when a metric watches training
STATE = "state"  # the folder of a pause: all that training goes on from
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
    """Whether the figures that decide about stopping are means over it too, where it is learned."""
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
    until: int | None = None
    """Evaluations after which it pauses, as a rung of a search."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def goes_back_by(self) -> int | None:
        """Steps between the checkpoints that training may go back to, which then decide the weights."""
        return self.settings.checkpoint_steps if self.settings.on_divergence == "rollback" else None


class RangeTest(Settings):
    """A training of which the first steps are taken, at rising rates."""

    unkeyed: ClassVar[dict[str, Any]] = {"train": Train.unkeyed}

    train: Train
    low: float
    """First learning rate."""
    high: float
    """Last learning rate, which is reached unless the loss runs away before."""
    steps: int
    """Optimizer steps."""


@stage(version=7)
def train(
    config: Train, out: Out, encoded: Artifact, base: Artifact, paused: Artifact | None = None, **inputs: Artifact
) -> dict[str, Any]:
    """Folder `model` (Hugging Face layout, or an adapter as peft writes it) and `history.jsonl`; where training pauses, the
    whole state in the folder `state` instead: what goes on from it has it as `paused`.

    Further inputs: those of techniques, as `<technique>.<name>`, and the encoded examples of further tasks, as
    `tasks.<name>`. What those have of their own is in `heads/<name>`, of which the stage part makes a model folder.
    """
    settings = config.settings
    lesson = set_up(config, out, encoded, base, inputs)
    model, parts, forms = lesson.model, lesson.parts, lesson.forms
    told = len(model.notes)
    judges = {}  # of what is learned: how well a head answers that nothing trains must decide nothing
    if config.weight:
        judges[config.name] = Judge(config.evaluation, lesson.form, encoded, model, config.name)
    for each in config.beside:
        if each.watched and each.weight:
            own = inputs[f"tasks.{each.name}"]
            judges[each.name] = Judge(each.evaluation, forms[each.name], own, model, each.name)
    check_watched(settings, sum(len(judge.validation) for judge in judges.values()))
    if paused is not None and newest_whole(out.checkpoints / LAST) is None:
        carry(paused.path / STATE, out.checkpoints)
    with out.timed("fit"):
        progress = fit(
            model,
            lesson.examples,
            lesson.objective,
            settings,
            lambda seen: figures_of(judges),
            watch(config),
            out,
            config.seed,
            lesson.given,
            until=config.until,
        )
    for note in model.notes[told:]:
        out.say(note)
    if progress.stopped:
        models.save(model, out.folder / "model", base_name=config.base_name, extra=lesson.form.model_dump(mode="json"))
        for each in config.beside:
            extra, place = forms[each.name].model_dump(mode="json"), out.folder / "heads" / each.name
            models.save_other(model, each.name, place, base_name=config.base_name, extra=extra)
        shutil.copyfile(out.checkpoints / HISTORY, out.folder / HISTORY)
    else:
        carry(out.checkpoints, out.folder / STATE)
    last = last_step(out.checkpoints / HISTORY)
    return TrainedFacts(
        trainable_parameters=sum(parameter.numel() for parameter in model.trainable().values()),
        base_parameters=lesson.base_parameters,
        parameters=n_weights(parameter for _, parameter in model.named_parameters()),
        steps=progress.step,
        epochs=last["epoch"],
        stopped=progress.stopped,
        best=progress.best,
        supervised_tokens=last["tokens"],
        precision=model.precision,
        device=model.device,
        techniques=[technique.model_dump(mode="json") for technique in settings.techniques],
        groups=[Grouping(**grouping) for grouping in progress.groups],
        adapter=model.adapted,
        notes=[*model.notes, *map(divergence.sentence, progress.events)],
        divergences=[Divergence(**event) for event in progress.events],
        final_loss=last["loss"],
        architecture=model.architecture,
        tasks=learned_tasks(parts, lesson.examples, judges) if isinstance(lesson.examples, Mixture) else [],
        **progress.facts,
    ).model_dump(mode="json")


@stage(version=1)
def range_test(config: RangeTest, out: Out, encoded: Artifact, base: Artifact, **inputs: Artifact) -> dict[str, Any]:
    """The facts alone: rates, losses and what they suggest. Inputs as those of `train`."""
    if any(technique.sampling for technique in config.train.settings.techniques):
        raise UserError(
            "a range test shows the loss of single batches, which a private training must not",
            where="train.techniques",
            hint="take private out for the test, on rows that need no protection",
        )
    lesson = set_up(config.train, out, encoded, base, inputs)
    # no evaluation, no checkpoint: a test that is interrupted begins again
    never = {"evaluate_every": float(config.steps + 1), "checkpoint_steps": config.steps + 1}
    progress = fit(
        lesson.model,
        lesson.examples,
        lesson.objective,
        config.train.settings.model_copy(update=never),
        lambda seen: {},
        Watch(keep_best=False),
        out,
        config.train.seed,
        lesson.given,
        Rise(config.low, config.high, config.steps),
    )
    with (out.checkpoints / "history.jsonl").open(encoding="utf-8") as file:
        taken = [entry for entry in map(json.loads, file) if "loss" in entry]
    # the loss of a batch comes before its update: what a rate led to is the loss of the next step
    led = [(before["learning_rate"], after["loss"]) for before, after in pairwise(taken)]
    led = [(rate, loss) for rate, loss in led if math.isfinite(loss)]
    rates, losses = [rate for rate, _ in led], [loss for _, loss in led]
    if len(losses) < rising.window(config.steps):
        raise UserError(
            f"the loss ran away after {len(taken)} steps, so there is no curve to read",
            where="--low",
            hint=f"begin lower than {config.low:g}",
        )
    reading = rising.read(rates, losses, config.steps)
    return RangeFacts(
        low=config.low,
        high=config.high,
        steps=config.steps,
        taken=len(taken),
        ran_away=progress.stopped == "ran away",
        rates=rates,
        losses=losses,
        smooth=reading.smooth,
        start=reading.start,
        least=reading.least,
        noise=reading.noise,
        lowest=reading.lowest,
        steepest=reading.steepest,
        tenth=reading.tenth,
        suggestion=reading.suggestion,
        rule=reading.rule,
        batch_size=config.train.settings.batch_size,
        techniques=[technique.model_dump(mode="json") for technique in config.train.settings.techniques],
        precision=lesson.model.precision,
        device=lesson.model.device,
    ).model_dump(mode="json")


@dataclass(frozen=True)
class Lesson:
    """A model with what it learns from."""

    model: Model
    form: Form
    forms: dict[str, Form]  # of further tasks, by name
    parts: list[Part]
    examples: TokenArrays | Mixture
    objective: Objective | Several
    given: dict[str, dict[str, Artifact]]  # technique -> name of an input -> artifact
    base_parameters: int


def set_up(config: Train, out: Out, encoded: Artifact, base: Artifact, inputs: Mapping[str, Artifact]) -> Lesson:
    """The model loaded, with a head for each task, and tried out on the longest examples."""
    settings = config.settings
    for technique in settings.techniques:
        technique.suits(EncodedFacts(**encoded.facts))
    form = Form.read(encoded.path)
    objective = form.objective
    held = {name: how for technique in settings.techniques for name, how in technique.loads().items()}
    model = models.load(
        base.path, form.head(), device=config.device, precision=settings.precision, seed=config.seed, **held
    )
    form.settle(model)
    told = len(model.notes)
    for note in model.notes:
        out.say(note)
    given: dict[str, dict[str, Artifact]] = {}
    for role, artifact in inputs.items():
        kind, _, name = role.partition(".")
        given.setdefault(kind, {})[name] = artifact
    others = given.pop("tasks", {})
    forms = {each.name: Form.read(others[each.name].path) for each in config.beside}
    for each in config.beside:
        models.add_task(model, each.name, forms[each.name].head(), base.path, config.seed)
        forms[each.name].settle(model.view(each.name))
    n_base = n_weights(model.bare.parameters())
    own = TokenArrays(encoded.path / "train")
    parts = [Part(config.name, objective, own, config.weight)]
    for each in config.beside:
        whole = TokenArrays(others[each.name].path / "train")
        rows = whole if each.share == 1 else Sample(whole, each.share, config.seed)
        parts.append(Part(each.name, forms[each.name].objective, rows, each.weight))
    encodings = {**others, config.name: encoded}
    for part in parts:
        facts = EncodedFacts(**encodings[part.name].facts)
        seen = model.view(part.name)
        try_out(seen, part.objective, extremes(part), facts.longest_asked, config.longest_answer)
    learned = [part for part in parts if part.weight and len(part.examples)]
    for part in parts:
        if part not in learned:  # nothing is learned for its head
            for _, parameter in models.own_parameters(model.view(part.name)):
                parameter.requires_grad_(False)
    for note in model.notes[told:]:
        out.say(note)
    alone = not config.beside and config.weight == 1
    return Lesson(
        model,
        form,
        forms,
        parts,
        own if alone else Mixture(learned, config.temperature),
        objective if alone else Several(learned),
        given,
        n_base,
    )


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
        metric=stop.metric if stop else "loss",
        higher_is_better=evaluation.metric.higher_is_better if evaluation and stop and stop.metric != "loss" else False,
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
        figures = validation_figures(seen, self.form.objective, self.validation)
        if self.evaluation is not None:
            metric = self.evaluation.metric
            found = predictions(self.session, self.examples, self.form.task, self.form.objective)
            figures[metric.kind] = value(metric, found, self.by_id)
        return figures


def validation_loss(model: Model, objective: Objective, validation: Sequence[Encoded]) -> float:
    """Mean loss per supervised token (nats) over the validation split."""
    return validation_figures(model, objective, validation)["loss"]


def validation_figures(model: Model, objective: Objective, validation: Sequence[Encoded]) -> dict[str, float]:
    """The mean loss per supervised token (nats) over the validation split, and the further figures of the objective."""
    import torch

    lengths = [example.length for example in validation]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    total, covered = 0.0, 0.0
    sums: dict[str, tuple[float, float]] = {}
    with torch.inference_mode(), models.autocast(model):
        for micro in cut(order, lengths, TOKENS_AT_ONCE):
            batch = [validation[i] for i in micro]
            outputs = objective.outputs(model, batch, "losses")
            total += float(objective.loss(outputs, batch).sum())
            for name, (part, of) in objective.figures(outputs, batch).items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + part, before[1] + of)
            covered += sum(example.covers * example.weight for example in batch)
    return {"loss": total / (covered or 1.0), **{name: part / (of or 1.0) for name, (part, of) in sums.items()}}
