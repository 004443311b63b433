"""CSV and TSV: nothing is lost, every record stands at its physical line, and broken ones say why."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.errors import UserError
from luthier.readers import Quarantined, Row
from luthier.readers._lines import LONGEST, excerpt
from luthier.readers._records import MOST_LINES
from luthier.readers.csv import Csv
from luthier.readers.tsv import Tsv

AUTO = Csv()


def written(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def short(found: Row | Quarantined) -> tuple[Any, ...]:
    """(line, values) of a row, (line, column, rule) of what was put aside."""
    if isinstance(found, Row):
        return found.line, list(found.values.values())
    return found.line, found.column, found.rule


FILES: dict[str, tuple[Csv, bytes, list[tuple[Any, ...]]]] = {
    "plain": (AUTO, b"a,b\n1,2\n3,4\n", [(2, ["1", "2"]), (3, ["3", "4"])]),
    "no newline at the end": (AUTO, b"a,b\n1,2", [(2, ["1", "2"])]),
    "crlf": (AUTO, b"a,b\r\n1,2\r\n3,4\r\n", [(2, ["1", "2"]), (3, ["3", "4"])]),
    "cr alone": (AUTO, b"a,b\r1,2\r3,4\r", [(2, ["1", "2"]), (3, ["3", "4"])]),
    "mixed endings": (AUTO, b"a,b\r\n1,2\r3,4\n5,6", [(2, ["1", "2"]), (3, ["3", "4"]), (4, ["5", "6"])]),
    "lf then cr": (AUTO, b"a,b\n\r1,2\n\r3,4", [(3, ["1", "2"]), (5, ["3", "4"])]),
    "crlf inside quotes": (AUTO, b'a,b\r\n1,"x\r\ny"\r\n3,4\r\n', [(2, ["1", "x\r\ny"]), (4, ["3", "4"])]),
    "cr inside quotes": (AUTO, b'a,b\r1,"x\ry\rz"\r3,4', [(2, ["1", "x\ry\rz"]), (5, ["3", "4"])]),
    "blank lines": (AUTO, b"\n\na,b\n\n1,2\n\n\n3,4\n\n", [(5, ["1", "2"]), (8, ["3", "4"])]),
    "spaces are a field": (AUTO, b"a,b\n  \n1,2\n", [(2, "", "ragged"), (3, ["1", "2"])]),
    "whitespace is kept": (AUTO, b"a,b\n 1 ,\t2\n", [(2, [" 1 ", "\t2"])]),
    "other line separators are text": (
        AUTO,
        "a,b\n1\u2028x,2\x0b\x0c\x85\n".encode(),
        [(2, ["1\u2028x", "2\x0b\x0c\x85"])],
    ),
    "empty values": (AUTO, b'a,b\n,\n"",x\n', [(2, ["", ""]), (3, ["", "x"])]),
    "doubled quotes": (AUTO, b'a,b\n"say ""hi""",2\n', [(2, ['say "hi"', "2"])]),
    "quote inside an unquoted field": (AUTO, b'a,b\n5" pipe,2\n', [(2, ['5" pipe', "2"])]),
    "one column": (AUTO, b'a\n1\n\n""\n', [(2, ["1"]), (4, [""])]),
    "utf-8 mark": (AUTO, b"\xef\xbb\xbfa,b\n\xc3\xa9,2\n", [(2, ["é", "2"])]),
    "utf-8 mark, encoding given": (Csv(encoding="utf-8"), b"\xef\xbb\xbfa,b\n1,2\n", [(2, ["1", "2"])]),
    "utf-8 mark before a quote": (AUTO, b'\xef\xbb\xbf"a","b"\n1,2\n', [(2, ["1", "2"])]),
    "utf-16 little endian": (AUTO, b"\xff\xfe" + "a;b\r\né;€\r\n".encode("utf-16-le"), [(2, ["é", "€"])]),
    "utf-16 big endian": (AUTO, b"\xfe\xff" + "a\tb\né\t€".encode("utf-16-be"), [(2, ["é", "€"])]),
    "utf-16 with half a character": (
        AUTO,
        b"\xff\xfe" + "a;b\n1;2\n3;".encode("utf-16-le") + b"x",
        [(2, ["1", "2"]), (3, "b", "encoding")],
    ),
    "cp1252": (AUTO, "a;b\n5 €;“René”\n".encode("cp1252"), [(2, ["5 €", "“René”"])]),
    "one bad byte in utf-8": (
        AUTO,
        b"a,b\n" + "é,è\n".encode() * 6 + b"x,\xe9y\n1,2\n",
        [*[(line, ["é", "è"]) for line in range(2, 8)], (8, "b", "encoding"), (9, ["1", "2"])],
    ),
    "bytes that the given encoding lacks": (
        Csv(encoding="utf-8"),
        b"a,b\n1,caf\xe9\n3,4\n\xff,\xff,\xff\n",
        [(2, "b", "encoding"), (3, ["3", "4"]), (4, "", "encoding")],
    ),
    "surrogate written as utf-8": (Csv(encoding="utf-8"), b"a,b\n\xed\xa0\x80,2\n", [(2, "a", "encoding")]),
    "ragged": (AUTO, b"a,b,c\n1,2\n1,2,3,4\n1,2,3\n", [(2, "", "ragged"), (3, "", "ragged"), (4, ["1", "2", "3"])]),
    "ragged over two lines": (AUTO, b'a,b\n1,"x\ny",3\n4,5\n', [(2, "", "ragged"), (4, ["4", "5"])]),
    "nul": (AUTO, b"a,b\n1,x\0y\n3,4\n", [(2, "b", "nul"), (3, ["3", "4"])]),
    "nul in a ragged record": (AUTO, b"aa,bb\n1\0\n33,44\n", [(2, "", "nul"), (3, ["33", "44"])]),
    "text after a closing quote": (AUTO, b'a,b\n1,"x"y\n3,4\n', [(2, "", "quote"), (3, ["3", "4"])]),
    "unclosed at the start": (
        AUTO,
        b'a,b\n"1,2\n3,4\n5,6\n',
        [(2, "a", "unclosed-quote"), (3, ["3", "4"]), (4, ["5", "6"])],
    ),
    "unclosed in the middle": (
        AUTO,
        b'a,b\r\n1,2\r\n3,"4\r\n5,6\r\n7,8\r\n',
        [(2, ["1", "2"]), (3, "b", "unclosed-quote"), (4, ["5", "6"]), (5, ["7", "8"])],
    ),
    "unclosed at the end": (AUTO, b'a,b\n1,2\n3,"4', [(2, ["1", "2"]), (3, "b", "unclosed-quote")]),
    "a quote as the last byte": (AUTO, b'a,b\n1,2\n3,"', [(2, ["1", "2"]), (3, "b", "unclosed-quote")]),
    "unclosed before quoted fields": (
        AUTO,
        b'a,b\n1,"x\n"2","y"\n3,"z"\n',
        [(2, "b", "unclosed-quote"), (3, ["2", "y"]), (4, ["3", "z"])],
    ),
    "unclosed twice, with records between": (
        AUTO,
        b'a,b\n1,"x\n2,y\n3,"z\n4,w\n',
        [(2, "b", "unclosed-quote"), (3, ["2", "y"]), (4, "b", "unclosed-quote"), (5, ["4", "w"])],
    ),
    "unclosed before a record of two lines": (
        AUTO,
        b'a,b\n1,"x\n"2\n2","y"\n',
        [(2, "b", "unclosed-quote"), (3, ["2\n2", "y"])],
    ),
    "unclosed beyond the header": (AUTO, b'a,b\n1,2,"x\n3,4\n', [(2, "", "unclosed-quote"), (3, ["3", "4"])]),
    "no quoting": (Csv(quote=""), b'a,b\n"1,2\n', [(2, ['"1', "2"])]),
    "another quote": (Csv(quote="'"), b"a,b\n'1,1',\"2\n", [(2, ["1,1", '"2'])]),
    "delimiter given": (Csv(delimiter=":"), b"a:b\n1:2\n", [(2, ["1", "2"])]),
    "semicolons beside decimal commas": (AUTO, b"a;b\n1,5;2,5\n3,5;4,5\n", [(2, ["1,5", "2,5"]), (3, ["3,5", "4,5"])]),
    "tabs beside commas in prose": (AUTO, b"a\tb, c\nx, y\tz\n", [(2, ["x, y", "z"])]),
    "pipes": (AUTO, b"a|b\n1|2\n", [(2, ["1", "2"])]),
    "delimiter inside quotes": (AUTO, b'a,b,c\n"1;1","2;2",3\n', [(2, ["1;1", "2;2", "3"])]),
    "excel's delimiter hint": (AUTO, b"sep=;\r\na;b,c\r\n1;2,3\r\n", [(3, ["1", "2,3"])]),
    "excel's hint, quoted": (AUTO, b'"sep=;"\na;b\n1;2\n', [(3, ["1", "2"])]),
    "the header again": (
        AUTO,
        b"a,b\n1,b\na,b\n\xef\xbb\xbfa,b\r\na,c\n",
        [(2, ["1", "b"]), (3, "", "header"), (4, "", "header"), (5, ["a", "c"])],
    ),
    "a word that is the header": (AUTO, b"a\na\n", [(2, ["a"])]),
    "separators of other programs": (
        AUTO,
        "a,b\nx\u2028y,z\x85\x0b\n".encode(),
        [(2, ["x\u2028y", "z\x85\x0b"])],
    ),
    "tsv": (Tsv(), b"a,b\tc\n1\t2\n", [(2, ["1", "2"])]),
}


