"""Search: trials in rungs on a study that outlives every kill, the test split shut, the winner a recipe that runs."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
import tiny
import torch

from luthier import flow, searching
from luthier.errors import Problems, UserError
from luthier.facts import SearchFacts
from luthier.recipe_file import load, loads, vary
from luthier.searching import FOUND, Searched, search
from luthier.space import told
from luthier.store import Silent, Store
from luthier.study import Study

pytestmark = pytest.mark.slow

RECIPE = """\
# of a test
version: 1
name: tuned
seed: 3
task: {kind: classify, table: table.csv, text: text, label: label}
base: {kind: folder, path: bert}
prepare: {split: {kind: random, validation: 30, test: 30}}
encode: {max_length: 16}
train:
  epochs: 2  # evaluated after each half
  evaluate_every: 0.5
  learning_rate: 1e-3
  batch_size: 16
  precision: float32
  techniques: [{kind: lora, rank: 2}]
score: {metrics: [accuracy], baselines: [majority], latency_samples: 0}
search:
  space:
    train.learning_rate: {low: 1e-4, high: 1e-1, log: true}
    "train.techniques[0].rank": {choices: [2, 4]}
  trials: 6
  searcher: random
  reduction_factor: 2
"""


def made(folder: Path) -> Path:
    """A folder with a table and a tiny base."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.build(folder / "bert", "bert", dropout=0.1)
    draw = random.Random(0)
    with (folder / "table.csv").open("w", newline="") as file:
        rows = [
            [f"{draw.randint(0, 9999)} {'kg' if n % 3 else 'm'}", "ab"[n % 3 == 0], "test" if n % 9 == 1 else "train"]
            for n in range(130)
        ]
        csv.writer(file).writerows([["text", "label", "part"], *rows])
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("search"))


def found(place: Path, root: Path, *changes: str, listener: Any = None, **options: Any) -> Searched:
    opened = loads(RECIPE, folder=place, changes=changes)
    return search(opened, Store(root, listener), target=root.parent / f"{root.name}.yaml", **options)


def table(facts: SearchFacts | dict[str, Any]) -> list[dict[str, Any]]:
    """What must not depend on how often a search was interrupted: all but seconds."""
    trials = facts.model_dump(mode="json")["trials"] if isinstance(facts, SearchFacts) else facts["trials"]
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in trials]


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Searched, Store]:
    """A search that nothing interrupted, and its store."""
    root = tmp_path_factory.mktemp("whole") / "store"
    return found(place, root), Store(root)


# what is written


@pytest.mark.slow
def test_the_best_trial_is_a_recipe_that_runs_to_the_same_model(
    place: Path, tmp_path: Path, whole: tuple[Searched, Store]
) -> None:
    done, store = whole[0], Store(tmp_path)
    best = done.facts.trials[done.facts.best or 0]
    assert done.recipe
    text = done.recipe.read_text()
    assert text.startswith(f"{FOUND}: trial {best.number} of 6, loss ")
    assert "# evaluated after each half" in text
    assert "\nsearch:" not in text
    opened = loads(text, folder=place)
    assert opened.recipe.name == "tuned-best"
    assert opened.recipe.train.learning_rate == best.params["train.learning_rate"]
    settled = flow.settled(opened, store)
    base = flow.base_model(settled.recipe.base, settled, store)
    encoded = flow.encode_for(settled.recipe, store, flow.prepared(settled, store), base)
    assert flow.trained(settled, store, encoded, base).content == best.model


@pytest.mark.slow
def test_the_best_is_the_least_loss_and_every_finished_trial_has_an_interval(whole: tuple[Searched, Store]) -> None:
    facts = whole[0].facts
    finished = [trial for trial in facts.trials if trial.state == "complete"]
    assert facts.trials[facts.best or 0].value == min(trial.value for trial in finished if trial.value is not None)
    assert {trial.state for trial in facts.trials} == {"complete", "pruned"}
    for trial in finished:
        low, high = trial.figures["accuracy"].interval or (1.0, 0.0)
        assert 0 <= low <= (trial.figures["accuracy"].estimate or 0) <= high <= 1


@pytest.mark.slow
def test_the_test_split_stays_shut(whole: tuple[Searched, Store]) -> None:
    done, store = whole
    assert not (store.root / "openings.jsonl").exists()
    assert done.facts.test_openings == 0
    for artifact in store.artifacts.glob("predict-*"):
        assert json.loads((artifact / "manifest.json").read_text())["config"]["split"] == "validation"


