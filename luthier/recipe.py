"""The recipe: one typed document that says what a run is; loading it finds every error at once."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from luthier.baselines import Baseline
from luthier.bases import Base
from luthier.checks import Check
from luthier.choice import Choice, Settings, find, unknown
from luthier.engines import Engine
from luthier.errors import Problems, UserError
from luthier.metrics import Metric
from luthier.readers import Reader
from luthier.splits import Split
from luthier.tasks import Task
from luthier.techniques import Technique, conflicts

DATA_VARIABLE = "LUTHIER_DATA"


class Deduplicate(Settings):
    """Exact deduplication, within a split and across splits."""

    within: bool = True
    """Drop a training row whose input and target were already seen in training."""
    across: bool = True
    """Drop a training row whose input stands in validation or test, and a validation row whose input stands in test."""


class Prepare(Settings):
    """From a file to examples with splits."""

    reader: Reader | None = None
    """How to read the table; found from its content when left out."""
    split: Split = Field(default_factory=lambda: Split.pick("random"))
    """How rows are divided into train, validation and test."""
    slices: dict[str, str] = {}
    """Groups for reporting: name -> column. They do not affect splitting."""
    hold_out: dict[str, list[str]] = {}
    """Column -> values that are kept out of training entirely; such rows go to test, in the slice `unseen: true`."""
    deduplicate: Deduplicate = Deduplicate()
    id_column: str = ""
    """Column with unique ids; by default the line number is the id."""
    quarantine_limit: float = Field(0.01, ge=0, le=1)
    """Stop when more than this share of the records cannot be read."""
    max_length: int = Field(256, ge=8)
    """Tokens of one example, prompt and answer together."""
    truncation: Literal["error", "cut_input", "drop"] = "cut_input"
    """What happens to a longer example; an answer is never cut. What was cut is counted."""


class Stop(Settings):
    """Early stopping on the validation split."""

    metric: str = "loss"
    """`loss`, or the name of a metric of the task such as exact_match."""
    patience: int = Field(2, ge=1)
    """Evaluations without improvement after which training ends."""


class Train(Settings):
    """The training loop."""

    epochs: float = Field(3, gt=0)
    """Passes over the training split."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; by default what the technique recommends (1e-5 for full, 2e-4 for lora)."""
    batch_size: int = Field(16, ge=1)
    """Examples of one optimizer step: the effective batch."""
    tokens_per_batch: int = Field(512, ge=16)
    """Tokens computed at once; a larger effective batch is accumulated, with the same result."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay; never applied to biases and norms."""
    warmup: float = Field(0.05, ge=0)
    """Share of the steps (below 1) or number of steps (1 or more) over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up, to 0 at the end."""
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 where the processor computes it natively, else float32."""

    @field_validator("techniques")
    @classmethod
    def _compatible(cls, techniques: list[Technique]) -> list[Technique]:
        problem = conflicts(techniques)
        if problem:
            raise ValueError(problem)
        return techniques


class Predict(Settings):
    """How answers are computed."""

    engine: Engine = Field(default_factory=lambda: Engine.pick("torch"))


class Score(Settings):
    """What is measured on the test split, beside which rivals."""

    metrics: list[Metric] = []
    """Figures of quality, the main one first; by default what the task recommends."""
    baselines: list[Baseline] = []
    """Rivals on the same rows."""
    worst: int = Field(20, ge=0)
    """Worst cases kept for the report."""
    latency_samples: int = Field(20, ge=0)
    """Single requests timed for the stage measure, after a warm-up; 0 measures nothing."""


class Gate(Settings):
    """The release checklist."""

    checks: list[Check] = []
    """Each one line of the checklist."""


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
    """What the model shall do."""
    base: Base
    """The model to start from."""
    prepare: Prepare = Prepare()
    train: Train = Train()
    predict: Predict = Field(default_factory=Predict)
    score: Score = Score()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        problems = []
        scored = [metric.kind for metric in self.metrics()]
        names = [baseline.kind for baseline in self.score.baselines]
        for index, check in enumerate(self.gate.checks):
            wanted = check.model_dump()
            if wanted.get("metric") and wanted["metric"] not in scored:
                problems.append(
                    f"gate.checks[{index}].metric: {unknown('scored metric called', wanted['metric'], scored)}"
                )
            if "baseline" in wanted and wanted["baseline"] not in names:
                problems.append(
                    f"gate.checks[{index}].baseline: {unknown('baseline called', wanted['baseline'], names)}"
                )
        for index, baseline in enumerate(self.score.baselines):
            if baseline.tasks and self.task.kind not in baseline.tasks:
                problems.append(
                    f"score.baselines[{index}]: {baseline.kind} is not made for {self.task.kind}; "
                    f"it is made for {', '.join(baseline.tasks)}"
                )
        if self.train.stop and self.train.stop.metric not in ["loss", *scored]:
            problems.append(
                f"train.stop.metric: {unknown('scored metric called', self.train.stop.metric, ['loss', *scored])}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def metrics(self) -> list[Metric]:
        """The metrics of the run: those of `score`, or what the task recommends."""
        return self.score.metrics or [Metric.pick(name) for name in self.task.recommended_metrics]


class Loaded(Settings):
    """A recipe together with where it came from."""

    recipe: Recipe
    folder: Path
    text: str

    def path(self, written: str) -> Path:
        """A path of the recipe: as it is, beside the recipe, or in the folder that LUTHIER_DATA names."""
        places = [self.folder / written]
        if os.environ.get(DATA_VARIABLE):
            places.append(Path(os.environ[DATA_VARIABLE]) / written)
        for place in places:
            if place.exists():
                return place.resolve()
        looked = " nor ".join(str(place.parent) for place in places)
        raise UserError(
            f"there is no file {written} in {looked}", where="recipe",
            hint=f"correct the path, or set {DATA_VARIABLE} to the folder that holds it",
        )  # fmt: skip


def load(path: str | Path, changes: Sequence[str] = ()) -> Loaded:
    """A recipe file, with `path=value` changes applied; raises Problems with every error found."""
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"in that folder: {', '.join(near)}" if near else "make one with `luthier init TABLE.csv`"
        raise UserError("no such recipe file", where=str(path), hint=hint)
    return loads(path.read_text(encoding="utf-8"), folder=path.parent.resolve(), changes=changes, name=str(path))


def loads(text: str, *, folder: Path, changes: Sequence[str] = (), name: str = "recipe") -> Loaded:
    """A recipe from text."""
    from ruamel.yaml import YAML

    document = parse(text, name)
    if not isinstance(document, dict):
        raise UserError("a recipe is a list of `key: value` lines", where=name, hint="start with `version: 1`")
    for change in changes:
        apply_change(document, change)
    try:
        recipe = Recipe.model_validate(json.loads(json.dumps(document)))
    except ValidationError as problem:
        raise Problems(explained(problem, document, name), where=name) from None
    shown = text
    if changes:
        buffer = io.StringIO()
        YAML().dump(document, buffer)
        shown = buffer.getvalue()
    return Loaded(recipe=recipe, folder=folder, text=shown)


def parse(text: str, name: str) -> Any:
    """YAML 1.2 with positions; duplicate keys and broken syntax are errors with line and column."""
    from ruamel.yaml.error import MarkedYAMLError

    reader = yaml_1_2()
    try:
        return reader.load(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        sentence = " ".join(str(problem.problem).split())
        raise UserError(sentence, where=where, hint="correct this line") from None


def yaml_1_2() -> Any:
    """A reader of YAML 1.2's core types: dates stay the text that they are, comments and positions are kept."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import RoundTripConstructor

    class CoreConstructor(RoundTripConstructor):
        pass

    CoreConstructor.add_constructor("tag:yaml.org,2002:timestamp", RoundTripConstructor.construct_yaml_str)
    reader = YAML(typ="rt")
    reader.version = (1, 2)
    reader.Constructor = CoreConstructor
    return reader