@pytest.mark.parametrize(("reader", "content", "expected"), FILES.values(), ids=FILES.keys())
def test_every_record_comes_once_at_its_line(
    tmp_path: Path, reader: Csv, content: bytes, expected: list[tuple[Any, ...]]
) -> None:
    assert [short(found) for found in reader.rows(written(tmp_path, content))] == expected


UNFIT = {
    "empty": (b"", "is empty; it needs at least one record"),
    "blank": (b"\n\r\n", "is empty; it needs a header and at least one record"),
    "header only": (b"a,b\n\n", "has a header and no records; add rows below the header"),
    "repeated name": (
        b"id,b,id\n",
        ", line 1, column 3: the name 'id' is already that of column 1; rename one of them",
    ),
    "a name made up that is taken": (
        b"column 2,\n1,2\n",
        ", line 1, column 2: the name 'column 2' is already that of column 1; rename one of them",
    ),
    "header with an open quote": (
        b'a,"b\n1,2\n',
        ', line 1: the header cannot be read: the " that opens field 2 is never properly closed; correct the header',
    ),
    "header with a nul": (
        b"aaaa,b\0\n1,2\n",
        ", line 1: the header cannot be read: a NUL stands at character 7 of line 1; correct the header",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), UNFIT.values(), ids=UNFIT.keys())
