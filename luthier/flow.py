"""What happens in a run, top to bottom: fetch, prepare, encode, train, evaluate (predict, measure, score), gate, record."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luthier import range_page, runs
from luthier.bases import Base
from luthier.choice import unknown
from luthier.engines import Computing
from luthier.errors import Problems, UserError
from luthier.facts import EncodedFacts, PreparedFacts, RangeFacts
from luthier.form import Form, has_form
from luthier.noting import SPLIT_FILE
from luthier.noting import opened as open_tables
from luthier.recipe import FORMER, Recipe
from luthier.recipe_file import RecipeFile
from luthier.runs import Run, settled
from luthier.seams import name_of
from luthier.stages.attack import Attack
from luthier.stages.attack import attack as attack_stage
from luthier.stages.baseline import Baseline, baseline
from luthier.stages.encode import Encode, encode
from luthier.stages.fetch import fetched
from luthier.stages.fisher import Fisher, fisher
from luthier.stages.forgotten import Forgotten, forgotten
from luthier.stages.gate import Gate, gate
from luthier.stages.halve import Halve, halve
from luthier.stages.hint import Hint, hint
from luthier.stages.measure import Measure, measure
from luthier.stages.part import Part, part
from luthier.stages.predict import Predict, predict
from luthier.stages.prepare import Fold, Prepare, prepare
from luthier.stages.score import Score, score
from luthier.stages.spread import Repeats, spread
from luthier.stages.teach import Teach, teach
from luthier.stages.train import Beside, Evaluation, RangeTest, Train, range_test, train
from luthier.store import Artifact, Listener, Store, digest
from luthier.techniques.ewc import Ewc
from luthier.techniques.replay import Replay

Split = Literal["train", "validation", "test"]
SPLITS_ASKED: dict[bool, tuple[Split, ...]] = {False: ("validation",), True: ("validation", "test")}  # of repeats


@dataclass(frozen=True)
class Candidate:
    """A model folder with what it is asked with: its base, and the recipe's form, engine, device and precision."""

    model: Artifact
    base: Artifact
    recipe: Recipe


@dataclass(frozen=True)
class Evaluated:
    """What is known of a candidate on one split."""

    tuned: Artifact  # its predictions
    rivals: dict[str, Artifact]  # predictions of each baseline
    scores: Artifact
    measured: Artifact | None  # time of single requests


def store_for(
    opened: RecipeFile, listener: Listener | None = None, *, root: Path | None = None, fresh: bool = False
) -> Store:
    """The recipe's store: `.luthier` beside the recipe unless another folder is given."""
    return Store((root or opened.folder / ".luthier").resolve(), listener, fresh=fresh)


@dataclass(frozen=True)
class Ready:
    """One task's way from its table to what is trained on."""

    opened: RecipeFile  # the recipe of this task alone
    made: Artifact
    examples: Artifact  # with hints, where the task shows them
    learned: Artifact  # with a teacher's answers in training, where one gives them; else the same
    encoded: Artifact


@dataclass(frozen=True)
class Former:
    """A finished run whose task is to be kept."""

    run: str
    recipe: Recipe
    examples: Artifact
    encoded: Artifact  # for the base that is trained on now
    fisher: Artifact | None  # of the tasks before it, where it was trained with ewc


def run(opened: RecipeFile, store: Store) -> Run:
    """The whole chain; finished stages are taken from the store, and nothing of it is collected before it is recorded.

    Of a recipe with several tasks the run of the first, which knows those of the others as `together`.
    """
    with store.in_use():
        return chain(opened, store)


def validate(opened: RecipeFile, listener: Listener | None = None) -> PreparedFacts:
    """What a recipe's tables come to, of several tasks those of the first: each row read and made into examples once, in a
    folder that is removed again.

    Raises Problems with everything that is wrong with the files, their columns and the values that the recipe names. No
    base is needed.
    """
    problems: list[UserError] = []
    found = []
    if opened.recipe.former:
        with told(problems):
            named_run(opened, store_for(opened, listener))
    for name in opened.recipe.tasks or [""]:
        with told(problems):
            found.append(validated(opened.alone(name), listener))
    if problems:
        raise Problems(list({problem.sentence(): problem for problem in problems}.values()))
    return found[0]


