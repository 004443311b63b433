"""Typed facts: what stages leave in their manifests, and all of a run's that its pages show."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.seams import Verdict


class Facts(BaseModel):
    """A block of facts; one that is missing or unknown is an error, so that no page shows what nobody measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FlowStep(Facts):
    """One step on the way of the rows: what came in is what was kept and each fate together."""

    step: str
    arrived: int
    kept: int
    fates: dict[str, int] = {}
    made: int | None = None  # where rows become examples and a new count begins: how many they made

    @property
    def adds_up(self) -> bool:
        """Whether nothing was lost."""
        return self.arrived == self.kept + sum(self.fates.values())


class Figure(Facts):
    """A metric over some predictions."""

    estimate: float | None  # None where it is undefined
    interval: tuple[float, float] | None  # 95 %
    n: int
    entities: int
    unit: str
    details: dict[str, float] = {}


class HintFacts(Facts):
    """How often the hints of a source are right."""

    source: str
    in_folds: Figure  # training examples, hinted by what learned from others
    on_validation: Figure


class PreparedFacts(Facts):
    """Of the stages prepare and hint."""

    source: dict[str, Any]  # file and what its reader detected
    files: list[str]
    flow: list[FlowStep]
    splits: dict[str, int]
    n_quarantined: int
    labels: dict[str, int]  # examples of each label, over all splits; empty for text
    label_names: list[str]  # those of training, sorted
    untested_labels: dict[str, int]  # training examples of each label that no test example has
    relabelled: (
        int  # rows whose label was written otherwise: invisible characters, another Unicode form, merged or rare
    )
    alike_labels: list[list[str]]  # labels that may be one
    blank_groups: int  # rows whose group is blank, each a unit of its own
    respelled_groups: int  # rows whose group is written otherwise than in the first row of it
    slices: dict[str, dict[str, int]]
    tested_slices: dict[str, dict[str, int]]  # the same of the test split
    seen_in_training: int  # test examples whose input, or one that looks alike, stands in training
    conflicting: int  # training examples whose input occurs there with more than one answer
    test_split: str  # what the test split holds, as a hash: openings are counted against it
    steps: list[dict[str, Any]]  # input-changing steps, which travel with the model
    hints: list[HintFacts] = []  # of the sources that the model is shown


class EncodedFacts(Facts):
    """Of the stage encode: the supervision audit."""

    flow: FlowStep
    splits: dict[str, int]
    examples: int
    tokens: int
    supervised_tokens: int
    truncated: int
    cut_tokens: int
    longest: int
    longest_asked: int  # tokens of the longest question of the test, cut to fit
    auto: str  # name of the Hugging Face class that the objective puts on the base
    positions: int | None  # most tokens that the base reads, where something limits them
    writes: str  # "behind the prompt" (decoders), "apart" (encoder-decoders) or "" (classification heads)
    conversations: bool  # whether examples go through the chat template
    asked_cut: int  # test examples that are longer than max_length
    most_of_one_entity: int  # training examples of the entity, or of the example that they were made from, with most
    answer_tokens: list[tuple[int, int]]  # (tokens of an answer with its end, examples that have so many), rising
    counted: dict[str, int]  # faults of supervision that are tolerated up to a share


class LearnedTask(Facts):
    """One of several tasks in a training."""

    name: str
    weight: float
    examples: int  # that are learned from
    drawn: int  # in each epoch
    watched: bool  # whether its figures on validation decide about stopping


class Group(Facts):
    """Parameters that are trained alike."""

    name: str
    tensors: int
    parameters: int  # numbers in them
    learning_rate: float  # at the peak of the schedule
    weight_decay: float


class Divergence(Facts):
    """A step whose loss or gradient was no number, or whose loss lay far above its recent course."""

    step: int
    found: str  # "not finite", "outlier" (a single loss) or "rise" (of the latest ones)
    done: str  # "applied", "skipped" or "rolled back"
    to: int | None = None  # the step that training went back to


class Grouping(Facts):
    """What trains, in groups, from a step on."""

    step: int  # optimizer steps done before
    groups: list[Group]

    def table(self) -> list[str]:
        """Lines for a terminal."""
        header = (f"trained from step {self.step + 1}", "tensors", "parameters", "learning rate", "weight decay")
        rows = [
            (g.name, f"{g.tensors:,}", f"{g.parameters:,}", f"{g.learning_rate:.3g}", f"{g.weight_decay:g}")
            for g in self.groups
        ]
        widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
        return [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in (header, *rows)
        ]


