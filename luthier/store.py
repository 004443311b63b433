"""The store memoises stages by version, config and the contents of their inputs, and never shows half-written work."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from luthier.errors import MachineError, UserError

MANIFEST, TIMINGS = "manifest.json", "timings.json"
SCHEMA = 1
RECORDED_PACKAGES = ("luthier", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


class Store:
    """A folder of artifacts, with room for work in progress, run records and the count of test openings."""

    def __init__(self, root: Path, listener: Listener | None = None, *, fresh: bool = False) -> None:
        self.root, self.listener, self.fresh = root, listener or Silent(), fresh
        self.remade: set[str] = set()

    @property
    def artifacts(self) -> Path:
        """Folder of finished artifacts."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Folder of run records."""
        return self.root / "runs"

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
        finished, work = self.artifacts / key, self.root / "work" / key
        if finished.exists() and not (self.fresh and key not in self.remade):
            return self._reuse(finished)
        self.artifacts.mkdir(parents=True, exist_ok=True)
        with self._lock(key), disk_told(work):
            if finished.exists() and not (self.fresh and key not in self.remade):
                return self._reuse(finished)
            if self.fresh:
                shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(work / "out", ignore_errors=True)
            for folder in (work / "out", work / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
            out = Out(work, name, self.listener)
            with out.timed("all"):
                facts = function(config, out, **inputs)
            manifest = {
                "schema": SCHEMA,
                "id": key,
                **parts,
                "facts": plain(facts),
                "made_with": made_with(),
                "inputs": {role: {"id": a.id, "content": a.content} for role, a in sorted(inputs.items())},
            }
            seal(out.folder, manifest, out.timings)
            if finished.exists():  # only with --fresh: the old one goes when the new one is whole
                old = work / "old"
                os.rename(finished, old)
            os.rename(out.folder, finished)
            sync_folder(self.artifacts)
            shutil.rmtree(work, ignore_errors=True)
            self.remade.add(key)
        return Artifact(finished, key, manifest["content"], manifest, reused=False)

    def take(self, path: Path) -> Artifact:
        """An outside file or folder, known by its bytes; its name and place do not matter."""
        if path.is_file():
            return Artifact(path, f"file-{path.name}", file_hash(path))
        if path.is_dir():
            files = {str(file.relative_to(path)): file_hash(file) for file in visible_files(path)}
            return Artifact(path, f"folder-{path.name}", digest(files))
        raise UserError(f"{path} is not there", hint="check the path; relative paths start at the recipe's folder")

    def get(self, artifact_id: str) -> Artifact:
        """A finished artifact by id, or by the unambiguous beginning of its id."""
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

    def gc(self) -> tuple[int, int]:
        """Remove artifacts that no run needs and abandoned work; returns (folders removed, bytes freed)."""
        needed: set[str] = set()
        for record in self.runs.glob("*/run.json"):
            for entry in json.loads(record.read_text())["artifacts"].values():
                path = self.artifacts / entry
                if path.exists():
                    needed |= {artifact.id for artifact in self.why(self._reuse(path))}
        removed, freed = 0, 0
        for folder in [f for f in self.artifacts.glob("*") if f.name not in needed] + list(
            (self.root / "work").glob("*/")
        ):
            freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            removed += 1
            with self._lock(folder.name):
                shutil.rmtree(folder)
        return removed, freed

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
        manifest = read_manifest(folder)
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["size"]:
                raise UserError(
                    f"{path} is {'cut short or changed' if path.is_file() else 'missing'}",
                    hint=f"remove the folder {folder} and run again: it is made anew",
                )
        for package, then in manifest["made_with"]["packages"].items():
            now = made_with()["packages"].get(package)
            if now and now.split(".")[0] != then.split(".")[0]:
                self.listener.say(
                    f"warning: {folder.name} was made with {package} {then}, now {now}; --fresh redoes it"
                )
        return Artifact(folder, folder.name, manifest["content"], manifest)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        (self.root / "work").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "work" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.listener.say(f"another process is making {key}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def seal(folder: Path, manifest: dict[str, Any], timings: Mapping[str, float]) -> None:
    """Make a folder whole: timings, hashes of every file, fsync, and the manifest last."""
    if timings:
        (folder / TIMINGS).write_text(json.dumps(timings, sort_keys=True) + "\n")
    files: dict[str, dict[str, Any]] = {}
    for file in visible_files(folder):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": file_hash(file)}
    manifest["files"] = files
    contents = {name: entry["sha256"] for name, entry in files.items() if name != TIMINGS}
    manifest["content"] = digest({"files": contents, "facts": manifest.get("facts", {})})
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    sync_folder(folder)


def check_folder(folder: Path) -> list[UserError]:
    """What is wrong with a sealed folder, each problem naming the file."""
    try:
        manifest = read_manifest(folder)
    except UserError as problem:
        return [problem]
    problems = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(UserError("is missing", where=str(path)))
        elif path.stat().st_size != entry["size"] or file_hash(path) != entry["sha256"]:
            problems.append(UserError("does not have the bytes that its manifest records", where=str(path)))
    expected = {*manifest["files"], MANIFEST}
    for file in visible_files(folder):
        if file.relative_to(folder).as_posix() not in expected:
            problems.append(UserError("is not in the manifest", where=str(file)))
    contents = {name: entry["sha256"] for name, entry in manifest["files"].items() if name != TIMINGS}
    if manifest["content"] != digest({"files": contents, "facts": manifest.get("facts", {})}):
        problems.append(UserError("facts or file list were changed by hand", where=str(folder / MANIFEST)))
    return problems


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder."""
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not {"files", "content", "made_with"} <= manifest.keys():
            raise ValueError("parts are missing")
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot be read ({problem})", where=str(file), hint="remove its folder and run again"
        ) from None
    return manifest


def visible_files(folder: Path) -> list[Path]:
    """All files under a folder but the manifest, sorted."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / MANIFEST)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def write_durably(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename: a reader sees the old bytes or the new ones."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_told(work: Path) -> Iterator[None]:
    """Turn a full disk into an error that says what stayed safe."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in DISK_FULL:
            raise
        raise MachineError(
            f"the disk is full ({problem.strerror})",
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