def validated(opened: RecipeFile, listener: Listener | None) -> PreparedFacts:
    """The same of one task."""
    recipe = opened.recipe
    problems: list[UserError] = []
    tables: dict[str, Path] = {}
    for role, (written, where) in tables_of(recipe).items():
        with told(problems):
            tables[role] = opened.path(written, where)
    for n, technique in enumerate(recipe.train.techniques):
        for name, written in technique.paths().items():
            where = f"train.techniques[{n}].{name}"
            with told(problems):
                place = opened.path(written, where, folder=name in technique.folders)
                if name in technique.folders and not place.is_dir():
                    raise UserError(f"{written} is a file, not a model folder", where=where, hint="give a folder")
    facts = None
    if problems:  # what is there is looked at all the same
        with told(problems):
            open_tables(tables, recipe.task, recipe.prepare)
    else:
        with tempfile.TemporaryDirectory(prefix="luthier-") as folder, told(problems):
            facts = PreparedFacts(**prepared(opened, Store(Path(folder), listener)).facts)
            check_groups(recipe, facts)
    if problems or facts is None:
        raise Problems(problems)
    return facts


@contextlib.contextmanager
def told(problems: list[UserError]) -> Iterator[None]:
    """Collect what a user must change."""
    try:
        yield
    except Problems as found:
        problems += found.problems
    except UserError as found:
        problems.append(found)


@contextlib.contextmanager
def in_task(name: str) -> Iterator[None]:
    """Of several tasks, an error about a key of `task` names the task that it is in."""
    try:
        yield
    except Problems as found:
        raise Problems([placed(problem, name) for problem in found.problems], where=found.where) from None
    except UserError as found:
        raise placed(found, name) from None


def placed(problem: UserError, name: str) -> UserError:
    """The same error, its key as the recipe writes it inside the task of that name."""
    if not name or type(problem) is not UserError or not problem.where.startswith("task."):
        return problem
    return UserError(problem.what, where=f"tasks.{name}.{problem.where}", hint=problem.hint)


def check_groups(recipe: Recipe, facts: PreparedFacts, *, former: bool = False) -> None:
    """Problems, before any training, where the checklist names groups that no test example is in; of the former task's
    examples, where `former` says that these are they."""
    problems = []
    for index, check in enumerate(recipe.gate.checks):
        if check.needs_former != former:
            continue
        place = f"gate.checks[{index}]"
        asked: dict[str, Any] = dict(check.where)
        for name, value in asked.items():
            if name not in facts.slices:
                problems.append(UserError(unknown("group called", name, facts.slices), where=f"{place}.where"))
            elif name_of(value) not in (tested := facts.tested_slices.get(name, {})):
                rest = "; it stands in train or validation alone" if name_of(value) in facts.slices[name] else ""
                what = unknown(f"test example with {name}", name_of(value), tested)
                problems.append(UserError(f"{what}{rest}", where=f"{place}.where"))
        of_each = check.model_dump().get("slice")
        if of_each and of_each not in facts.slices:
            problems.append(UserError(unknown("group called", of_each, facts.slices), where=f"{place}.slice"))
    if problems:
        raise Problems(problems)


