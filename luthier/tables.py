"""Writing a table again with new cells beside its own: each record stands as it stood wherever the format stays the same."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TextIO

from luthier.durable import place_new, unique_beside
from luthier.errors import UserError
from luthier.readers import Quarantined, Row, Table
from luthier.readers._lines import SURROGATE, physical_lines
from luthier.readers.json import Json, form_of, text_between

FORMATS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")  # in upper or lower case
TABS = (".tsv", ".tab")
NAMED = 5  # keys named in a sentence
LOOK = 1000  # records that are looked at to see how a table writes its cells
MARKS = (  # utf-32 before utf-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WHOLE = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?")
WITH_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+")
WITH_POINT = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)\.\d+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1,234 may be either
AROUND_NUMBERS = " \u00a0\u202f€$£%"
SPACE = re.compile(r"[ \t\r\n]*")
BREAKS = re.compile(r"[ \t]*[\r\n]+[ \t\r\n]*")
LINE_END = re.compile(r"\r\n|\r|\n")
DECODER = json.JSONDecoder()

Pairs = Iterable[tuple[Row, Mapping[str, Any]]]  # each row with its new cells


def writable(path: Path) -> None:
    """UserError, before any work is done, where a table cannot be written under this name."""
    if path.suffix.lower() not in FORMATS:
        hint = f"use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"cannot write a table as '{path.suffix}'", where=str(path), hint=hint)
    refuse_existing(path)


def refuse_existing(path: Path) -> None:
    """UserError where something has this name already."""
    if os.path.lexists(path):
        raise UserError("exists already and is not overwritten", where=str(path), hint="give another name")


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A hidden place to write, which becomes `target` when it is whole and on disk; UserError where something got that
    name in the meantime."""
    beside = unique_beside(target)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            place_new(beside, target)
        except FileExistsError:
            refuse_existing(target)
            raise
    finally:
        beside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Format:
    """How a table is written: as the one that it comes from, as far as the target's name lets it."""

    kind: str  # delimited, lines (JSON lines) or array (one JSON array)
    keeps: bool  # whether each record stands as it stood, with the new cells behind it
    codec: str
    mark: bool  # whether a byte order mark stands before everything
    ending: str  # of a line
    ends: bool = True  # whether the last record has one, too
    delimiter: str = ","
    quote: str = '"'  # empty where nothing is quoted
    escape: str = ""  # what takes the next character literally; where empty, quotes within quotes are doubled
    skips_blanks: bool = False  # whether blanks behind a delimiter belong to no cell
    quotes: str = "needed"  # which cells: needed, text (all but numbers) or all
    names_quoted: bool = False  # whether names of columns always are
    decimal: str = "."  # in numbers
    above: str = ""  # lines above the header
    header: str | None = None  # as it stood, without its ending; None where there is none
    width: int = 0  # fields of a record
    around: tuple[Path, int, int] | None = None  # a document and where, in characters, the array stands in its object
    lost: tuple[str, ...] = ()  # keys beside the list of rows that have no place in what is written

    @classmethod
    def of(cls, table: Table, target: Path) -> Format:
        """The format of a table in the file `target`."""
        about, suffix = table.described, target.suffix.lower()
        same, own = suffix == table.path.suffix.lower(), about.get("delimiter")
        looked = looked_at(table)
        rows = [record for record in looked if isinstance(record, Row)]
        if not all(row.text for row in rows):  # the file is no text
            plain, head = cls("delimited", False, "utf-8", False, "\n"), []
        else:
            encoding = about.get("encoding", "utf-8")
            head = beginning(table.path, encoding, looked[0].line) if looked else []
            ending = next(map(ending_of, head[:-1][-1:] or head), "") or "\n"
            plain = cls("delimited", False, *encoding_of(table.path, encoding), ending)
        if isinstance(table.reader, Json) and (form := form_of(table.path)).kind == "list":
            if suffix == ".json":
                return replace(plain, kind="array", keeps=True, around=(table.path, form.start, form.end))
            plain = replace(plain, lost=form.others)
        if suffix not in (*TABS, ".csv"):
            lines = bool(looked) and begins(head, looked[0].text)
            kind = "array" if suffix == ".json" and not (same and lines) else "lines"
            if own is not None or "separator" in about or not all(is_object(row.text) for row in rows):
                return cls(kind, keeps=False, codec="utf-8", mark=False, ending="\n")
            return replace(plain, kind=kind, keeps=True, ends=not lines or kind == "array" or ends(table.path))
        delimiter = own if own and (same or (suffix == ".csv" and own != "\t")) else "\t" if suffix in TABS else ","
        commas = own is not None and delimiter != "," and decimal_commas(rows)
        plain = replace(plain, delimiter=delimiter, decimal="," if commas else ".")
        return plain.standing(table, rows, head[:-1]) if own == delimiter and head else plain

    def standing(self, table: Table, rows: Sequence[Row], above: Sequence[str]) -> Format:
        """This format where records stand as they stood, as those that were looked at show. `above` are the lines before
        the first record."""
        about, columns = table.described, list(table.columns or [])
        dialect = replace(
            self,
            keeps=True,
            ends=ends(table.path),
            quote=about.get("quote", '"'),
            escape=about.get("escape", ""),
            skips_blanks=about.get("skip_blanks", False),
        )
        start = dialect.header_at(above, columns) if about.get("header", True) else None
        header = "".join(above[start:]).rstrip("\r\n") if start is not None else None
        names = dialect.fields(header) if header is not None else []
        return replace(
            dialect,
            quotes=dialect.manner(rows),
            names_quoted=bool(names) and header == dialect.delimiter.join(map(dialect.quoted, names)),
            above="".join(above[:start]),
            header=header,
            width=max(len(names), len(columns)),
        )

    def header_at(self, above: Sequence[str], columns: Sequence[str]) -> int | None:
        """Which of the lines before the first record the header begins in; None where no header stands there.

        It is one record that ends with the last line which is not blank. One with these names is looked for first, then
        one with as many fields, then one with a field less: over names of rows stands none.
        """
        end = len(above)
        while end and not above[end - 1].strip("\r\n"):
            end -= 1
        starts = range(end - 1, max(-1, end - 100), -1)
        found = {start: self.fields("".join(above[start:end]).rstrip("\r\n")) for start in starts}
        named = [name if name.strip() else f"column {n}" for n, name in enumerate(columns, start=1)]
        for fits in (
            lambda names: [name if name.strip() else f"column {n}" for n, name in enumerate(names, start=1)] == named,
            lambda names: len(names) == len(columns),
            lambda names: len(names) == len(columns) - 1 > 0,
        ):
            for start, names in found.items():
                if names and fits(names):
                    return start
        return None

    def fields(self, text: str) -> list[str]:
        """The fields of one record; none where it cannot be divided."""
        dialect: dict[str, Any] = {
            "delimiter": self.delimiter,
            "quotechar": self.quote or None,
            "quoting": csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            "escapechar": self.escape or None,
            "skipinitialspace": self.skips_blanks,
        }
        try:
            return next(csv.reader([text], strict=True, **dialect), [])
        except csv.Error:
            return []

    def manner(self, rows: Sequence[Row]) -> str:
        """Which cells are quoted though they need not be, seen from records without empty cells: needed, text or all."""
        full = [row for row in rows if all(value not in ("", "NA") for value in row.values.values())]
        if not full or not self.quote:
            return "needed"
        for manner in ("all", "text"):
            like = replace(self, quotes=manner)
            written = [self.delimiter.join(map(like.field, row.values.values())) for row in full]
            if all(row.text == text for row, text in zip(full, written, strict=True)):
                return manner if any(self.quote in row.text for row in full) else "needed"
        return "needed"

    def quoted(self, text: str) -> str:
        """A text within quotes."""
        if self.escape:
            text = text.replace(self.escape, 2 * self.escape).replace(self.quote, self.escape + self.quote)
        else:
            text = text.replace(self.quote, 2 * self.quote)
        return self.quote + text + self.quote

    def unquoted(self, text: str) -> str:
        """A text where nothing is quoted."""
        if "\r" in text or "\n" in text or (self.delimiter in text and not self.escape):
            raise Unquotable
        for special in (self.escape, self.delimiter) if self.escape else ():
            text = text.replace(special, self.escape + special)
        return text

    def field(self, value: Any, *, name: bool = False) -> str:
        """A cell between delimiters, or the name of a column; Unquotable where the table quotes nothing and it must be."""
        text = cell(value, self.decimal)
        special = (self.delimiter, "\r", "\n", *filter(None, (self.quote, self.escape)))
        # before Python 3.13 the csv module does not quote a lone carriage return, and readers end the record there
        needed = any(character in text for character in special) or text != text.strip()
        if needed and not self.quote:
            return self.unquoted(text)
        if needed:
            return self.quoted(text)
        wanted = self.quotes == "all" or (self.quotes == "text" and isinstance(value, str) and not number(text))
        return self.quoted(text) if self.quote and (self.names_quoted if name else wanted) else text

    def heading(self, columns: Sequence[str], new: Sequence[str]) -> str:
        """The header with its new names; nothing where the table has none."""
        names = [self.field(name, name=True) for name in new]
        if not self.keeps:
            names = [*(self.field(name, name=True) for name in columns), *names]
        elif self.header is not None:
            names = [self.header, *names]
        else:
            return ""
        return self.delimiter.join(names) + self.ending

    def record(self, row: Row, columns: Sequence[str], new: Sequence[str], cells: Mapping[str, Any]) -> str:
        """One record with its new cells."""
        if self.kind != "delimited":
            stands = self.keeps and is_object(row.text)
            text = with_members(row.text if stands else json.dumps(row.values, ensure_ascii=False), cells)
            return self.with_own_ends(text) if self.kind == "array" else BREAKS.sub(" ", text)
        added = [self.field(cells.get(name)) for name in new]
        if self.keeps:
            return self.delimiter.join([self.filled(row.text), *added])
        values = as_written(row)
        return self.delimiter.join([*(self.field(values.get(name)) for name in columns), *added])

    def frame(self) -> tuple[Iterable[str], Iterable[str]]:
        """What stands before and behind all that is written of the rows, in pieces."""
        if self.around is None:
            return (), (self.ending if self.ends else "",)
        document, start, end = self.around
        before, behind = text_between(document, 0, start), text_between(document, end)
        return map(self.with_own_ends, before), map(self.with_own_ends, behind)

    def with_own_ends(self, text: str) -> str:
        """A text whose lines end as those of the table."""
        return LINE_END.sub(self.ending, text)

    def filled(self, text: str) -> str:
        """A record as it stood, with exactly as many fields as the others: new cells stand under their names."""
        fields = self.fields(text)
        if len(fields) < self.width and fields:
            return text + self.delimiter * (self.width - len(fields))
        further = fields[self.width :]
        return text.removesuffix(self.delimiter * len(further)) if not any(further) else text