def test_an_unfit_file_says_where_and_what_to_do(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        list(AUTO.rows(path))
    colon = "" if sentence.startswith(", ") else ": "
    assert str(error.value) == f"{path}{colon}{sentence}"


def test_a_column_without_a_name_is_called_by_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, b",text,\n0,x,\n")  # an index of pandas, and a delimiter at the end
    assert [row.values for row in AUTO.rows(path) if isinstance(row, Row)] == [
        {"column 1": "0", "text": "x", "column 3": ""}
    ]
    assert AUTO.describe(path)["columns"] == ["column 1", "text", "column 3"]


def test_each_record_tells_the_blank_lines_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, b'\na,b\n\n\n1,"2\n\n2"\n3,4\n\nragged\n5,6\n\n')
    found = [(each.line, each.blank_before) for each in AUTO.rows(path)]
    assert found == [(5, 2), (8, 0), (10, 1), (11, 0)]


DISGUISED = {
    "a Parquet file": b"PAR1\x15\x04\x15" + bytes(40) + b"PAR1",
    "an Excel workbook (.xlsx)": b"PK\x03\x04\x14\0\x06\0\x08\0[Content_Types].xml",
    "a zip archive": b"PK\x03\x04\x14\0\0\0\x08\0table.csv",
    "a gzip archive": b"\x1f\x8b\x08\0abc",
    "a Python pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0]\x94.",
    "a SQLite database": b"SQLite format 3\0\x10\0",
    "UTF-16 without a byte order mark": "a,b\n1,2\n".encode("utf-16-le"),
    "binary data": bytes(range(32)) * 10 + bytes(200) + b"abc" * 20,
}


