"""Swallowed lines: whether a quote that is closed some lines later holds an honest text, or records of their own.

Nothing in the file says so, so the two readings are weighed against each other as a logarithm of odds. Each line that
stands behind the first, and the first without its quote, may have as many fields as the table, and in each column what the
table has there: numbers where numbers stand, one of few values, a text that begins without a blank. The lines of a
letter or an address do not. Where few records are known, the lines are judged by each other too. What stays
undecided is read as one record and told.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from typing import NamedTuple

from luthier.readers._records import Dialect, Record

RECENT = 300  # records that a column is judged by
FEWEST = 9  # records below which a column says nothing
HONEST = 5.0  # by how much an honest text is likelier beforehand; nats
WHERE_USUAL = 10.0  # and by how much more where all records are of several lines
MOST, LEAST = 3.0, -4.0  # what one column of one line may say; nats
INTEGER = re.compile(r"[+-]?\d+")
FIT_BY_CHANCE = {2: 0.5, 3: 0.25}  # share of the lines of a text that have this many fields; 0.1 where more
# Share of the pieces of a text between two delimiters that are of a kind.
KIND_BY_CHANCE = {"empty": 0.05, "integer": 0.04, "figures": 0.04, "word": 0.3, "code": 0.08, "text": 0.6}


class _Seen(NamedTuple):
    """What is remembered of a record."""

    fields: list[str]
    quoted: list[bool]  # of each field, whether quotes stand around it
    long: bool  # whether it has several lines


@dataclass
class Judge:
    """Judges records of several lines by the records before them, and by those of the file's beginning."""

    dialect: Dialect
    width: int  # fields of a record
    recent: deque[_Seen] = field(default_factory=lambda: deque(maxlen=RECENT))
    known_to: int = 0  # the last line that was learned from
    n_new: int = 0  # records learned from since `usual` was made
    made: _Usual | None = None

    def learn(self, record: Record) -> None:
        """Remember how a record looks, once."""
        line = record.lines[0].number
        if len(record.fields) == self.width and line > self.known_to:
            self.known_to = line
            self.n_new += 1
            quoted = _quoted(record.text, record.fields, self.dialect.quote)
            self.recent.append(_Seen(record.fields, quoted, len(record.lines) > 1))

    def learn_all(self, records: Iterable[Record]) -> None:
        """Remember those that are beyond doubt: of one line, or of several whose first cannot be a record by itself."""
        for record in records:
            if not record.rule and (len(record.lines) == 1 or not self.first_could_be_whole(record)):
                self.learn(record)

    def first_could_be_whole(self, record: Record) -> bool:
        """Whether the first line has all its fields, if the quote that it leaves open were an ordinary character."""
        return len(self.whole(record)) >= self.width

    def whole(self, record: Record) -> list[str]:
        """The fields of the first line, if the quote that it leaves open were an ordinary character."""
        fields = self.dialect.opened(record.lines[0].text.rstrip("\r\n"))
        return [*fields[:-1], *fields[-1].split(self.dialect.delimiter)]

    def joined(self, record: Record) -> int:
        """Lines of a record that may be records of their own, joined by a stray quote; 0 where nothing speaks for it.

        Nothing does where the record ends otherwise than its lines, and where its column is quoted as a rule.
        """
        told = sum(bool(line.text.strip("\r\n")) for line in record.lines)
        endings = {line.text[len(line.text.rstrip("\r\n")) :] for line in record.lines} - {""}
        if not self.dialect.quote or told < 2 or len(endings) > 1 or not self.first_could_be_whole(record):
            return 0
        at = len(self.dialect.opened(record.lines[0].text)) - 1
        short = [seen.quoted[at] for seen in self.recent if not seen.long] if at < self.width else []
        return 0 if short and 2 * sum(short) > len(short) else len(record.lines)

    def swallows(self, record: Record) -> bool:
        """Whether the lines behind a record's first one are likelier records of their own than its text."""
        if not self.dialect.quote:
            return False  # an escaped line ending
        endings = {line.text[len(line.text.rstrip("\r\n")) :] for line in record.lines} - {""}
        if self.width < 2 or len(endings) > 1 or not self.first_could_be_whole(record):
            return False  # a record ends as all do, which the lines of a text need not
        told = [line.text for line in record.lines[1:] if line.text.strip("\r\n")]
        cut = [self.dialect.cut(text) for text in told]
        n_fit = sum(fields is not None and len(fields) == self.width for fields in cut)
        if 2 * n_fit < len(cut) or not cut:
            return False
        usual = self.usual()
        columns = usual.columns
        odds = -HONEST - WHERE_USUAL * usual.long
        odds += 0 if len(record.fields) == self.width else 3
        whole = self.whole(record)
        before = whole
        n_open = len(self.dialect.opened(record.lines[0].text)) - 1  # fields before the one that is open
        if len(whole) != self.width:
            odds += log(0.1 / 0.7)
        elif n_open < self.width - 1:  # what stands behind the quote is of the columns to the right, or of a text
            odds += log(0.95 / FIT_BY_CHANCE.get(self.width - n_open, 0.1))
            odds -= 2 * sum(cell[:1].isspace() for cell in whole[n_open + 1 :]) * (not columns)
            for at, column in enumerate(columns[n_open + 1 :], start=n_open + 1):
                odds += column.odds(whole[at], False, "", first=False)
        if not columns:
            lines = [fields for fields in [whole, *cut] if fields is not None and len(fields) == self.width]
            odds += _alike([seen.fields for seen in self.recent], lines, n_open if whole in lines else -1)
        for text, fields in zip(told, cut, strict=True):
            if fields is None or len(fields) != self.width:
                odds += log(0.1 / 0.7)
                continue
            chance = FIT_BY_CHANCE.get(self.width, 0.1)
            if columns:
                odds += log(0.95 / chance)
            else:  # nothing is known but that a comma of a text has a blank behind it
                odds += log(0.95 / chance) - 2 * sum(cell[:1].isspace() for cell in fields[1:])
            quoted = _quoted(text, fields, self.dialect.quote)
            for at, column in enumerate(columns):
                odds += column.odds(fields[at], quoted[at], before[at] if at < len(before) else "", first=at == 0)
            before = fields
        return odds > 0

    def usual(self) -> _Usual:
        """How records look, made anew when a part of those that are remembered has changed."""
        if self.made is None or self.n_new > RECENT / 10 or len(self.made.columns) < 2:
            self.made, self.n_new = _Usual(list(self.recent), self.width), 0
        return self.made


