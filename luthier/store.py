"""The store memoises stages by version, config and the contents of their inputs, and never shows half-written work."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from luthier.durable import (
    DISK_FULL,
    Hashes,
    check_writable,
    hashed,
    settle,
    swap,
    sync_folder,
    sync_tree,
    write_durably,
)
from luthier.errors import MachineError, UserError

MANIFEST, TIMINGS, INPUTS = "manifest.json", "timings.json", "inputs"
MARKER, LOCK = "luthier-store.txt", "all.lock"
MARKED = b"This folder is a store of Luthier. What no run needs is removed by: luthier gc --store FOLDER\n"
OWN = {
    MARKER,
    "artifacts",
    "hashes.sqlite",
    "hashes.sqlite-journal",
    "leases",
    "lr_find",
    "openings.jsonl",
    "runs",
    "searches",
    "trash",
    "users",
    "work",
}
OF_STAGE = re.compile(r"\w+-[0-9a-f]{20}(@[0-9a-f]{12})?")  # how the store names what a stage makes or has made
OF_WORK = re.compile(r"\w+-[0-9a-f]{20}|run-.+-[0-9a-f]{6}")  # and where it works
SCHEMA = 2  # of manifests; those of the first have no seal
SHARED_VARIABLE = "LUTHIER_HOME"
RESUMABLE_SECONDS = 7 * 24 * 3600  # how long after its last change a collection leaves unfinished work
RECORDED_PACKAGES = ("luthier", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
CHANGED = "is cut short or changed: it has other bytes than its manifest records"


class Listener(Protocol):
    """Whoever shows progress; the library itself is silent."""

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        """`done` of `total` steps of `what`, with readable figures such as loss and tokens/s."""

    def say(self, line: str) -> None:
        """One line worth reading."""


class Silent:
    """A listener that shows nothing."""

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        pass

    def say(self, line: str) -> None:
        pass


@dataclass(frozen=True)
class Artifact:
    """A finished folder with its manifest, or an outside file or folder that was taken by its contents."""

    path: Path  # the folder (for a taken file: the file)
    id: str
    content: str  # SHA-256 over the contents: what enters the keys of later stages
    manifest: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    reused: bool = field(default=True, hash=False, compare=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage said of its result."""
        return dict(self.manifest.get("facts", {}))

    def timings(self) -> dict[str, float]:
        """Seconds per activity, as they were when the artifact was made."""
        file = self.path / TIMINGS
        return json.loads(file.read_text()) if file.exists() else {}


@dataclass(frozen=True)
class Unfinished:
    """Work that was interrupted and that the same command goes on with."""

    key: str  # "<stage>-<hash>": what it is to become
    inputs: tuple[str, ...]  # ids of the artifacts that it is made from
    size: int  # bytes of its checkpoints
    age: float  # seconds since it was last written to


@dataclass(frozen=True)
class Collected:
    """What a collection did."""

    removed: tuple[str, ...]  # "<key>" of an artifact, "work-<key>" of work that was abandoned
    freed: int  # bytes
    kept: tuple[Unfinished, ...]  # that no run needs, and that may be gone on with


class Out:
    """Where a stage writes: `folder` becomes the artifact; `checkpoints` survive failure and vanish with success."""

    def __init__(self, work: Path, name: str, listener: Listener) -> None:
        self.folder, self.checkpoints = work / "out", work / "checkpoints"
        self.name, self.listener = name, listener
        self.timings: dict[str, float] = {}

    def progress(self, done: float, total: float, **figures: str) -> None:
        """Tell whoever watches; never part of the result."""
        self.listener.progress(self.name, done, total, figures)

    def say(self, line: str) -> None:
        """One line for whoever watches."""
        self.listener.say(line)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds spent inside to `timings.json`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[what] = round(self.timings.get(what, 0.0) + time.perf_counter() - start, 4)


StageFunction = Callable[..., dict[str, Any]]


def stage(version: int, *, by_machine: bool = False) -> Callable[[StageFunction], StageFunction]:
    """Mark a function as a stage. `version` is bumped by hand when its meaning changes; `by_machine` keys it by hardware."""

    def mark(function: StageFunction) -> StageFunction:
        function.version, function.by_machine = version, by_machine  # type: ignore[attr-defined]
        return function

    return mark


