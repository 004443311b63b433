"""The recipe: one typed document that says what a run is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.baselines import Baseline
from luthier.bases import Base
from luthier.checks import Check
from luthier.choice import Settings, find, unknown
from luthier.engines import Engine
from luthier.errors import UserError, first_line
from luthier.metrics import Metric
from luthier.optimizers import Optimizer
from luthier.preparers import Preparer
from luthier.readers import Reader
from luthier.schedules import Schedule
from luthier.searchers import Searcher
from luthier.space import Dimension
from luthier.splits import Split
from luthier.tasks import Name, Task
from luthier.techniques import Technique, conflicts, misfits

FORMER = "former"  # what the task of a former run is called beside others


class PrepareSettings(Settings):
    """From a file to examples with splits."""

    reader: Reader | None = None
    """How to read the table; found from its content when left out."""
    split: Split = Field(default_factory=lambda: Split.pick("random"))
    """How rows are divided into train, validation and test."""
    slices: dict[str, str] = {}
    """Groups for reporting: name -> column. They do not affect splitting."""
    hold_out: dict[str, list[Name]] = {}
    """Column -> values that are kept out of training entirely; such rows go to test, in the slice `unseen: true`.
    Values are compared as they are written in the table, blanks around them aside; null or "" is a blank cell."""
    steps: list[Preparer] = Field(default_factory=lambda: [Preparer.pick("dedup")])
    """What is done with the examples, in this order; each is one line of the flow picture."""
    id_column: str = ""
    """Column with unique ids; by default the line number is the id."""
    quarantine_limit: float = Field(0.01, ge=0, le=1)
    """Stop when more than this share of the records cannot be read; a single one never stops, unless this is 0."""
    left_out_limit: float = Field(0.5, ge=0, le=1)
    """Stop when more than this share of the rows make no example: no target, an empty value, a conversation that does not
    fit the task. A table of which a part is labelled needs more."""


class EncodeSettings(Settings):
    """From examples to tokens."""

    max_length: int = Field(256, ge=8)
    """Tokens of one example, prompt and answer together."""
    truncation: Literal["error", "cut_input", "drop"] = "cut_input"
    """What happens to a longer example of train or validation; an answer is never cut. `drop` leaves it out of what is
    learned from; what is asked in the test is always answered. What was cut is counted."""
    give_away: Literal["refuse", "allow"] = "refuse"
    """What happens where inputs tell their label: a column repeats it, or a text holds it, clearly more often than chance
    would (in 80 or 50 % of the rows more). It is counted either way."""

    control_tokens: Literal["text", "parse"] = "text"
    """What the name of a control token in the data, such as `</s>`, is: ordinary `text`, or `parse` makes it the token
    (for prompts in which a chat format is already written out)."""


class Stop(Settings):
    """Early stopping on the validation split."""

    metric: str = "loss"
    """`loss`, or the name of a metric of the task such as exact_match. Of several tasks the plain mean decides."""
    patience: int = Field(2, ge=1)
    """Evaluations without improvement after which training ends."""


class TrainSettings(Settings):
    """The training loop."""

    epochs: float = Field(3, gt=0)
    """Passes over the training split."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; by default what the technique recommends (1e-5 for full, 2e-4 for lora, half
    of that with dpo)."""
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer.pick("adamw"))
    """How gradients move the weights."""
    batch_size: int = Field(16, ge=1)
    """Examples of one optimizer step: the effective batch."""
    tokens_per_batch: int = Field(512, ge=16)
    """Tokens computed at once; a larger effective batch is accumulated, with the same result."""
    weight_decay: float = Field(0.0, ge=0)
    """Share of a weight that a step takes off, times the learning rate; never of biases and norms. Decoupled from the
    gradient, but for sgd, which adds it to that."""
    warmup: float | None = Field(None, ge=0)
    """Share of the steps (below 1) or number of steps (1 or more) over which the learning rate rises from 0; by default
    0.05. A schedule with a rise of its own has none."""
    schedule: Schedule = Field(default_factory=lambda: Schedule.pick("linear"))
    """How the learning rate goes on after the warm-up."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each supervised token or label that training spreads over all of them (Szegedy et al. 2016); the loss on
    validation stays plain."""
    neftune_alpha: float = Field(0.0, ge=0)
    """Noise on the embeddings in training (NEFTune, Jain et al. 2023, who use 5 to 15); 0 is none."""
    gradient_checkpointing: bool = False
    """Whether each block is computed again for its gradient rather than kept: the same result in less memory, in about a
    third more time."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    techniques: list[Technique] = Field(default_factory=lambda: [Technique.pick("full")])
    """What is trained and how."""
    stop: Stop | None = None
    """Early stopping; without it the last weights are kept unless `keep` says otherwise."""
    keep: Literal["best", "last"] = "best"
    """Which weights are kept: those of the best evaluation, or the last ones."""
    evaluate_every: float = Field(1.0, gt=0)
    """Epochs between evaluations on the validation split."""
    checkpoint_steps: int = Field(50, ge=1)
    """Optimizer steps between checkpoints: the most that a crash can cost."""
    on_divergence: Literal["stop", "skip", "rollback"] = "stop"
    """What is done where the loss or its gradient is no number, which is never applied: `stop` ends training; `skip` leaves
    the step out, 10 times at most; `rollback` goes on from the last checkpoint at 0.3 of the learning rate, 3 times at most.
    A loss far above its recent course is told; `skip` leaves out a single such step, `rollback` goes back where it stays."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 where the processor computes it natively, else float32."""

    @field_validator("techniques")
    @classmethod
    def _compatible(cls, techniques: list[Technique]) -> list[Technique]:
        problem = conflicts(techniques)
        if problem:
            raise ValueError(problem)
        return techniques

    @model_validator(mode="after")
    def _hangs_together(self) -> TrainSettings:
        problems = []
        if self.warmup is not None and self.schedule.rises:
            problems.append(f"warmup: {self.schedule.kind} has a rise of its own; leave warmup out")
        for technique in self.techniques if self.on_divergence != "stop" else []:
            if technique.once:
                problems.append(f"on_divergence: {technique.kind} allows stop alone ({technique.once})")
        if self.learning_rate is None and self.optimizer.own_rate:
            kind, why = self.optimizer.kind, self.optimizer.own_rate
            problems.append(f"learning_rate: {kind} has no recommended one ({why}); name one, such as 0.01")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class PredictSettings(Settings):
    """How answers are computed."""

    engine: Engine = Field(default_factory=lambda: Engine.pick("torch"))


