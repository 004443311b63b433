"""CSV: delimited text, each record at its physical line, the broken ones put aside without losing those after them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import model_validator

from luthier.errors import UserError
from luthier.readers import Quarantined, Reader, Row
from luthier.readers._lines import LONGEST, Encoding, Line, excerpt, find_encoding, flaw, physical_lines, refuse_unfit

DELIMITERS = "\t|;,"  # of two that fit equally well, the one that is rarer in prose
DELIMITER_HINT = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)  # Excel's, in a first line of its own
MOST_LINES = 100_000  # physical lines of one record; keeps memory flat behind a stray quote


class Csv(Reader):
    """A header and records of as many fields; all values are text and whitespace is kept as it is.

    A column without a name is called `column 1` and so on by its place; a first line `sep=;` names the delimiter.
    Blank lines are skipped: they are neither rows nor put aside. Rules of what is put aside: `ragged`, `quote`,
    `unclosed-quote`, `encoding`, `nul`, `too-long` (over 16 Mi characters), `header` (the header again). After an unclosed quote, which includes one
    that stays open for 16 Mi characters or 100,000 lines, reading goes on at the next physical line.
    """

    encoding: Encoding = "auto"
    """Encoding of the file, by its Python name; `auto` looks at the byte order mark and at every byte."""
    delimiter: str = "auto"
    """One character between fields; `auto` takes whichever of , ; tab | divides the first lines most evenly."""
    quote: str = '"'
    """One character around fields, doubled inside them; empty when the file quotes nothing."""

    @model_validator(mode="after")
    def _single_characters(self) -> Csv:
        if self.delimiter != "auto" and (len(self.delimiter) != 1 or self.delimiter in "\r\n\0"):
            raise ValueError("delimiter must be `auto` or one character, and no line ending")
        if len(self.quote) > 1 or (self.quote and self.quote in "\r\n\0"):
            raise ValueError("quote must be one character, or empty, and no line ending")
        if self.quote == self.delimiter:
            raise ValueError("delimiter and quote must differ")
        return self

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        encoding, _ = self._encoding(path)
        records, first, header = self._open(path, encoding, self._delimiter(path, encoding))
        told, last = first.text.strip("\r\n"), first.lines[-1].number
        empty = True
        for record in records:
            empty = False
            line = record.lines[0].number
            blank, last = line - last - 1, record.lines[-1].number
            rule, reason, column = _problem(record, header, encoding)
            if not rule and len(header) > 1 and record.fields[-1] == first.fields[-1]:
                again = record.text.strip("\r\n").removeprefix("\ufeff") == told  # files joined end to end
                rule, reason = ("header", "the header stands here again") if again else ("", "")
            if rule:
                yield Quarantined(path.name, line, column, excerpt(record.text), rule, reason, blank, record.text)
            else:
                yield Row(
                    path.name, line, dict(zip(header, record.fields, strict=True)), blank, record.text.rstrip("\r\n")
                )
        if empty:
            raise UserError("has a header and no records", where=str(path), hint="add rows below the header")

    def describe(self, path: Path) -> dict[str, Any]:
        encoding, found_by = self._encoding(path)
        delimiter = self._delimiter(path, encoding)
        _, _, header = self._open(path, encoding, delimiter)
        return {
            "format": self.kind,
            "encoding": encoding,
            "encoding_found_by": found_by,
            "delimiter": delimiter,
            "quote": self.quote,
            "columns": header,
        }

    def _encoding(self, path: Path) -> tuple[str, str]:
        refuse_unfit(path, encoding=self.encoding)
        return find_encoding(path) if self.encoding == "auto" else (self.encoding, "given")

    def _delimiter(self, path: Path, encoding: str) -> str:
        if self.delimiter != "auto":
            return self.delimiter
        return find_delimiter(beginning(path, encoding), self.quote)

    def _open(self, path: Path, encoding: str, delimiter: str) -> tuple[Iterator[Record], Record, list[str]]:
        """The records after the header, the header, and the columns' names; UserError where it cannot serve as one."""
        records = split(physical_lines(path, encoding), delimiter, self.quote)
        first = next(records, None)
        if first is not None and DELIMITER_HINT.fullmatch(first.text):
            first = next(records, None)
        if first is None:
            raise UserError("is empty", where=str(path), hint="it needs a header and at least one record")
        at = f"{path}, line {first.lines[0].number}"
        rule, reason, _ = _problem(first, first.fields, encoding)
        if rule:
            raise UserError(f"the header cannot be read: {reason}", where=at, hint="correct the header")
        header = [name if name.strip() else f"column {n}" for n, name in enumerate(first.fields, start=1)]
        seen: dict[str, int] = {}
        for position, name in enumerate(header, start=1):
            if name in seen:
                raise UserError(
                    f"the name '{name}' is already that of column {seen[name]}",
                    where=f"{at}, column {position}",
                    hint="rename one of them",
                )
            seen[name] = position
        return records, first, header


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


