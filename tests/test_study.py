"""Trials in a database: claimed by one worker each, taken up with number and values where one dies, and no secret told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import databases
import pytest

from luthier import study as studies
from luthier.errors import UserError
from luthier.study import LostError, Study, Trial, Worker, parsed, shown

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with databases.postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "sqlite":
        return tmp_path / "study.sqlite"
    return str(request.getfixturevalue("server"))


@pytest.fixture
def study(place: str | Path, request: pytest.FixtureRequest) -> Iterator[Study]:
    opened = Study(request.node.name[:100], place)
    yield opened
    opened.close()


def numbered(known: list[Trial]) -> dict[str, int] | None:
    return {"x": 10 * len(known)} if len(known) < 3 else None


def test_each_trial_is_claimed_once_and_the_budget_ends_them(study: Study, tmp_path: Path) -> None:
    with contextlib.ExitStack() as alive:
        workers = [alive.enter_context(Worker(tmp_path / "w")) for _ in range(4)]
        claimed = [study.claim(worker, numbered)[0] for worker in workers]
    assert [trial and (trial.number, trial.params) for trial in claimed] == [
        (0, {"x": 0}),
        (1, {"x": 10}),
        (2, {"x": 20}),
        None,
    ]
    assert [trial.number for trial in study.trials()] == [0, 1, 2]


def test_a_trial_whose_worker_lives_is_left_to_it(study: Study, tmp_path: Path) -> None:
    with Worker(tmp_path / "w") as one, Worker(tmp_path / "w") as two:
        first, _ = study.claim(one, numbered)
        second, _ = study.claim(two, numbered)
        assert first
        assert second
        assert (first.number, second.number) == (0, 1)
        assert not two.is_left(first)


def test_a_trial_whose_worker_is_gone_is_taken_up_with_its_number_and_values(study: Study, tmp_path: Path) -> None:
    dead = Worker(tmp_path / "w")
    dead.lock.acquire()
    first, _ = study.claim(dead, numbered)
    assert first
    study.reached(first, 1, 0.5, lambda rivals: True)
    dead.lock.release()  # what the system does when a process dies
    with Worker(tmp_path / "w") as other:
        again, known = study.claim(other, numbered)
        assert again
        assert (again.number, again.params, again.rungs, len(known)) == (0, first.params, [(1, 0.5)], 1)
        with pytest.raises(LostError):
            study.ended(first, "complete", 1.0, {})  # it was only asleep, and comes too late
        study.ended(again, "complete", 2.0, {"model": "b"})
    assert [(trial.state, trial.value) for trial in study.trials()] == [("complete", 2.0)]


def test_a_worker_of_another_machine_is_given_up_when_it_says_nothing_for_long(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(studies.time, "monotonic", lambda: now[0])
    with Worker(tmp_path / "there") as far, Worker(tmp_path / "here") as near:
        first, _ = study.claim(far, numbered)
        assert first
        assert not near.is_left(first)
        now[0] += studies.LEASE_S - 1
        assert not near.is_left(first)
        first.beat += 1  # it lives
        assert not near.is_left(first)
        now[0] += studies.LEASE_S - 1
        assert not near.is_left(first)
        now[0] += 2
        assert near.is_left(first)


def test_while_a_trial_is_worked_on_its_beat_counts_up_and_its_seconds_too(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "BEAT_S", 0.001)
    with Worker(tmp_path / "w") as one:
        trial, _ = study.claim(one, numbered)
        assert trial
        with study.beating(trial):
            while study.trials()[0].beat < 3:
                pass
    assert study.trials()[0].seconds > 0


def test_rivals_at_a_rung_are_those_that_have_reached_it(study: Study, tmp_path: Path) -> None:
    seen: list[list[float]] = []
    with Worker(tmp_path / "w") as one, Worker(tmp_path / "w") as two:
        first, second = (study.claim(worker, numbered)[0] for worker in (one, two))
        assert first
        assert second
        assert study.reached(first, 1, 0.5, lambda rivals: not seen.append(rivals))
        assert study.reached(first, 3, 0.6, lambda rivals: not seen.append(rivals))
        assert not study.reached(second, 1, 0.4, lambda rivals: bool(seen.append(rivals)))
    assert seen == [[], [], [0.5]]
    assert [(trial.state, trial.value) for trial in study.trials()] == [("running", None), ("pruned", 0.4)]


CLAIMS = """
import json, sys
from pathlib import Path
from luthier.study import Study, Worker
place, folder = sys.argv[1:]
study = Study(Path(folder).parent.name, Path(place) if place.startswith("/") else place)
with Worker(Path(folder)) as worker:
    while True:
        trial, known = study.claim(worker, lambda known: {"n": len(known)} if len(known) < 20 else None)
        if trial is None:
            break
        study.ended(trial, "complete", 0.0, {"by": worker.name})
"""


@pytest.mark.slow
def test_processes_that_claim_at_once_get_different_trials(place: str | Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIMS, str(place), str(tmp_path / "w")]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    opened = Study(tmp_path.name, place)
    trials = opened.trials()
    opened.close()
    assert [(trial.number, trial.params) for trial in trials] == [(n, {"n": n}) for n in range(20)]
    assert all(trial.facts["by"] == trial.owner for trial in trials)


@pytest.mark.slow
def test_a_killed_process_leaves_its_trial_to_the_next_one(place: str | Path, tmp_path: Path) -> None:
    held = CLAIMS.replace(
        'study.ended(trial, "complete", 0.0, {"by": worker.name})', "print(trial.number, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", held, str(place), str(tmp_path / "w")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"0\n"
    opened = Study(tmp_path.name, place)
    with Worker(tmp_path / "w") as other:
        second, _ = opened.claim(other, lambda known: {"n": len(known)})
        assert second
        known = opened.trials()
        opened.ended(known[second.number], "complete", 0.0, {})
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        taken, _ = opened.claim(other, lambda known: None)
        assert taken
        assert taken.number == 0
    opened.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg://me:pa%40ss@host:5433/db?sslpassword=x", "postgresql+psycopg://host:5433/db"),
        ("mysql+pymysql://me@host/db", "mysql+pymysql://host/db"),
        ("sqlite:////tmp/a.sqlite", "sqlite:////tmp/a.sqlite"),
    ],
)
def test_an_address_is_shown_without_user_and_password(url: str, expected: str) -> None:
    assert shown(parsed(url)) == expected


def test_what_is_no_address_is_not_repeated() -> None:
    with pytest.raises(UserError, match="is no address of a database") as told:
        parsed("me:secret@host")
    assert "secret" not in told.value.sentence()


def test_a_database_that_is_out_of_reach_is_told_without_its_password() -> None:
    url = f"postgresql+psycopg://me:topsecret@127.0.0.1:{databases.port()}/db?application_name=hidden"
    with pytest.raises(UserError) as told:
        Study("s", url)
    assert "127.0.0.1" in told.value.sentence()
    assert "topsecret" not in told.value.sentence()
    assert "hidden" not in told.value.sentence()


def test_a_missing_driver_is_told_with_what_to_install() -> None:
    with pytest.raises(UserError, match="mysql://host/db: needs the package MySQLdb; install it"):
        Study("s", "mysql://me:secret@host/db")