class ScoreSettings(Settings):
    """What is measured on the test split, beside which rivals."""

    metrics: list[Metric] = []
    """Figures of quality, the main one first; by default what the task recommends."""
    baselines: list[Baseline] = []
    """Rivals on the same rows."""
    worst: int = Field(20, ge=0)
    """Worst cases kept for the report."""
    latency_samples: int = Field(100, ge=0)
    """Single requests timed for the stage measure, after a warm-up; 0 measures nothing. A p95 has an interval from 72 on."""


class TaskSettings(Settings):
    """One of several tasks that a model learns together."""

    task: Task
    """What the model shall do."""
    weight: float = Field(1.0, ge=0)
    """What each of its losses is multiplied by; 0 trains nothing on it."""
    prepare: PrepareSettings | None = None
    """From its file to examples; by default as the recipe says for all."""
    encode: EncodeSettings | None = None
    """From its examples to tokens; by default as the recipe says for all."""
    score: ScoreSettings | None = None
    """What is measured of it; by default as the recipe says for all."""


class MixtureSettings(Settings):
    """How several tasks share the steps."""

    temperature: float = Field(1.0, ge=1)
    """An epoch draws examples of a task in proportion to its number of them to the power 1/T, T = 1 or more: at 1 each
    once, higher the small tasks more often and the large ones less."""


class GateSettings(Settings):
    """The release checklist."""

    checks: list[Check] = []
    """Each one line of the checklist. A checklist of written answers has `cut_answers` too, unless it is named here."""


class Repeat(Settings):
    """Training again, to see how much the figures vary. The run's own model alone is judged and released."""

    seeds: int | None = Field(None, ge=2)
    """Models in all, the run's own among them: same data, same split, another seed for all that is drawn in training."""
    folds: int | None = Field(None, ge=2)
    """Parts of train and validation: a model for each, trained on the others and validated on that one. What the split
    keeps together or in proportion is kept so; the test part stays out."""
    test: bool = False
    """Of seeds: whether the further models answer the test too; each is an opening, and is counted."""

    @model_validator(mode="after")
    def _one_way(self) -> Repeat:
        if (self.seeds is None) == (self.folds is None):
            raise ValueError("give either `seeds` or `folds`")
        if self.folds is not None and self.test:
            raise ValueError("`test` belongs to `seeds`: models of folds are measured on their folds alone")
        return self