def split(lines: Iterator[Line], delimiter: str, quote: str) -> Iterator[Record]:
    """Every record but blank lines, in order. One that cannot be divided takes its first physical line alone."""
    csv.field_size_limit(4 * LONGEST)  # of the whole process; the default of 131,072 would refuse long texts
    feed = _Feed(lines)
    parser = csv.reader(feed, strict=True, **_dialect(delimiter, quote))
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
            yield _too_long(feed.taken) if too_long else _misquoted(feed.taken, delimiter, quote, whole, limited)
            continue
        if feed.size > LONGEST:
            yield _too_long(feed.taken)
        elif fields:
            yield Record(feed.taken, fields)


def beginning(path: Path, encoding: str) -> list[Line]:
    """The first 1,000 physical lines, or as many as reach a million characters."""
    lines: list[Line] = []
    size = 0
    for line in islice(physical_lines(path, encoding), 1000):
        lines.append(line)
        size += len(line.text)
        if size > 1_000_000:
            break
    return lines


def find_delimiter(sample: list[Line], quote: str) -> str:
    """Of , ; tab | the one with the most fields in the header that the most records agree with; a comma if none occurs.

    A candidate scores (share of records with as many fields as the header) squared x (fields - 1).
    """
    if sample and (hint := DELIMITER_HINT.fullmatch(sample[0].text)):
        return hint[1]
    best, most = ",", 0.0
    for delimiter in DELIMITERS.replace(quote, "") if quote else DELIMITERS:
        widths = [len(record.fields) for record in split(iter(sample), delimiter, quote)]
        if widths:
            share = widths.count(widths[0]) / len(widths)
            if (score := share**2 * (widths[0] - 1)) > most:
                best, most = delimiter, score
    return best


def _dialect(delimiter: str, quote: str) -> dict[str, Any]:
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return {"delimiter": delimiter, "quotechar": quote or None, "quoting": quoting}


def _too_long(lines: list[Line]) -> Record:
    return Record(lines, [], "too-long", f"the record is longer than {LONGEST} characters")


def _misquoted(lines: list[Line], delimiter: str, quote: str, whole: bool, limited: bool) -> Record:
    """`whole`: the fault lies within the line. Otherwise its last field opens a quote that does not end well."""
    if whole:
        return Record(
            lines, [], "quote", f"a closing {quote} is followed by neither {delimiter!r} nor the end of the line"
        )
    fields = next(csv.reader([lines[0].text], **_dialect(delimiter, quote)))
    until = f" within {LONGEST} characters or {MOST_LINES} lines" if limited else ""
    reason = f"the {quote} that opens field {len(fields)} is never properly closed{until}"
    return Record(lines, fields, "unclosed-quote", reason)


def _problem(record: Record, header: list[str], encoding: str) -> tuple[str, str, str]:
    """(rule, reason, column) of what is wrong with a record; three empty strings when nothing is."""
    if record.rule:
        n = len(record.fields)  # of a misquoted record the last field is the one at fault
        return record.rule, record.reason, header[n - 1] if 0 < n <= len(header) else ""
    text, fits = record.text, len(record.fields) == len(header)
    found = flaw(text)
    if found is not None:
        what = f"byte 0x{found.byte:02x}" if found.byte is not None else f"lone surrogate U+{ord(text[found.at]):04X}"
        line, character = _place(record.lines, found.at)
        column = _column(record.fields, header, text[found.at]) if fits else ""
        return "encoding", f"{what} at character {character} of line {line} is not valid {encoding}", column
    if "\0" in text:
        line, character = _place(record.lines, text.index("\0"))
        column = _column(record.fields, header, "\0") if fits else ""
        return "nul", f"a NUL stands at character {character} of line {line}", column
    if not fits:
        plural = "" if len(record.fields) == 1 else "s"
        return "ragged", f"{len(record.fields)} field{plural} where the header has {len(header)}", ""
    return "", "", ""


def _place(lines: list[Line], at: int) -> tuple[int, int]:
    """(line, character), both 1-based, of the 0-based position `at` in the record's text."""
    for line in lines:
        if at < len(line.text):
            return line.number, at + 1
        at -= len(line.text)
    raise IndexError(at)


def _column(fields: list[str], header: list[str], character: str) -> str:
    return next((name for name, field in zip(header, fields, strict=True) if character in field), "")