class Lease:
    """What a living process uses of a store: ids in a file beside a lock that dies with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: set[str] = set()
        self.lock: Any = None
        self.list: Path | None = None

    def add(self, ids: Iterable[str]) -> None:
        """Keep these from being collected until `end`; waits while a collection is going on."""
        new = set(ids) - self.ids
        if not new:
            return
        with collecting(self.folder):
            if self.list is None:
                self.list = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}"
                self.lock = file_lock(self.list.with_suffix(".lock"))
                self.lock.acquire()
            with self.list.open("a", encoding="utf-8") as file:
                file.writelines(f"{each}\n" for each in sorted(new))
        self.ids |= new

    def end(self) -> None:
        """Nothing is used any more."""
        if self.list is not None:
            with collecting(self.folder):
                self.list.unlink(missing_ok=True)
                self.list.with_suffix(".lock").unlink(missing_ok=True)
                self.lock.release()
        self.ids, self.lock, self.list = set(), None, None


def living(folder: Path) -> set[str]:
    """What processes that are alive use; what the dead have left is cleared away."""
    found: set[str] = set()
    for path in sorted(folder.glob("*-*.lock")):
        with try_lock(path) as dead:
            if dead:
                path.with_suffix("").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            else:
                found |= set(path.with_suffix("").read_text(encoding="utf-8").split("\n")) - {""}
    return found


@contextmanager
def collecting(leases: Path) -> Iterator[None]:
    """One process at a time says what it uses, or looks at what nobody uses."""
    leases.mkdir(parents=True, exist_ok=True)
    with file_lock(leases / LOCK):
        yield


def file_lock(path: Path) -> Any:
    """A lock between processes, and between whatever holds it within one, that dies with its process."""
    from filelock import FileLock

    return FileLock(path, thread_local=False)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether nobody holds a lock; if so it is held meanwhile."""
    from filelock import Timeout

    lock = file_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class Store:
    """A folder of artifacts, with room for work in progress, run records and the count of test openings."""

    def __init__(self, root: Path, listener: Listener | None = None, *, fresh: bool = False) -> None:
        self.root, self.listener, self.fresh = root, listener or Silent(), fresh
        self.remade: set[str] = set()
        self.hashes = Hashes(root / "hashes.sqlite")
        self.lease, self.n_users = Lease(root / "leases"), 0

    @property
    def artifacts(self) -> Path:
        """Folder of finished artifacts."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Folder of run records."""
        return self.root / "runs"

    @property
    def searches(self) -> Path:
        """Folder of searches: what each needs, its study, page and table."""
        return self.root / "searches"

    @property
    def work(self) -> Path:
        """Folder of what is being made, and of the locks on it."""
        return self.root / "work"

    @functools.cached_property
    def shared(self) -> Store:
        """The store of fetched bases, which all of a user's recipes share."""
        return shared_store(self.listener)

    def make(self) -> None:
        """Mark a new or an empty folder as a store, before anything else is in it; UserError for any other that is none."""
        if (self.root / MARKER).exists():
            return
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise UserError("is no folder, and a store is one", where=str(self.root), hint="name a folder for it")
        # in this order: another process that makes it meanwhile puts the mark there first
        if self.root.is_dir() and any(self.root.iterdir()) and not is_store(self.root):
            raise no_store(self.root, "a new store needs a folder that is new or empty")
        check_writable(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARKER).write_bytes(MARKED)  # that it is there counts, not what a crash has left of its text
        sync_folder(self.root)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nothing that is used from here on is collected before this ends; a crash ends it too."""
        if not self.n_users:
            self.make()
        self.n_users += 1
        try:
            yield
        finally:
            self.n_users -= 1
            if not self.n_users:
                self.lease.end()

    def uses(self, ids: Iterable[str]) -> None:
        """While the store is in use: these artifacts are, here or in the shared store."""
        if self.n_users:
            self.lease.add(ids)

    def do(self, function: StageFunction, config: BaseModel | Mapping[str, Any], **inputs: Artifact) -> Artifact:
        """The artifact of a stage: reused if version, config and inputs are known, else made, resuming what was left."""
        unkeyed = getattr(config, "unkeyed", None) or None
        settings = config.model_dump(mode="json", exclude=unkeyed) if isinstance(config, BaseModel) else plain(config)
        name = function.__name__
        parts = {
            "stage": name,
            "version": function.version,  # type: ignore[attr-defined]
            "config": settings,
            "inputs": {role: artifact.content for role, artifact in sorted(inputs.items())},
        }
        if function.by_machine:  # type: ignore[attr-defined]
            parts["machine"] = hardware()
        key = f"{name}-{digest(parts)[:20]}"
        finished, work = self.artifacts / key, self.work / key
        with self.in_use(), disk_told(work):
            self.uses([key, *(artifact.id for artifact in inputs.values())])
            if finished.exists() and not (self.fresh and key not in self.remade):
                return self._reuse(finished)
            self.artifacts.mkdir(parents=True, exist_ok=True)
            with self.locked(key):
                self._settle(key)
                if finished.exists() and not (self.fresh and key not in self.remade):
                    return self._reuse(finished)
                if self.fresh:
                    shutil.rmtree(work, ignore_errors=True)
                for folder in (work / "out", work / "checkpoints"):
                    folder.mkdir(parents=True, exist_ok=True)
                ids = sorted(artifact.id for artifact in inputs.values())
                (work / INPUTS).write_bytes("\n".join(ids).encode())
                out = Out(work, name, self.listener)
                with out.timed("all"):
                    facts = function(config, out, **inputs)
                for outside in (artifact for artifact in inputs.values() if "id" not in artifact.manifest):
                    if self.take(outside.path).content != outside.content:
                        raise UserError("changed while it was read", where=str(outside.path), hint="run again")
                manifest = {
                    "id": key,
                    **parts,
                    "facts": plain(facts),
                    "made_with": made_with(),
                    "inputs": {role: {"id": a.id, "content": a.content} for role, a in sorted(inputs.items())},
                }
                seal(out.folder, manifest, out.timings)
                swap(out.folder, finished, work / "old")  # with --fresh there is an old one
                self._retire(key)
                shutil.rmtree(work, ignore_errors=True)
                self.remade.add(key)
        return Artifact(finished, key, manifest["content"], manifest, reused=False)

    def take(self, path: Path) -> Artifact:
        """An outside file or folder, known by its bytes; its name and place do not matter."""
        if path.is_file():
            return Artifact(path, f"file-{path.name}", self.hashes.of([path])[0])
        if path.is_dir():
            paths = visible_files(path)
            files = dict(zip((each.relative_to(path).as_posix() for each in paths), self.hashes.of(paths), strict=True))
            return Artifact(path, f"folder-{path.name}", digest(files), {"files": files})
        raise UserError(f"{path} is not there", hint="check the path; relative paths start at the recipe's folder")

    def get(self, artifact_id: str, content: str = "") -> Artifact:
        """A finished artifact by id, or by the unambiguous beginning of its id.

        With `content`: the one that had these contents, should it have been made anew since; else the one that is there.
        """
        if artifact_id and (self.work / artifact_id / "old").exists():
            with self.locked(artifact_id):  # a crash may have left it there
                self._settle(artifact_id)
        exact = [retired(artifact_id, content), artifact_id] if content else [artifact_id]
        for folder in (self.artifacts / each for each in exact if artifact_id):
            if folder.exists():
                return self._reuse(folder)
        found = sorted(self.artifacts.glob(f"{artifact_id}*")) if artifact_id else []
        if len(found) != 1:
            problem = "no artifact" if not found else f"{len(found)} artifacts"
            raise UserError(f"{problem} in {self.root} with an id like '{artifact_id}'", hint="see `luthier why <run>`")
        return self._reuse(found[0])

    def why(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and everything it was made from, nearest first."""
        found, queue = {artifact.id: artifact}, [artifact]
        while queue:
            for entry in queue.pop(0).manifest.get("inputs", {}).values():
                path = self.artifacts / entry["id"]
                if entry["id"] not in found and path.exists():
                    found[entry["id"]] = self._reuse(path)
                    queue.append(found[entry["id"]])
        return list(found.values())

    def verify(self, artifact: Artifact | None = None) -> list[UserError]:
        """Every file of one artifact, or of all, that is missing, changed or unexpected; empty when all is well."""
        folders = [artifact.path] if artifact else sorted(self.artifacts.glob("*"))
        return [problem for folder in folders for problem in check_folder(folder)]

    def records(self) -> tuple[list[dict[str, Any]], list[UserError]]:
        """The records of finished runs, the oldest first, and what is wrong with those that cannot be read."""
        found, problems = [], []
        for path in sorted(self.runs.glob("*/run.json")):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as problem:
                hint = "remove its folder; running the recipe again writes it anew"
                problems.append(UserError(f"cannot be read ({problem})", where=str(path), hint=hint))
        return sorted(found, key=lambda entry: str(entry.get("finished", ""))), problems

    def used_by(self, other: Store) -> None:
        """Remember that the runs of another store need what lies here."""
        self.make()
        place = str(other.root.resolve())
        told = self.root / "users" / digest(place)[:20]
        if not told.exists():
            told.parent.mkdir(parents=True, exist_ok=True)
            write_durably(told, place.encode())

    def unfinished(self) -> list[Unfinished]:
        """Work of late that has checkpoints or was made from finished artifacts, whether or not its process lives."""
        found = []
        for work in sorted(each for each in self.work.glob("*/") if OF_STAGE.fullmatch(each.name)):
            inputs = (work / INPUTS).read_text(encoding="utf-8").split("\n") if (work / INPUTS).exists() else []
            checkpoints = size_of(work / "checkpoints")
            stands_on = checkpoints or any(id_ and (self.artifacts / id_).exists() for id_ in inputs)
            age = time.time() - max((stat.st_mtime for stat in files_in(work)), default=0.0)
            if stands_on and age < RESUMABLE_SECONDS and not (self.artifacts / work.name).exists():
                found.append(Unfinished(work.name, tuple(inputs), checkpoints, age))
        return found

    def gc(self, *, everything: bool = False, among: set[str] | None = None) -> Collected:
        """Remove what no run needs and what was abandoned.

        A run needs what its record names, here or in a store that uses this one, and what it works with while its
        process lives; and all that these were made from. Work that was interrupted within the last 7 days stays too,
        with all that it is made from, unless `everything` that no finished run needs shall go. Only folders of the form that a store makes are removed, and
        none where the root is no store. Given `among`, only these artifacts may go.
        """
        if not is_store(self.root):
            raise no_store(self.root)
        trash, doomed, named = self.root / "trash", list[Path](), set[str]()
        with collecting(self.lease.folder):
            in_use = living(self.lease.folder)  # before the records: a run that ends in between stands in one of them
            for user in [Store(Path(each.read_text(encoding="utf-8"))) for each in (self.root / "users").glob("[!.]*")]:
                if user.lease.folder.is_dir():
                    with collecting(user.lease.folder):
                        in_use |= living(user.lease.folder)
                named |= user.named()
                named |= {id_ for left in user.unfinished() if not everything for id_ in left.inputs}
            named |= self.named()
            kept = {left.key: left for left in self.unfinished() if not everything and left.key not in in_use}
            empty(trash)  # of a collection that was cut short
            trash.mkdir(exist_ok=True)
            for folder in (each for each in self.work.glob("*/") if OF_WORK.fullmatch(each.name) and among is None):
                with try_lock(self.work / f"{folder.name}.lock") as free:
                    if free and folder.name not in in_use:
                        self._settle(folder.name)
                        if folder.name in kept and not (self.artifacts / folder.name).exists():
                            named |= set(kept[folder.name].inputs)
                            continue
                        doomed.append(trash / f"work-{folder.name}")
                        os.rename(folder, doomed[-1])
            needed = self._lineage(named | in_use)
            for folder in self.artifacts.glob("*/"):
                asked = among is None or folder.name in among
                if asked and folder.name not in needed and is_artifact(folder):
                    doomed.append(trash / folder.name)
                    os.rename(folder, doomed[-1])
            freed = sum(size_of(folder) for folder in doomed)
            empty(trash)
        kept_here = tuple(left for left in kept.values() if (self.work / left.key).exists())
        return Collected(tuple(sorted(folder.name for folder in doomed)), freed, kept_here)

    def named(self) -> set[str]:
        """Ids of the artifacts that the records of runs and of searches name; UserError where one cannot be read."""
        entries, problems = self.records()
        if problems:
            raise problems[0]
        of_runs = {
            name
            for entry in entries
            for role, each in entry["artifacts"].items()
            for name in (each, retired(each, entry.get("contents", {}).get(role, "")))
        }
        return of_runs | {name for file in self.searches.glob("*/needs/*.json") for name in needs(file)}

    def _lineage(self, ids: Iterable[str]) -> set[str]:
        """Artifacts of these ids and all that they were made from."""
        found: set[str] = set()
        queue = list(ids)
        while queue:
            each = queue.pop()
            if each not in found and (self.artifacts / each).exists():
                found.add(each)
                for entry in read_manifest(self.artifacts / each).get("inputs", {}).values():
                    queue += [entry["id"], retired(entry["id"], entry["content"])]
        return found

    def open_test(self, split: str, candidate: str) -> None:
        """Count that a candidate is about to see a test split; called before the first prediction is made."""
        if candidate not in self.openings(split):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / "openings.jsonl").open("ab+") as file:
                line = json.dumps({"split": split, "candidate": candidate}).encode() + b"\n"
                file.seek(0)
                before = file.read()
                torn = bool(before) and not before.endswith(b"\n")
                file.write((b"\n" if torn else b"") + line)  # a line that a crash tore stays apart from this one
                file.flush()
                os.fsync(file.fileno())

    def openings(self, split: str) -> list[str]:
        """The distinct candidates that have seen a test split, in order."""
        file = self.root / "openings.jsonl"
        found: dict[str, None] = {}
        for line in file.read_text(encoding="utf-8").split("\n") if file.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # torn by a crash before its prediction began: the same candidate is counted when it opens again
            if row["split"] == split:
                found[row["candidate"]] = None
        return list(found)

    def _reuse(self, folder: Path) -> Artifact:
        problems = check_folder(folder, self.hashes.of)
        if problems:
            raise UserError(
                f"{problems[0].where} {problems[0].what}",
                hint=f"remove the folder {folder} and run again: it is made anew",
            )
        manifest = read_manifest(folder)
        for package, then in manifest["made_with"]["packages"].items():
            now = made_with()["packages"].get(package)
            if now and now.split(".")[0] != then.split(".")[0]:
                self.listener.say(
                    f"warning: {folder.name} was made with {package} {then}, now {now}; --fresh redoes it"
                )
        return Artifact(folder, folder.name, manifest["content"], manifest)

    def _settle(self, key: str) -> None:
        """Under the key's lock: what a crash left of a finished artifact becomes the artifact."""
        work = self.work / key
        settle(work / "out", self.artifacts / key, work / "old", lambda folder: not check_folder(folder))
        self._retire(key)

    def _retire(self, key: str) -> None:
        """What --fresh replaced by other bytes stays for the runs that were recorded with it, named by its content."""
        old = self.work / key / "old"
        if not old.exists() or check_folder(old):
            return
        content = read_manifest(old)["content"]
        kept = self.artifacts / retired(key, content)
        if kept.exists() or content == read_manifest(self.artifacts / key)["content"]:
            shutil.rmtree(old)
        else:
            os.rename(old, kept)
            sync_folder(self.artifacts)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """One process at a time makes one thing; a second one waits and says so."""
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / f"{key}.lock"
        with try_lock(path) as free:
            if free:
                yield
                return
        self.listener.say(f"another process is making {key}; waiting for it")
        with file_lock(path):
            yield