class SearchSettings(Settings):
    """What `luthier search` tries; a run knows nothing of it."""

    space: dict[str, Dimension] = Field(min_length=1)
    """What is varied: a path of the recipe, written as for `--set`, and the values that it may take."""
    trials: int | None = Field(None, ge=1)
    """How many trials there are together, those that failed or were pruned among them."""
    seconds: float | None = Field(None, gt=0)
    """Seconds of work, summed over workers and earlier calls, after which no further trial begins."""
    searcher: Searcher = Field(default_factory=lambda: Searcher.pick("tpe"))
    """How the next trial is chosen."""
    pruner: Literal["hyperband", "none"] = "hyperband"
    """`hyperband` ends trials early whose metric is behind; it looks at evaluations (`train.evaluate_every`)."""
    reduction_factor: int = Field(3, ge=2)
    """Hyperband looks after 1, 3, 9 ... evaluations and lets the best third go on; 2: after 1, 2, 4 ... and the best half."""
    metric: str = ""
    """What trials are judged by on the validation split: `loss`, or a metric of the recipe; by default that of `train.stop`,
    else `loss`. It is taken of the weights that training keeps."""
    workers: int = Field(1, ge=1)
    """Processes that work on trials at once on this machine."""
    study: str = ""
    """Address of the database that keeps the trials, such as postgresql+psycopg://host/name, for workers on several
    machines; a file in the store by default. A password does not belong here: see --study."""

    @model_validator(mode="after")
    def _ends(self) -> SearchSettings:
        if self.trials is None and self.seconds is None and self.searcher.kind != "grid":
            raise ValueError("needs trials or seconds, or it never ends")
        return self

    @field_validator("study")
    @classmethod
    def _holds_no_password(cls, study: str) -> str:
        if re.match(r"[^/]*//[^/@]*:[^/@]*@", study) or re.search(r"[?&][^=]*pass[^=]*=", study):
            raise ValueError(
                "holds a password, and recipes are recorded; give the address with --study or LUTHIER_STUDY"
            )
        return study


