"""The trials of a search in a database: each is claimed by one worker at a time, and taken up again where one dies."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from luthier.errors import UserError, first_line
from luthier.searchers import Tried
from luthier.store import file_lock, try_lock

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.engine import URL

BEAT_S = 10.0  # how often a worker says that it lives
LEASE_S = 60.0  # how long one that is out of reach may say nothing before its trial is taken up
WAIT_S = 60  # for another worker to let go of a SQLite file

Outcome = Literal["running", "complete", "pruned", "failed"]


class LostError(Exception):
    """Another worker has taken the trial up, since this one said nothing for too long."""


@dataclass
class Trial:
    """One row of the study."""

    number: int  # from 0
    params: dict[str, Any]  # path of the recipe -> value
    state: Outcome
    value: float | None  # of the search's metric, of the weights that were kept
    rungs: list[tuple[int, float]]  # (evaluations so far, value) where it went on or was pruned
    facts: dict[str, Any] = field(default_factory=dict)  # figures with intervals, or the problem
    owner: str = ""  # the worker that has or had it
    beat: int = 0  # counts up while that lives
    seconds: float = 0.0  # of work, over all that had it, when it was last written
    since: float | None = None  # when this process began to work on it, by its own clock
    before: float = 0.0  # seconds of work until then

    def tried(self) -> Tried:
        """What a searcher sees of it."""
        return Tried(self.params, self.state, self.value, self.rungs)

    def worked(self) -> float:
        """Seconds of work so far."""
        return self.seconds if self.since is None else round(self.before + time.monotonic() - self.since, 3)


class Worker:
    """A process that works on trials: its name, and a lock beside the study that dies with it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.lock = file_lock(folder / f"{self.name}.lock")
        self.seen: dict[tuple[int, str, int], float] = {}  # when a beat was first seen, by this machine's clock

    def __enter__(self) -> Worker:
        self.lock.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.lock.release()
        (self.folder / f"{self.name}.lock").unlink(missing_ok=True)

    def is_left(self, trial: Trial) -> bool:
        """Whether nobody works on a running trial any more: its worker's lock is free or, of a worker with another
        store, no beat has come for `LEASE_S`. No clocks of two machines are compared."""
        if trial.owner == self.name:
            return True  # it is asked for between two trials: this one was given up
        lock = self.folder / f"{trial.owner}.lock"
        if lock.exists():
            with try_lock(lock) as free:
                return free
        since = self.seen.setdefault((trial.number, trial.owner, trial.beat), time.monotonic())
        return time.monotonic() - since > LEASE_S


