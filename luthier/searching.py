"""Search: trials of a recipe with other values, in rungs, by workers that may die; the best one becomes a recipe."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luthier import flow, hyperband, space
from luthier.durable import check_writable, write_durably
from luthier.errors import DivergedError, MachineError, UserError
from luthier.facts import PreparedFacts, Scores, SearchFacts, TrialFacts
from luthier.recipe import Recipe, SearchSettings
from luthier.recipe_file import RecipeFile, loads, vary
from luthier.runs import settled
from luthier.search_page import page
from luthier.searchers._optuna import importance
from luthier.stages.train import STATE
from luthier.store import Artifact, Listener, Silent, Store, digest, needs
from luthier.study import LostError, Study, Trial, Worker, parsed, shown

URL_VARIABLE = "LUTHIER_STUDY"
FOUND = "# Found by luthier search"
POLL_S = 1.0  # between looks at the trials of other workers, when all are taken
OF_BUDGET = {"trials", "seconds", "workers", "study"}  # what changes no trial


@dataclass(frozen=True)
class Searched:
    """What a search left: facts, the page that shows them, and the recipe of the best trial."""

    facts: SearchFacts
    page: Path
    recipe: Path | None  # None where no trial was finished

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        recipe = str(self.recipe) if self.recipe else None
        return {**self.facts.model_dump(mode="json"), "recipe": recipe, "page": str(self.page)}


def search(
    opened: RecipeFile, store: Store, *, workers: int | None = None, study: str = "", target: Path | None = None
) -> Searched:
    """Try what the recipe's `search` says until its budget is spent, going on where an earlier call was ended, and write
    the best trial as a recipe (`<name>-best.yaml` beside the recipe, or `target`). The test split stays shut.

    `study` is the address of a database (by default that of the recipe, of LUTHIER_STUDY, or a file in the store);
    UserError where every trial would meet it.
    """
    if opened.recipe.search is None:
        raise UserError("the recipe does not say what to search", where="search", hint="see docs/search.md")
    target = target or opened.folder / f"{best_name(opened.recipe)}.yaml"
    refuse_foreign(target)
    check_writable(target.parent)
    n = workers or opened.recipe.search.workers
    with Search(opened, store, study) as started:
        if n == 1:
            started.work()
        else:
            started.work_with(n)
        return started.finish(target)


class Search:
    """A search as one process knows it: its study, and what all trials share."""

    def __init__(self, opened: RecipeFile, store: Store, study: str = "") -> None:
        """Prepare and encode the recipe as it is written: whatever is wrong with that is wrong with every trial."""
        assert opened.recipe.search is not None
        self.opened, self.store, self.settings = opened, store, opened.recipe.search
        self.address = study or self.settings.study or os.environ.get(URL_VARIABLE, "")
        self.quiet = Quiet(store.listener, self.settings.trials)
        self.silent = Store(store.root, self.quiet)
        if self.address:
            parsed(self.address)  # what is no address is told before anything is prepared
        with store.in_use():
            plain = settled(opened, store)
            base = flow.base_model(plain.recipe.base, plain, store)
            tasks = [flow.ready(plain.alone(name), store, base) for name in plain.recipe.tasks or [""]]
            if not all(PreparedFacts(**task.examples.facts).splits.get("validation") for task in tasks):
                raise UserError(
                    "a search judges by the validation split, and there is none",
                    where="prepare.split",
                    hint="give it rows",
                )
            self.test_splits = [task.examples.facts["test_split"] for task in tasks]
            self.metric, self.higher_is_better, self.unit = judged_by(plain.recipe)
            self.name = study_name(plain, [task.examples for task in tasks], base)
            self.folder = store.searches / self.name
            self.note("shared", [base, *(each for task in tasks for each in (task.made, task.examples, task.encoded))])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = Study(self.name, self.address or self.folder / "study.sqlite")

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.study.close()

    def note(self, name: str, artifacts: Sequence[Artifact]) -> None:
        """Let no collection take these while the search needs them."""
        file = self.folder / "needs" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, json.dumps([artifact.id for artifact in artifacts]).encode())

    def work(self) -> None:
        """Take one trial after the other until all are over, those of workers that die meanwhile too."""
        told = False
        with Worker(self.folder / "workers") as worker:
            while True:
                trial, known = self.study.claim(worker, self.propose)
                if trial is not None:
                    self.attempt(trial)
                    self.tidy()
                    told = False
                elif running := [each for each in known if each.state == "running"]:
                    if not told:
                        numbers = ", ".join(str(each.number) for each in running)
                        self.store.listener.say(f"waiting for trial {numbers} of other workers")
                    told = True
                    time.sleep(POLL_S)
                else:
                    return

    def propose(self, known: list[Trial]) -> dict[str, Any] | None:
        """Values of the next trial; None when the budget is spent or everything was tried."""
        budget = self.settings
        if budget.trials is not None and len(known) >= budget.trials:
            return None
        if budget.seconds is not None and sum(each.seconds for each in known) >= budget.seconds:
            return None
        tried = [each.tried() for each in known]
        return budget.searcher.next(tried, budget.space, self.opened.recipe.seed, self.higher_is_better)

    def attempt(self, trial: Trial) -> None:
        """Work on a trial until it is over. A problem of its own values is recorded; any other stops the search, and the
        trial waits for the next call."""
        say, self.quiet.trial = self.store.listener.say, trial.number
        say(f"trial {trial.number}: {space.told(trial.params)}")
        try:
            with self.study.beating(trial), self.silent.in_use():
                try:
                    self.train(trial)
                except MachineError:
                    raise
                except UserError as problem:
                    if not is_of(problem, trial.params):
                        raise
                    self.study.ended(trial, "failed", None, {"problem": problem.sentence()})
                except (MemoryError, RuntimeError) as problem:
                    if not is_of_memory(problem):
                        raise
                    self.study.ended(trial, "failed", None, {"problem": "the memory did not suffice"})
        except LostError:
            say(f"trial {trial.number} was taken up by another worker, since this one was not heard of")
            return
        if trial.state == "failed":
            say(f"trial {trial.number} failed: {trial.facts['problem']}")
        else:
            best = best_of(self.study.trials(), self.higher_is_better)
            beside = f"; the best so far is trial {best.number} with {best.value:.4g}" if best else ""
            say(f"trial {trial.number} is {trial.state}: {self.metric} {trial.value:.4g}{beside}")

    def train(self, trial: Trial) -> None:
        """Train in rungs, each going on from the last; what the store has is not trained again."""
        opened = settled(vary(self.opened.text, trial.params, self.opened.folder), self.silent)
        store = self.silent
        base, tasks, former = flow.beginning(opened, store)
        encoded, beside = flow.tokens_of(tasks)
        made: list[Artifact] = []
        seen = dict(trial.rungs)
        looks, skipped = self.looks(trial.number)
        for until in [*looks, None]:
            made.append(
                flow.trained(
                    opened,
                    store,
                    encoded,
                    base,
                    beside,
                    former,
                    until=until,
                    paused=made[-1] if made else None,
                    look_at=self.metric,
                )
            )
            self.note(str(trial.number), made)
            value = kept(made[-1], opened.recipe, self.metric)
            if made[-1].facts["stopped"]:
                break
            if until is None or until in seen:
                continue
            if not self.study.reached(trial, until, value, partial(self.goes_on, value, until in skipped)):
                return
        final = made[-1]
        facts: dict[str, Any] = {"steps": final.facts["steps"], "model": final.content, "figures": {}}
        for name, task in tasks.items():
            model = flow.model_for(name, tasks, final, store)
            found, *evidence = figures_of(task, model, base, store)
            made += [model, *evidence]
            facts["figures"] |= {f"{metric} of {name}" if name else metric: each for metric, each in found.items()}
        self.note(str(trial.number), made)
        self.study.ended(trial, "complete", value, facts)

    def looks(self, number: int) -> tuple[list[int], list[int]]:
        """After how many evaluations a trial pauses, and at which of them it goes on whatever its value is."""
        if self.settings.pruner == "none":
            return [], []
        longest = most_evaluations(
            self.opened.recipe.train.epochs, self.opened.recipe.train.evaluate_every, self.settings
        )
        every = hyperband.rungs(longest, self.settings.reduction_factor)
        return every, every[: hyperband.bracket(number, len(every), self.settings.reduction_factor)]

    def goes_on(self, value: float, skipped: bool, rivals: Sequence[float]) -> bool:
        """Whether a trial trains on, knowing the values of the others that have come as far."""
        return skipped or hyperband.goes_on(value, rivals, self.settings.reduction_factor, self.higher_is_better)

    def tidy(self) -> None:
        """Let go of the rungs of all trials that are over but the best one's; the store keeps none that nobody needs."""
        known = {str(trial.number): trial for trial in self.study.trials()}
        best = best_of(list(known.values()), self.higher_is_better)
        doomed: set[str] = set()
        for file in sorted((self.folder / "needs").glob("[0-9]*.json")):
            trial = known.get(file.stem)
            if trial and trial.state != "running" and trial is not best:
                doomed |= set(needs(file))
                file.unlink(missing_ok=True)
        try:
            if doomed:
                self.store.gc(among=doomed)
        except UserError as problem:  # a damaged record of some run: what it needs is unknown, and so nothing goes
            self.store.listener.say(f"warning: the rungs of trials that are over stay ({problem.sentence()})")

    def work_with(self, n: int) -> None:
        """Work with so many processes on this machine, each with its share of the cores, until all of them are done."""
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // n))
        task = {
            "text": self.opened.text,
            "folder": str(self.opened.folder),
            "store": str(self.store.root),
            "study": self.address,
        }
        helpers = [Helper(number, task, threads, self.store.listener) for number in range(1, n + 1)]
        try:
            codes = [helper.wait() for helper in helpers]
        finally:
            for helper in helpers:
                helper.end()
        problems = [helper.problem for helper in helpers if helper.problem]
        if problems:
            raise problems[0]
        if all(codes) and any(trial.state == "running" for trial in self.study.trials()):
            raise MachineError(
                f"the worker processes were ended from outside (code {codes[0]})",
                where="search",
                hint="there may be too little memory for so many; run the same command again with fewer --workers",
            )

    def finish(self, target: Path) -> Searched:
        """Write the winner's recipe, the table and the page."""
        trials = self.study.trials()
        best = best_of(trials, self.higher_is_better)
        self.tidy()
        told = SearchFacts(
            name=self.opened.recipe.name,
            study=self.name,
            database=shown(self.study.url) if self.address else "study.sqlite",
            searcher=self.settings.searcher.model_dump(mode="json"),
            pruner=self.settings.pruner,
            reduction_factor=self.settings.reduction_factor,
            metric=self.metric,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            seed=self.opened.recipe.seed,
            space={path: each.model_dump(mode="json") for path, each in self.settings.space.items()},
            trials=[facts_of(trial) for trial in trials],
            best=best.number if best else None,
            importance=importance([trial.tried() for trial in trials], self.settings.space, self.higher_is_better),
            recipe=target.name,
            test_openings=sum(len(self.store.openings(split)) for split in self.test_splits),
        )
        if best:
            write_durably(target, winner(self.opened, best, told).encode())
        write_durably(self.folder / "search.json", told.model_dump_json(indent=1).encode())
        write_durably(self.folder / "search.html", page(told).encode())
        if best is None:
            failed = [trial.facts["problem"] for trial in trials if trial.state == "failed"]
            raise UserError(
                f"none of {len(trials)} trials was finished" + (f"; the last said: {failed[-1]}" if failed else ""),
                where="search",
                hint=f"see {self.folder / 'search.html'}; correct search.space",
            )
        return Searched(told, self.folder / "search.html", target)