def chain(opened: RecipeFile, store: Store) -> Run:
    """From recipe and tables to the record of a run, or of one for each of several tasks."""
    opened = settled(opened, store)
    recipe = opened.recipe
    base, tasks, former = beginning(opened, store)
    divided = folds(opened, store, base)  # before any training: what cannot be divided is told first
    if recipe.repeat and any(not task.examples.facts["splits"]["validation"] for task in tasks.values()):
        problem = "repeats are measured on validation examples, and there are none"
        raise UserError(problem, where="repeat", hint="give prepare.split some")
    model = learned(opened, store, tasks, base, former)
    varied = repeated(opened, store, tasks, divided, base, former, model)
    forgotten = what_was_forgotten(opened, store, model, base, former) if former else {}
    finished = []
    for name, task in tasks.items():
        own = model_for(name, tasks, model, store)
        finished.append(judged(task, store, own, base, former, forgotten, varied.get(name)))
    return replace(finished[0], together=tuple(finished[1:]))


def beginning(opened: RecipeFile, store: Store) -> tuple[Artifact, dict[str, Ready], Former | None]:
    """All that stands before training: the base, each task made ready, and the run whose task is to be kept."""
    recipe = opened.recipe
    base = base_model(recipe.base, opened, store)
    tasks = {name: ready(opened.alone(name), store, base) for name in recipe.tasks or [""]}
    return base, tasks, former_run(opened, store, base) if recipe.former else None


def learned(
    opened: RecipeFile, store: Store, tasks: Mapping[str, Ready], base: Artifact, former: Former | None
) -> Artifact:
    """The model of one task, or of several together."""
    encoded, beside = tokens_of(tasks)
    return trained(opened, store, encoded, base, beside, former)


def tokens_of(tasks: Mapping[str, Ready]) -> tuple[Artifact, dict[str, Artifact]]:
    """The encoded examples of the first task, and those of the further ones by name."""
    first, *further = tasks
    return tasks[first].encoded, {name: tasks[name].encoded for name in further}


def model_for(name: str, tasks: Mapping[str, Ready], model: Artifact, store: Store) -> Artifact:
    """The model folder of one task, out of what was trained on all."""
    return model if name == next(iter(tasks)) else store.do(part, Part(name=name), trained=model)


def ready(opened: RecipeFile, store: Store, base: Artifact, fold: Fold | None = None) -> Ready:
    """A task's examples and their tokens, looked at before any training."""
    recipe = opened.recipe
    made = prepared(opened, store, fold)
    check_groups(recipe, PreparedFacts(**made.facts))
    examples = hinted(recipe, store, made)
    lessons = taught(opened, store, examples)
    encoded = encode_for(recipe, store, lessons, base)
    check_answers_fit(recipe, encoded, store.listener)
    return Ready(opened, made, examples, lessons, encoded)


def judged(
    task: Ready,
    store: Store,
    model: Artifact,
    base: Artifact,
    former: Former | None,
    forgotten: dict[str, Artifact],
    varied: Artifact | None,
) -> Run:
    """A task's model evaluated, gated and recorded."""
    recipe, examples = task.opened.recipe, task.examples
    found = evaluate(Candidate(model, base, recipe), examples, store, "test")
    evidence = {**found.rivals, **({"measure": found.measured} if found.measured else {})}
    config = Gate(
        checks=recipe.checks(),
        metrics=recipe.metrics(),
        former_metrics=former.recipe.metrics() if former else [],
        seed=recipe.seed,
    )
    kept = {f"former.{role}": artifact for role, artifact in forgotten.items() if role != "forgotten"}
    verdicts = store.do(gate, config, examples=examples, tuned=found.tuned, **evidence, **kept)
    artifacts = {
        "base": base,
        **({"prepared": task.made} if task.made is not examples else {}),
        "examples": examples,
        **({"taught": task.learned} if task.learned is not examples else {}),
        "encoded": task.encoded,
        "model": model,
        "tuned": found.tuned,
    }
    artifacts |= {f"baseline_{name}": artifact for name, artifact in found.rivals.items()}
    artifacts |= {"spread": varied} if varied else {}
    artifacts |= {"scores": found.scores, **({"measure": found.measured} if found.measured else {}), "gate": verdicts}
    artifacts |= {role: forgotten[role] for role in ("forgotten",) if role in forgotten}
    return runs.record(task.opened, store, artifacts)


