"""A power cut: the k-th change to the disk does not happen, or half of it does, and nothing happens after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "link", "fsync")


class PowerCut(BaseException):
    """The machine is off."""


class Power:
    """Counts changes to the disk, and fails from the one numbered `last` on; None: never."""

    def __init__(self, last: int | None) -> None:
        self.last, self.n = last, 0

    def change(self) -> bool:
        """Whether the next change still happens."""
        self.n += 1
        return self.last is None or self.n <= self.last


@contextmanager
def power(last: int | None = None) -> Iterator[Power]:
    """Let so many changes to the disk happen and no more; without a number, all of them, counted."""
    meter = Power(last)

    def watched(action: Any) -> Any:
        def change(*arguments: Any, **options: Any) -> Any:
            if not meter.change():
                raise PowerCut
            return None if action is os.fsync else action(*arguments, **options)

        return change

    def write_bytes(path: Path, content: bytes) -> None:
        whole = meter.change()
        with path.open("wb") as file:
            file.write(content if whole else content[: len(content) // 2])
        if not whole:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, watched(getattr(os, name)))
        patch.setattr(Path, "write_bytes", write_bytes)
        yield meter


@contextmanager
def failing(number: int, error: int) -> Iterator[Power]:
    """The change of this number (from 1) fails once with an errno, half done where it is a write; later ones happen."""
    meter = Power(None)

    def fails() -> bool:
        meter.change()
        return meter.n == number

    def watched(action: Any) -> Any:
        def change(*arguments: Any, **options: Any) -> Any:
            if fails():
                raise OSError(error, os.strerror(error))
            return None if action is os.fsync else action(*arguments, **options)

        return change

    def write_bytes(path: Path, content: bytes) -> None:
        failed = fails()
        with path.open("wb") as file:
            file.write(content[: len(content) // 2] if failed else content)
        if failed:
            raise OSError(error, os.strerror(error))

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, watched(getattr(os, name)))
        patch.setattr(Path, "write_bytes", write_bytes)
        yield meter


State = tuple[tuple[str, bytes], ...]


def state_of(folder: Path) -> State:
    """Every file below with its bytes, and every folder; locks and leases of processes are no state."""
    files = sorted(path for path in folder.rglob("*") if path.suffix != ".lock" and "leases" not in path.parts)
    return tuple((str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b"") for path in files)


def copy(folder: Path, target: Path) -> Path:
    """The same in another place, from where all was."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


def crashes(origin: Path, scratch: Path, attempt: Callable[[Path], object]) -> Iterator[Path]:
    """Every different state in which a power cut leaves a folder, at one change after the other, until it is done."""
    known: set[State] = set()
    for last in count():
        root = copy(origin, scratch)
        try:
            with power(last):
                attempt(root)
            return
        except PowerCut:
            state = state_of(root)
            if state not in known:
                known.add(state)
                yield root