class Recipe(Settings):
    """A whole run, from a base model and a table to a model that is signed off or refused."""

    version: Literal[1]
    """Version of the recipe format."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the run: letters, digits, dot, dash and underscore."""
    seed: int = Field(0, ge=0)
    """Everything random derives from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the arithmetic runs; `auto` takes a GPU if there is one."""
    task: Task
    """What the model shall do. Of a recipe with `tasks`, which leaves it out, the first of them."""
    tasks: dict[Name, TaskSettings] = {}
    """Several tasks for one model: name -> task. A decoder's share what writes, an encoder gets a head for each."""
    mixture: MixtureSettings = MixtureSettings()
    base: Base
    """The model to start from."""
    former: str = ""
    """A finished run whose task the model is to keep, by its name in this store or its folder; the base is the model that
    it made, as `luthier export` writes it. What was forgotten is measured, whatever the techniques."""
    prepare: PrepareSettings = Field(default_factory=PrepareSettings)
    encode: EncodeSettings = EncodeSettings()
    train: TrainSettings = Field(default_factory=TrainSettings)
    predict: PredictSettings = Field(default_factory=PredictSettings)
    repeat: Repeat | None = None
    """Repeated trainings for the spread of the figures; none when left out."""
    score: ScoreSettings = ScoreSettings()
    gate: GateSettings = GateSettings()
    search: SearchSettings | None = None
    """What `luthier search` varies, and how."""

    @model_validator(mode="before")
    @classmethod
    def _first_task(cls, block: Any) -> Any:
        if isinstance(block, dict) and "task" not in block and isinstance(tasks := block.get("tasks"), dict):
            first = next(iter(tasks.values()), None)
            if isinstance(first, dict) and "task" in first:
                return {**block, "task": first["task"]}
        return block

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        problems = [*self._unfit_tasks(), *self._unfit_former(), *self._unfit_search(), *self._unfit_private()]
        for name in self.tasks or [""]:
            alone = self.alone(name) if name else self
            found = [*alone._named_twice(), *alone._unfit_metrics(), *alone._unfit_checks(self._checks_of(name))]
            found += [*alone._unfit_baselines(), *alone._unfit_hints(), *alone._unfit_stop()]
            found += [*alone._unfit_training(), *alone._unfit_techniques()]
            own = self.tasks[name].model_fields_set if name else set()
            for problem in found:
                inside = name and (problem.partition(".")[0] in own or problem.startswith("task."))
                told = f"tasks.{name}.{problem}" if inside else problem + (f" (task {name})" if name else "")
                problems.append(told)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def alone(self, name: str) -> Recipe:
        """The recipe of one of several tasks, as if there were no other; what trains stays as it is."""
        entry = self.tasks[name]
        own = {part: value for part in ("prepare", "encode", "score") if (value := getattr(entry, part)) is not None}
        changes = {"name": f"{self.name}.{name}", "task": entry.task, "tasks": {}, **own}
        checks = [self.gate.checks[n].model_copy(update={"task": ""}) for n in self._checks_of(name)]
        return self.model_copy(update={**changes, "gate": GateSettings(checks=checks)})

    def _checks_of(self, name: str) -> list[int]:
        return [n for n, check in enumerate(self.gate.checks) if not name or check.task in ("", name)]

    def _unfit_tasks(self) -> Iterator[str]:
        if not self.tasks:
            if self.mixture != MixtureSettings():
                yield "mixture: there is one task, so nothing is mixed; name several under `tasks`"
            for index, check in enumerate(self.gate.checks):
                if check.task:
                    yield f"gate.checks[{index}].task: there is one task; leave it out, or name several under `tasks`"
            return
        if next(iter(self.tasks.values())).task != self.task:
            yield "task: `tasks` names the tasks; leave this one out, or put it there"
        if not any(entry.weight for entry in self.tasks.values()):
            yield "tasks: every weight is 0, so there is nothing to learn"
        for name in self.tasks:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name) or name == FORMER:
                yield f"tasks: '{name}' cannot name a task; write letters, digits, dash and underscore, and not '{FORMER}'"
        for index, technique in enumerate(self.train.techniques):
            if technique.one_task:
                yield f"train.techniques[{index}]: {technique.kind} does not learn several tasks: {technique.one_task}"
        for index, check in enumerate(self.gate.checks):
            if check.task and check.task not in self.tasks:
                yield f"gate.checks[{index}].task: {unknown('task called', check.task, self.tasks)}"

    def _unfit_former(self) -> Iterator[str]:
        if self.former:
            return
        for index, technique in enumerate(self.train.techniques):
            if technique.needs_former:
                yield f"train.techniques[{index}]: {technique.kind} keeps a former task; name its run under `former`"
        for index, check in enumerate(self.gate.checks):
            if check.needs_former:
                yield f"gate.checks[{index}]: {check.kind} is about a former task; name its run under `former`"

    def _unfit_stop(self) -> Iterator[str]:
        scored = [metric.kind for metric in self.metrics()]
        if self.train.stop and self.train.stop.metric not in ["loss", *scored]:
            yield f"train.stop.metric: {unknown('scored metric called', self.train.stop.metric, ['loss', *scored])}"

    def _named_twice(self) -> Iterator[str]:
        for part, members in (("metrics", self.score.metrics), ("baselines", self.score.baselines)):
            kinds = [member.kind for member in members]
            for index, kind in enumerate(kinds):
                if kind in kinds[:index]:
                    yield f"score.{part}[{index}]: {kind} is named twice, and figures go by that name; keep one of them"

    def _unfit_metrics(self) -> Iterator[str]:
        for index, metric in enumerate(self.score.metrics):
            if self.task.answers not in metric.judges:
                yield (
                    f"score.metrics[{index}]: {metric.kind} judges {' and '.join(sorted(metric.judges))}, "
                    f"but the answers of {self.task.kind} are {self.task.answers}"
                )

    def _unfit_checks(self, places: Sequence[int]) -> Iterator[str]:
        scored = {metric.kind: metric for metric in self.metrics()}
        names = [baseline.kind for baseline in self.score.baselines]
        for index, check in zip(places, self.gate.checks, strict=True):
            if check.needs_former:
                continue  # its metric is the former task's
            wanted = check.model_dump()
            name = wanted.get("metric") or next(iter(scored))
            if name not in scored:
                yield f"gate.checks[{index}].metric: {unknown('scored metric called', name, scored)}"
            elif problem := check.misfit(scored[name]):
                yield f"gate.checks[{index}]: {problem}"
            if "baseline" in wanted and wanted["baseline"] not in names:
                yield f"gate.checks[{index}].baseline: {unknown('baseline called', wanted['baseline'], names)}"

    def _unfit_baselines(self) -> Iterator[str]:
        for index, baseline in enumerate(self.score.baselines):
            if baseline.needs_cells and not self.task.about_cells:
                yield f"score.baselines[{index}]: {baseline.kind} is made for table cells, {self.task.kind} is not about them"
            elif baseline.answers and self.task.answers not in baseline.answers:
                yield (
                    f"score.baselines[{index}]: {baseline.kind} is not made for {self.task.kind}; "
                    f"it answers with {' or '.join(baseline.answers)}"
                )

    def _unfit_techniques(self) -> Iterator[str]:
        objective = self.task.learned_by()
        yield from (f"train.techniques{each}" for each in misfits(self.train.techniques, objective))
        needed = find("objectives", objective).learned_with  # type: ignore[attr-defined]
        if needed and all(technique.kind != needed for technique in self.train.techniques):
            yield f"train.techniques: answers that are better or worse are learned from by the technique {needed}; add it"

    def _unfit_hints(self) -> Iterator[str]:
        kinds: list[str] = []
        for block in self.task.hinted_by():
            try:
                source = Baseline.pick(block)
            except (ValueError, UserError) as problem:
                yield f"task.hints: {first_line(problem)}"
                continue
            if not source.gives_hints:
                yield f"task.hints: {source.kind} gives no hints: it does not answer each value by itself from what it learned"
            elif source.answers and self.task.answers not in source.answers:
                yield f"task.hints: {source.kind} answers with {' or '.join(source.answers)}, not with {self.task.answers}"
            if source.kind in kinds:
                yield f"task.hints: {source.kind} is named twice"
            kinds.append(source.kind)

    def _unfit_training(self) -> Iterator[str]:
        if self.train.label_smoothing and not find("objectives", self.task.learned_by()).smooths:  # type: ignore[attr-defined]
            yield f"train.label_smoothing: what {self.task.kind} learns is no choice among tokens or labels to smooth"

    def _unfit_search(self) -> Iterator[str]:
        if self.search is None:
            return
        for path, problem in self.search.searcher.unfit(self.search.space).items():
            yield f"search.space.{path}: {problem}"
        if self.train.on_divergence == "rollback":
            yield "train.on_divergence: a search pauses its trials, which would be other points to go back to; use stop or skip"
        metric, watched = self.search.metric, self.train.stop.metric if self.train.stop else "loss"
        known = ["loss", *(each.kind for each in self.metrics())]
        if metric and metric not in known:
            yield f"search.metric: {unknown('scored metric called', metric, known)}"
        elif metric not in ("", "loss", watched) and watched != "loss":
            yield (
                f"search.metric: {metric} cannot be looked at beside {watched}, which train.stop watches: one metric is "
                f"computed while training; write {watched} or loss"
            )

    def _unfit_private(self) -> Iterator[str]:
        for index, technique in enumerate(self.train.techniques):
            if technique.precision and self.train.precision not in ("auto", technique.precision):
                yield f"train.precision: {technique.kind} computes in {technique.precision}; use that, or auto"
            if technique.sampling and self.tasks:
                yield (
                    f"train.techniques[{index}]: {technique.kind} trains one task: in a mixture a row's chance and weight would "
                    "depend on other rows"
                )
            if technique.sampling and self.repeat:
                yield (
                    f"repeat: {technique.kind} counts one training, and each repeat would tell as much of the rows once more; "
                    "leave it out"
                )
            if technique.sampling and self.search:
                yield (
                    f"search: {technique.kind} counts one training, and each trial would tell of the rows too; search on rows "
                    "that need no protection"
                )
            if technique.sampling and self.task.hinted():
                yield (
                    f"train.techniques[{index}]: {technique.kind} and task.hints do not combine: hints are learned from the "
                    "training rows and travel with the model as they are"
                )

    def hints(self) -> list[Baseline]:
        """The baselines whose answers the model is shown."""
        return [Baseline.pick(block) for block in self.task.hinted_by()]

    def checks(self) -> list[Check]:
        """The release checklist: that of the recipe, with `cut_answers` where it names checks of written answers."""
        named = self.gate.checks
        written = self.task.answers == "text"
        added = named and written and not any(check.kind == "cut_answers" for check in named)
        return [*named, Check.pick("cut_answers")] if added else named

    def metrics(self) -> list[Metric]:
        """The metrics of the run: those of `score`, or what the task recommends."""
        return self.score.metrics or [Metric.pick(name) for name in self.task.recommended_metrics]


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    document = Recipe.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Luthier recipe"
    return document
