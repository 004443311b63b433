"""JSON documents: each record comes once with the line where it begins, and a broken one costs itself alone."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import UserError
from luthier.readers import Quarantined, Row
from luthier.readers.json import Json


def written(folder: Path, content: bytes) -> Path:
    path = folder / "t.json"
    path.write_bytes(content)
    return path


def short(found: Row | Quarantined) -> tuple[Any, ...]:
    """(line, values) of a row, (line, rule, reason) of what was put aside."""
    return (found.line, found.values) if isinstance(found, Row) else (found.line, found.rule, found.reason)


A1, A2, A3 = {"a": 1}, {"a": 2}, {"a": 3}
FILES: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "an array": (b'[{"a":1},\n{"a":2}]\n', [(1, A1), (2, A2)]),
    "an array with its brackets on their own": (b'\n[\n{"a":1},\n{"a":2}\n]', [(3, A1), (4, A2)]),
    "an array on one line": (b'[{"a":1},{"a":2}, {"a":3}]', [(1, A1), (2, A2), (3, A3)]),
    "an array of one": (b'[{"a":1}]', [(1, A1)]),
    "objects over several lines": (b'{\r\n "a": 1\r\n}\r\n{\r\n "a": 2\r\n}', [(1, A1), (4, A2)]),
    "objects behind one another": (b'{"a":1}{"a":2} {"a":3}', [(1, A1), (2, A2), (3, A3)]),
    "nested": (b'[\n {"a": {"b": [{"c": "}]"}]}},\n {"a": 2}\n]', [(2, {"a": {"b": [{"c": "}]"}]}}), (3, A2)]),
    "a list in an object": (b'{"n": 2, "data": [\n{"a":1},\n{"a":2}\n], "next": null}', [(2, A1), (3, A2)]),
    "a list in an object, with other lists": (
        b'{"tags": ["x", "y"], "none": [], "rows": [{"a":1},{"a":2}]}',
        [(1, A1), (2, A2)],
    ),
    "an object alone": (b'{\n"a": 1}', [(1, A1)]),
    "utf-16": ('[{"a":"é"},\n{"a":2}]'.encode("utf-16"), [(1, {"a": "é"}), (2, A2)]),
    "utf-8 mark": (b'\xef\xbb\xbf[{"a":1},\n{"a":2}]', [(1, A1), (2, A2)]),
    "nan": (b'[{"a": NaN},\n{"a": 2}]', [(1, {"a": None}), (2, A2)]),
    "several arrays": (b'[{"a":1},\n{"a":2}]\n[{"a":3}]', [(1, A1), (2, A2), (3, A3)]),
    "no object among objects": (
        b'[{"a":1},\n5,\n{"a":2}]',
        [(1, A1), (2, "not-an-object", "a number at character 1, where an object {...} belongs"), (3, A2)],
    ),
    "a broken one": (
        b'[\n {"a": 1},\n {"a": },\n {"a": 3}\n]',
        [(2, A1), (3, "json", "Expecting value at character 7"), (4, A3)],
    ),
    "a broken one over several lines": (
        b'[\n  {\n    "a": 1\n  },\n  {\n    "b": {\n    "a" 2\n  },\n  {\n    "a": 3\n  }\n]',
        [(2, A1), (5, "json", "Expecting ':' delimiter at character 22"), (9, A3)],
    ),
    "a text that is not closed": (
        b'{\n "a": "x\n}\n{\n "a": 2\n}\n',
        [(1, "json", "Invalid control character at at character 11"), (4, A2)],
    ),
    "a broken one on one line": (
        b'[{"a":1},{"a":},{"a":3}]',
        [(1, A1), (2, "json", "record 2 of the document: Expecting value at character 6"), (3, A3)],
    ),
    "a broken last one": (b'[\n{"a":1},\n{"a":2,}\n]', [(2, A1), (3, "json", None)]),
    "the same key twice": (
        b'[{"a":1},\n{"a":1,"a":2}]',
        [(1, A1), (2, "duplicate-key", "the key 'a' at character 8 was already given")],
    ),
    "infinity": (b'[{"a":1},\n{"a":Infinity}]', [(1, A1), (2, "json", "Infinity at character 6 is no JSON")]),
    "bad bytes": (
        b'[{"a":1},\n{"a":"caf\xe9"},\n{"a":3}]',
        [(1, A1), (2, "encoding", "byte 0xe9 at character 10 is not valid in this encoding"), (3, A3)],
    ),
    "cut off between records": (
        b'[\n{"a":1},\n{"a":2},\n',
        [(2, A1), (3, A2), (4, "json", "the list is not closed: the file may be cut off")],
    ),
    "two on a line further down": (
        b'[{"a":1},\n{"a":2}, {"a":3}]',
        [
            (1, A1),
            (2, A2),
            (2, "json", "it begins on the line of the record before it; write every record on a line of its own"),
        ],
    ),
    "too deep": (
        b'[{"a":1},\n{"a":' + b"[" * 100_000 + b"]" * 100_000 + b'},\n{"a":3}]',
        [(1, A1), (2, "too-deep", "more than 100 levels of nesting at character 105"), (3, A3)],
    ),
}


@pytest.mark.parametrize(("content", "expected"), FILES.values(), ids=FILES.keys())
def test_every_record_comes_once_at_its_line(tmp_path: Path, content: bytes, expected: list[tuple[Any, ...]]) -> None:
    found = [short(each) for each in Json().rows(written(tmp_path, content))]
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert [each[2] for each, right in zip(found, expected, strict=True) if len(right) == 3 and right[2]] == [
        each[2] for each in expected if len(each) == 3 and each[2]
    ]


def test_each_record_has_its_text(tmp_path: Path) -> None:
    path = written(tmp_path, b'[\n {"a":\n  1.50},\n {"a": },\n {"a":3}\n]')
    assert [each.text for each in Json().rows(path)] == ['{"a":\n  1.50}', '{"a": }', '{"a":3}']


FORMS = {
    "array": b'[{"a":1},\n{"a":2}]',
    "objects": b'{\n"a":1}\n{"a":2}',
    "data": b'{"data":[{"a":1},{"a":2}]}',
}


@pytest.mark.parametrize(("form", "content"), FORMS.items(), ids=FORMS.keys())
def test_the_form_of_a_document_is_said(tmp_path: Path, form: str, content: bytes) -> None:
    described = Json().describe(written(tmp_path, content))
    assert (described["format"], described["form"], described["columns"]) == ("json", form, ["a"])


def test_several_lists_are_told_by_their_keys(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"train": [{"a":1}], "test": [{"a":2}]}')
    with pytest.raises(UserError) as told:
        list(Json().rows(path))
    assert str(told.value) == (
        f"{path}: holds several lists of objects: 'train', 'test'; "
        "keep the one with the records, or write it to a file of its own"
    )


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"[\n]\n"])
def test_an_empty_document_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="is empty"):
        list(Json().rows(written(tmp_path, content)))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_long_document_is_read_in_flat_memory(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "t.json"
    with path.open("w") as file:
        file.write('{"data": [')
        for n in range(20_000):
            file.write(("," if n else "") + json.dumps({"n": n, "text": "x" * 400}, indent=indent))
        file.write("]}")
    tracemalloc.start()
    n_rows = sum(isinstance(each, Row) for each in Json().rows(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_rows == 20_000
    assert most < 2_000_000 < path.stat().st_size / 4


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(alphabet='a"\\{}[],:é\n ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text("abc", max_size=2), VALUES, max_size=3), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(RECORDS, st.sampled_from([None, 0, 2]), st.sampled_from(["array", "lines", "data"]))
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], indent: int | None, form: str
) -> None:
    told = [json.dumps(record, indent=indent) for record in records]
    text = (
        "\n".join(told)
        if form == "lines"
        else json.dumps(records if form == "array" else {"data": records}, indent=indent)
    )
    path = written(tmp_path_factory.getbasetemp(), text.encode())
    if form == "lines" and len(records) == 1:
        return  # an object alone may be an object around a list
    assert [each.values for each in Json().rows(path) if isinstance(each, Row)] == records


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    RECORDS,
    st.sampled_from([None, 0, 2]),
    st.integers(0, 400),
    st.sampled_from(['"', "{", "}", "[", "]", ",", "", "\n"]),
)
def test_a_damaged_document_ends_and_raises_nothing_but_user_errors(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], indent: int | None, at: int, damage: str
) -> None:
    text = json.dumps(records, indent=indent)
    at %= len(text)
    path = written(tmp_path_factory.getbasetemp(), (text[:at] + damage + text[at + 1 :]).encode())
    try:
        assert list(Json().rows(path))
    except UserError:
        return