@pytest.mark.parametrize(("name", "content"), DISGUISED.items(), ids=DISGUISED.keys())
def test_another_format_named_csv_is_recognised(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match=r"looks like ") as error:
        list(AUTO.rows(written(tmp_path, content)))
    assert error.value.what.startswith(f"looks like {name}")


def test_a_column_called_par1_is_not_parquet(tmp_path: Path) -> None:
    assert [short(found) for found in AUTO.rows(written(tmp_path, b"PAR1,b\n1,2\n"))] == [(2, ["1", "2"])]


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, b"", "suppliers.csv")
    with pytest.raises(UserError) as error:
        list(AUTO.rows(tmp_path / "supliers.csv"))
    near = tmp_path / "suppliers.csv"
    assert str(error.value) == f"{tmp_path / 'supliers.csv'}: there is no such file; did you mean '{near}'?"


def test_a_folder_names_a_file_inside_it(tmp_path: Path) -> None:
    written(tmp_path, b"", "suppliers.csv")
    with pytest.raises(UserError) as error:
        list(AUTO.rows(tmp_path))
    assert str(error.value) == f"{tmp_path}: is a folder, not a file; did you mean '{tmp_path / 'suppliers.csv'}'?"


REASONS = {
    "ragged": (b"a,b,c,d,e,f\n1,2,3,4\n", "4 fields where the header has 6", "1,2,3,4"),
    "one field": (b"a,b\n1\n", "1 field where the header has 2", "1"),
    "encoding": (b'a,b\n"x\ny",caf\xe9\n', "byte 0xe9 at character 7 of line 3 is not valid utf-8", '"x\\ny",caf\\xe9'),
    "nul": (b"aaaa,b\n1,\0\n", "a NUL stands at character 3 of line 2", "1,\\x00"),
    "quote": (b'a,b\n"x"y,2\n', "a closing \" is followed by neither ',' nor the end of the line", '"x"y,2'),
    "unclosed": (b'a,b\n1,"2\n3,4\n', 'the " that opens field 2 is never properly closed', '1,"2'),
}


@pytest.mark.parametrize(("content", "reason", "shown"), REASONS.values(), ids=REASONS.keys())
def test_what_is_put_aside_says_why_and_shows_its_beginning(
    tmp_path: Path, content: bytes, reason: str, shown: str
) -> None:
    reader = Csv(encoding="utf-8", delimiter=",")
    [found] = [item for item in reader.rows(written(tmp_path, content)) if isinstance(item, Quarantined)]
    assert (found.file, found.reason, found.excerpt) == ("t.csv", reason, shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x" * 80 + "\r\n", "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("\0" * 30, "\\x00" * 19 + "\\x0…"),
        ("\x1b[1m\n", "\\x1b[1m"),
    ],
)
def test_excerpts_have_at_most_80_printable_characters(text: str, shown: str) -> None:
    assert excerpt(text) == shown
    assert len(shown) <= 80