def lr_find(opened: RecipeFile, store: Store, low: float, high: float, steps: int) -> tuple[RangeFacts, Path]:
    """A range test on the recipe's own model, data and techniques, and the folder with its page; nothing else changes."""
    if not low < high:
        raise UserError(f"{low:g} is not below {high:g}", where="--low", hint="the rate rises from --low to --high")
    with store.in_use():
        opened = settled(opened, store)
        name = opened.recipe.name
        base, tasks, former = beginning(opened, store)
        encoded, beside = tokens_of(tasks)
        config, inputs = training(opened, store, base, beside, former)
        rising = RangeTest(train=config, low=low, high=high, steps=steps)
        found = store.do(range_test, rising, encoded=encoded, base=base, **inputs)
        facts = RangeFacts(**found.facts)
        folder = store.root / "lr_find" / f"{name}-{found.content[:6]}"
        range_page.write(facts, name, folder)
    return facts, folder


def named_run(opened: RecipeFile, store: Store) -> tuple[Store, dict[str, Any]]:
    """The record of the run that `former` names, by its name in this store or by its folder, and the store that holds it."""
    written = opened.recipe.former
    folder = (opened.folder / written).resolve()
    if (folder / "run.json").is_file():
        store, written = Store(folder.parents[1], store.listener), folder.name
    try:
        return store, runs.find(store, written)
    except UserError as problem:
        at = f"{problem.where}: " if problem.where else ""
        raise UserError(f"{at}{problem.what}", where="former", hint=problem.hint) from None


def former_run(opened: RecipeFile, store: Store, base: Artifact) -> Former:
    """The run that `former` names, by its name or its folder, with its examples in tokens for this base.

    UserError unless the base is what that run made: only then is what it knew there to be kept.
    """
    there, entry = named_run(opened, store)
    earlier, artifacts = runs.reread(there, entry)
    recipe = earlier.recipe
    encoded = encode_for(recipe, store, artifacts["examples"], base)
    mine, theirs = (Form.read(place) if has_form(place) else None for place in (base.path, encoded.path))
    if mine is None or theirs is None or (mine.labels, mine.task) != (theirs.labels, theirs.task):
        raise UserError(
            f"the base is not the model that {entry['name']} made",
            where="base",
            hint=f"write it with `luthier export {entry['name']} FOLDER`, and give `{{kind: folder, path: FOLDER}}`",
        )
    check_groups(opened.recipe, PreparedFacts(**artifacts["examples"].facts), former=True)
    scored = [metric.kind for metric in recipe.metrics()]
    for index, check in enumerate(opened.recipe.gate.checks):
        name = check.model_dump().get("metric")
        if check.needs_former and name and name not in scored:
            raise UserError(
                unknown("metric of the former run called", name, scored), where=f"gate.checks[{index}].metric"
            )
    made_by = artifacts["model"].manifest.get("inputs", {})
    if trained_on := made_by.get("trained"):  # a part of a model of several tasks
        made_by = there.get(trained_on["id"], trained_on["content"]).manifest.get("inputs", {})
    told = made_by.get("ewc.fisher")
    fisher = there.get(told["id"], told["content"]) if told else None
    return Former(entry["name"], recipe, artifacts["examples"], encoded, fisher)


def what_was_forgotten(
    opened: RecipeFile, store: Store, model: Artifact, base: Artifact, former: Former
) -> dict[str, Artifact]:
    """The former task's test answered by the base and by the model that was made of it, and the figures of both."""
    now = store.do(part, Part(name=FORMER), trained=model)
    recipe = opened.recipe
    computing = Computing(engine=former.recipe.predict.engine, device=recipe.device, precision=recipe.train.precision)
    found = {"examples": former.examples}
    for when, candidate in (("before", base), ("after", now)):
        found[when] = predicted(candidate, base, computing, former.examples, store, "test")
    figures = Forgotten(run=former.run, metrics=former.recipe.metrics(), seed=recipe.seed)
    return {**found, "forgotten": store.do(forgotten, figures, **found)}


