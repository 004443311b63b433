"""Tables that are written again: whatever stood in them stands there still, and other programs read what is new."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_applying import TASK, Counting, applied

from luthier.engines import Request, Said, Session, Tell, untold
from luthier.errors import UserError
from luthier.readers import Quarantined, Reader, Row
from luthier.readers.csv import Csv
from luthier.readers.lines import Lines
from luthier.tables import writable
from luthier.tasks import Task


class Saying(Session):
    """Answers every question with one text."""

    def __init__(self, text: str = "x") -> None:
        self.text = text

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        return [Said(text=self.text, confidence=0.25) for _ in requests]


def again(
    folder: Path, content: bytes, said: str = "x", source: str = "t.csv", target: str = "out.csv", **settings: Any
) -> bytes:
    """What is written for a table of these bytes where the model says this to every question."""
    (folder / source).write_bytes(content)
    applied(folder / source, folder / target, Saying(said), **settings)
    return (folder / target).read_bytes()


NEW = b"messy_suggestion,messy_confidence"
KEPT = {
    "numbers as text": (b"messy,n\na,0007\nb,1.10\nc,1e5\nd,12345678901234567890\n", b",", b"\n", b"x,0.250"),
    "semicolons": (b"messy;n\na;1,x\n", b";", b"\n", b"x;0.250"),
    "decimal commas": (b"messy;n\r\na;1,5\r\nb;2.000,25\r\nc;\r\n", b";", b"\r\n", b"x;0,250"),
    "thousands tell nothing": (b"messy;n\na;1,500\nb;2,000\n", b";", b"\n", b"x;0.250"),
    "decimal points": (b"messy;n;d\na;1.5;3,5\nb;2.5;x\n", b";", b"\n", b"x;0.250"),
    "tabs": (b"messy\tn\na\t1\n", b"\t", b"\n", b"x\t0.250"),
    "bars": (b"messy|n\na|1\nb|2\n", b"|", b"\n", b"x|0.250"),
    "line endings of Windows": (b'messy,n\r\n"a\nb",1\r\nc,2\r\n', b",", b"\r\n", b"x,0.250"),
    "line endings of old": (b"messy,n\ra,1\rb,2\r", b",", b"\r", b"x,0.250"),
    "no ending at the end": (b"messy,n\na,1\nb,2", b",", b"\n", b"x,0.250"),
    "some cells quoted": (b'messy,n\n"a",1\nb,"2"\n', b",", b"\n", b"x,0.250"),
    "all cells quoted": (b'"messy","n"\n"a","1"\n"b","2"\n', b",", b"\n", b'"x","0.250"'),
    "texts quoted": (b'"messy","n"\n"a",1\n"b",2\n', b",", b"\n", b'"x",0.250'),
    "a mark of UTF-8": (b"\xef\xbb\xbfmessy,n\n\xc3\xa9,1\n", b",", b"\n", b"x,0.250"),
    "cp1252": ("messy;n\nMünchen;1\nöß;2\n".encode("cp1252"), b";", b"\n", b"x;0.250"),
    "a first line with the delimiter": (b"sep=;\r\nmessy;n\r\na;1\r\n", b";", b"\r\n", b"x;0.250"),
    "a nameless column": (b",messy\n0,a\n1,b\n", b",", b"\n", b"x,0.250"),
    "a header over two lines": (b'messy,"n\nm"\na,1\n', b",", b"\n", b"x,0.250"),
    "blanks in cells": (b"messy, n\na , 1\n", b",", b"\n", b"x,0.250"),
    "a trailing delimiter": (b"messy,n,\na,1,\n", b",", b"\n", b"x,0.250"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_every_record_stands_as_it_stood_with_the_new_cells_behind_it(tmp_path: Path, kind: str) -> None:
    content, delimiter, ending, new = KEPT[kind]
    quoted = kind in ("all cells quoted", "texts quoted")
    names = (b'"messy_suggestion","messy_confidence"' if quoted else NEW).replace(b",", delimiter)
    head = 1 if kind.startswith("a first line") else 0
    lines = content.split(ending)
    last = len(lines) - (1 if content.endswith(ending) else 0)
    expected = [
        line if n < head or n >= last else line + delimiter + (names if n == head else new)
        for n, line in enumerate(lines)
    ]
    if kind == "a header over two lines":
        expected = [b'messy,"n', b'm",' + NEW, b"a,1,x,0.250", b""]
    assert again(tmp_path, content) == ending.join(expected)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_encodings_keep_their_mark_and_order(tmp_path: Path, encoding: str) -> None:
    written = again(tmp_path, "\ufeffmessy,n\na,1".encode(encoding))
    assert written == f"\ufeffmessy,n,{NEW.decode()}\na,1,x,0.250".encode(encoding)


def test_a_json_line_keeps_its_text_and_its_style(tmp_path: Path) -> None:
    content = (
        '{"messy": "a", "n": 1.10, "big": 12345678901234567890, "e": 1e5, "u": "\\u00e9"}\r\n\r\n'
        '{"n":null,"messy":"b","deep":{"z":[1.0,true]}}\r\n'
        "{}\r\n{ }\r\n"
        '{"other": "c" }'
    )
    assert again(tmp_path, content.encode(), source="t.jsonl", target="out.Jsonl").decode() == (
        '{"messy": "a", "n": 1.10, "big": 12345678901234567890, "e": 1e5, "u": "\\u00e9", '
        '"messy_suggestion": "x", "messy_confidence": 0.25}\r\n'
        '{"n":null,"messy":"b","deep":{"z":[1.0,true]},"messy_suggestion":"x","messy_confidence":0.25}\r\n'
        '{"messy_suggestion": null, "messy_confidence": null}\r\n'
        '{"messy_suggestion": null, "messy_confidence": null }\r\n'
        '{"other": "c", "messy_suggestion": null, "messy_confidence": null }'
    )


def test_json_becomes_a_table_digit_by_digit(tmp_path: Path) -> None:
    content = b'{"messy": "a", "n": 1.10, "big": 12345678901234567890, "yes": true, "deep": {"z": [1.0]}, "no": null}\n'
    written = again(tmp_path, content, source="t.jsonl").decode()
    assert next(csv.DictReader(written.splitlines())) == {
        "messy": "a",
        "n": "1.10",
        "big": "12345678901234567890",
        "yes": "true",
        "deep": '{"z": [1.0]}',
        "no": "",
        "messy_suggestion": "x",
        "messy_confidence": "0.250",
    }


def test_a_table_becomes_json_in_which_text_stays_text(tmp_path: Path) -> None:
    content = "messy;n\r\nMünchen;0007\r\nb;1,5\r\n;null\r\n".encode("cp1252")
    rows = [
        {"messy": "München", "n": "0007", "messy_suggestion": "x", "messy_confidence": 0.25},
        {"messy": "b", "n": "1,5", "messy_suggestion": "x", "messy_confidence": 0.25},
        {"messy": "", "n": "null", "messy_suggestion": None, "messy_confidence": None},
    ]
    lines = again(tmp_path, content, target="out.NDJSON").decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    array = again(tmp_path, content, target="out.json")
    assert json.loads(array) == rows


def test_a_cell_that_looks_like_an_object_is_a_cell(tmp_path: Path) -> None:
    written = again(tmp_path, b"messy\n{a}\n{b}\n", target="out.jsonl").decode().splitlines()
    assert [json.loads(line)["messy"] for line in written] == ["{a}", "{b}"]


def test_json_lines_under_another_suffix_stay_lines(tmp_path: Path) -> None:
    content = b'{"messy": "a"}\n{"messy": "b"}\n'
    same = again(tmp_path, content, source="t.json", target="out.json")
    assert [json.loads(line)["messy"] for line in same.splitlines()] == ["a", "b"]
    assert [row["messy"] for row in json.loads(again(tmp_path, content, source="t.jsonl", target="a.json"))] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("source", "target", "delimiter"),
    [
        ("t.csv", "out.tsv", "\t"),
        ("t.csv", "out.CSV", ";"),
        ("t.txt", "out.csv", ";"),
        ("t.tsv", "out.csv", ";"),
        ("t.csv", "out.TAB", "\t"),
    ],
)
def test_the_suffix_says_the_delimiter_where_it_differs(
    tmp_path: Path, source: str, target: str, delimiter: str
) -> None:
    written = again(tmp_path, b'messy;n\n"a;\tb";1\n', source=source, target=target).decode()
    assert list(csv.reader(written.splitlines(), delimiter=delimiter)) == [
        ["messy", "n", "messy_suggestion", "messy_confidence"],
        ["a;\tb", "1", "x", "0.250"],
    ]


@pytest.mark.parametrize("said", ["a;b", 'say "so"', "two\nlines", "car\rriage", " blank ", "'", "\u2028", "1,5"])
def test_a_suggestion_of_any_characters_comes_back(tmp_path: Path, said: str) -> None:
    class Verbatim(type(TASK)):  # type: ignore[misc]
        kind = "standardize"

        def cells(self, row: Any, predictions: Any) -> dict[str, Any]:
            return {"new": said}

    task = Verbatim(table="t", column="messy", target="clean")
    for n, content in enumerate((b"messy;n\na;1\n", b"messy\n7\n", b'"messy";"n"\n"a";"1"\n')):
        target = tmp_path / f"{n}.csv"
        again(tmp_path, content, target=target.name, task=task)
        with target.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="," if n == 1 else ";"))
        assert [len(row) for row in rows] == [len(rows[0])] * 2
        assert rows[1][-1] == said


def test_what_the_encoding_cannot_hold_makes_the_table_utf8_with_a_mark_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("messy;n\r\nMünchen;1\r\nb;2\r\n".encode("cp1252"))
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Saying("Łódź"))
    assert (tmp_path / "out.csv").read_bytes() == (
        b"\xef\xbb\xbf"
        + "messy;n;messy_suggestion;messy_confidence\r\nMünchen;1;Łódź;0.250\r\nb;2;Łódź;0.250\r\n".encode()
    )
    assert result["notes"] == [
        "cp1252, in which the table was, has no 'Ł', which a suggestion holds: "
        "what is written is UTF-8 with a byte order mark"
    ]


def test_a_suggestion_with_what_is_no_character_is_written_with_the_sign_for_that(tmp_path: Path) -> None:
    assert "a\ufffdb" in again(tmp_path, b"messy\na\n", said="a\udc41b").decode()
    assert "a\ufffdb" in again(tmp_path, b"messy\na\n", said="a\ud800b", target="o.jsonl").decode()


def test_a_table_that_quotes_nothing_is_quoted_only_where_it_must_be(tmp_path: Path) -> None:
    content, settings = b'messy,n\n"a,1\n', {"reader": Csv(quote="")}
    assert again(tmp_path, content, **settings).splitlines()[1] == b'"a,1,x,0.250'
    (tmp_path / "t.csv").write_bytes(content)
    result = applied(tmp_path / "t.csv", tmp_path / "2.csv", Saying("x,y"), reader=Csv(quote=""))
    assert list(csv.reader((tmp_path / "2.csv").read_text().splitlines()))[1] == ['"a', "1", "x,y", "0.250"]
    assert len(result["notes"]) == 1
    assert "quotes nothing" in result["notes"][0]


def test_lines_become_a_table_since_nothing_can_stand_behind_their_last_column(tmp_path: Path) -> None:
    written = again(tmp_path, b"1 a, b\n2 c\n", source="t.txt", reader=Lines(columns=["n", "messy"])).decode()
    assert list(csv.reader(written.splitlines())) == [
        ["n", "messy", "messy_suggestion", "messy_confidence"],
        ["1", "a, b", "x", "0.250"],
        ["2", "c", "x", "0.250"],
    ]


def test_nothing_between_records_is_taken_for_one(tmp_path: Path) -> None:
    written = again(tmp_path, b"\nmessy,n\n\na,1\n\n\nb,2\n\n\n")
    assert [row for row in csv.reader(written.decode().splitlines()) if row] == [
        ["messy", "n", *NEW.decode().split(",")],
        ["a", "1", "x", "0.250"],
        ["b", "2", "x", "0.250"],
    ]


def test_every_record_is_in_the_table_or_whole_in_the_file_beside_it(tmp_path: Path) -> None:
    lines = [b"messy,n", *(b"a,%d" % n if n % 3 else b"a, and, %d" % n for n in range(30))]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    result = applied(tmp_path / "t.csv", tmp_path / "out.csv", Saying())
    written = (tmp_path / "out.csv").read_text().splitlines()
    aside = [json.loads(line) for line in Path(result["quarantine"]).read_text().splitlines()]
    whole = {record["line"]: record["text"].rstrip("\n") for record in aside}
    rows = iter(written[1:])
    found = [whole[n] if n in whole else next(rows).removesuffix(",x,0.250") for n in range(2, 32)]
    assert found == [line.decode() for line in lines[1:]]


@pytest.mark.parametrize("name", ["o.csv", "o.CSV", "o.Jsonl", "o.TSV", "o.tab", "o.ndjson", "o.JSON"])
def test_a_suffix_may_be_written_in_any_case(tmp_path: Path, name: str) -> None:
    writable(tmp_path / name)


@pytest.mark.parametrize("name", ["o.xlsx", "o", "o.csv.gz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix
    with pytest.raises(UserError, match=rf"cannot write a table as '{suffix}'; use \.csv, \.tsv, \.tab, \.jsonl, "):
        writable(tmp_path / name)


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl"])
def test_blank_rows_get_no_suggestion_whatever_the_task(tmp_path: Path, name: str) -> None:
    csv_text = "prompt,ref\n,a\nq,b\n   ,c\n"
    json_text = "".join(
        json.dumps(row) + "\n" for row in ({"prompt": None, "ref": "a"}, {"prompt": "q"}, {"prompt": " "}, {"ref": "d"})
    )
    for n, task in enumerate(
        (
            Task.pick({"kind": "generate", "table": "t"}),
            Task.pick({"kind": "standardize", "table": "t", "column": "prompt", "target": "clean"}),
            Task.pick({"kind": "classify", "table": "t", "text": "prompt", "label": "label"}),
        )
    ):
        (tmp_path / name).write_text(csv_text if name.endswith("csv") else json_text)
        session, target = Counting(), tmp_path / f"{n}.jsonl"
        result = applied(tmp_path / name, target, session, task=task)
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        said = [next(value for key, value in row.items() if key.endswith("_suggestion")) for row in rows]
        assert [value is not None for value in said] == [False, True, *[False] * (len(rows) - 2)]
        assert len(session.blocks[0]) == 1
        assert result["rows_without_prediction"] == len(rows) - 1


def test_answers_that_are_all_empty_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt\nq\nr\n")
    with pytest.raises(UserError, match="nothing is suggested: the model's answer is empty for all 2 that were asked"):
        applied(
            tmp_path / "t.csv", tmp_path / "out.csv", Saying(" "), task=Task.pick({"kind": "generate", "table": "t"})
        )
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


class Plain(Reader):
    """Fields between semicolons below some lines, the last of which may be a header; another package's reader."""

    kind = "plain"

    above: int = 0
    header: bool = True
    names: list[str] = ["messy", "n"]
    quote: str = ""
    escape: str = ""

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        for number, text in enumerate(path.read_text().splitlines(), start=1):
            if number > self.above:
                yield Row(path.name, number, dict(zip(self.names, text.split(";"), strict=False)), text=text)

    def describe(self, path: Path) -> dict[str, Any]:
        about = {"format": "csv", "delimiter": ";", "columns": self.names}
        return about | {"quote": self.quote, "escape": self.escape, "header": self.header}


