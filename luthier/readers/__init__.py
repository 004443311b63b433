"""Readers turn a file into rows, and say of each row that they could not read where it stood and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from luthier.choice import Choice, unknown
from luthier.errors import Problems, UserError


@dataclass(slots=True)
class Row:
    """One record of a file."""

    file: str  # name, without folders
    line: int  # 1-based line where the record begins
    values: dict[str, Any]  # column -> value, in the file's order
    blank_before: int = field(default=0, compare=False)  # blank lines between it and the record before
    text: str = field(default="", compare=False, repr=False)  # as it stands in the file, without its ending


@dataclass(slots=True)
class Quarantined:
    """One record that was put aside."""

    file: str
    line: int  # 1-based
    column: str  # "" where the whole record is at fault
    excerpt: str  # at most 80 characters
    rule: str  # short id, e.g. "ragged", "encoding", "json", "missing-target"
    reason: str  # a sentence
    blank_before: int = field(default=0, compare=False)
    text: str = field(
        default="", compare=False, repr=False
    )  # the record itself; a byte that is no text as U+DC00 + byte

    def told(self) -> dict[str, Any]:
        """All but the record itself, of which the excerpt tells enough where the table stays."""
        return {name: value for name, value in asdict(self).items() if name != "text"}


class Reader(Choice):
    """A file format."""

    family: ClassVar[str] = "readers"

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        """Every record of the file, in order: read, or put aside. Raises UserError when the file as a whole is unfit."""
        raise NotImplementedError

    def describe(self, path: Path) -> dict[str, Any]:
        """What was detected, for people and the manifest: format, encoding, dialect, columns."""
        raise NotImplementedError


class Table:
    """A file through its reader: read again at each pass and never held whole. The counts are those of the last pass."""

    def __init__(self, path: Path, reader: Reader, aside: Callable[[Quarantined], None] = lambda record: None) -> None:
        self.path, self.reader, self.aside = path, reader, aside
        self.described = reader.describe(path)
        self.n_read = self.n_rows = 0  # records met, and those of them that could be read
        self.furthest = 0  # the last record that any pass has met

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns, where the format has them for all rows alike."""
        return self.described.get("columns")

    def records(self) -> Iterator[Row | Quarantined]:
        """Every record in order; what cannot be read is put aside too, once."""
        self.n_read = self.n_rows = 0
        for record in self.reader.rows(self.path):
            self.n_read += 1
            if isinstance(record, Quarantined):
                if self.n_read > self.furthest:
                    self.aside(record)
            else:
                self.n_rows += 1
            self.furthest = max(self.furthest, self.n_read)
            yield record

    def __iter__(self) -> Iterator[Row]:
        return (record for record in self.records() if isinstance(record, Row))

    def require(self, columns: Iterable[str]) -> None:
        """UserError, all missing ones at once with the nearest names, unless the table has these columns."""
        known = self.columns
        if known is not None:
            problems = [
                UserError(unknown("column", name, known), where=str(self.path))
                for name in dict.fromkeys(columns)
                if name not in known
            ]
            if problems:
                raise Problems(problems)