def base_model(choice: Base, opened: RecipeFile, store: Store) -> Artifact:
    """The base: a folder of the user's as it is, or one fetched once into the store shared by all of a user's recipes."""
    if choice.outside:
        place = opened.path(str(choice.locate()), "base.path", folder=True)
        if not place.is_dir():
            raise UserError(f"{place} is not a folder", where="base.path", hint="give a Hugging Face model folder")
        return store.take(place)
    return fetched(choice, store)


def prepared(opened: RecipeFile, store: Store, fold: Fold | None = None) -> Artifact:
    """The examples; every file that the recipe names enters by its bytes, and only what decides them enters the key."""
    recipe = opened.recipe
    files = {role: store.take(opened.path(path, where)) for role, (path, where) in tables_of(recipe).items()}
    settings = recipe.prepare.model_copy(update={"split": recipe.prepare.split.placeless()})
    config = Prepare(task=recipe.task.source(), settings=settings, seed=recipe.seed, fold=fold)
    with in_task(opened.part):
        return store.do(prepare, config, **files)


def tables_of(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """The files that rows come from, by role: the path as the recipe writes it, and the key that holds it."""
    files = {role: (path, f"task.{role}") for role, path in recipe.task.paths().items()}
    splits = recipe.prepare.split.paths()
    return files | {f"{SPLIT_FILE}{name}": (path, f"prepare.split.{name}") for name, path in splits.items()}


def hinted(recipe: Recipe, store: Store, examples: Artifact) -> Artifact:
    """The examples with what other sources answer, where the task shows it."""
    if not recipe.task.hinted():
        return examples
    return store.do(hint, Hint(sources=recipe.hints(), task=recipe.task.form(), seed=recipe.seed), examples=examples)


def taught(opened: RecipeFile, store: Store, examples: Artifact) -> Artifact:
    """The examples that are learned from: those of a teacher's answers, where a technique asks for them."""
    recipe = opened.recipe
    for place, technique in enumerate(recipe.train.techniques):
        if technique.learns_answers():
            config = Teach(
                task=recipe.task.form(),
                computing=computing_of(recipe),
                max_length=recipe.encode.max_length,
                control_tokens=recipe.encode.control_tokens,
            )
            return store.do(teach, config, examples=examples, **inputs_of(opened, store, place))
    return examples


def inputs_of(opened: RecipeFile, store: Store, place: int) -> dict[str, Artifact]:
    """The files and folders that a technique names, by setting; they enter by their bytes."""
    paths = opened.recipe.train.techniques[place].paths()
    return {name: store.take(opened.path(path, f"train.techniques[{place}].{name}")) for name, path in paths.items()}


def check_answers_fit(recipe: Recipe, encoded: Artifact, listener: Listener) -> None:
    """UserError, before any training, where a prompt and its answer may go beyond what the base can read. Told: how many
    answers are longer than the engine may write."""
    facts = EncodedFacts(**encoded.facts)
    limit, total = recipe.predict.engine.max_new_tokens, sum(n for _, n in facts.answer_tokens)
    if over := sum(n for tokens, n in facts.answer_tokens if tokens > limit):
        problem = UserError(
            f"{over} of {total} answers to learn from are longer than the {limit} tokens that the model may write, the "
            f"longest {facts.answer_tokens[-1][0]}",
            where="predict.engine.max_new_tokens",
            hint="raise it: an answer that is cut off is wrong",
        )
        listener.say(f"warning: {problem.sentence()}")
    if facts.positions is None:
        return
    prompt, answer = (
        (recipe.encode.max_length, "a prompt of {} tokens (encode.max_length)"),
        (limit, "an answer of {} (predict.engine.max_new_tokens)"),
    )
    taken = [technique.places_taken(facts.writes == "apart") for technique in recipe.train.techniques]
    before, before_answer = ((sum(n), "{} places taken before it (train.techniques)") for n in zip(*taken, strict=True))
    behind = facts.writes == "behind the prompt"
    check_places(facts.positions, [prompt, *([answer] if behind else []), before])
    if facts.writes == "apart":
        check_places(facts.positions, [answer, before_answer])


def check_places(positions: int, wanted: Sequence[tuple[int, str]]) -> None:
    """UserError where together they are more than the positions of the base."""
    there = [(n, words.format(n)) for n, words in wanted if n]
    if sum(n for n, _ in there) > positions:
        raise UserError(
            f"{' and '.join(words for _, words in there)} go beyond the {positions} positions of the base",
            where="encode.max_length",
            hint=f"lower one of them: together at most {positions}",
        )


def encode_for(recipe: Recipe, store: Store, examples: Artifact, base: Artifact) -> Artifact:
    """The tokens that are trained on."""
    return store.do(encode, Encode(task=recipe.task.form(), settings=recipe.encode), examples=examples, base=base)


def training(
    opened: RecipeFile,
    store: Store,
    base: Artifact,
    beside: Mapping[str, Artifact],
    former: Former | None,
    look_at: str = "loss",
) -> tuple[Train, dict[str, Artifact]]:
    """What decides the weights. The files that techniques name enter by their bytes, as `<technique>.<name>`; `beside` are
    the encoded examples of further tasks, by name; the metric `look_at` is computed where no other one watches."""
    recipe = opened.recipe
    inputs = {
        f"{technique.kind}.{name}": artifact
        for n, technique in enumerate(recipe.train.techniques)
        for name, artifact in inputs_of(opened, store, n).items()
    }
    further = {name: Beside(name=name, weight=recipe.tasks[name].weight) for name in beside}
    further = {
        name: each.model_copy(update={"evaluation": evaluation(recipe.alone(name), look_at)})
        for name, each in further.items()
    }
    inputs |= {f"tasks.{name}": artifact for name, artifact in beside.items()}
    if former is not None:
        inputs[f"tasks.{FORMER}"] = former.encoded
        further[FORMER] = Beside(name=FORMER, weight=0, watched=False)
        for technique in recipe.train.techniques:
            if isinstance(technique, Replay):
                further[FORMER] = Beside(name=FORMER, weight=technique.weight, share=technique.share, watched=False)
            if isinstance(technique, Ewc):
                earlier = {"earlier": former.fisher} if former.fisher and technique.decay is not None else {}
                settings = Fisher(technique=technique, seed=recipe.seed, device=recipe.device)
                inputs[f"{technique.kind}.fisher"] = store.do(
                    fisher, settings, encoded=former.encoded, base=base, **earlier
                )
    first = next(iter(recipe.tasks), "")
    config = Train(
        settings=recipe.train.model_copy(
            update={"techniques": [technique.placeless() for technique in recipe.train.techniques]}
        ),
        evaluation=evaluation(recipe.alone(first) if first else recipe, look_at),
        name=first,
        weight=recipe.tasks[first].weight if first else 1.0,
        beside=list(further.values()),
        temperature=recipe.mixture.temperature,
        seed=recipe.seed,
        device=recipe.device,
        base_name=runs.base_name(recipe),
        longest_answer=recipe.predict.engine.max_new_tokens,
    )
    return config, inputs


def trained(
    opened: RecipeFile,
    store: Store,
    encoded: Artifact,
    base: Artifact,
    beside: Mapping[str, Artifact] | None = None,
    former: Former | None = None,
    *,
    until: int | None = None,
    paused: Artifact | None = None,
    look_at: str = "loss",
) -> Artifact:
    """The model; of a search, the pause after `until` evaluations, going on from an earlier one (`paused`), with the
    metric `look_at` computed at each evaluation where no other one watches."""
    config, inputs = training(opened, store, base, beside or {}, former, look_at)
    config = config.model_copy(update={"until": until})
    if paused is not None:
        inputs["paused"] = paused
    return store.do(train, config, encoded=encoded, base=base, **inputs)


def evaluation(recipe: Recipe, look_at: str = "loss") -> Evaluation | None:
    """What watches the training of a task beside the loss, or is looked at where nothing watches."""
    stop = recipe.train.stop
    name = stop.metric if stop and stop.metric != "loss" else look_at
    if name == "loss":
        return None
    metric = next(metric for metric in recipe.metrics() if metric.kind == name)
    return Evaluation(metric=metric, max_new_tokens=recipe.predict.engine.max_new_tokens)


def folds(opened: RecipeFile, store: Store, base: Artifact) -> list[dict[str, Ready]]:
    """The tasks of each fold of a cross-validation, where the recipe asks for one. Each is prepared by itself: a step that
    drops or makes training rows looks at what is training there."""
    n = (opened.recipe.repeat.folds if opened.recipe.repeat else None) or 0
    found = []
    for number in range(n):
        store.listener.say(f"fold {number + 1} of {n}: its data")
        fold = Fold(number=number, of=n)
        found.append({name: ready(opened.alone(name), store, base, fold) for name in opened.recipe.tasks or [""]})
    return found


def repeated(
    opened: RecipeFile,
    store: Store,
    tasks: Mapping[str, Ready],
    divided: Sequence[Mapping[str, Ready]],
    base: Artifact,
    former: Former | None,
    model: Artifact,
) -> dict[str, Artifact]:
    """How much each task's figures vary over trainings with other seeds, or over folds; nothing where the recipe asks for
    neither.

    They are measured on validation, since the test is locked; further models answer it only where the recipe says so.
    """
    recipe, repeat = opened.recipe, opened.recipe.repeat
    if repeat is None:
        return {}
    seeds = derived_seeds(recipe.seed, repeat.seeds) if repeat.seeds else [recipe.seed] * len(divided)
    names = [f"seed {seed}" for seed in seeds] if repeat.seeds else [f"fold {n + 1}" for n in range(len(divided))]
    rounds = list(zip(names, seeds, divided or [tasks] * len(names), strict=True))
    scores: dict[str, dict[str, Artifact]] = {task: {} for task in tasks}
    for number, (name, seed, of) in enumerate(rounds):
        store.listener.say(f"repeat {number + 1} of {len(names)}: {name}")
        other = opened.model_copy(update={"recipe": recipe.model_copy(update={"seed": seed})})
        own = repeat.seeds and number == 0
        tuned = model if own else learned(other, store, of, base, former)
        for task, each in of.items():
            candidate = Candidate(model_for(task, of, tuned, store), base, each.opened.recipe)
            for split in SPLITS_ASKED[repeat.test]:
                scores[task][f"{split}_{number}"] = scored(candidate, each.examples, store, split)
    settings = Repeats(kind="seeds" if repeat.seeds else "folds", names=names)
    return {task: store.do(spread, settings, **found) for task, found in scores.items()}


def derived_seeds(seed: int, n: int) -> list[int]:
    """The recipe's seed and n - 1 further ones that follow from it, below 2**31; those of other recipes are others."""
    digests = (hashlib.blake2b(f"repeat/{seed}/{number}".encode(), digest_size=4) for number in range(1, n))
    return [seed, *(int.from_bytes(each.digest(), "big") >> 1 for each in digests)]


def scored(candidate: Candidate, examples: Artifact, store: Store, split: Split) -> Artifact:
    """A candidate's figures on a split, without its rivals."""
    recipe = candidate.recipe
    tuned = answers(candidate, examples, store, split)
    return store.do(score, figures_for(recipe, split, worst=0), examples=examples, tuned=tuned)


def figures_for(recipe: Recipe, split: Split, worst: int) -> Score:
    """What is measured of a task on a split, with so many of the worst cases."""
    return Score(task=recipe.task.form(), metrics=recipe.metrics(), split=split, worst=worst, seed=recipe.seed)


def answers(candidate: Candidate, examples: Artifact, store: Store, split: Split) -> Artifact:
    """A candidate's predictions on a split; answers that were cut off are told."""
    tuned = predicted(candidate.model, candidate.base, computing_of(candidate.recipe), examples, store, split)
    if n := tuned.facts["cut"]:
        store.listener.say(f"warning: {n} of {tuned.facts['n']} answers were cut off at predict.engine.max_new_tokens")
    return tuned


def predicted(
    model: Artifact, base: Artifact, computing: Computing, examples: Artifact, store: Store, split: Split
) -> Artifact:
    """What a model answers; the opening of a test is counted first."""
    if split == "test":  # counted before the first answer: every model, and every other way of asking it
        asked = digest({"model": model.content, "by": computing.model_dump(mode="json")})
        store.open_test(examples.facts["test_split"], asked)
    return store.do(predict, Predict(split=split, computing=computing), examples=examples, model=model, base=base)


def computing_of(recipe: Recipe) -> Computing:
    """How answers are computed."""
    return Computing(engine=recipe.predict.engine, device=recipe.device, precision=recipe.train.precision)


def evaluate(candidate: Candidate, examples: Artifact, store: Store, split: Split) -> Evaluated:
    """A candidate's answers on a split beside its rivals', with their figures; the opening of a test is counted first."""
    recipe, model, base = candidate.recipe, candidate.model, candidate.base
    computing = computing_of(recipe)
    tuned = answers(candidate, examples, store, split)
    rivals = {}
    for rival in recipe.score.baselines:
        config = Baseline(
            rival=rival,
            task=recipe.task.form(),
            split=split,
            max_length=recipe.encode.max_length,
            control_tokens=recipe.encode.control_tokens,
            seed=recipe.seed,
            computing=computing if rival.needs_model else None,
        )
        needed = {"base": base} if rival.needs_model else {}
        rivals[rival.kind] = store.do(baseline, config, examples=examples, **needed)
    measured = None
    if recipe.score.latency_samples:
        timing = Measure(samples=recipe.score.latency_samples, computing=computing)
        measured = store.do(measure, timing, examples=examples, model=model, base=base)
    figures = figures_for(recipe, split, recipe.score.worst)
    scores = store.do(score, figures, examples=examples, tuned=tuned, **rivals)
    return Evaluated(tuned, rivals, scores, measured)


def attack(store: Store, name: str, pairs: int = 0) -> Run:
    """Try to tell the rows that a run's model learned from from those of its test split, and write it into the run's pages.

    With `pairs`, twice as many models are trained as the run's was, on halves of these rows, to compare losses with.
    """
    with store.in_use():
        entry = runs.find(store, name)
        opened, artifacts = runs.reread(store, entry)
        recipe, examples = opened.recipe, artifacts["examples"]
        if pairs and (recipe.former or artifacts["model"].facts["tasks"]):
            raise UserError(
                "its model learned from other rows beside these, which references would lack",
                where=name,
                hint="attack it without references",
            )
        base = store.take(runs.base_for(store, entry, None))
        given: dict[str, Artifact] = {}
        for number in range(2 * pairs):
            dealt = Halve(draw=number // 2, second=bool(number % 2), seed=recipe.seed)
            half = store.do(halve, dealt, examples=examples)
            given[f"half_{number}"] = half
            given[f"model_{number}"] = trained(opened, store, encode_for(recipe, store, half, base), base)
        store.open_test(examples.facts["test_split"], digest({"attack": artifacts["model"].content}))
        config = Attack(device=recipe.device, precision=recipe.train.precision, truncation=recipe.encode.truncation)
        found = store.do(attack_stage, config, examples=examples, model=artifacts["model"], base=base, **given)
        return runs.record(opened, store, {**artifacts, "attack": found}, earlier=entry)