READ = {
    "no header": (Plain(header=False), "a;1\nb;2\n", "a;1;x;0.250\nb;2;x;0.250\n"),
    "skipped lines and no header": (Plain(above=1, header=False), "m;n\na;1\n", "m;n\na;1;x;0.250\n"),
    "lines above the header": (
        Plain(above=4),
        'Report "one\n\nmessy;n\n\na;1\n',
        'Report "one\n\nmessy;n;messy_suggestion;messy_confidence\na;1;x;0.250\n',
    ),
    "other names": (Plain(above=1), "x;y\na;1\n", "x;y;messy_suggestion;messy_confidence\na;1;x;0.250\n"),
    "names of rows without a name": (
        Plain(above=1, names=["row", "messy", "n"], quote='"'),
        '"messy";"n"\n"1";a;1\n',
        '"messy";"n";"messy_suggestion";"messy_confidence"\n"1";a;1;x;0.250\n',
    ),
    "a delimiter behind each record": (
        Plain(above=1),
        "messy;n\na;1;\nb;;\nc;3;\n",
        "messy;n;messy_suggestion;messy_confidence\na;1;x;0.250\nb;;x;0.250\nc;3;x;0.250\n",
    ),
    "short records": (Plain(above=1), "messy;n\na\n", "messy;n;messy_suggestion;messy_confidence\na;;x;0.250\n"),
}


