"""The reader of a file is found from what it holds; its name only settles what that leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import UserError
from luthier.readers import Reader, Table
from luthier.readers.csv import Csv
from luthier.readers.json import Json
from luthier.readers.jsonl import Jsonl
from luthier.readers.tsv import Tsv
from luthier.reading import detect, reader_for_more

FILES = {
    "csv": ("t.csv", b"a,b\n1,2\n", Csv(delimiter=",")),
    "semicolons": ("t.csv", b"a;b\n1,5;2\n", Csv(delimiter=";")),
    "tabs": ("t.tsv", b"a\tb\n1\t2\n", Tsv()),
    "tabs named csv": ("t.csv", b"a\tb\n1\t2\n", Tsv()),
    "commas named tsv": ("t.tsv", b"a,b\n1,2\n", Csv(delimiter=",")),
    "one column named tsv": ("t.tsv", b"a\n1\n", Tsv()),
    "one column": ("t.txt", b"a\n1\n", Csv(delimiter=",")),
    "json lines": ("t.jsonl", b'{"a":1}\n', Jsonl()),
    "json lines named csv": ("t.csv", b'{"a":1}\n{"a":2}\n', Jsonl()),
    "json lines without a suffix": ("t", b'\xef\xbb\xbf\n{"a":1}\n', Jsonl()),
    "json lines that begin broken": ("t.jsonl", b'oops\n{"a":1}\n', Jsonl()),
    "json lines, all broken": ("t.jsonl", b'{"a":1\n{"a":\n', Jsonl()),
    "a json array": ("t.csv", b'[{"a":1},\n{"a":2}]', Json()),
    "a json array with an object on each line": ("t.jsonl", b'[\n{"a":1},\n{"a":2}\n]', Json()),
    "a json array on one line": ("T.JSON", b'[{"a":1},{"a":2}]', Json()),
    "objects over several lines": ("t.txt", b'{\n "a":1\n}\n{\n "a":2\n}\n', Json()),
    "objects over several lines that begin broken": ("t.json", b'{\n "a":,\n}\n{\n "a":2\n}\n', Json()),
    "an object around a list": ("t.json", b'{"data": [{"a":1},{"a":2}]}', Json()),
    "one line of json": ("t.json", b'{"a":1}', Jsonl()),
    "a conversation": ("t.json", b'{"messages": [{"role":"user","content":"hi"}]}\n', Jsonl()),
    "brackets in a header": ("t.csv", b"[id],name\n1,x\n", Csv(delimiter=",")),
    "a suffix in capitals": ("DATA.TSV", b"a\n1\n", Tsv()),
    "json lines in capitals": ("DATA.JSONL", b'oops\n{"a":1}\n', Jsonl()),
    "csv named jsonl": ("t.jsonl", b"a,b\n1,2\n", Csv(delimiter=",")),
    "json in a csv column": ("t.csv", b'payload\n{"a":1}\n', Csv(delimiter=",")),
    "utf-16": ("t.csv", "a;b\n1;2\n".encode("utf-16"), Csv(delimiter=";")),
}


@pytest.mark.parametrize(("name", "content", "reader"), FILES.values(), ids=FILES.keys())
def test_content_decides_and_the_suffix_settles_the_rest(
    tmp_path: Path, name: str, content: bytes, reader: Reader
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = detect(path)
    assert (type(found), found) == (type(reader), reader)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"PK\x03\x04\0", "looks like a zip archive, not text")],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        detect(path)
    assert error.value.what == what


@pytest.mark.parametrize(
    ("encoding", "given", "former", "expected"),
    [
        ("cp1250", None, "cp1250", "cp1250"),  # one word, which may be of several encodings: as the table before
        ("cp1250", None, "utf-8", None),  # the table before says nothing of it
        ("utf-8", None, "cp1250", "auto"),
        ("utf-8", Csv(encoding="cp1250"), "cp1250", "auto"),  # its bytes speak against what the recipe says
        ("cp1250", Csv(encoding="cp1250"), "cp1250", "cp1250"),
    ],
)
def test_further_rows_are_read_as_those_before_unless_their_bytes_say_otherwise(
    tmp_path: Path, encoding: str, given: Csv | None, former: str, expected: str | None
) -> None:
    (tmp_path / "new.csv").write_bytes("raw;n\ngdańsk;1\n".encode(encoding))
    if expected is None:
        with pytest.raises(UserError, match="its bytes do not tell which encoding it has"):
            reader_for_more(tmp_path / "new.csv", given, former)
        return
    reader = reader_for_more(tmp_path / "new.csv", given, former)
    assert reader.model_dump()["encoding"] == expected
    assert [row.values["raw"] for row in Table(tmp_path / "new.csv", reader)] == ["gdańsk"]