def apply_change(document: dict[str, Any], change: str) -> None:
    """`train.epochs=2` or `score.metrics[0].kind=f1`: set one value, written as in YAML."""
    path, equals, value = change.partition("=")
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]
    if not equals or not steps:
        raise UserError(f"'{change}' is not a change", where="--set", hint="write --set train.epochs=2")
    here: Any = document
    try:
        for step in steps[:-1]:
            if isinstance(here, dict) and (step not in here or here[step] is None):
                here[step] = {}
            here = here[step]
        here[steps[-1]] = yaml_1_2().load(value) if value else ""
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"there is no place '{path}' in the recipe", where="--set", hint="see `luthier schema`"
        ) from None


def explained(problem: ValidationError, document: Any, name: str) -> list[UserError]:
    """Each problem of a recipe as a sentence with line and path."""
    told = []
    for error in problem.errors():
        message = error["msg"].removeprefix("Value error, ")
        hint = ""
        location = list(error["loc"])
        if error["type"] == "extra_forbidden":
            known = _known_keys(document, location[:-1])
            message = unknown("key", str(location[-1]), known)
        elif error["type"] == "missing":
            message, hint = "is required", "add it"
        elif not error["type"].startswith(("choice", "value_error")):
            message = f"{message} (found {_shown(error['input'])})"
        lines = message.split("\n")
        for line in lines:
            # a validator of the whole recipe writes its own paths, one line each
            where = _place(document, location, name) if location else name
            told.append(UserError(line, where=where, hint=hint))
    return told


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _place(document: Any, location: list[int | str], name: str) -> str:
    path, line = "", None
    here: Any = document
    for step in location:
        inside = step in here if isinstance(here, dict) else isinstance(here, list) and int(step) < len(here)
        if inside:
            line = here.lc.data[step][0] + 1 if step in (here.lc.data or {}) else line
        here = here[step] if inside else None
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return f"{name}:{line}: {path}" if line else f"{name}: {path}"


def _known_keys(document: Any, location: Sequence[int | str]) -> list[str]:
    """The keys of the block at a place in a recipe, following Choices by the kind that the document names."""
    block: Any = Recipe
    here = document
    for step in location:
        here = here[step]
        if isinstance(step, str):
            inside = _settings_in(block.model_fields[_field_of(block, step)].annotation)
            if not inside:
                return []
            block = inside[0]
        if issubclass(block, Choice) and "family" in block.__dict__ and isinstance(here, dict):
            block = find(block.family, here["kind"])
    return [field.alias or name for name, field in block.model_fields.items()]


def _field_of(block: type[Settings], key: str) -> str:
    return next(name for name, field in block.model_fields.items() if key in (name, field.alias))


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in get_args(annotation) for found in _settings_in(part)]


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    document = Recipe.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Luthier recipe"
    return document