@pytest.mark.parametrize("kind", READ)
def test_new_cells_stand_under_their_names_however_the_table_was_read(tmp_path: Path, kind: str) -> None:
    reader, content, written = READ[kind]
    assert again(tmp_path, content.encode(), reader=reader).decode() == written


class Parted(Reader):
    """Rows of a file that is no text."""

    kind = "parted"

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        for number, value in enumerate(path.read_bytes().split(b"\0"), start=1):
            yield Row(path.name, number, {"messy": value.decode("latin-1"), "n": number})

    def describe(self, path: Path) -> dict[str, Any]:
        return {"format": "parted", "columns": ["messy", "n"]}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("out.csv", "messy,n,messy_suggestion,messy_confidence\n\xff\r,1,x,0.250\nb,2,x,0.250\n"),
        (
            "out.jsonl",
            '{"messy": "\xff\\r", "n": 1, "messy_suggestion": "x", "messy_confidence": 0.25}\n'
            '{"messy": "b", "n": 2, "messy_suggestion": "x", "messy_confidence": 0.25}\n',
        ),
    ],
)
def test_a_file_that_is_no_text_becomes_a_plain_table(tmp_path: Path, name: str, written: str) -> None:
    found = again(tmp_path, b"\xff\r\0b", source="t.bin", target=name, reader=Parted()).decode()
    assert found.replace('"\xff\r"', "\xff\r") == written