class Unquotable(Exception):
    """A new cell that needs quotes, in a table that quotes nothing."""


def write_rows(path: Path, written: Format, columns: Sequence[str], rows: Callable[[], Pairs]) -> list[str]:
    """Write a table, and return what must be told of how it differs from the one that it comes from.

    `rows` gives the rows with their new cells from the first on, as often as it is called. A row with a new cell that
    those before it lack, or with one that the table cannot hold as it is, begins the file again.
    """
    new: list[str] = []
    told: list[str] = []
    if written.lost:
        more = f" and {len(written.lost) - NAMED:,} more" if len(written.lost) > NAMED else ""
        told.append(
            f"what is written holds the rows alone, without what stood beside their list: {', '.join(written.lost[:NAMED])}"
            f"{more}; a .json file keeps it"
        )
    while True:
        try:
            with path.open("w", encoding=written.codec, errors="luthier.as-read", newline="") as file:
                further = write_once(file, written, columns, new, rows())
        except UnicodeEncodeError as problem:
            character = problem.object[problem.start]
            told.append(
                f"{written.codec}, in which the table was, has no '{character}', which a suggestion holds: "
                "what is written is UTF-8 with a byte order mark"
            )
            written = replace(written, codec="utf-8", mark=True)
        except Unquotable:
            told.append(
                "the table quotes nothing, and a suggestion holds its delimiter or a line break: what is written quotes "
                'such cells with "'
            )
            written = replace(written, keeps=False, quote='"', escape="")
        else:
            if not further:
                if written.keeps and written.kind == "delimited" and written.header is None:
                    told.append(f"the table has no header; the new columns stand behind its own: {', '.join(new)}")
                return told
            new += further


