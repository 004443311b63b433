"""CSV: delimited text, each record at its physical line, the broken ones put aside without losing those after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from luthier.errors import UserError
from luthier.readers import Quarantined, Reader, Row
from luthier.readers._layout import (
    MOST_ABOVE,
    Layout,
    beginning,
    find_dialect,
    find_layout,
    headless,
    newline_of,
    refuse_repeated,
)
from luthier.readers._lines import Encoding, Line, excerpt, find_encoding, flaw, has_mark, physical_lines, refuse_unfit
from luthier.readers._records import Dialect, Record, split
from luthier.readers._swallowed import Judge


class Csv(Reader):
    """A header and records of as many fields; all values are text and whitespace is kept as it is.

    A column without a name is called `column 1` and so on by its place; a first line `sep=;` names the delimiter. Title
    lines above the header, a delimiter at the end of every record and an index without a name are found where nothing
    else can be meant. Blank lines are skipped: they are neither rows nor put aside. Rules of what is put aside:
    `ragged`, `quote`, `unclosed-quote`, `encoding`, `nul`, `too-long` (over 16 Mi characters), `header` (the header
    again). After an unclosed quote, which includes one that stays open for 16 Mi characters or 100,000 lines and one
    that swallows lines which look like the table's records, reading goes on at the next physical line. Where that is
    undecided the record is read whole, and told where few others have several lines.
    """

    encoding: Encoding = "auto"
    """Encoding of the file, by its Python name; `auto` looks at the byte order mark and at every byte."""
    delimiter: str = "auto"
    """One character between fields; `auto` takes whichever of , ; tab | divides the first lines most evenly."""
    quote: str = '"'
    """One character around fields, doubled inside them; empty when the file quotes nothing."""
    escape: str = ""
    """One character that takes the next one literally, such as a backslash; empty when there is none."""
    skip_blanks: bool | Literal["auto"] = "auto"
    """Whether blanks behind a delimiter are left out; `auto` does so where most records have a quote behind them."""
    header: bool = True
    """Whether the first line holds the columns' names; else they are `names`, or `column 1` and so on."""
    names: list[str] = []
    """Names of the columns, in order; they replace those of a header."""
    skip_lines: int = Field(0, ge=0)
    """Physical lines above the header, or above the first record, that are left out."""

    @model_validator(mode="after")
    def _single_characters(self) -> Csv:
        if self.delimiter != "auto" and (len(self.delimiter) != 1 or self.delimiter in "\r\n\0"):
            raise ValueError("delimiter must be `auto` or one character, and no line ending")
        if len(self.quote) > 1 or (self.quote and self.quote in "\r\n\0"):
            raise ValueError("quote must be one character, or empty, and no line ending")
        if len(self.escape) > 1 or (self.escape and self.escape in "\r\n\0 "):
            raise ValueError("escape must be one character, or empty, and no blank or line ending")
        if self.quote == self.delimiter:
            raise ValueError("delimiter and quote must differ")
        if self.escape and self.escape in (self.quote, self.delimiter):
            raise ValueError("escape must differ from delimiter and quote; a quote is doubled without it")
        if self.skip_blanks is True and self.delimiter == " ":
            raise ValueError("skip_blanks must be false where a blank is the delimiter")
        if len(set(self.names)) < len(self.names) or not all(map(str.strip, self.names)):
            raise ValueError("names must differ, and none may be blank")
        return self

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        found = self._found(path)
        layout, columns = found.layout, found.layout.columns
        lines = dropwhile(lambda line: line.number <= layout.n_above, physical_lines(path, found.encoding))
        records = split(lines, found.dialect, found.judge.swallows)
        again, last = [""], layout.n_above
        if layout.header is not None:
            first = next(records)
            last = first.lines[-1].number
            if len(columns) > 1 or found.no_value(first.fields):
                again = _folded(first.fields)
        at = next((n for n, name in enumerate(again) if name), 0)
        empty = True
        for record in records:
            empty = False
            line = record.lines[0].number
            blank, last = line - last - 1, record.lines[-1].number
            if layout.extra == "delimiter" and len(record.fields) == layout.width and not record.fields[-1]:
                record.fields.pop()
            rule, reason, column = _problem(record, columns, found.encoding)
            # one name alone is cheap to compare, of every record; an index has none
            named = not record.rule and again[at] and again[at : at + 1] == _folded(record.fields[at : at + 1] or [""])
            if named and _folded(record.fields) == again:
                rule, reason, column = "header", "the header stands here again", ""  # files joined end to end
            if rule:
                yield Quarantined(path.name, line, column, excerpt(record.text), rule, reason, blank, record.text)
            else:
                joined = found.judge.joined(record) if len(record.lines) > 1 else 0
                found.judge.learn(record)
                text = record.text.removesuffix("\n").removesuffix("\r")
                yield Row(path.name, line, dict(zip(columns, record.fields, strict=True)), blank, text, joined)
        if empty:
            raise UserError("has a header and no records", where=str(path), hint="add rows below the header")

    def describe(self, path: Path) -> dict[str, Any]:
        """What was found, with what it takes to write such a file again: `mark` (a byte order mark), `newline`, and
        `above`, the text above the header."""
        found = self._found(path)
        layout = found.layout
        above = [line.text for line in found.sample if line.number <= layout.n_above]
        return {
            "format": self.kind,
            "encoding": found.encoding,
            "encoding_found_by": found.encoding_found_by,
            "delimiter": found.dialect.delimiter,
            "quote": self.quote,
            **({"escape": self.escape} if self.escape else {}),
            **({"skip_blanks": True} if found.dialect.skip_blanks else {}),
            **({"header": False} if layout.header is None else {}),
            **({"lines_above_the_header": layout.n_above, "above": "".join(above)} if layout.n_above else {}),
            **({"index_without_a_name": True} if layout.extra == "index" else {}),
            **({"delimiter_at_the_end": True} if layout.extra == "delimiter" else {}),
            "mark": has_mark(path),
            "newline": newline_of(found.sample),
            "columns": layout.columns,
        }

    def doubt(self, path: Path, missing: Sequence[str]) -> str:
        found = self._found(path)
        header = found.layout.header
        if header is None or self.names:
            return ""
        lower = (line for line in found.sample if line.number > header.lines[-1].number)
        for record in islice(split(lower, found.dialect), MOST_ABOVE):
            if set(missing) <= set(record.fields):
                line = record.lines[0].number
                return f"line {line} looks like the header; set `prepare.reader: {{kind: {self.kind}, skip_lines: {line - 1}}}`"
        whole = found.dialect.cut(header.fields[0]) if len(header.fields) == 1 else None
        if whole and len(whole) > 1 and set(missing) <= set(whole):
            return "each line stands in quotes as a whole, so it is one field; remove the quotes around the lines"
        why = headless(header.fields, (seen.fields for seen in found.judge.recent))
        return why and (
            f"the first line looks like data: {why}; if the file has no header, set "
            f"`prepare.reader: {{kind: {self.kind}, header: false, names: [...]}}`"
        )

    def _found(self, path: Path) -> _Found:
        """How the file is written; UserError where its header cannot serve as one."""
        refuse_unfit(path, encoding=self.encoding)
        encoding, found_by = find_encoding(path) if self.encoding == "auto" else (self.encoding, "given")
        sample = beginning(path, encoding)
        dialect = find_dialect(
            [line for line in sample if line.number > self.skip_lines],
            self.delimiter,
            self.quote,
            self.escape,
            self.skip_blanks,
        )
        layout, judge = find_layout(
            path, sample, dialect, header=self.header, names=self.names, skip_lines=self.skip_lines
        )
        if (header := layout.header) is not None:
            line = header.lines[0].number
            rule, reason, _ = _problem(header, header.fields, encoding)
            if rule:
                raise UserError(
                    f"the header cannot be read: {reason}", where=f"{path}, line {line}", hint="correct the header"
                )
            refuse_repeated(path, layout.columns, line)
        return _Found(encoding, found_by, sample, dialect, layout, judge)