@pytest.mark.slow
def test_rows_are_prepared_and_encoded_once_and_rungs_that_nobody_needs_are_gone(
    whole: tuple[Searched, Store],
) -> None:
    done, store = whole
    kinds = [folder.name.partition("-")[0] for folder in store.artifacts.iterdir()]
    assert kinds.count("prepare") == kinds.count("encode") == 1
    assert kinds.count("predict") == kinds.count("score") == 1
    lineage = {artifact.content for artifact in map(store.get, [f.name for f in store.artifacts.glob("train-*")])}
    assert done.facts.trials[done.facts.best or 0].model in lineage
    assert kinds.count("train") == 3  # the best one: after 1 and 2 evaluations, and whole
    assert not [name for name in store.gc(everything=True).removed if name.startswith(("train", "encode", "prepare"))]


@pytest.mark.slow
def test_the_page_stands_alone_and_names_every_trial(whole: tuple[Searched, Store]) -> None:
    done, _ = whole
    page = done.page.read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for part in ("History", "Importance", "Values and what came of them", "shut"):
        assert part in page
    assert page.count('<th scope="row" class="num">') == 6
    assert page.count("<polyline") >= 7


@pytest.mark.slow
def test_the_same_command_again_changes_nothing_and_a_larger_budget_goes_on(place: Path, tmp_path: Path) -> None:
    first = found(place, tmp_path / "store", "search.trials=3")
    page = first.page.read_bytes()
    again = found(place, tmp_path / "store", "search.trials=3")
    assert (again.facts, again.page.read_bytes()) == (first.facts, page)
    more = found(place, tmp_path / "store", "search.trials=5")
    assert more.facts.study == first.facts.study
    assert table(more.facts)[:3] == table(first.facts)


@pytest.mark.slow
def test_another_space_is_another_study_and_another_gate_is_not(place: Path, tmp_path: Path) -> None:
    names = [
        found(place, tmp_path / "store", "search.trials=1", *change).facts.study
        for change in ([], ["gate.checks=[]"], ["search.searcher=tpe"], ["seed=4"])
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


# budgets, failures


@pytest.mark.slow
def test_a_grid_ends_by_itself_and_seconds_end_a_search(place: Path, tmp_path: Path) -> None:
    grid = "search={searcher: grid, space: {train.batch_size: {choices: [8, 16]}, train.epochs: {choices: [0.5, 1]}}}"
    done = found(place, tmp_path / "grid", grid)
    assert sorted(tuple(trial.params.values()) for trial in done.facts.trials) == [(8, 0.5), (8, 1), (16, 0.5), (16, 1)]
    assert len(found(place, tmp_path / "short", "search.seconds=0.001", "search.trials=null").facts.trials) == 1


@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(place: Path, tmp_path: Path) -> None:
    space = "search.space={train.learning_rate: {choices: [1e-3, 1e30]}}"
    done = found(place, tmp_path / "store", space, "search.searcher=grid", "train.max_grad_norm=1e9")
    states = {trial.params["train.learning_rate"]: trial for trial in done.facts.trials}
    assert states[1e-3].state == "complete"
    assert states[1e30].state == "failed"
    assert "at step" in states[1e30].problem
    assert states[1e30].problem in done.page.read_text()


@pytest.mark.slow
def test_what_is_wrong_with_every_trial_stops_the_search_and_leaves_no_trial(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file gone.csv"):
        found(place, tmp_path / "store", "task.table=gone.csv")
    rows = [[f"{n} kg", "ab"[n % 3 == 0], "train"] for n in range(60)]
    rows += [[f"{n} m", "ab"[n % 3 == 0], part] for part in ("validation", "test") for n in range(20)]
    with (place / "twice.csv").open("w", newline="") as file:  # what is validated on is tested, too, and so left out
        csv.writer(file).writerows([["text", "label", "part"], *rows])
    with pytest.raises(UserError, match="a search judges by the validation split, and there is none"):
        found(place, tmp_path / "none", "prepare.split={kind: given, column: part}", "task.table=twice.csv")
    assert not (tmp_path / "store" / "searches").exists()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("encode.max_length", True),
        ("train.techniques", True),
        ("train.techniques lora", True),
        ("train.techniques[0].rank", True),
        ("base.path", False),
        ("table.csv", False),
        ("", False),
    ],
)
def test_a_problem_is_a_trials_own_where_it_names_what_is_searched(where: str, expected: bool) -> None:
    params = {"encode.max_length": 16, "train.techniques[0].rank": 2}
    assert searching.is_of(UserError("bad", where=where), params) is expected


@pytest.mark.slow
def test_a_file_that_no_search_wrote_is_not_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\n")
    with pytest.raises(UserError, match="no search has written it"):
        search(loads(RECIPE, folder=place), Store(tmp_path / "store"), target=tmp_path / "mine.yaml")