def test_decimal_commas_go_along_into_a_table_with_tabs(tmp_path: Path) -> None:
    assert again(tmp_path, b"messy;n\na;1,5\n", target="out.tsv").splitlines()[1] == b"a\t1,5\tx\t0,250"


def test_new_columns_without_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;1\n")
    notes = applied(tmp_path / "t.csv", tmp_path / "out.csv", Saying(), reader=Plain(header=False))["notes"]
    assert notes == [
        "the table has no header; the new columns stand behind its own: messy_suggestion, messy_confidence"
    ]


def test_where_nothing_is_quoted_an_escape_keeps_delimiters_in_their_cells(tmp_path: Path) -> None:
    reader = Plain(above=1, escape="\\")
    written = again(tmp_path, b"messy;n\na;1\n", said="p;q\\r", reader=reader).decode()
    assert list(csv.reader(written.splitlines(), delimiter=";", quoting=csv.QUOTE_NONE, escapechar="\\"))[1] == [
        "a",
        "1",
        "p;q\\r",
        "0.250",
    ]


def test_a_quote_is_escaped_where_the_table_escapes_it(tmp_path: Path) -> None:
    reader = Plain(above=1, quote='"', escape="\\")
    written = again(tmp_path, b"messy;n\na;1\n", said='say "so\\"', reader=reader).decode()
    assert list(csv.reader(written.splitlines(), delimiter=";", escapechar="\\", doublequote=False))[1][2] == (
        'say "so\\"'
    )