class Quiet(Silent):
    """Of what the stages of a trial tell, how far training is; the search itself tells how trials come out."""

    def __init__(self, listener: Listener, budget: int | None) -> None:
        self.listener, self.budget, self.trial = listener, budget, 0

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        if what == "train":
            of = max(self.budget or 0, self.trial + 1)
            told = {"trial": str(self.trial), "step": f"{done:.0f}/{total:.0f}", **figures}
            self.listener.progress("search", self.trial, of, told)


class Helper:
    """A process that works on the same study. It gets what it needs over its standard input, which closes when the process
    that started it dies, and tells what it does in lines of JSON."""

    def __init__(self, number: int, task: Mapping[str, str], threads: str, listener: Listener) -> None:
        self.number, self.listener = number, listener
        self.problem: UserError | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from luthier.searching import help_out; help_out()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        self.listening = threading.Thread(target=self.listen, daemon=True)
        self.listening.start()

    def listen(self) -> None:
        """Pass on what it says."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if "say" in told:
                self.listener.say(f"[worker {self.number}] {told['say']}")
            else:
                kind = MachineError if told["machine"] else UserError
                self.problem = kind(told["what"], where=told["where"], hint=told["hint"])

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait()
        self.listening.join()
        return code

    def end(self) -> None:
        """End it where it still works; what it had begun is gone on with later."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.listening.join()
        self.process.stdin.close()
        self.process.stdout.close()


