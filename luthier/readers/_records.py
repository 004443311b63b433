"""Records of delimited text: physical lines cut into fields, and what cannot be cut told by its rule."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from luthier.readers._lines import LONGEST, Line

MOST_LINES = 100_000  # physical lines of one record; keeps memory flat behind a stray quote


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a record is written."""

    delimiter: str
    quote: str  # "" where nothing is quoted
    escape: str = ""  # "" where nothing is escaped
    skip_blanks: bool = False  # blanks behind a delimiter are no part of the field

    def options(self) -> dict[str, Any]:
        """The same in the words of the csv module."""
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote or None,
            "quoting": csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            "escapechar": self.escape or None,
            "skipinitialspace": self.skip_blanks,
        }

    def cut(self, text: str) -> list[str] | None:
        """The fields of one physical line; None where it is none or more than one record by itself."""
        try:
            return next(csv.reader([text], strict=True, **self.options()), None)
        except csv.Error:
            return None

    def opened(self, text: str) -> list[str]:
        """The fields of a line that a quote leaves open; the last one is the open one."""
        return next(csv.reader([text], **self.options()))


@dataclass(slots=True)
class Record:
    """What stands between two record boundaries."""

    lines: list[Line]
    fields: list[str]
    rule: str = ""  # why it could not be divided into fields
    reason: str = ""

    @property
    def text(self) -> str:
        return self.lines[0].text if len(self.lines) == 1 else "".join(line.text for line in self.lines)


class _Feed:
    """Hands physical lines to the csv module, remembers those of the record in hand, and takes them back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines = lines
        self.returned: deque[Line] = deque()
        self.begin()

    def begin(self) -> None:
        self.taken: list[Line] = []
        self.size = 0  # characters
        self.ended = False

    def give_back(self) -> None:
        """All lines of the record but its first will be read again."""
        self.returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.ended = self.size > LONGEST or len(self.taken) >= MOST_LINES
        if self.ended:
            raise StopIteration
        line = self.returned.popleft() if self.returned else next(self.lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        self.size += len(line.text)
        return line.text


def _honest(record: Record) -> bool:
    return False


def split(lines: Iterator[Line], dialect: Dialect, swallows: Callable[[Record], bool] = _honest) -> Iterator[Record]:
    """Every record but blank lines, in order. One that cannot be divided takes its first physical line alone, and so does
    one of several lines of which `swallows` says that they are records of their own.

    A line that is given back is never part of a second long record: what its quotes open, they would have closed in
    the first. So each line is cut twice at most.
    """
    csv.field_size_limit(4 * LONGEST)  # of the whole process; the default of 131,072 would refuse long texts
    feed = _Feed(lines)
    parser = csv.reader(feed, strict=True, **dialect.options())
    while True:
        feed.begin()
        try:
            fields = next(parser)
        except StopIteration:
            return
        except csv.Error:
            whole = not feed.ended and len(feed.taken) == 1
            too_long = len(feed.taken[0].text) > LONGEST
            limited = feed.size > LONGEST or len(feed.taken) >= MOST_LINES
            feed.give_back()
            yield _too_long(feed.taken) if too_long else _misquoted(feed.taken, dialect, whole, limited)
            continue
        if feed.size > LONGEST:
            yield _too_long(feed.taken)
        elif fields:
            record = Record(feed.taken, fields)
            if len(record.lines) > 1 and swallows(record):
                closed = record.lines[-1].number
                feed.give_back()
                yield _swallowing(feed.taken, dialect, closed)
            else:
                yield record


def _too_long(lines: list[Line]) -> Record:
    return Record(lines, [], "too-long", f"the record is longer than {LONGEST} characters")


def _misquoted(lines: list[Line], dialect: Dialect, whole: bool, limited: bool) -> Record:
    """`whole`: the fault lies within the line. Otherwise its last field opens a quote that does not end well."""
    if whole:
        after = f"a closing {dialect.quote} is followed by neither {dialect.delimiter!r} nor the end of the line"
        return Record(lines, [], "quote", after + _cause(lines[0].text, dialect))
    fields = dialect.opened(lines[0].text)
    until = f" within {LONGEST} characters or {MOST_LINES} lines" if limited else ""
    reason = f"the {dialect.quote} that opens field {len(fields)} is never properly closed{until}"
    return Record(lines, fields, "unclosed-quote", reason)


def _cause(text: str, dialect: Dialect) -> str:
    """What may be why a closing quote stands where none can, and what helps; "" where nothing is seen."""
    if not dialect.escape and f"\\{dialect.quote}" in text:
        return "; if a backslash escapes it, set the reader's `escape: '\\'`"
    ends = rf"{re.escape(dialect.quote)}[ \t\xa0]+({re.escape(dialect.delimiter)}|[\r\n]*$)"
    return "; remove the blanks behind it" if re.search(ends, text) else ""


def _swallowing(lines: list[Line], dialect: Dialect, closed: int) -> Record:
    fields = dialect.opened(lines[0].text)
    n = closed - lines[0].number
    are = (
        "the line up to there is a record of its own"
        if n == 1
        else f"the {n} lines up to there are records of their own"
    )
    reason = f"the {dialect.quote} that opens field {len(fields)} is closed in line {closed} only, and {are}"
    return Record(lines, fields, "unclosed-quote", reason)
