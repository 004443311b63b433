"""Readers turn a file into rows, and say of each row that they could not read where it stood and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.choice import Choice


@dataclass(slots=True)
class Row:
    """One record of a file."""

    file: str  # name, without folders
    line: int  # 1-based line where the record begins
    values: dict[str, Any]  # column -> value, in the file's order


@dataclass(slots=True)
class Quarantined:
    """One record that was put aside."""

    file: str
    line: int  # 1-based
    column: str  # "" where the whole record is at fault
    excerpt: str  # at most 80 characters
    rule: str  # short id, e.g. "ragged", "encoding", "json", "missing-target"
    reason: str  # a sentence


class Reader(Choice):
    """A file format."""

    family: ClassVar[str] = "readers"

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        """Every record of the file, in order: read, or put aside. Raises UserError when the file as a whole is unfit."""
        raise NotImplementedError

    def describe(self, path: Path) -> dict[str, Any]:
        """What was detected, for people and the manifest: format, encoding, dialect, columns."""
        raise NotImplementedError