@dataclass(frozen=True, slots=True)
class _Found:
    """How a file is written."""

    encoding: str
    encoding_found_by: str
    sample: list[Line]  # its beginning
    dialect: Dialect
    layout: Layout
    judge: Judge

    def no_value(self, header: list[str]) -> bool:
        """Whether the header of a single column, where it stands again, is none of the column's values: these differ,
        and it is rare among them."""
        cells = [_folded([line.text.strip()]) for line in self.sample if line.number > self.layout.n_above][1:]
        n_again = sum(cell == _folded(header) for cell in cells)
        return 10 * n_again <= len(cells) and len({cell[0] for cell in cells}) > len(cells) / 2


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


def _folded(fields: list[str]) -> list[str]:
    """Fields as they are compared with the header, without the empty ones at the end."""
    folded = [field.removeprefix("\ufeff").strip(" \t\"'").casefold() for field in fields]
    while len(folded) > 1 and not folded[-1]:
        folded.pop()
    return folded


def _place(lines: list[Line], at: int) -> tuple[int, int]:
    """(line, character), both 1-based, of the 0-based position `at` in the record's text."""
    for line in lines:
        if at < len(line.text):
            return line.number, at + 1
        at -= len(line.text)
    raise IndexError(at)


def _column(fields: list[str], header: list[str], character: str) -> str:
    return next((name for name, field in zip(header, fields, strict=True) if character in field), "")