class Lines(Silent):
    """Tells another process, in lines of JSON."""

    def say(self, line: str) -> None:
        print(json.dumps({"say": line}), flush=True)


def help_out() -> None:
    """The whole life of a `Helper`'s process."""
    task = json.loads(sys.stdin.readline())

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)  # nobody listens any more; whatever was begun can be gone on with

    threading.Thread(target=watch, daemon=True).start()
    try:
        opened = loads(task["text"], folder=Path(task["folder"]))
        with Search(opened, Store(Path(task["store"]), Lines()), task["study"]) as joined:
            joined.work()
    except UserError as problem:
        machine = isinstance(problem, MachineError)
        told = {"what": problem.what, "where": problem.where, "hint": problem.hint, "machine": machine}
        print(json.dumps(told), flush=True)
        os._exit(problem.exit_code)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def judged_by(recipe: Recipe) -> tuple[str, bool, str]:
    """The metric of a search, whether more of it is better, and its unit."""
    assert recipe.search is not None
    name = recipe.search.metric or (recipe.train.stop.metric if recipe.train.stop else "loss")
    if name == "loss":
        return name, False, "nats"
    metric = next(each for each in recipe.metrics() if each.kind == name)
    return name, metric.higher_is_better, metric.unit


def figures_of(
    task: flow.Ready, model: Artifact, base: Artifact, store: Store
) -> tuple[dict[str, Any], Artifact, Artifact]:
    """All metrics of a model on the validation split, with intervals, and the predictions and scores that they are from; no
    rival answers beside it and nothing is timed."""
    recipe = task.opened.recipe
    quiet = recipe.score.model_copy(update={"baselines": [], "latency_samples": 0, "worst": 0})
    asked = flow.Candidate(model, base, recipe.model_copy(update={"score": quiet}))
    found = flow.evaluate(asked, task.examples, store, "validation")
    scores = Scores.model_validate_json((found.scores.path / "scores.json").read_text(encoding="utf-8"))
    figures = {name: each.model_dump(mode="json") for name, each in scores.systems["tuned"].metrics.items()}
    return figures, found.tuned, found.scores