def _alike(known: list[list[str]], lines: list[list[str]], n_open: int) -> float:
    """How much likelier lines are records by what they have in common with each other and with the few that are known:
    a count that goes on, the kind of a column, a value that stands again; nats.

    `n_open`: fields that the first line has before its open quote, of which nothing can be told; -1 where it is none.
    """
    odds = 0.0
    for n, fields in enumerate(lines):
        own = range(n_open + 1 if n == 0 and n_open >= 0 else 0, len(fields))
        for at in own:
            cell, of = fields[at], kind(fields[at])
            others = [each[at] for each in known] + [each[at] for m, each in enumerate(lines) if m != n]
            kinds = {kind(other) for other in others[: len(known)]}
            if at == 0 and n and (number := _integer(cell)) is not None:
                before = _integer(lines[n - 1][0])
                odds += 1 if before is not None and number == before + 1 else LEAST
            elif of in ("integer", "figures"):
                odds += 1 if kinds == {of} else 0
            elif cell and not cell[:1].isspace() and cell in others:
                odds += 2
            if kinds and kinds <= {"integer", "figures"} and of not in kinds:
                odds += LEAST / 2
    return odds


class _Usual:
    """How the records look that are remembered."""

    def __init__(self, recent: list[_Seen], width: int) -> None:
        self.long = sum(seen.long for seen in recent) / (len(recent) or 1)  # share
        known = len(recent) >= FEWEST
        self.columns = [
            _Column([seen.fields[at] for seen in recent], sum(seen.quoted[at] for seen in recent))
            for at in range(width if known else 0)
        ]


class _Column:
    """What the values of a column have in common."""

    def __init__(self, cells: list[str], n_quoted: int) -> None:
        self.n, self.n_quoted = len(cells), n_quoted
        self.counts = Counter(cells)
        self.kinds = Counter(map(kind, cells))
        self.n_blank = sum(cell[:1].isspace() for cell in cells)
        self.few = self.n >= 9 and len(self.counts) <= self.n / 3
        self.unique = len(self.counts) == self.n
        self.shortest, self.longest = min(map(len, cells)), max(map(len, cells))
        numbers = list(map(_integer, cells))
        pairs = pairwise(numbers)
        self.rises = self.unique and all(a is not None and b is not None and a < b for a, b in pairs)

    def odds(self, cell: str, quoted: bool, above: str, *, first: bool) -> float:
        """How much likelier a cell is in this column than between two delimiters of a text; nats, within limits."""
        odds = _odds(self.n_quoted if quoted else self.n - self.n_quoted, self.n, 0.1 if quoted else 0.9)
        if self.few:
            return _within(odds + _odds(self.counts[cell], self.n, 0.02 if cell in self.counts else 0.98))
        if self.unique and cell in self.counts:
            return LEAST
        of = kind(cell)
        odds += _odds(self.kinds[of], self.n, KIND_BY_CHANCE[of])
        starts_blank = cell[:1].isspace()
        chance = 0.1 if first else 0.8
        odds += _odds(
            self.n_blank if starts_blank else self.n - self.n_blank, self.n, chance if starts_blank else 1 - chance
        )
        if self.kinds[of] and of != "text" and not self.shortest - 1 <= len(cell) <= self.longest + 1:
            odds -= 2
        number, before = _integer(cell), _integer(above)
        if self.rises and number is not None and before is not None:
            odds += log(0.95 / 0.5) if number > before else 2 * LEAST
            return min(MOST, odds)
        return _within(odds)


def _odds(n: int, of: int, chance: float) -> float:
    """What `n` of so many cells say for the column, against a share by chance; nats."""
    return log((n + 0.1) / (of + 1) / chance)


def _within(odds: float) -> float:
    return max(LEAST, min(MOST, odds))


def _quoted(text: str, fields: list[str], quote: str) -> list[bool]:
    """Of each field of a record, whether quotes stand around it."""
    if not quote or quote not in text:
        return [False] * len(fields)
    found, at = [], 0
    for cell in fields:
        begins = text[at : at + 1] == quote and text[at : at + len(cell)] != cell
        found.append(begins)
        at += len(cell) + (2 + cell.count(quote) if begins else 0) + 1
    return found


def _integer(cell: str) -> int | None:
    return int(cell) if len(cell) < 19 and INTEGER.fullmatch(cell) else None


def kind(cell: str) -> str:
    """`empty`, `integer`, `figures` (a date, a price), `word`, `code` (letters and others without a blank) or `text`."""
    cell = cell.strip()
    if not cell:
        return "empty"
    if INTEGER.fullmatch(cell):
        return "integer"
    if not any(map(str.isalpha, cell)):
        return "figures"
    if cell.isalpha():
        return "word"
    return "text" if " " in cell else "code"