def needs(file: Path) -> list[str]:
    """Ids of artifacts that a search has noted as needed; none where it has let go of them meanwhile."""
    try:
        return list(map(str, json.loads(file.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot be read ({problem})", where=str(file), hint="remove it; the same search writes it anew"
        ) from None


def is_artifact(folder: Path) -> bool:
    """Whether a folder has the form of what a stage made."""
    return bool(OF_STAGE.fullmatch(folder.name)) and (folder / MANIFEST).is_file()


def is_store(folder: Path) -> bool:
    """Whether a folder was made as a store: it is marked or, of an earlier version, holds what only a store holds."""
    if (folder / MARKER).is_file() or any(is_artifact(each) for each in (folder / "artifacts").glob("*/")):
        return True
    begun = (folder / "leases" / LOCK).is_file() or (folder / "hashes.sqlite").is_file()
    return begun and {each.name for each in folder.iterdir()} <= OWN


def no_store(folder: Path, hint: str = "it is the folder .luthier beside the recipe") -> UserError:
    """What is said of a folder that is no store."""
    inside = folder / ".luthier"
    return UserError(
        "is no store of Luthier", where=str(folder), hint=f"did you mean {inside}?" if is_store(inside) else hint
    )


def empty(trash: Path) -> None:
    """Remove what a collection put aside, and the folder where nothing else is in it."""
    for folder in trash.glob("*/"):
        name = folder.name.removeprefix("work-")
        if OF_STAGE.fullmatch(name) or OF_WORK.fullmatch(name):
            shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        trash.rmdir()


def retired(artifact_id: str, content: str) -> str:
    """The name of an artifact that was made anew since, with other contents."""
    return f"{artifact_id}@{content[:12]}"


def seal(folder: Path, manifest: dict[str, Any], timings: Mapping[str, float]) -> None:
    """Make a folder whole: timings, hashes of every file, fsync, and the manifest last."""
    if timings:
        (folder / TIMINGS).write_text(json.dumps(timings, sort_keys=True) + "\n")
    sync_tree(folder)
    paths = visible_files(folder)
    manifest["files"] = files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashed(paths), strict=True)
    }
    contents = {name: entry["sha256"] for name, entry in files.items() if name != TIMINGS}
    manifest["content"] = digest({"files": contents, "facts": manifest.get("facts", {})})
    manifest["schema"] = SCHEMA
    manifest["seal"] = seal_of(manifest)
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def seal_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all else that a manifest says, as it is read again."""
    said = {key: value for key, value in manifest.items() if key != "seal"}
    return digest(json.loads(json.dumps(said)))


def check_folder(folder: Path, hashes: Callable[[Iterable[Path]], list[str]] = hashed) -> list[UserError]:
    """What is wrong with a sealed folder, each problem naming the file. `hashes` says what bytes files have."""
    try:
        manifest = read_manifest(folder)
    except UserError as problem:
        return [problem]
    problems = []
    sized: dict[Path, str] = {}  # files that have their size -> the hash that they should have
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(UserError("is missing", where=str(path)))
        elif path.stat().st_size != entry["size"]:
            problems.append(UserError(CHANGED, where=str(path)))
        else:
            sized[path] = entry["sha256"]
    for path, sha256 in zip(sized, hashes(sized), strict=True):
        if sha256 != sized[path]:
            problems.append(UserError(CHANGED, where=str(path)))
    expected = {*manifest["files"], MANIFEST}
    for file in visible_files(folder):
        if file.relative_to(folder).as_posix() not in expected:
            problems.append(UserError("is not in the manifest", where=str(file)))
    contents = {name: entry["sha256"] for name, entry in manifest["files"].items() if name != TIMINGS}
    sealed = manifest["schema"] == 1 or manifest.get("seal") == seal_of(manifest)
    if not sealed or manifest["content"] != digest({"files": contents, "facts": manifest.get("facts", {})}):
        problems.append(
            UserError(
                "was changed by hand: its facts or files are not those that were sealed", where=str(folder / MANIFEST)
            )
        )
    return problems


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder."""
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not {"schema", "files", "content", "made_with"} <= manifest.keys():
            raise ValueError("parts are missing")
        if not isinstance(manifest["files"], dict) or not all(map(is_entry, manifest["files"].values())):
            raise ValueError("its list of files is none")
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot be read ({problem})", where=str(file), hint="remove its folder and run again"
        ) from None
    return manifest


