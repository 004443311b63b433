"""What proofs are about: the model of a recipe before its training, of a run, or of a folder, and the rows it is tried on."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from luthier import fit, flow, runs, seams, token_arrays, used_embeddings
from luthier import model as models
from luthier.batching import Encoded
from luthier.choice import find
from luthier.encoding import Reading
from luthier.engines import Session
from luthier.errors import UserError, first_line
from luthier.form import Form
from luthier.model import ABOUT, Head, Model, architecture_of, probing, writing_head
from luthier.objectives import Objective
from luthier.recipe import Recipe, TrainSettings
from luthier.recipe_file import RecipeFile
from luthier.seams import Example
from luthier.store import Artifact, Listener, Out, Silent, Store
from luthier.techniques import Technique, Together
from luthier.token_arrays import TokenArrays

if TYPE_CHECKING:
    import torch

FIRST = 256  # rows of the training split out of which those that are tried are chosen
STEPS_AGAIN = 3  # optimizer steps after which a short training is taken up again
ADAPTER = "adapter_config.json"
TRIED_RANK = 8  # of the adapter that a whole folder is tried with, since no recipe says how it is trained
PROMPTS, ANSWERS = (3, 9, 5, 14, 4, 7), (4, 2, 7, 1, 5)  # tokens of rows that are made up: unequal, and no two alike


@dataclass
class Subject:
    """A model, opened as its proofs need it, and rows. Everything is made in `place`, which is removed afterwards."""

    place: Path
    head: Head
    weights: Path  # folder of the whole model: the base, or the model itself
    device: str
    precision: str
    settings: TrainSettings  # its techniques are those that are started
    encoded: list[Encoded] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)  # those of `encoded`, where they are rows of the user's
    form: Form | None = None  # of what Luthier trained or will train
    objective: Objective | None = None
    folder: Path | None = None  # of the model that is there already
    inputs: fit.Inputs = field(default_factory=dict)
    seed: int = 0
    techniques_on: str = "base"  # what the techniques are started on: "base", or "folder" where that is the model
    altered: list[str] = field(default_factory=list)  # files of a run's model that are not what the run recorded
    n_values: int = 0  # that train, once the techniques were started
    told: list[str] = field(default_factory=list)  # what is worth knowing of how it is tried

    @property
    def max_length(self) -> int:
        """Tokens of a prompt."""
        return self.form.max_length if self.form else 256

    def load(self, folder: Path | None) -> Model:
        """The base under its head, or a folder's model over it."""
        options: dict[str, Any] = {"device": self.device, "precision": self.precision}
        with warnings.catch_warnings():
            # what the file of an adapter holds and the model does not take is a proof's to say
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            if folder is not None and (folder / ABOUT).exists():
                return models.load_trained(folder, self.weights, **options)
            return models.load(folder or self.weights, self.head, base=self.weights, seed=self.seed, **options)

    def untrained(self) -> Model:
        """What training begins with, before any technique is started."""
        model = self.load(self.folder if self.techniques_on == "folder" else None)
        if self.form is not None:
            self.form.settle(model)
        if model.adapted:
            let_train(model)
        return model

    def started(self) -> tuple[Model, Together]:
        """The model with its techniques as before the first step."""
        model = self.untrained()
        running = fit.start(model, self.settings, self.inputs, self.seed)
        running.epoch(0, [])
        self.n_values = sum(parameter.numel() for parameter in model.trainable().values())
        return model, running

    @property
    def n_trained(self) -> int:
        """How many values train."""
        if not self.n_values:
            self.started()
        return self.n_values

    @cached_property
    def model(self) -> Model:
        """The model that answers: the one that is there; else one whose techniques are started and moved a little, since a
        new adapter changes nothing and would prove nothing."""
        if self.folder is not None:
            return self.load(self.folder)
        model, _ = self.started()
        stir(model, self.seed)
        model.forward.eval()
        return model

    @cached_property
    def saved(self) -> Path:
        """The model that answers, as the stage train saves it."""
        folder = self.place / "saved"
        if self.model.adapted:  # peft looks for the base's config where the adapter says that it lies, at a hub even
            for config in self.model.forward.peft_config.values():
                config.base_model_name_or_path = str(self.weights)
        models.save(self.model, folder, base_name="base", extra=self.form.model_dump(mode="json") if self.form else {})
        return folder

    @cached_property
    def session(self) -> Session | None:
        """The model as predict, apply and the service open it; none where Luthier did not write the folder."""
        folder = self.folder or self.saved
        if self.form is None:
            return None
        engine: Any = find("engines", "torch")()
        opened: Session = engine.open(
            folder, self.weights, device=self.device, precision=self.precision, max_length=self.form.max_length
        )
        return opened

    @cached_property
    def short(self) -> Short:
        """A real training of a few steps over the rows, with a copy of its checkpoint from the middle."""
        return self.train(self.place / "whole", self.place / "again" / "checkpoints")

    def train(self, work: Path, copy_to: Path | None = None) -> Short:
        """Train over the rows, from the checkpoint in `work` where there is one: three epochs of two steps."""
        assert self.objective is not None
        token_arrays.write(self.place / "rows", self.encoded)
        settings = self.settings.model_copy(
            update={
                "batch_size": max(1, -(-len(self.encoded) // 2)),
                "epochs": 3,
                "evaluate_every": 3,
                "checkpoint_steps": STEPS_AGAIN,
                "stop": None,
                "keep": "last",
            }
        )
        out = Out(work, "train", Copying(work / "checkpoints", copy_to) if copy_to else Silent())
        model = self.untrained()
        progress = fit.fit(
            model,
            TokenArrays(self.place / "rows"),
            self.objective,
            settings,
            lambda model: {},
            fit.Watch(keep_best=False),
            out,
            self.seed,
            self.inputs,
        )
        return Short(model, used_embeddings.lasting(progress.trained, model.bare), work / "checkpoints")


@dataclass(frozen=True)
class Short:
    """What a short training left."""

    model: Model
    trained: list[str]  # parameters that ever trained
    checkpoints: Path


class Copying(Silent):
    """Copies the checkpoint of the middle before the next one takes its place."""

    def __init__(self, checkpoints: Path, target: Path) -> None:
        self.checkpoints, self.target = checkpoints, target

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        if done == STEPS_AGAIN + 1:
            shutil.copytree(self.checkpoints, self.target)


def stir(model: Model, seed: int) -> None:
    """Move all that trains by a tenth of its spread, or by 0.02 where it has none."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trainable().values():
            spread = float(parameter.detach().float().std(correction=0))
            noise = torch.randn(parameter.shape, generator=draw) * (spread / 10 or 0.02)
            parameter.add_(noise.to(parameter.device, parameter.dtype))


def let_train(model: Model) -> None:
    """Let the adapter of a folder train, which peft loads as something that only answers."""
    wrapped: Any = model.forward
    wrapped.set_adapter(wrapped.active_adapter)
    for name, parameter in wrapped.named_parameters():
        if name.startswith("prompt_encoder."):
            parameter.requires_grad_(True)


@contextmanager
def opened(
    target: RecipeFile | Path | str,
    *,
    store: Store | None,
    base: Path | None,
    rows: int,
    precision: str,
    listener: Listener,
) -> Iterator[Subject]:
    """What was named: a recipe, a model folder, or a run of the store."""
    with TemporaryDirectory(prefix="luthier-") as place:
        if isinstance(target, RecipeFile):
            if base is not None:
                raise UserError("a recipe names its base itself", where="--base", hint="leave it out, or use --set")
            store = store or flow.store_for(target, listener)
            with store.in_use():
                yield of_recipe(target, store, rows, precision, Path(place))
        elif isinstance(target, Path):
            yield of_folder(target, base, rows, precision, Path(place))
        else:
            assert store is not None, "a run is one of a store"
            with store.in_use():
                yield of_run(target, store, base, rows, precision, Path(place))


def of_recipe(opened: RecipeFile, store: Store, rows: int, precision: str, place: Path) -> Subject:
    """The model that a recipe is about to train, on rows of its training split. What `luthier run` makes before it trains
    is made here, in its store, and reused there."""
    train = opened.recipe.train.model_copy(update={"precision": precision})
    opened = opened.model_copy(update={"recipe": opened.recipe.model_copy(update={"train": train})})
    opened = runs.settled(opened, store)
    told = [f"of several tasks {name} is tried" for name in list(opened.recipe.tasks)[:1]]
    if opened.recipe.tasks:
        opened = opened.alone(next(iter(opened.recipe.tasks)))
    recipe = opened.recipe
    base = flow.base_model(recipe.base, opened, store)
    examples = flow.hinted(recipe, store, flow.prepared(opened, store))
    encoded = flow.encode_for(recipe, store, examples, base)
    subject = with_rows(opened, store, examples, encoded, base.path, rows, place)
    subject.told = [*told, *subject.told]
    return subject


def of_run(name: str, store: Store, base: Path | None, rows: int, precision: str, place: Path) -> Subject:
    """The model of a run in its store, on rows of its training split."""
    entry = runs.find(store, name)
    opened, artifacts = runs.reread(store, entry)
    train = opened.recipe.train.model_copy(update={"precision": precision})
    recipe = opened.recipe.model_copy(update={"train": train, "device": models.device_for("auto")})
    weights = runs.base_for(store, entry, base)
    opened = opened.model_copy(update={"recipe": recipe})
    found = with_rows(opened, store, artifacts["examples"], artifacts["encoded"], weights, rows, place)
    found.folder = store.runs / entry["name"] / "model"
    other = runs.differing(store, artifacts["model"].path / "model", found.folder)
    found.altered = [str(file) for file in other if file.name != "generation_config.json"]  # which tells a limit there
    return found


def with_rows(
    opened: RecipeFile, store: Store, examples: Artifact, encoded: Artifact, weights: Path, rows: int, place: Path
) -> Subject:
    """What a recipe trains, on some of its rows."""
    recipe = opened.recipe
    form = Form.read(encoded.path)
    inputs: dict[str, dict[str, Artifact]] = {}
    tried = [technique for technique in recipe.train.techniques if not technique.needs_former]
    left = [technique.kind for technique in recipe.train.techniques if technique.needs_former]
    for n, technique in enumerate(recipe.train.techniques):
        if taken := flow.inputs_of(opened, store, n):
            inputs[technique.kind] = taken
    subject = Subject(
        place,
        form.head(),
        weights,
        recipe.device,
        recipe.train.precision,
        recipe.train.model_copy(update={"techniques": tried or [Technique.pick("full")]}),
        form=form,
        objective=form.objective,
        inputs=inputs,
        seed=recipe.seed,
        told=[f"{kind} keeps a former task, and is left out here" for kind in left],
    )
    chosen = spread(pairs(recipe, form, examples, encoded, weights), rows)
    subject.examples, subject.encoded = [example for example, _ in chosen], [tokens for _, tokens in chosen]
    return subject


def pairs(
    recipe: Recipe, form: Form, examples: Artifact, encoded: Artifact, weights: Path
) -> list[tuple[Example, Encoded]]:
    """The first rows of the training split with their tokens, as they lie on disk."""
    first = list(islice(seams.read(examples.path / "train", Example), FIRST))
    if recipe.encode.truncation == "drop":  # those that were too long have no tokens on disk
        tokenizer = models.load_tokenizer(weights)
        if form.chat_template:
            tokenizer.chat_template = form.chat_template
        reading = Reading(
            tokenizer, architecture_of(weights), form.labels, form.max_length, control_tokens=form.control_tokens
        )
        again = form.objective.encode(first, form.task, reading)
        first = [example for example, tokens in zip(first, again, strict=True) if not tokens.cut_tokens]
    return list(zip(first, TokenArrays(encoded.path / "train"), strict=False))


def spread(found: Sequence[tuple[Example, Encoded]], rows: int) -> list[tuple[Example, Encoded]]:
    """So many of the rows, from the shortest to the longest; whole ones, where there are two of them."""
    kept = [pair for pair in found if not pair[1].cut_tokens]
    order = sorted(kept if len(kept) > 1 else found, key=lambda pair: pair[1].length)
    n = min(rows, len(order))
    return [order[round(k * (len(order) - 1) / max(1, n - 1))] for k in range(n)]


def of_folder(folder: Path, base: Path | None, rows: int, precision: str, place: Path) -> Subject:
    """A model folder on rows that are made up: one of Luthier's, a Hugging Face folder, or an adapter over its base."""
    adapter = (folder / ADAPTER).exists()
    weights = base_of(folder, base) if adapter else folder
    if base is not None and not adapter:
        raise UserError("is a whole model and needs no base", where=str(folder), hint="leave --base out")
    form = Form.read(folder) if (folder / ABOUT).exists() else None
    head, told = (form.head(), []) if form else head_of(folder, weights)
    subject = Subject(
        place,
        head,
        weights,
        models.device_for("auto"),
        precision,
        TrainSettings(techniques=[]),
        folder=folder,
        techniques_on="folder",
        told=told,
        form=form,
    )
    try:
        model = subject.model
    except (RuntimeError, ValueError, KeyError) as problem:
        raise UserError(
            f"does not fit the base {weights} ({first_line(problem)})",
            where=str(folder),
            hint="name its own with --base",
        ) from None
    objective = Objective.pick("causal" if head.writes else "classify")
    if (form is not None and form.objective != objective) or head.problem != "single_label_classification":
        told.append(f"no rows are made up for what it learned ({form.objective.kind if form else head.problem})")
    else:
        subject.objective, subject.encoded = objective, made_up(model, rows)
    if not adapter:
        subject.settings = TrainSettings(techniques=[tried_with(subject)])
        told.append(f"no recipe says how it is trained: tried with {subject.settings.techniques[0].kind}")
    return subject


def tried_with(subject: Subject) -> Technique:
    """The technique that a whole folder is tried with: a small adapter, or all weights where it takes none."""
    lora = Technique.pick({"kind": "lora", "rank": TRIED_RANK})
    try:
        lora.start(subject.untrained(), {})
    except UserError:
        return Technique.pick("full")
    return lora


def base_of(folder: Path, given: Path | None) -> Path:
    """The base of an adapter: the folder given, or the one that its config names; UserError where neither is there."""
    if given is not None:
        if not (given / "config.json").exists():
            raise UserError("is no model folder", where=str(given), hint="name the folder of the base with --base")
        return given
    named = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    for place in (Path(named), folder / named) if named else ():
        if (place / "config.json").exists():
            return place
    raise UserError(
        f"is an adapter, and its base '{named}' is no folder here",
        where=str(folder),
        hint="name the folder of the base with --base",
    )


def head_of(folder: Path, weights: Path) -> tuple[Head, list[str]]:
    """The head of a folder that another trainer wrote, and what is worth knowing of it."""
    from luthier import suitability

    architecture, config = architecture_of(weights), suitability.config_of(weights)
    labels = tuple(config.id2label[number] for number in sorted(config.id2label or {}))
    problem = config.problem_type or ("regression" if len(labels) == 1 else "single_label_classification")
    if (folder / ADAPTER).exists():
        task = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("task_type")
        if task not in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS"):
            raise UserError(
                f"is an adapter for {task}", where=str(folder), hint="CAUSAL_LM, SEQ_2_SEQ_LM or SEQ_CLS is"
            )
        if task == "SEQ_CLS" or architecture == "encoder":
            n = classes_in(adapter_tensors(folder)) or len(labels)
            if n != len(labels):
                labels = tuple(f"LABEL_{number}" for number in range(n))
            return Head("AutoModelForSequenceClassification", labels, problem), []
        return writing_head(architecture, weights), []
    if (config.architectures or [""])[0].endswith("ForSequenceClassification"):
        return Head("AutoModelForSequenceClassification", labels, problem), []
    if architecture == "encoder":
        drawn = Head("AutoModelForSequenceClassification", ("a", "b"))
        return drawn, ["it has no classification head: one of two labels is drawn"]
    return writing_head(architecture, weights), []


def adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file; UserError where it has none in safetensors."""
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise UserError(
            "has no adapter_model.safetensors", where=str(folder), hint="save the adapter again, as safetensors"
        )
    return load_file(file)


def classes_in(tensors: Mapping[str, torch.Tensor]) -> int:
    """How many classes the head in an adapter's file has; 0 where it holds none."""
    heads = [
        tensor
        for name, tensor in tensors.items()
        if ".lora_" not in name and tensor.ndim == 2 and ("classifier" in name or "score" in name)
    ]
    return min((len(tensor) for tensor in heads), default=0)


def made_up(model: Model, rows: int) -> list[Encoded]:
    """Rows of unequal lengths out of ordinary tokens."""
    before, behind = Reading(model.tokenizer, model.architecture, model.labels, 256).frame
    end = model.tokenizer.eos_token_id
    found = []
    for row in range(rows):
        prompt = [*before, *probing(model, PROMPTS[row % len(PROMPTS)], start=5 + 37 * row)]
        if model.labels:
            found.append(Encoded([*prompt, *behind], (), [row % len(model.labels)], (), 1))
            continue
        answer = probing(model, ANSWERS[row % len(ANSWERS)], start=1000 + 53 * row)
        answer += [] if end is None else [end]
        if model.architecture == "encoder-decoder":
            found.append(Encoded([*prompt, *behind], (), answer, (), len(answer)))
        else:
            carries = [False] * len(prompt) + [True] * len(answer)
            found.append(Encoded([*prompt, *answer], carries, (), (), len(answer)))
    return found
