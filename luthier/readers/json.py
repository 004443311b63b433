"""JSON documents: records in one array, one after another over several lines, or in the one list of an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from luthier.errors import UserError
from luthier.readers import Quarantined, Row
from luthier.readers._lines import CHUNK_BYTES, LONGEST, excerpt, refuse_unfit
from luthier.readers.jsonl import Jsonl, Unfit, encoding_of, parse

CONVERSATION = ("messages", "conversations")  # an object with such a list is a record, not a document
BLANK = re.compile(r"[ \t\r\n]*")
BETWEEN = re.compile(r"[ \t\r\n,]*")
NEXT_INLINE = re.compile(r"\}[ \t]*,[ \t]*(?=\{)")
CUT_OFF = 16  # an error this near to the end of what was read may come from reading no further; characters
DECODER = json.JSONDecoder()


class Json(Jsonl):
    """Records of a JSON document, as they were parsed.

    It may be an array of objects, objects one after another that may take several lines each, or one object with one
    list of objects at its top level, whatever its key. The encoding and the rules of what is put aside are those of `jsonl`; behind a broken record reading goes on at the
    next one that begins as it did. `line` is where a record begins; where the first two stand on one line, all records
    are counted instead.
    """

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        refuse_unfit(path, encoding="auto")
        with _opened(path) as file:
            yield from _Records(path, file).rows(form_of(path))

    def describe(self, path: Path) -> dict[str, Any]:
        """As that of `jsonl`, with `form`: `array`, `objects`, or the key of the list that holds the records."""
        refuse_unfit(path, encoding="auto")
        form = form_of(path)
        *facts, columns = super().describe(path).items()
        return dict([*facts, ("form", form.key if form.kind == "list" else form.kind), columns])


class Form(NamedTuple):
    """How a document holds its records."""

    kind: str  # "array", "objects" or "list"
    key: str = ""  # of the list
    start: int = 0  # characters before the list
    end: int = 0  # characters up to behind it
    others: tuple[str, ...] = ()  # the keys beside it


def is_document(path: Path) -> bool:
    """Whether a file that begins with { or [ is one document rather than lines: its first value takes several lines, or
    it is an array or an object around a list."""
    with _opened(path) as file:
        text = _Text(file)
        text.skip(BLANK)
        if text.peek() == "[":
            text.take(1)
            text.skip(BLANK)
            return text.peek() == "{"
        try:
            first = text.value()
        except _Broken:
            return text.rest_of_line().strip() == "{"
        return "\n" in first or form_of(path).kind == "list"


def form_of(path: Path) -> Form:
    """How a document holds its records; UserError for one with several lists of objects. Memory stays flat."""
    with _opened(path) as file:
        text = _Text(file)
        text.skip(BLANK)
        if text.peek() != "{":
            return Form("array" if text.peek() == "[" else "objects")
        try:
            keys, lists = _members(text)
        except _Broken:
            return Form("objects")
        text.skip(BLANK)
        if text.peek() or not lists:
            return Form("objects")
        if len(lists) > 1:
            named = ", ".join(f"'{key}'" for key, _, _ in lists)
            raise UserError(
                f"holds several lists of objects: {named}",
                where=str(path),
                hint="keep the one with the records, or write it to a file of its own",
            )
        key, start, end = lists[0]
        return Form("list", key, start, end, tuple(dict.fromkeys(each for each in keys if each != key)))


def text_between(path: Path, start: int, end: int | None = None) -> Iterator[str]:
    """The text of a document between two places (characters), in pieces; up to its end where that is None."""
    with _opened(path) as file:
        text = _Text(file)
        while text.peek() and (end is None or text.n_before < end):
            upto = start if text.n_before < start else end
            piece = text.take(len(text.held) if upto is None else upto - text.n_before)
            if text.n_before > start:
                yield piece


def _members(text: _Text) -> tuple[list[str], list[tuple[str, int, int]]]:
    """The keys of the object that begins here, which is passed; and key, place and end of each list of objects in it."""
    keys: list[str] = []
    found: list[tuple[str, int, int]] = []
    text.take(1)
    while True:
        text.skip(BETWEEN)
        if text.peek() == "}":
            text.take(1)
            return keys, found
        key = json.loads(text.value())
        text.skip(BLANK)
        if text.take(1) != ":" or not isinstance(key, str):
            raise _Broken
        text.skip(BLANK)
        keys.append(key)
        start = text.n_before
        if text.peek() != "[":
            text.value()
            continue
        text.take(1)
        text.skip(BLANK)
        holds = text.peek() == "{" and key not in CONVERSATION
        while text.peek() != "]":
            text.value()
            text.skip(BETWEEN)
        text.take(1)
        if holds:
            found.append((key, start, text.n_before))


class _Broken(Exception):
    """No JSON value begins here, or none that ends."""


class _Text:
    """The text of a file, of which only what is needed is in memory."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.held, self.at = file.read(CHUNK_BYTES).removeprefix("\ufeff"), 0
        self.line = 1  # where the next character stands
        self.n_before = 0  # characters before it

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        self.held, self.at = self.held[self.at :], 0
        further = self.file.read(max(CHUNK_BYTES, len(self.held)))  # doubled, so that retries stay cheap
        self.held += further
        return bool(further)

    def peek(self) -> str:
        """The next character, "" at the end."""
        if self.at == len(self.held):
            self.more()
        return self.held[self.at : self.at + 1]

    def take(self, n: int) -> str:
        """The next characters of those in memory."""
        taken = self.held[self.at : self.at + n]
        self.at += len(taken)
        self.n_before += len(taken)
        self.line += taken.count("\n")
        return taken

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Pass over what matches, however much it is."""
        while True:
            found = pattern.match(self.held, self.at)
            self.take(found.end() - self.at if found else 0)
            if self.at < len(self.held) or not self.more():
                return

    def value(self) -> str:
        """The text of the JSON value that begins here, which is passed; _Broken, with nothing passed, if there is none."""
        while True:
            try:
                _, end = DECODER.raw_decode(self.held, self.at)
            except json.JSONDecodeError as error:
                unclear = error.msg.startswith("Unterminated") or error.pos >= len(self.held) - CUT_OFF
                if unclear and len(self.held) - self.at <= LONGEST and self.more():
                    continue
                raise _Broken from None
            except (RecursionError, ValueError):
                raise _Broken from None
            if end < len(self.held) or not self.more():  # a number may go on
                return self.take(end - self.at)

    def rest_of_line(self) -> str:
        """What is in memory of the line, which is not passed."""
        end = self.held.find("\n", self.at)
        return self.held[self.at : end if end >= 0 else len(self.held)]

    def broken(self, indent: str | None) -> str:
        """What a broken record takes, up to the next one that begins as it did; it is passed, and 16 Mi characters of it
        are returned at most. `indent` is None where it does not begin its line."""
        begin = re.compile(r"\n" + indent + r"(?=[{\]])") if indent is not None else NEXT_INLINE
        taken, from_ = "", 1
        while not (found := begin.search(self.held, min(self.at + from_, len(self.held)))):
            if len(self.held) - self.at > LONGEST:
                piece = self.take(len(self.held) - self.at - CHUNK_BYTES)
                taken = taken or piece[: LONGEST + 1]
            from_ = max(1, len(self.held) - self.at - CHUNK_BYTES)
            if not self.more():
                return taken + self.take(len(self.held))
        return taken + self.take((found.start() if indent is not None else found.start() + 1) - self.at)


class _Records:
    """Goes through the records of a document."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.text = path, _Text(file)
        self.n = 0
        self.counts: bool | None = None  # whether records are counted, because the first two stand on one line
        self.last = 0  # line of the record before

    def rows(self, form: Form) -> Iterator[Row | Quarantined]:
        """Every record, read or put aside."""
        while self.text.n_before < form.start:
            self.text.peek()
            self.text.take(form.start - self.text.n_before)
        held: Row | Quarantined | None = None  # the first record, until the second tells how they are numbered
        for found in self._records(form):
            if self.counts is None and held is None:
                held = found
                continue
            if held is not None:
                self.counts = found.line == held.line
                yield self._numbered(held)
                held = None
            yield self._numbered(found)
        if held is not None:
            yield held
        elif not self.n:
            raise UserError("is empty", where=str(self.path), hint="it needs at least one JSON object")

    def _numbered(self, found: Row | Quarantined) -> Row | Quarantined:
        self.last, before = found.line, self.last
        if self.counts:
            self.last = found.line = before + 1
            if isinstance(found, Quarantined):
                found.reason = f"record {found.line} of the document: {found.reason}"
        elif found.line == before:
            reason = "it begins on the line of the record before it; write every record on a line of its own"
            return Quarantined(found.file, found.line, "", excerpt(found.text), "json", reason, 0, found.text)
        return found

    def _records(self, form: Form) -> Iterator[Row | Quarantined]:
        """The records with their true lines."""
        text, within = self.text, form.kind == "list"
        depth = 0
        while True:
            text.skip(BETWEEN)
            character = text.peek()
            if not character:
                if depth:
                    yield self._aside(text.line, "json", "the list is not closed: the file may be cut off", "")
                return
            if character == "[" and not depth and form.kind != "objects":
                text.take(1)
                depth = 1
                continue
            if character == "]" and depth:
                text.take(1)
                depth = 0
                if within:
                    return
                continue
            yield self._record()

    def _record(self) -> Row | Quarantined:
        text, line = self.text, self.text.line
        self.n += 1
        before = text.held[text.held.rfind("\n", 0, text.at) + 1 : text.at]
        try:
            told = text.value()
        except _Broken:
            told = text.broken(before if not before.strip() else None).rstrip(" \t\r\n,")
        try:
            return Row(self.path.name, line, parse(told), 0, told)
        except Unfit as unfit:
            return self._aside(line, unfit.rule, unfit.reason, told, unfit.column)

    def _aside(self, line: int, rule: str, reason: str, told: str, column: str = "") -> Quarantined:
        return Quarantined(self.path.name, line, column, excerpt(told), rule, reason, 0, told)


def _opened(path: Path) -> TextIO:
    return path.open(encoding=encoding_of(path), errors="luthier.bytes")