def write_once(file: TextIO, written: Format, columns: Sequence[str], new: Sequence[str], rows: Pairs) -> list[str]:
    """Write rows until one has new cells under further names, which are returned; none when all is written."""
    file.write("\ufeff" if written.mark else "")
    before, behind = written.frame()
    file.writelines(before)
    between, array = written.ending, written.kind == "array"
    known = set(new)
    for n, (row, cells) in enumerate(rows):
        further = [name for name in cells if name not in known]
        if further and written.kind == "delimited":
            return further
        if n:
            file.write("," + between if array else between)
        elif array:
            file.write("[" + between)
        elif written.kind == "delimited":
            file.write(written.above + written.heading(columns, new))
        file.write(written.record(row, columns, new, cells))
    if array:
        file.write(between + "]")
    file.writelines(behind)
    return []


def _as_read(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes that were no text when they were read (U+DC00 + byte), as they were; they may stand above a header."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    kept = list(takewhile(lambda character: 0xDC00 <= ord(character) <= 0xDCFF, wrong))
    if not kept:
        raise error
    return bytes(ord(character) - 0xDC00 for character in kept), error.start + len(kept)


codecs.register_error("luthier.as-read", _as_read)


def cell(value: Any, decimal: str = ".") -> str:
    """A value as a cell: nothing is empty, a number has this decimal sign, and what is no text stands as in JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, float):
        short = f"{value:.3f}"  # figures stand below each other unless there is more to tell
        return (short if float(short) == value else json.dumps(value)).replace(".", decimal)
    return json.dumps(value, ensure_ascii=False)


def number(text: str) -> bool:
    """Whether a cell is a number, with either decimal sign."""
    return NUMBER.fullmatch(text) is not None


def decimal_commas(rows: Iterable[Row]) -> bool:
    """Whether more columns hold numbers with decimal commas than with decimal points; 1,234 may be either and tells
    nothing."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.values.items():
            text = value.strip(AROUND_NUMBERS) if isinstance(value, str) else ""
            if not text or WHOLE.fullmatch(text) or THOUSANDS.fullmatch(text):
                continue
            comma, point = WITH_COMMA.fullmatch(text), WITH_POINT.fullmatch(text)
            found.setdefault(name, set()).add("," if comma else "." if point else "")
    signs = list(found.values())
    return signs.count({","}) > signs.count({"."})


def as_written(row: Row) -> Mapping[str, Any]:
    """The values of a row as cells: numbers of a JSON object keep every digit that they were written with."""
    if not is_object(row.text) or all(isinstance(value, str) for value in row.values.values()):
        return row.values
    return {
        name: value if value is None or isinstance(value, str) else BREAKS.sub(" ", text)
        for name, value, text in members(row.text)
    }


def is_object(text: str) -> bool:
    """Whether a record's text is a JSON object and nothing else."""
    bare = text.strip(" \t\r\n")
    return bare.startswith("{") and bare.endswith("}")


def members(text: str) -> Iterator[tuple[str, Any, str]]:
    """The members of a JSON object: key, value, and the value as it is written."""
    at = after_space(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = DECODER.raw_decode(text, at)
        at = after_space(text, after_space(text, at) + 1)  # behind the colon
        value, end = DECODER.raw_decode(text, at)
        yield key, value, text[at:end]
        at = after_space(text, end)
        if text[at] == ",":
            at = after_space(text, at + 1)


def after_space(text: str, at: int) -> int:
    """The first place from `at` on where no white space stands."""
    space = SPACE.match(text, at)
    return space.end() if space else at


def with_members(text: str, cells: Mapping[str, Any]) -> str:
    """A JSON object, as it is written, with further members behind its own, divided as those are."""
    end = text.rindex("}")
    body = text[:end].rstrip(" \t\r\n")
    inside = text[: after_space(text, text.index("{") + 1)]
    gap = inside[inside.index("{") + 1 :]
    compact = re.match(r'\{\s*"(?:[^"\\]|\\.)*":[^\s]', text.lstrip()) is not None
    if "\n" not in gap and "\r" not in gap:
        gap = "" if compact else " "
    colon = ":" if compact else ": "
    added = [f"{json.dumps(name, ensure_ascii=False)}{colon}{json_cell(value)}" for name, value in cells.items()]
    empty = body.endswith("{") and not body[:-1].strip()
    if not added:
        return text
    joined = f",{gap}".join(added)
    return body + ("" if empty else f",{gap}") + joined + text[len(body) :]


def json_cell(value: Any) -> str:
    """A new value in JSON."""
    return json.dumps(SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value, ensure_ascii=False)


def encoding_of(path: Path, encoding: str) -> tuple[str, bool]:
    """(codec without a byte order mark of its own, whether the file begins with a mark)."""
    with path.open("rb") as file:
        head = file.read(4)
    if codecs.lookup(encoding).name.startswith("utf"):
        for mark, codec in MARKS:
            if head.startswith(mark):
                return codec, True
    return encoding.replace("-sig", "").replace("_sig", ""), False


def ends(path: Path) -> bool:
    """Whether the last line of a file has an ending."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
        return file.read().rstrip(b"\0")[-1:] in (b"\n", b"\r")


def looked_at(table: Table) -> list[Row | Quarantined]:
    """The first records of a table: at most LOOK, or as many as reach a million characters."""
    found: list[Row | Quarantined] = []
    size = 0
    for record in islice(table.records(), LOOK):
        found.append(record)
        size += len(record.text)
        if size > 1_000_000:
            break
    return found


def beginning(path: Path, encoding: str, line: int) -> list[str]:
    """The first lines of a file, up to the one of this number (from 1), with their endings."""
    return [each.text for each in islice(physical_lines(path, encoding), line)]


def ending_of(line: str) -> str:
    """What a line ends with; nothing at the end of a file."""
    return next((ending for ending in ("\r\n", "\n", "\r") if line.endswith(ending)), "")


def begins(head: Sequence[str], record: str) -> bool:
    """Whether a record is the first thing in its file, as it is not within an array or another object."""
    above, line = "".join(head[:-1]).strip(), "".join(head[-1:]).strip()
    return not above and bool(line) and record.lstrip().startswith(line)
