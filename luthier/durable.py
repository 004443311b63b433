"""Files and folders that outlive a crash: written whole, swapped whole, and known by their bytes without reading twice."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from luthier.errors import UserError

SETTLED_NS = 2_000_000_000  # a file that changed later than this before it was read may change again unseen
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}  # what file systems without hard links answer


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashed(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, every byte read."""
    return [file_hash(path) for path in paths]


class Hashes:
    """SHA-256 of files, remembered by what the file system says of them, so that gigabytes are not read at every run.

    A file is known again by device, inode, size and both of its times; the time of change cannot be set back by hand.
    One that had changed within two seconds before it was read is not remembered: it may change again within the same
    tick of the file system's clock, and nothing would show it (what git calls racily clean). Losing the memory, or
    being unable to write it, costs time and nothing else.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def of(self, paths: Iterable[Path]) -> list[str]:
        """SHA-256 of each file."""
        files = {path: identity(path.stat()) for path in paths}
        known = self._known(files.values())
        found, new = [], {}
        for path, stat in files.items():
            sha256 = known.get(stat)
            if sha256 is None:
                sha256, at_rest = read_at_rest(path)
                if at_rest:
                    new[at_rest] = sha256
            found.append(sha256)
        self._remember(new)
        return found

    def _known(self, stats: Iterable[str]) -> dict[str, str]:
        if not self.file.exists():
            return {}
        try:
            with contextlib.closing(sqlite3.connect(self.file)) as memory:
                asked = ((stat, memory.execute("SELECT sha256 FROM files WHERE stat = ?", (stat,))) for stat in stats)
                return {stat: row[0] for stat, rows in asked for row in rows}
        except sqlite3.OperationalError:  # may not be read here
            return {}
        except sqlite3.DatabaseError:  # damaged
            self.file.unlink(missing_ok=True)
            return {}

    def _remember(self, new: dict[str, str]) -> None:
        if not new:
            return
        with contextlib.suppress(OSError, sqlite3.DatabaseError):  # locked for long, or not ours to write
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.file)) as memory, memory:
                memory.execute("CREATE TABLE IF NOT EXISTS files (stat TEXT PRIMARY KEY, sha256 TEXT NOT NULL)")
                memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", new.items())


def identity(stat: os.stat_result) -> str:
    """What the file system says of a file's bytes."""
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def read_at_rest(path: Path) -> tuple[str, str]:
    """SHA-256 of a file and its identity, which is empty where the file was not at rest."""
    with path.open("rb") as file:
        before, began = os.fstat(file.fileno()), time.time_ns()
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        stat = identity(os.fstat(file.fileno()))
    at_rest = identity(before) == stat and began - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
    return sha256, stat if at_rest else ""


def unique_beside(path: Path) -> Path:
    """A hidden name in the same folder that nobody else uses, for what is not whole yet."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def check_writable(folder: Path, hint: str = "name a folder that you may write in") -> None:
    """UserError, before any work is done, where nothing can be written in a folder, which need not be there yet."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        if problem.errno in DISK_FULL:
            raise
        reason = os.strerror(problem.errno or 0)
        at = "" if there == folder.absolute() else f"{there}: "
        raise UserError(f"cannot be written ({at}{reason})", where=str(folder), hint=hint) from None


def write_durably(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename: a reader sees the old bytes or the new ones."""
    beside = unique_beside(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def place_new(beside: Path, target: Path) -> None:
    """Give a finished file its name; FileExistsError where something has that name already, which stays as it is."""
    try:
        os.link(beside, target)
    except OSError as problem:
        if problem.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(beside, target)
    else:
        beside.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Put every file and folder below on disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            with Path(place, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


def swap(new: Path, folder: Path, old: Path) -> None:
    """Put a whole folder in the place of another, which becomes `old`.

    At each moment one of the three is whole; after a crash `settle` makes the newest of them `folder`.
    """
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    sync_folder(folder.parent)


def settle(new: Path, folder: Path, old: Path, whole: Callable[[Path], bool]) -> None:
    """After a crash: the newest whole one of the three becomes `folder`; `old` is left where it is not that one."""
    if new.exists() and whole(new):
        swap(new, folder, old)
        return
    shutil.rmtree(new, ignore_errors=True)
    if old.exists() and not (folder.exists() and whole(folder)) and whole(old):
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(old, folder)
        sync_folder(folder.parent)