class Study:
    """The table of trials of one search; everything that is read to be decided upon is read and written at once."""

    def __init__(self, name: str, place: str | Path) -> None:
        """Open the study, which is made where there is none: in a SQLite file, or a database by its address as SQLAlchemy
        writes it. UserError where it cannot be reached, without what the address may hold of passwords."""
        import sqlalchemy as sa

        self.name = name
        self.url = sa.URL.create("sqlite", database=str(place)) if isinstance(place, Path) else parsed(place)
        options: dict[str, Any] = {}
        if self.url.get_backend_name() == "sqlite":
            options = {"connect_args": {"timeout": WAIT_S}}
        try:
            self.engine: Engine = sa.create_engine(self.url, pool_pre_ping=True, **options)
        except ModuleNotFoundError as problem:
            hint = "install it; for PostgreSQL: pip install 'luthier[postgres]', and write postgresql+psycopg://"
            raise UserError(f"needs the package {problem.name}", where=shown(self.url), hint=hint) from None
        self.studies, self.trials_table = tables()
        with self.told():
            try:
                self.studies.metadata.create_all(self.engine)
            except sa.exc.DBAPIError:  # another worker has made them in between
                self.studies.metadata.create_all(self.engine)
            with contextlib.suppress(sa.exc.IntegrityError), self.engine.begin() as connection:
                connection.execute(self.studies.insert().values(name=name, claims=0))

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def trials(self) -> list[Trial]:
        """All trials by number."""
        with self.told(), self.engine.begin() as connection:
            return self._read(connection)

    def claim(
        self, worker: Worker, propose: Callable[[list[Trial]], dict[str, Any] | None]
    ) -> tuple[Trial | None, list[Trial]]:
        """A trial for this worker, and all there are: one that another worker left, with its number and values, or a new
        one of what `propose` says after those; None where it says nothing."""
        with self.told(), self.alone() as connection:
            known = self._read(connection)
            for trial in known:
                if trial.state == "running" and worker.is_left(trial):
                    trial.owner, trial.beat = worker.name, trial.beat + 1
                    self._write(connection, trial.number, owner=trial.owner, beat=trial.beat)
                    return trial, known
            params = propose(known)
            if params is None:
                return None, known
            new = Trial(len(known), params, "running", None, [], {}, worker.name)
            values = {"study": self.name, "number": new.number, "params": json.dumps(params), "state": new.state}
            connection.execute(
                self.trials_table.insert().values(
                    **values, value=None, rungs="[]", facts="{}", owner=new.owner, beat=0, seconds=0.0
                )
            )
            return new, [*known, new]

    def reached(self, trial: Trial, rung: int, value: float, goes_on: Callable[[list[float]], bool]) -> bool:
        """Record the value at a rung and decide, knowing those of all others there, whether the trial goes on."""
        with self.told(), self.alone() as connection:
            others = [dict(each.rungs) for each in self._read(connection) if each.number != trial.number]
            on = goes_on([values[rung] for values in others if rung in values])
            trial.rungs = [*trial.rungs, (rung, value)]
            trial.state = "running" if on else "pruned"
            trial.value = None if on else value
            self._write(
                connection,
                trial.number,
                trial.owner,
                rungs=json.dumps(trial.rungs),
                state=trial.state,
                seconds=trial.worked(),
                value=trial.value,
            )
        return on

    def ended(self, trial: Trial, state: Outcome, value: float | None, facts: dict[str, Any]) -> None:
        """Record how a trial ended."""
        with self.told(), self.alone() as connection:
            self._write(
                connection,
                trial.number,
                trial.owner,
                state=state,
                value=value,
                facts=json.dumps(facts),
                seconds=trial.worked(),
            )
        trial.state, trial.value, trial.facts = state, value, facts

    @contextlib.contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """Say now and then that the worker of a trial lives, and count its seconds, until this ends."""
        import sqlalchemy as sa

        over, trial.since, trial.before = threading.Event(), time.monotonic(), trial.seconds

        def beat() -> None:
            while not over.wait(BEAT_S):
                trial.beat += 1
                # a database that is away for a moment is met again at the next beat, or by the worker itself
                with contextlib.suppress(sa.exc.DBAPIError, LostError), self.engine.begin() as connection:
                    self._write(connection, trial.number, trial.owner, beat=trial.beat, seconds=trial.worked())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction that no other of this study runs beside: it begins by writing the study's own row."""
        with self.engine.begin() as connection:
            mine = self.studies.c.name == self.name
            connection.execute(self.studies.update().where(mine).values(claims=self.studies.c.claims + 1))
            yield connection

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turn what a database says into an error that names it and holds no password."""
        import sqlalchemy as sa

        try:
            yield
        except sa.exc.DBAPIError as problem:
            said = first_line(problem.orig) if problem.orig else first_line(problem)
            for secret in secrets_of(self.url):
                said = said.replace(secret, "***")
            raise UserError(
                f"the database does not do its work ({said})",
                where=shown(self.url),
                hint="what was found is kept there; see that it can be reached, and run the same command again",
            ) from None

    def _read(self, connection: Connection) -> list[Trial]:
        import sqlalchemy as sa

        table = self.trials_table
        asked = sa.select(table).where(table.c.study == self.name).order_by(table.c.number)
        return [
            Trial(
                number=row.number,
                params=json.loads(row.params),
                state=row.state,
                value=row.value,
                rungs=[(rung, value) for rung, value in json.loads(row.rungs)],
                facts=json.loads(row.facts),
                owner=row.owner,
                beat=row.beat,
                seconds=row.seconds,
            )
            for row in connection.execute(asked)
        ]

    def _write(self, connection: Connection, number: int, holder: str = "", **values: Any) -> None:
        """Change a trial; LostError where it is not that `holder`'s any more."""
        table = self.trials_table
        where = (table.c.study == self.name) & (table.c.number == number)
        if holder:
            where &= (table.c.owner == holder) & (table.c.state == "running")
        if connection.execute(table.update().where(where).values(**values)).rowcount != 1:
            raise LostError


def tables() -> tuple[Table, Table]:
    """The studies and their trials; names are those in the database."""
    import sqlalchemy as sa

    known = sa.MetaData()
    studies = sa.Table(
        "luthier_studies",
        known,
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("claims", sa.Integer, nullable=False),
    )
    trials = sa.Table(
        "luthier_trials",
        known,
        sa.Column("study", sa.String(128), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("rungs", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    return studies, trials


def parsed(url: str) -> URL:
    """A database's address; UserError where it is none, which does not repeat it."""
    import sqlalchemy as sa

    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UserError(
            "is no address of a database", where="search.study", hint="write postgresql+psycopg://host/database"
        ) from None


def shown(url: URL) -> str:
    """An address as it may stand in messages and records: without user, password and options."""
    return url.set(query={})._replace(username=None, password=None).render_as_string()


def secrets_of(url: URL) -> list[str]:
    """Parts of an address that no message may repeat."""
    options = [value for values in url.query.values() for value in ([values] if isinstance(values, str) else values)]
    return [each for each in (url.password, *options) if each]