def study_name(opened: RecipeFile, examples: Sequence[Artifact], base: Artifact) -> str:
    """A name for all that decides the trials: another budget, gate or place of a table goes on with the same ones."""
    recipe = opened.recipe
    prepare = recipe.prepare.model_copy(update={"split": recipe.prepare.split.placeless()})
    placeless = {"task": recipe.task.placeless(), "base": recipe.base.placeless(), "prepare": prepare}
    left_out: Any = {"name": True, "gate": True, "repeat": True, "train": {"checkpoint_steps"}, "search": OF_BUDGET}
    contents = [artifact.content for artifact in (*examples, base)]
    decides = recipe.model_copy(update=placeless).model_dump(mode="json", exclude=left_out)
    return f"{recipe.name}-{digest({'recipe': decides, 'from': contents})[:8]}"


def most_evaluations(epochs: float, every: float, settings: SearchSettings) -> int:
    """Evaluations of the longest trial, which Hyperband counts in; the paths that decide it may be searched themselves."""
    longest = max([epochs] if "train.epochs" not in settings.space else settings.space["train.epochs"].corners())
    often = settings.space.get("train.evaluate_every")
    return max(1, math.ceil(longest / min([every] if often is None else often.corners()) - 1e-9))


def kept(artifact: Artifact, recipe: Recipe, metric: str) -> float:
    """The metric of the weights that are kept so far, as it was when they were evaluated; DivergedError where it is no
    number."""
    file = artifact.path / "history.jsonl"
    lines = (
        (file if file.exists() else artifact.path / STATE / "history.jsonl").read_text(encoding="utf-8").splitlines()
    )
    evaluations = [entry for entry in map(json.loads, lines) if "validation" in entry]
    best = artifact.facts["best"]
    step = best["step"] if best and recipe.train.keep == "best" else evaluations[-1]["step"]
    value = float(next(entry["validation"][metric] for entry in evaluations if entry["step"] == step))
    if not math.isfinite(value):
        raise DivergedError(f"the {metric} on the validation split became {value}", where="train")
    return value