class Array(Reader):
    """One JSON array of objects, as another package may read it."""

    kind = "array"

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        text, at, line = path.read_text(), 0, 1
        while (at := text.find("{", at)) >= 0:
            values, end = json.JSONDecoder().raw_decode(text, at)
            yield Row(path.name, line, values, text=text[at:end])
            at, line = end, line + 1

    def describe(self, path: Path) -> dict[str, Any]:
        return {"format": "json", "columns": ["messy", "n"]}


def test_an_array_stays_one_and_becomes_lines_where_lines_are_asked_for(tmp_path: Path) -> None:
    content = b'[\n  {\n    "messy": "a",\n    "n": 1.10\n  },\n  {"messy": "b", "n": 2}\n]\n'
    array = again(tmp_path, content, source="t.json", target="out.json", reader=Array()).decode()
    assert array == (
        '[\n{\n    "messy": "a",\n    "n": 1.10,\n    "messy_suggestion": "x",\n    "messy_confidence": 0.25\n  },\n'
        '{"messy": "b", "n": 2, "messy_suggestion": "x", "messy_confidence": 0.25}\n]\n'
    )
    assert len(json.loads(array)) == 2
    lines = again(tmp_path, content, source="t.json", target="out.jsonl", reader=Array()).decode().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(array)
    assert '"n": 1.10' in lines[0]