def test_a_record_too_long_is_put_aside_and_the_next_is_read(tmp_path: Path) -> None:
    for ending in (b"\n", b"\r", b"\r\n"):
        for n_over in (1, 2) if ending == b"\r\n" else (1,):  # the cut falls before and between CR and LF
            long = b"1," + b"x" * (LONGEST - 2 - len(ending) + n_over) + ending
            path = written(tmp_path, b"a,b" + ending + long + b"3,4" + ending)
            first, second = Csv(encoding="ascii", delimiter=",").rows(path)
            assert short(first) == (2, "", "too-long")
            assert short(second) == (3, ["3", "4"])


def test_the_longest_record_allowed_is_read(tmp_path: Path) -> None:
    [row] = AUTO.rows(written(tmp_path, b"a,b\n1," + b"x" * (LONGEST - 3) + b"\n"))
    assert isinstance(row, Row)
    assert len(row.values["b"]) == LONGEST - 3


def test_a_quote_open_for_very_many_lines_loses_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, b'a,b\n1,"2\n' + b"3,4\n" * (MOST_LINES + 10) + b'5,"6"\n')
    first, *others = AUTO.rows(path)
    assert short(first) == (2, "b", "unclosed-quote")
    assert isinstance(first, Quarantined)
    assert first.reason.endswith("within 16777216 characters or 100000 lines")
    assert len(others) == MOST_LINES + 11
    assert short(others[-1]) == (MOST_LINES + 13, ["5", "6"])


ENCODINGS = [
    ("a,b\né,2\n", "utf-8", "utf-8", "every byte is valid utf-8"),
    ("a,b\né,2\n", "utf-8-sig", "utf-8", "byte order mark"),
    ("a,b\né,2\n", "utf-16", "utf-16", "byte order mark"),
    ("a,b\nAndré,Málaga\n", "cp1252", "cp1252", "guess from the letters of Spanish, not valid utf-8"),
    ("имя,город\nИван,Москва\nАнна,Тверь\n", "cp1251", "cp1251", "guess from the letters of Russian, not valid utf-8"),
    (
        "名前,都市\n田中,東京\nこんにちは,大阪です\n",
        "shift_jis",
        "cp932",
        "guess from the letters of Japanese, not valid utf-8",
    ),
]


@pytest.mark.parametrize(("text", "codec", "encoding", "found_by"), ENCODINGS)
def test_the_encoding_is_found_and_said(tmp_path: Path, text: str, codec: str, encoding: str, found_by: str) -> None:
    path = written(tmp_path, text.encode(codec))
    header, *records = list(csv.reader(text.splitlines()))
    assert AUTO.describe(path) == {
        "format": "csv",
        "encoding": encoding,
        "encoding_found_by": found_by,
        "delimiter": ",",
        "quote": '"',
        "mark": codec in ("utf-8-sig", "utf-16"),
        "newline": "\n",
        "columns": header,
    }
    assert [short(found)[1] for found in AUTO.rows(path)] == records


WRONG_SETTINGS = [
    ({"encoding": "utf9"}, "no text encoding called 'utf9'; such as utf-8, utf-16, cp1252, shift_jis"),
    ({"encoding": "base64"}, "no text encoding called 'base64'; such as utf-8, utf-16, cp1252, shift_jis"),
    ({"delimiter": "||"}, "delimiter must be `auto` or one character, and no line ending"),
    ({"quote": "\n"}, "quote must be one character, or empty, and no line ending"),
    ({"quote": "'", "delimiter": "'"}, "delimiter and quote must differ"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG_SETTINGS)
def test_impossible_settings_fail_at_load(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        Csv(**wrong)
    assert sentence in str(error.value)


TEXT = st.text(alphabet=st.sampled_from("ab é€\"',;|\t\n\r\0 x"), max_size=8)
CODECS = ("utf-8", "utf-8-sig", "utf-16", "cp1252")
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXT, min_size=n, max_size=n), min_size=1, max_size=8))