# the recipe's block


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "search.space={train.lerning_rate: {low: 1, high: 2}}",
            "no key 'lerning_rate'; did you mean 'learning_rate'?",
        ),
        (
            "search.space={train.batch_size: {low: 0, high: 8}}",
            "should be greater than or equal to 1 (found 0) (with train.batch_size=0)",
        ),
        ('search.space={"train.techniques[3].rank": {choices: [1]}}', "there is no place 'train.techniques[3].rank'"),
        ("search.space={train.techniques: {choices: [[full], [lora, lora]]}}", "lora is named twice"),
        ("search.space={train.epochs: {low: 3, high: 1}}", "low must be less than high"),
        ("search.space={train.epochs: {low: 0, high: 1, log: true}}", "a log scale has no 0"),
        ("search.space={train.epochs: {low: 1, high: 4, log: true, step: 1}}", "a log scale takes no step"),
        ("search.space={train.epochs: {low: 1, high: 4, step: 2}}", "steps of 2 do not lead from 1 to 4"),
        ("search.space={train.epochs: {low: 1}}", "needs low and high, or choices"),
        ("search.space={train.epochs: {choices: [1, 1]}}", "names one of its choices twice"),
        ("search.space={train.epochs: {choices: [1], low: 1}}", "has choices, so low"),
        ("search.space={train.epochs: {hihg: 1}}", "no key 'hihg'; did you mean 'high'?"),
        ("search.searcher=grid", "search.space.train.learning_rate: a grid needs a list of values"),
        ("search.trials=null", "needs trials or seconds, or it never ends"),
        ("search.metric=f1", "search.metric: no scored metric called 'f1'; known: accuracy, loss"),
        ("search.study=postgresql://me:secret@host/db", "holds a password, and recipes are recorded"),
        ("search.searcher=tpi", "no searcher called 'tpi'; did you mean 'tpe'?"),
    ],
)
def test_what_cannot_be_searched_is_told_when_the_recipe_is_loaded(change: str, sentence: str) -> None:
    with pytest.raises(Problems) as problem:
        loads(RECIPE, folder=Path(), changes=[change])
    assert sentence in str(problem.value)


def test_every_corner_value_that_makes_no_recipe_is_told_at_once() -> None:
    space = "search.space={train.batch_size: {low: 0, high: 8}, train.epochs: {choices: [-1, 1, zero]}}"
    with pytest.raises(Problems) as problem:
        loads(RECIPE, folder=Path(), changes=[space])
    for value in ("train.batch_size=0", "train.epochs=-1", "train.epochs=zero"):
        assert f"(with {value})" in str(problem.value)


def test_values_reach_the_recipe_exactly_and_a_name_alone_becomes_a_block() -> None:
    text = RECIPE.replace("[{kind: lora, rank: 2}]", "[lora]")
    varied = vary(text, {"train.learning_rate": 0.1 + 0.2, "train.techniques[0].rank": 4})
    assert varied.recipe.train.learning_rate == 0.1 + 0.2
    assert varied.recipe.train.techniques[0].model_dump()["rank"] == 4
    assert varied.recipe.search is None
    assert loads(varied.text, folder=Path()).recipe == varied.recipe


def test_trials_are_told_by_the_ends_of_their_paths() -> None:
    assert (
        told({"train.learning_rate": 3.1234e-4, "a.rank": 2, "b.rank": [1]})
        == "learning_rate 0.000312, a.rank 2, b.rank [1]"
    )


# kills: a fresh import takes seconds, so one parent imports and forks a child for every attempt

WORKER = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import optuna, sqlalchemy, peft
from transformers import AutoModelForSequenceClassification
from luthier import recipe_file, searching
from luthier.store import Silent, Store

print("ready", flush=True)
for line in sys.stdin:
    path, root, study, delay = line.split()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, float(delay))
        searching.search(recipe_file.load(path), Store(searching.Path(root)), study="" if study == "-" else study)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate()