class PrivacyFacts(Facts):
    """What a private training tells at most of one row: (epsilon, delta), and all that this follows from."""

    epsilon: float  # of all planned steps, by the accountant
    delta: float
    accountant: str  # rdp or prv
    epsilon_rdp: float | None  # None where an accountant finds none
    epsilon_prv: float | None
    noise: float  # standard deviation, in units of the clip
    clip: float  # largest norm of a row's gradient
    rate: float  # probability with which each row enters each step
    rows: int
    steps: int  # that are counted
    steps_taken: int
    epsilon_of_steps_taken: float | None  # no claim where training stopped early
    unit: str  # entity or example
    one_by_one: str  # why rows were computed one by one, if they were
    not_covered: list[str]


class TrainedFacts(Facts):
    """Of the stage train."""

    trainable_parameters: int
    base_parameters: int
    parameters: int
    steps: int
    epochs: float
    stopped: str
    best: dict[str, Any] | None
    supervised_tokens: int | None  # seen while training; not told of a private one
    precision: str
    device: str
    techniques: list[dict[str, Any]]
    adapter: bool
    notes: list[str]  # what was told of the base and the techniques
    final_loss: float | None
    architecture: str
    tasks: list[LearnedTask] = []  # where there are several
    groups: list[Grouping] = []  # what trained, from each step at which that changed
    divergences: list[Divergence] = []  # that did not end it
    privacy: PrivacyFacts | None = None  # of a private training


class MembershipFacts(Facts):
    """Of the stage attack: how well the model's losses tell rows that it learned from from others."""

    attack: str  # "lira": beside references; "loss": by the loss alone
    references: int  # models trained on half of the rows, to compare with
    members: int  # rows of the training split
    others: int  # rows of the test split
    auc: float  # chance that a row learned from is told from another; 0.5 is a blind guess
    auc_interval: tuple[float, float]  # 95 %
    found: float | None  # share of the members found at `false_alarms`; None where the others are too few
    found_interval: tuple[float, float] | None
    false_alarms: float  # share of the others that are taken for members


class RangeFacts(Facts):
    """Of the stage range_test: losses over rising learning rates."""

    low: float
    high: float
    steps: int  # asked for
    taken: int  # until the loss ran away
    ran_away: bool
    rates: list[float]  # ascending
    losses: list[float]  # nats, that each rate led to
    smooth: list[float]
    start: float
    least: float
    noise: float  # standard error of a smoothed loss
    lowest: float | None  # rate at the lowest smoothed loss; None where the loss did not fall
    steepest: float | None
    tenth: float | None
    suggestion: float | None
    rule: str  # which of the two the suggestion is
    batch_size: int
    techniques: list[dict[str, Any]]
    precision: str
    device: str


class LatencyFacts(Facts):
    """Time of single requests, milliseconds."""

    samples: list[float]

    @property
    def n(self) -> int:
        """Requests."""
        return len(self.samples)

    def quantile(self, share: float) -> float | None:
        """The smallest sample that at least this share of the samples does not exceed; None without samples."""
        import numpy as np

        return float(np.quantile(self.samples, share, method="inverted_cdf")) if self.samples else None

    def interval(self, share: float, level: float = 0.95) -> tuple[float, float] | None:
        """An interval for a quantile from two order statistics, whatever the distribution; None where n allows none.

        The number of samples below the true quantile is binomial(n, share). For a p95 it takes 72 samples until the
        largest of them is an upper end at 95 %.
        """
        from scipy.stats import binom

        if not self.samples:
            return None
        low = int(binom.ppf((1 - level) / 2, self.n, share))  # 1-based ranks
        high = int(binom.ppf((1 + level) / 2, self.n, share)) + 1
        if low < 1 or high > self.n:
            return None
        ordered = sorted(self.samples)
        return ordered[low - 1], ordered[high - 1]


class MeasuredFacts(Facts):
    """Of the stage measure."""

    latency_ms: LatencyFacts
    machine: str
    threads: int


Figures = dict[str, Figure]  # metric -> figure


class SystemScores(Facts):
    """The figures of the model, or of one rival."""

    metrics: Figures
    slices: dict[str, dict[str, Figures]] = {}  # slice -> value -> figures


class Groups(Facts):
    """How many values a slice has in what was asked; of many the worst alone are scored."""

    n: int
    judged: int  # those with enough independent units for the main metric


class Confusion(Facts):
    """Counts by truth (rows) and answer (columns)."""

    labels: list[str]
    matrix: list[list[int]]