def is_of(problem: UserError, params: Mapping[str, Any]) -> bool:
    """Whether a problem is one of a trial's own values: training diverged, or what must be changed is what is searched."""
    if isinstance(problem, DivergedError):
        return True
    place = problem.where.partition(" ")[0]  # a technique adds its name
    return bool(place) and any(path.startswith(place) or place.startswith(path) for path in params)


def is_of_memory(problem: BaseException) -> bool:
    """Whether the memory, of the machine or of its GPU, did not suffice: torch tells the former in its sentence alone."""
    import torch

    return isinstance(problem, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(problem)


def best_of(trials: Sequence[Trial], higher_is_better: bool) -> Trial | None:
    """The finished trial with the best value, the first of equals."""
    finished = [trial for trial in trials if trial.state == "complete"]
    sign = 1.0 if higher_is_better else -1.0
    return max(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


def best_name(recipe: Recipe) -> str:
    """The name of the winner's recipe, within the length of names."""
    return f"{recipe.name[:59]}-best"


def refuse_foreign(target: Path) -> None:
    """UserError where the winner would replace a file that no search has written."""
    if target.exists() and not target.read_text(encoding="utf-8", errors="replace").startswith(FOUND):
        raise UserError(
            "is there already, and no search has written it",
            where=str(target),
            hint="move it, or name another file with --out",
        )


def winner(opened: RecipeFile, best: Trial, facts: SearchFacts) -> str:
    """The recipe with the values of the best trial, and a line that says where they come from."""
    text = vary(opened.text, best.params, opened.folder, name=best_name(opened.recipe)).text
    line = (
        f"{FOUND}: trial {best.number} of {len(facts.trials)}, {facts.metric} {best.value:.4g} on the validation split "
        f"(study {facts.study})."
    )
    return f"{line}\n{text}"


def facts_of(trial: Trial) -> TrialFacts:
    """A trial as pages show it."""
    return TrialFacts(
        number=trial.number,
        params=trial.params,
        state=trial.state,
        value=trial.value,
        rungs=trial.rungs,
        seconds=trial.seconds,
        **trial.facts,
    )