def attempt(process: subprocess.Popen[str], recipe: Path, root: Path, study: str, delay_s: float) -> int:
    """Search, killed after so long (0: not at all); the exit code."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{recipe} {root} {study or '-'} {delay_s}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_search_killed_at_random_moments_ends_in_the_same_table_without_a_double_trial(
    tmp_path: Path, worker: subprocess.Popen[str], database: str
) -> None:
    folder = made(tmp_path / "made")
    (folder / "recipe.yaml").write_text(RECIPE.replace("searcher: random", "searcher: {kind: tpe, startup: 3}"))
    wanted = 100 if os.environ.get("LUTHIER_SOAK") else 4
    with databases.postgresql() if database == "postgresql" else _in_the_store() as url:
        assert attempt(worker, folder / "recipe.yaml", tmp_path / "whole", url, 0) == 0
        (expected,) = (tmp_path / "whole").glob("searches/*/search.json")
        draw, kills, round_ = random.Random(f"moments/{database}"), 0, 0
        while kills < wanted:
            round_ += 1
            # another seed each round is another study of other trials, finished at last without a kill
            while kills < wanted:
                code = attempt(
                    worker,
                    folder / "recipe.yaml",
                    tmp_path / f"killed{round_}",
                    alias(url, round_),
                    draw.uniform(0.05, 2.5),
                )
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    break
                kills += 1
            assert attempt(worker, folder / "recipe.yaml", tmp_path / f"killed{round_}", alias(url, round_), 0) == 0
            (killed,) = (tmp_path / f"killed{round_}").glob("searches/*/search.json")
            assert table(json.loads(killed.read_text())) == table(json.loads(expected.read_text()))
            trials = json.loads(killed.read_text())["trials"]
            assert [trial["number"] for trial in trials] == list(range(6))
            assert not list((tmp_path / f"killed{round_}").glob("openings.jsonl"))


def _in_the_store() -> Any:
    import contextlib

    return contextlib.nullcontext("")


def alias(url: str, round_: int) -> str:
    """The same server with a database of its own for each round: a study of the same recipe has the same name."""
    if not url:
        return ""
    import sqlalchemy as sa

    name = f"round{round_}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if not connection.execute(sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}).scalar():
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.rsplit("/", 1)[0] + f"/{name}"


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Killing(Heard):
    """Kills the worker that has begun with a trial, once."""

    def __init__(self, root: Path, number: int) -> None:
        super().__init__()
        self.root, self.number, self.killed = root, number, 0

    def say(self, line: str) -> None:
        super().say(line)
        if f"] trial {self.number}: " in line and not self.killed:
            (file,) = self.root.glob("searches/*/study.sqlite")
            study = Study(file.parent.name, file)
            owner = study.trials()[self.number].owner
            study.close()
            self.killed = int(owner.rsplit("-", 2)[1])
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.slow
def test_two_workers_share_the_trials_and_that_of_one_that_is_killed_is_taken_up_by_the_other(
    place: Path, tmp_path: Path
) -> None:
    heard = Killing(tmp_path / "store", 1)
    done = found(place, tmp_path / "store", "search.pruner=none", "search.trials=4", listener=heard, workers=2)
    assert heard.killed
    assert [(trial.number, trial.state) for trial in done.facts.trials] == [(n, "complete") for n in range(4)]
    begun = [line for line in heard.lines if ": learning_rate" in line]
    assert {line.partition("]")[0] for line in begun} == {"[worker 1", "[worker 2"}
    assert sorted(line.partition("] ")[2].partition(":")[0] for line in begun) == [
        f"trial {n}" for n in (0, 1, 1, 2, 3)
    ]
    first, again = (line for line in begun if "] trial 1: " in line)
    assert first.partition("] ")[2] == again.partition("] ")[2]
    assert first != again


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(place: Path, tmp_path: Path) -> None:
    task = {"text": RECIPE, "folder": str(place), "store": str(tmp_path / "store"), "study": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", "from luthier.searching import help_out; help_out()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    while '{"say": "trial 0: ' not in process.stdout.readline():
        pass
    process.stdin.close()  # as the system does when the other end is killed
    process.stdout.read()
    assert process.wait() == 1
    process.stdout.close()
    assert found(place, tmp_path / "store").facts.trials[0].state == "complete"


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_what_memory_did_not_suffice_for_is_known(problem: BaseException, expected: bool) -> None:
    assert searching.is_of_memory(problem) is expected


@pytest.mark.slow
def test_a_workers_problem_is_the_searchs(place: Path, tmp_path: Path) -> None:
    space = "search.space={base.path: {choices: [nowhere, neither]}}"
    with pytest.raises(UserError, match="none of 2 trials was finished"):
        found(place, tmp_path / "store", space, "search.searcher=grid", workers=2)
    space = "search.space={base.path: {choices: [bert, nowhere]}}"
    assert found(place, tmp_path / "other", space, "search.searcher=grid").facts.best is not None


@pytest.mark.slow
def test_the_command_tells_the_winner_and_its_database_is_told_without_its_password(tmp_path: Path) -> None:
    folder = made(tmp_path / "made")
    with databases.postgresql() as url:
        command = [
            sys.executable,
            "-m",
            "luthier.cli",
            "search",
            str(folder / "recipe.yaml"),
            "--set",
            "search.trials=2",
        ]
        done = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, check=True, env={**os.environ, "LUTHIER_STUDY": url}
        )
    told_ = json.loads(done.stdout)
    assert told_["trials"][told_["best"]]["state"] == "complete"
    assert Path(told_["recipe"]) == folder / "tuned-best.yaml"
    load(told_["recipe"])
    assert told_["database"].startswith("postgresql+psycopg://127.0.0.1:")
    records = [file for file in (folder / ".luthier").rglob("*") if file.is_file()] + [folder / "tuned-best.yaml"]
    for secret in (b"se:cr", b"se%3Acr", b"tuner"):
        assert not [file for file in records if secret in file.read_bytes()]
        assert secret not in (done.stdout + done.stderr).encode()