def encoded(table: list[list[str]], delimiter: str, ending: str, codec: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow([f"c{n}" for n in range(len(table[0]))])
    writer.writerows(table)
    return text.getvalue().encode(codec)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TABLES, st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(CODECS))
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], delimiter: str, ending: str, codec: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), encoded(table, delimiter, ending, codec))
    found = list(Csv(encoding=codec, delimiter=delimiter).rows(path))
    assert len(found) == len(table)
    for item, values in zip(found, table, strict=True):
        assert short(item)[1:] == (values,) or (isinstance(item, Quarantined) and item.rule == "nul")
        assert isinstance(item, Quarantined) == any("\0" in value for value in values)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    TABLES,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(CODECS),
    st.sampled_from(["auto", "given"]),
    st.integers(0, 2**32),
    st.integers(1, 4),
)
def test_a_corrupted_table_loses_no_line_and_raises_nothing_but_user_errors(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[str]],
    delimiter: str,
    ending: str,
    codec: str,
    encoding: str,
    seed: int,
    n_faults: int,
) -> None:
    content = bytearray(encoded(table, delimiter, ending, codec))
    chance = random.Random(seed)
    for _ in range(n_faults):
        at = chance.randrange(len(content))
        content[at : at + chance.randrange(3)] = chance.choice(
            [b'"', b"\xff", b"\0", b",", b"\n", b"\xed\xa0", b"\r", b""]
        )
        content = content or bytearray(b'"')
    path = written(tmp_path_factory.getbasetemp(), bytes(content))
    reader = Csv(encoding=codec if encoding == "given" else "auto", delimiter=delimiter)
    try:
        described = reader.describe(path)
        found = list(reader.rows(path))
    except UserError:
        return
    text = path.read_bytes().decode(described["encoding"], "replace").removeprefix("\ufeff")
    lines = io.StringIO(text, newline="").readlines()
    starts = [item.line for item in found]
    assert starts == sorted(set(starts))
    for start, item, end in zip(starts, found, [*starts[1:], len(lines) + 1], strict=True):
        if isinstance(item, Quarantined) and item.rule in ("quote", "unclosed-quote"):
            taken = 1
        else:  # the fields hold every line ending of the record but its last
            record = "".join(lines[start - 1 : end - 1])
            parsed = next(csv.reader(io.StringIO(record, newline="").readlines(), delimiter=delimiter))
            taken = len(io.StringIO(".".join(parsed) + ".", newline="").readlines())
            if isinstance(item, Row):
                values = list(item.values.values())
                assert parsed in (values, [*values, ""])  # a delimiter at the end of every record is none
        assert not "".join(lines[start - 1 + taken : end - 1]).strip("\r\n")  # only blank lines are passed over


PAIRS = "".join(f"st. {n},Street {n}\n" for n in range(30))
AGAIN = {  # content -> lines put aside
    "in quotes": (f'raw,clean\n{PAIRS}"raw","clean"\n{PAIRS}', [32]),
    "with capitals": (f"raw,clean\n{PAIRS}Raw,CLEAN\n{PAIRS}", [32]),
    "with blanks": (f"raw,clean\n{PAIRS}raw, clean \n{PAIRS}", [32]),
    "with a byte order mark": (f'raw,clean\n{PAIRS}\ufeff"raw","clean"\n{PAIRS}', [32]),
    "with a delimiter at the end": (f"raw,clean\n{PAIRS}raw,clean,\n", [32]),
    "one name alone": (f"raw,clean\n{PAIRS}raw,Raw Street\n", []),
    "one column": ("clean\n" + "".join(f"Street {n}\n" for n in range(30)) + "Clean\nStreet 40\n", [32]),
    "one column of labels": ("spam\n" + "ham\n" * 30 + "spam\n" + "ham\n", []),
    "one column, few values": ("word\nroof\nword\n", []),
}


@pytest.mark.parametrize(("content", "lines"), AGAIN.values(), ids=AGAIN.keys())
def test_the_header_is_known_again_however_it_is_written(tmp_path: Path, content: str, lines: list[int]) -> None:
    aside = [each for each in Csv().rows(written(tmp_path, content.encode())) if isinstance(each, Quarantined)]
    assert [(each.line, each.rule) for each in aside] == [(line, "header") for line in lines]
