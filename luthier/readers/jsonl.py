"""JSON lines: one JSON object on each line: plain records, prompt and completion, or chat messages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from luthier.errors import UserError, typed
from luthier.readers import Quarantined, Reader, Row
from luthier.readers._lines import (
    BYTE_ORDER_MARKS,
    CHUNK_BYTES,
    LONGEST,
    Line,
    excerpt,
    flaw,
    physical_lines,
    refuse_unfit,
)

DEEPEST = 100  # levels of nesting
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|-?\b(?:Infinity|NaN)\b', re.DOTALL)
COLON = re.compile(r"[ \t\r\n]*:")


class Jsonl(Reader):
    """A JSON object per line, in UTF-8 (UTF-16 and UTF-32 with a byte order mark); values stay as they were parsed.

    Blank lines are skipped: they are neither rows nor put aside. Rules of what is put aside: `json` (no valid JSON, NaN
    and Infinity included), `not-an-object`, `duplicate-key`, `too-deep` (over 100 levels), `too-long` (over 16 Mi
    characters), `encoding` (undecodable bytes, lone surrogates).
    """

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        last = 0
        for line in self._lines(path):
            text = line.text.rstrip("\r\n")
            blank, last = line.number - last - 1, line.number
            try:
                values = parse(text)
            except Unfit as unfit:
                yield Quarantined(
                    path.name, line.number, unfit.column, excerpt(text), unfit.rule, unfit.reason, blank, text
                )
            else:
                yield Row(path.name, line.number, values, blank, text)

    def describe(self, path: Path) -> dict[str, Any]:
        """`shape` is `records`, `prompt_completion`, `messages` or `mixed`; `shapes` has the first line of each."""
        shapes: dict[str, int] = {}
        columns: dict[str, None] = {}
        unfit: Quarantined | None = None
        for row in self.rows(path):
            if isinstance(row, Row):
                shapes.setdefault(shape_of(row.values), row.line)
                columns.update(dict.fromkeys(row.values))
            else:
                unfit = unfit or row
        if unfit and not shapes:
            raise UserError(
                f"no line holds a JSON object that can be read; the first: {unfit.reason}",
                where=f"{path}, line {unfit.line}",
                hint="write one JSON object on each line",
            )
        return {
            "format": self.kind,
            "encoding": _encoding(path),
            "shape": next(iter(shapes), "") if len(shapes) < 2 else "mixed",
            "shapes": shapes,
            "columns": list(columns),
        }

    def _lines(self, path: Path) -> Iterator[Line]:
        """Every line that is not blank; UserError for an empty file and for one that is a single JSON array."""
        refuse_unfit(path, encoding="auto")
        lines = (line for line in physical_lines(path, _encoding(path)) if line.text.strip(" \t\r\n"))
        first, second = next(lines, None), next(lines, None)
        if first is None:
            raise UserError("is empty", where=str(path), hint="it needs at least one JSON object on a line")
        if is_one_array(path, first, alone=second is None):
            raise UserError(
                "is one JSON array, not one object per line",
                where=f"{path}, line {first.number}",
                hint=f"convert it: jq -c '.[]' {typed(path.name)} > {typed(f'{path.stem}.lines.jsonl')}",
            )
        yield first
        if second is not None:
            yield second
            yield from lines


class Unfit(Exception):
    """A line that holds no usable object, and the rule that says why."""

    def __init__(self, rule: str, reason: str, column: str = "") -> None:
        super().__init__(reason)
        self.rule, self.reason, self.column = rule, reason, column


def parse(text: str) -> dict[str, Any]:
    """The object on one line; Unfit when there is none that may be used. Reasons count characters from 1."""
    if len(text) > LONGEST:
        raise Unfit("too-long", f"the line is longer than {LONGEST} characters")
    found = flaw(text)
    if found is not None:
        what = "a lone surrogate" if found.byte is None else f"byte 0x{found.byte:02x}"
        raise Unfit("encoding", f"{what} at character {found.at + 1} is not valid in this encoding")
    if text.count("[") + text.count("{") > DEEPEST:
        _refuse_depth(text)
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except _RepeatedKey:
        key, at = repeated_key(text)
        raise Unfit("duplicate-key", f"the key '{key}' at character {at} was already given", key) from None
    except _Constant as constant:
        at = next(token.start() + 1 for token in TOKEN.finditer(text) if token[0] == constant.name)
        raise Unfit("json", f"{constant.name} at character {at} is no JSON") from None
    except json.JSONDecodeError as error:
        raise Unfit("json", f"{error.msg} at character {error.pos + 1}") from None
    except ValueError as error:  # a number that Python will not hold
        raise Unfit("json", str(error)) from None
    if not isinstance(values, dict):
        raise Unfit("not-an-object", f"{_name(values)} at character 1, where an object {{...}} belongs")
    if "\\u" in text:
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            raise Unfit("encoding", f"the lone surrogate \\u{code:04x} is no character") from None
    return values


def shape_of(values: dict[str, Any]) -> str:
    """Which of the three usual shapes an object has."""
    messages = values.get("messages")
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return "messages"
    return "prompt_completion" if {"prompt", "completion"} <= values.keys() else "records"


def repeated_key(text: str) -> tuple[str, int]:
    """The first key of valid JSON that its object already has, and its 1-based character."""
    seen: list[set[str]] = []
    for token in TOKEN.finditer(text):
        if token[0] in "{[":
            seen.append(set())
        elif token[0] in "}]":
            seen.pop()
        elif token[0].startswith('"') and COLON.match(text, token.end()):
            key = json.loads(token[0])
            if key in seen[-1]:
                return key, token.start() + 1
            seen[-1].add(key)
    raise ValueError("no key is repeated")


def is_one_array(path: Path, first: Line, *, alone: bool) -> bool:
    """Whether the file is a single JSON array: it begins and ends as one, and its first line is no array by itself."""
    if not first.text.lstrip(" \t").startswith("["):
        return False
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - CHUNK_BYTES))
        if not file.read().rstrip(b" \t\r\n\0").endswith(b"]"):
            return False
    if alone:
        return True
    try:
        parse(first.text)
    except Unfit as unfit:
        return unfit.rule in ("json", "too-long")
    return False


class _RepeatedKey(Exception):
    pass


class _Constant(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedKey
    return values


def _no_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {excerpt(digits)} is too large")
    return number


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in TOKEN.finditer(text):
        if token[0] in "{[":
            depth += 1
            if depth > DEEPEST:
                raise Unfit("too-deep", f"more than {DEEPEST} levels of nesting at character {token.start() + 1}")
        elif token[0] in "}]":
            depth -= 1


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")
