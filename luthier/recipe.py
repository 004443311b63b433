"""The recipe: one typed document that says what a run is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from luthier.baselines import Baseline
from luthier.bases import Base
from luthier.checks import Check
from luthier.choice import Settings, unknown
from luthier.engines import Engine
from luthier.metrics import Metric
from luthier.preparers import Preparer
from luthier.readers import Reader
from luthier.seams import compared, name_of
from luthier.splits import Split
from luthier.tasks import Task
from luthier.techniques import Technique, conflicts

Scalar = str | bool | int | float | None
Name = Annotated[  # a value of the table, kept as what it is compared as: true, 1 (of 1.0 too); null is blank
    str,
    BeforeValidator(
        lambda value: compared(name_of(value)) if isinstance(value, Scalar) else value, json_schema_input_type=Scalar
    ),
]


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
    """Stop when more than this share of the records cannot be read."""


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
    """`loss`, or the name of a metric of the task such as exact_match."""
    patience: int = Field(2, ge=1)
    """Evaluations without improvement after which training ends."""


class TrainSettings(Settings):
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


class GateSettings(Settings):
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
    prepare: PrepareSettings = Field(default_factory=PrepareSettings)
    encode: EncodeSettings = EncodeSettings()
    train: TrainSettings = Field(default_factory=TrainSettings)
    predict: PredictSettings = Field(default_factory=PredictSettings)
    score: ScoreSettings = ScoreSettings()
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        problems = [*self._named_twice(), *self._unfit_metrics(), *self._unfit_checks(), *self._unfit_baselines()]
        scored = [metric.kind for metric in self.metrics()]
        if self.train.stop and self.train.stop.metric not in ["loss", *scored]:
            problems.append(
                f"train.stop.metric: {unknown('scored metric called', self.train.stop.metric, ['loss', *scored])}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

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

    def _unfit_checks(self) -> Iterator[str]:
        scored = {metric.kind: metric for metric in self.metrics()}
        names = [baseline.kind for baseline in self.score.baselines]
        for index, check in enumerate(self.gate.checks):
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

    def metrics(self) -> list[Metric]:
        """The metrics of the run: those of `score`, or what the task recommends."""
        return self.score.metrics or [Metric.pick(name) for name in self.task.recommended_metrics]


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    document = Recipe.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Luthier recipe"
    return document