def is_entry(entry: Any) -> bool:
    """Whether a manifest says of a file what it has to."""
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        return False
    return isinstance(entry["size"], int) and isinstance(entry["sha256"], str)


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(stat.st_size for stat in files_in(folder))


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """What the file system says of each file under a folder, which another process may be writing: what vanishes meanwhile
    does not count."""
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(place, name).stat()


def visible_files(folder: Path) -> list[Path]:
    """All files under a folder but the manifest, sorted."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / MANIFEST)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A copy made of JSON types alone; pydantic models and tuples are unfolded."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def shared_store(listener: Listener | None = None) -> Store:
    """The store of fetched bases of this user."""
    return Store(Path(os.environ.get(SHARED_VARIABLE) or Path.home() / ".cache" / "luthier"), listener)


@contextmanager
def disk_told(work: Path) -> Iterator[None]:
    """Turn a full disk into an error that says what stayed safe."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as problem:
        if isinstance(problem, OSError):
            number = problem.errno
        else:  # which tells the number in its sentence alone
            told = re.search(r"\(os error (\d+)\)", str(problem))
            number = int(told[1]) if told else None
        if number not in DISK_FULL:
            raise
        raise MachineError(
            f"the disk is full ({os.strerror(number)})",
            where=str(work),
            hint="free some space and run the same command again: finished stages and the last checkpoint are kept",
        ) from problem


@functools.cache
def made_with() -> dict[str, Any]:
    """Versions and hardware, recorded beside the key and not in it."""
    packages = {}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": packages, "machine": hardware()}


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, its number of usable cores and the thread setting: what timings and last bits depend on."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "processor": processor(),
        "cores": cores,
        "system": platform.system(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or cores),
    }


def processor() -> str:
    """The processor's name, with its widest vector instructions where the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in lines.items()}
    flags = set(values.get("flags", "").split())
    widest = next((f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in flags), "")
    return f"{values.get('model name', platform.machine())} {widest}".strip()
