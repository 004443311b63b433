"""JSON lines: every line comes out once, as a row or with its place and the rule that it broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import UserError
from luthier.readers import Quarantined, Row
from luthier.readers._lines import LONGEST
from luthier.readers.jsonl import Jsonl


def written(folder: Path, content: bytes) -> Path:
    path = folder / "t.jsonl"
    path.write_bytes(content)
    return path


def short(found: Row | Quarantined) -> tuple[Any, ...]:
    """(line, values) of a row, (line, column, rule, reason) of what was put aside."""
    if isinstance(found, Row):
        return found.line, found.values
    return found.line, found.column, found.rule, found.reason


A1 = (1, {"a": 1})
FILES: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "plain": (b'{"a":1}\n{"b":[1.5,null,"x"]}\n', [A1, (2, {"b": [1.5, None, "x"]})]),
    "mixed endings and blank lines": (b'{"a":1}\r\n\r\n \n{"a":2}\r{"a":3}', [A1, (4, {"a": 2}), (5, {"a": 3})]),
    "utf-8 mark": (b'\xef\xbb\xbf{"a":1}\n', [A1]),
    "utf-16": ('{"a":"é"}\n'.encode("utf-16"), [(1, {"a": "é"})]),
    "u2028 is text": ('{"a":"x\u2028y"}\n'.encode(), [(1, {"a": "x\u2028y"})]),
    "truncated": (b'{"a":1}\n{"a": 1\n', [A1, (2, "", "json", "Expecting ',' delimiter at character 8")]),
    "garbage": (b'x\n{"a":1}\n', [(1, "", "json", "Expecting value at character 1"), (2, {"a": 1})]),
    "two on a line": (b'{"a":1} {"a":2}\n', [(1, "", "json", "Extra data at character 9")]),
    "trailing comma": (
        b'{"a":1,}\n',
        [(1, "", "json", "Expecting property name enclosed in double quotes at character 8")],
    ),
    "nul": (b'{"a":"x\0"}\n{"a":1}\n', [(1, "", "json", "Invalid control character at at character 8"), (2, {"a": 1})]),
    "nan": (b'{"NaN": "NaN", "a": NaN}\n', [(1, {"NaN": "NaN", "a": None})]),
    "infinity": (b'{"a": -Infinity}\n', [(1, "", "json", "-Infinity at character 7 is no JSON")]),
    "a number beyond floats": (b'{"a":1e999}\n', [(1, "", "json", "the number 1e999 is too large")]),
    "number": (b"5\n", [(1, "", "not-an-object", "a number at character 1, where an object {...} belongs")]),
    "null": (b"null\n", [(1, "", "not-an-object", "null at character 1, where an object {...} belongs")]),
    "array among objects": (
        b'[1]\n{"a":1}\n',
        [(1, "", "not-an-object", "an array at character 1, where an object {...} belongs"), (2, {"a": 1})],
    ),
    "arrays on every line": (
        b"[1]\n[2]\n",
        [(n, "", "not-an-object", "an array at character 1, where an object {...} belongs") for n in (1, 2)],
    ),
    "repeated key": (
        b'{"a":1,"b":2,"a":3}\n',
        [(1, "a", "duplicate-key", "the key 'a' at character 14 was already given")],
    ),
    "repeated key inside, spelt otherwise": (
        b'{"a":"a","b":[{"a":1, "\\u0061":"}"}]}\n',
        [(1, "a", "duplicate-key", "the key 'a' at character 23 was already given")],
    ),
    "same key in different objects": (b'{"a":{"a":{"a":1}}}\n', [(1, {"a": {"a": {"a": 1}}})]),
    "bad byte": (
        b'{"a":"caf\xe9"}\n{"a":1}\n',
        [(1, "", "encoding", "byte 0xe9 at character 10 is not valid in this encoding"), (2, {"a": 1})],
    ),
    "lone surrogate": (b'{"a":"\\ud800"}\n', [(1, "", "encoding", "the lone surrogate \\ud800 is no character")]),
    "surrogate pair": (b'{"a":"\\ud83d\\ude00"}\n', [(1, {"a": "\U0001f600"})]),
    "101 levels": (
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}\n",
        [(1, "", "too-deep", "more than 100 levels of nesting at character 105")],
    ),
    "100,000 levels": (
        b"[" * 100_000 + b"\nx",
        [
            (1, "", "too-deep", "more than 100 levels of nesting at character 101"),
            (2, "", "json", "Expecting value at character 1"),
        ],
    ),
    "brackets in a text are no levels": (b'{"a":"' + b"[" * 200 + b'"}\n', [(1, {"a": "[" * 200})]),
}


@pytest.mark.parametrize(("content", "expected"), FILES.values(), ids=FILES.keys())
def test_every_line_comes_once_with_its_place(tmp_path: Path, content: bytes, expected: list[tuple[Any, ...]]) -> None:
    assert [short(found) for found in Jsonl().rows(written(tmp_path, content))] == expected


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="is empty"):
        list(Jsonl().rows(written(tmp_path, content)))


def test_a_line_too_long_is_put_aside_and_the_next_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"a":"' + b"x" * LONGEST + b'"}\r\n{"a":1}\n')
    assert [short(found) for found in Jsonl().rows(path)] == [
        (1, "", "too-long", "the line is longer than 16777216 characters"),
        (2, {"a": 1}),
    ]


MESSAGES = b'{"messages":[{"role":"user","content":"hi"}]}\n'
SHAPES = {
    "records": (b'{"a":1}\n{"b":1,"a":2}\n', "records", {"records": 1}, ["a", "b"]),
    "pairs": (
        b'x\n{"prompt":"p","completion":"c"}\n',
        "prompt_completion",
        {"prompt_completion": 2},
        ["prompt", "completion"],
    ),
    "chat": (MESSAGES, "messages", {"messages": 1}, ["messages"]),
    "messages that are none": (b'{"messages":["hi"]}\n', "records", {"records": 1}, ["messages"]),
    "mixed": (MESSAGES * 2 + b'{"a":1}\n', "mixed", {"messages": 1, "records": 3}, ["messages", "a"]),
}


@pytest.mark.parametrize(("content", "shape", "shapes", "columns"), SHAPES.values(), ids=SHAPES.keys())
def test_the_shape_and_its_first_line_are_said(
    tmp_path: Path, content: bytes, shape: str, shapes: dict[str, int], columns: list[str]
) -> None:
    assert Jsonl().describe(written(tmp_path, content)) == {
        "format": "jsonl",
        "encoding": "utf-8",
        "shape": shape,
        "shapes": shapes,
        "columns": columns,
    }


LINE = st.text(alphabet=st.sampled_from('{}[]":,a1\\u d8é\0NaN'), max_size=20).map(str.encode) | st.binary(max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(LINE.map(lambda line: line.translate(None, b"\r\n")), max_size=6))
def test_any_line_is_either_read_or_put_aside(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = written(tmp_path_factory.getbasetemp(), b'{"first":1}\n' + b"\n".join(lines))
    try:
        found = [item.line for item in Jsonl().rows(path)]
    except UserError:
        assert any(b"\0" in line for line in lines)
        return
    assert found == [1] + [n for n, line in enumerate(lines, start=2) if line.strip(b" \t")]


def test_a_file_without_one_object_is_told_by_its_first_line(tmp_path: Path) -> None:
    path = written(tmp_path, b'\n{"a": 1, "b": Infinity}\n{"a": 2, "b": Infinity}\n')
    with pytest.raises(UserError) as told:
        Jsonl().describe(path)
    assert told.value.sentence() == (
        f"{path}, line 2: none of the 2 records is a JSON object that can be read; the first: Infinity at character 15 is "
        "no JSON; write one JSON object on each line, or an array of objects"
    )


def test_nan_is_read_as_null_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"a": NaN, "b": [NaN, "NaN"]}\n{"a": 2, "NaN": 1}\n')
    assert [each.values for each in Jsonl().rows(path) if isinstance(each, Row)] == [
        {"a": None, "b": [None, "NaN"]},
        {"a": 2, "NaN": 1},
    ]
    assert Jsonl().describe(path)["nan_read_as_null"] == 2


def test_each_line_tells_the_blank_lines_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, b'\n{"a": 1}\n{"a": 2}\n\n \nbroken\n{"a": 3}\n')
    assert [(each.line, each.blank_before) for each in Jsonl().rows(path)] == [(2, 1), (3, 0), (6, 2), (7, 0)]