@pytest.mark.parametrize("content", [b'{"rows": [{"messy": "a"}, {"messy": "b"}]}', b'{\n"rows":\n[{"messy": "a"}]}'])
def test_records_within_an_object_become_an_array(tmp_path: Path, content: bytes) -> None:
    class Within(Array):
        kind = "within"

        def rows(self, path: Path) -> Iterator[Row | Quarantined]:
            for row in super().rows(path):
                assert isinstance(row, Row)
                for record in row.values["rows"]:
                    yield Row(row.file, row.line + content.count(b"\n") // 2, record, text=json.dumps(record))

    written = again(tmp_path, content, source="t.json", target="out.json", reader=Within())
    assert [row["messy_suggestion"] for row in json.loads(written)] == ["x"] * content.count(b"messy")
    assert again(tmp_path, content, source="t.json", target="out.jsonl", reader=Within()).endswith(b"}\n")


WRAPPED = {
    "something behind": '{"data": [%s], "meta": 3}',
    "something before and behind": '{"version": 1.10,\n "big": 12345678901234567890, "rows" : [%s],\n\t"note": "\u00e9 ]}",\n"x": []}\n\n',
    "nothing else": '{"data": [%s]}\n',
    "more than is read at once": '{"a": [' + '"\u00e9", ' * 20_000 + '1], "data": [%s], "b": "' + "z" * 150_000 + '"}',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_stands_around_a_list_of_rows_stays_as_it_stood(
    tmp_path: Path, kind: str, ending: str, encoding: str
) -> None:
    around = WRAPPED[kind].replace("\n", ending)
    first, last = f'{{ "messy":{ending}  "a"', f'{{"messy":{ending}  "b"'
    content = around % f"{first} }},{ending} {last}}}"
    new = '"messy_suggestion": "x", "messy_confidence": 0.25'
    written = again(tmp_path, content.encode(encoding), source="t.json", target="out.json")
    assert written.decode(encoding) == around % f"{ending}{first}, {new} }},{ending}{last}, {new}}}{ending}"


@pytest.mark.parametrize("target", ["out.csv", "out.jsonl"])
def test_what_stands_beside_a_list_of_rows_and_has_no_place_is_told(tmp_path: Path, target: str) -> None:
    told = {}
    for name, beside in {"one": ["b"], "seven": list("bcdefgh"), "none": []}.items():
        (tmp_path / name).mkdir()
        document = {"rows": [{"messy": "a"}, {"messy": "b"}], **{key: {"n": [1]} for key in beside}}
        (tmp_path / name / "t.json").write_text(json.dumps(document))
        told[name] = applied(tmp_path / name / "t.json", tmp_path / name / target, Counting())["notes"]
    start, end = (
        "what is written holds the rows alone, without what stood beside their list: ",
        "; a .json file keeps it",
    )
    assert told == {"one": [f"{start}b{end}"], "seven": [f"{start}b, c, d, e, f and 2 more{end}"], "none": []}