class Scores(Facts):
    """`scores.json` of the stage score."""

    main: str
    order: list[str]  # names of the systems, the model last
    higher_is_better: dict[str, bool]  # by metric
    fewest_entities: int  # independent units from which a figure of the main metric says something
    groups: dict[str, Groups]  # slice -> how many there are
    systems: dict[str, SystemScores]
    confusion: Confusion | None


class Spread(Facts):
    """A metric over repeated trainings."""

    values: list[float | None]  # of each repeat, in order; None where it is undefined
    n: int  # repeats where it is defined
    mean: float | None
    deviation: float | None  # sample standard deviation, with n - 1
    least: float | None
    most: float | None
    unit: str


class SpreadFacts(Facts):
    """Of the stage spread."""

    kind: Literal["seeds", "folds"]
    names: list[str]  # of the repeats; of seeds the first is the run's own model
    figures: dict[str, dict[str, Spread]]  # split -> metric -> spread


class ErrorPattern(Facts):
    """A way of being wrong and how often it happened."""

    pattern: str
    n: int


class WorstCase(Facts):
    """A wrong answer that the model was sure of."""

    id: str
    input: str
    target: str
    output: str
    confidence: float
    slices: dict[str, str]


class Cases(Facts):
    """`cases.json` of the stage score: row text, for the report alone."""

    errors: list[ErrorPattern]
    worst: list[WorstCase]


class Kept(Facts):
    """A metric of a former task before and after."""

    metric: str
    higher_is_better: bool
    before: Figure
    after: Figure
    gain: Figure  # paired; below 0 where it got worse


class ForgottenFacts(Facts):
    """Of the stage forgotten."""

    run: str  # the former run
    metrics: list[Kept]  # the main one first


class BaseFacts(Facts):
    """The model that was started from."""

    name: str
    kind: str
    parameters: int
    architecture: str
    license: str
    notes: list[str]


class Made(Facts):
    """One artifact and what it was made from."""

    stage: str
    artifact: str
    reused: bool
    inputs: dict[str, str]
    versions: dict[str, str]


class Environment(Facts):
    """Where the figures come from."""

    luthier: str
    python: str
    torch: str
    machine: str
    threads: int
    device: str
    precision: str


class Preview(Facts):
    """One training example in tokens, each with whether it carries loss."""

    id: str
    pieces: list[tuple[str, bool]]


class RunFacts(Facts):
    """Everything that a run's pages show, from manifests and artifact files alone."""

    name: str
    run: str
    released: bool
    verdicts: list[Verdict]
    test_openings: int
    task: dict[str, Any]
    base: BaseFacts
    recipe: str
    next: str
    prepared: PreparedFacts
    encoded: EncodedFacts
    previews: list[Preview]
    quarantine: list[dict[str, Any]]
    trained: TrainedFacts
    history: list[dict[str, Any]]
    scores: Scores
    cases: Cases
    cut_answers: int  # test answers that the engine's limit cut off
    measured: MeasuredFacts | None
    forgotten: ForgottenFacts | None = None
    spread: SpreadFacts | None  # where training was repeated
    membership: MembershipFacts | None = None  # where the run was attacked
    timings: dict[str, float]  # seconds by role
    lineage: list[Made]
    environment: Environment

    @property
    def flow(self) -> list[FlowStep]:
        """Every step of the rows, from the file to what is trained on and asked."""
        return [*self.prepared.flow, self.encoded.flow]


class TrialFacts(Facts):
    """One trial of a search."""

    number: int
    params: dict[str, Any]  # path -> value
    state: str  # running, complete, pruned, failed
    value: float | None  # of the search's metric, of the weights that were kept; of a pruned trial its last
    rungs: list[tuple[int, float]]  # (evaluations, value) where Hyperband looked
    figures: Figures = {}  # on the validation split, of a complete trial
    steps: int | None = None  # optimizer steps of a complete trial
    model: str = ""  # SHA-256 of what a complete trial came to
    problem: str = ""  # why it failed
    seconds: float = 0.0  # of work


class SearchFacts(Facts):
    """What a search found: its page shows nothing else."""

    name: str
    study: str  # name of the study in its database
    database: str  # without user and password
    searcher: dict[str, Any]
    pruner: str
    reduction_factor: int
    metric: str
    unit: str
    higher_is_better: bool
    seed: int
    space: dict[str, dict[str, Any]]
    trials: list[TrialFacts]
    best: int | None  # number of a trial
    importance: dict[str, float] | None
    recipe: str  # file of the winner
    test_openings: int
