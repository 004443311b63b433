"""Readers turn a file into rows, and say of each row that they could not read where it stood and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from luthier.choice import Choice, unknown
from luthier.errors import Problems, UserError

RARE = 0.1  # share of rows of several lines up to which they are told


@dataclass(slots=True)
class Row:
    """One record of a file."""

    file: str  # name, without folders
    line: int  # 1-based line where the record begins
    values: dict[str, Any]  # column -> value, in the file's order
    blank_before: int = field(default=0, compare=False)  # blank lines between it and the record before
    text: str = field(default="", compare=False, repr=False)  # the record as the file has it, without its line ending
    joined: int = field(default=0, compare=False, repr=False)  # lines that may be records which a stray quote joins


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

    def doubt(self, path: Path, missing: Sequence[str]) -> str:
        """What may be why columns are not there, and what to set then; "" where nothing speaks for it."""
        return ""


class Table:
    """A file through its reader: read again at each pass and never held whole. The counts are those of the last pass."""

    def __init__(self, path: Path, reader: Reader, aside: Callable[[Quarantined], None] = lambda record: None) -> None:
        self.path, self.reader, self.aside = path, reader, aside
        self.described = reader.describe(path)
        self.n_read = self.n_rows = 0  # records met, and those of them that could be read
        self.n_joined, self.first_joined = 0, (0, 0)  # rows that may be several joined by a quote; line, lines of it
        self.furthest = 0  # the last record that any pass has met

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns, where the format has them for all rows alike."""
        return self.described.get("columns")

    def records(self) -> Iterator[Row | Quarantined]:
        """Every record in order; what cannot be read is put aside too, once."""
        self.n_read = self.n_rows = self.n_joined = 0
        for record in self.reader.rows(self.path):
            self.n_read += 1
            if isinstance(record, Quarantined):
                if self.n_read > self.furthest:
                    self.aside(record)
            else:
                self.n_rows += 1
                if record.joined:
                    self.first_joined = self.first_joined if self.n_joined else (record.line, record.joined)
                    self.n_joined += 1
            self.furthest = max(self.furthest, self.n_read)
            yield record

    def __iter__(self) -> Iterator[Row]:
        return (record for record in self.records() if isinstance(record, Row))

    def joined(self) -> str:
        """What the last pass tells of rows that may be several, joined by a stray quote; "" where none, or many, are."""
        if not self.n_joined or (self.n_joined > 1 and self.n_joined > RARE * self.n_rows):
            return ""
        line, n = self.first_joined
        others = "no other" if self.n_joined == 1 else f"only {self.n_joined - 1:,} of the others"
        has = "has" if self.n_joined < 3 else "have"
        return (
            f"{self.path.name}, line {line}: the record has {n:,} lines, and {others} {has} several; if they are records of "
            "their own, a quote is not closed there"
        )

    def lacking(self, columns: Iterable[str]) -> list[UserError]:
        """What is told of each of these columns that the table has not, with the nearest name."""
        known = self.columns
        missing = [] if known is None else [name for name in dict.fromkeys(columns) if name not in known]
        doubt = self.reader.doubt(self.path, missing) if missing else ""
        told = [UserError(unknown("column", name, known or []), where=str(self.path)) for name in missing]
        return [*told, *([UserError(doubt, where=str(self.path))] if doubt else [])]

    def require(self, columns: Iterable[str]) -> None:
        """UserError, all missing ones at once with the nearest names, unless the table has these columns."""
        if problems := self.lacking(columns):
            raise Problems(problems)


def too_many(n: int, of: int, limit: float) -> bool:
    """Whether n of so many rows are more than a share allows; a single one is not, unless none is allowed."""
    return n > max(limit * of, 1 if limit else 0)
