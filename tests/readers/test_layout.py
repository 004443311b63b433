"""The layout of a delimited file: found where nothing else can be meant, set where it can, and told in either case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.errors import UserError
from luthier.readers import Quarantined, Row, Table
from luthier.readers.csv import Csv
from luthier.readers.tsv import Tsv

BODY = "".join(f"{n},lamp {n},{n * 7 % 5}.5\n" for n in range(1, 6))
FIVE = [[str(n), f"lamp {n}", f"{n * 7 % 5}.5"] for n in range(1, 6)]
NAMES = ["nr", "text", "price"]
ABC = ["a", "b", "c"]


def written(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_bytes(text.encode())
    return path


LAYOUTS: dict[str, tuple[Csv, str, list[str], list[list[str]], dict[str, Any]]] = {
    "a title": (
        Csv(),
        "Sales of 2024\nnr,text,price\n" + BODY,
        NAMES,
        FIVE,
        {"lines_above_the_header": 1, "above": "Sales of 2024\n"},
    ),
    "a title, a note and a blank line": (
        Csv(),
        "Sales, all\nas of May\n\nnr,text,price\n" + BODY,
        NAMES,
        FIVE,
        {"lines_above_the_header": 3},
    ),
    "a title as a spreadsheet writes it": (
        Csv(),
        "Sales,,\n,,\nnr,text,price\n" + BODY,
        NAMES,
        FIVE,
        {"lines_above_the_header": 2},
    ),
    "a title of other delimiters": (
        Csv(),
        "Sales, by order\n" + ("nr,text,price\n" + BODY).replace(",", ";"),
        NAMES,
        FIVE,
        {"delimiter": ";"},
    ),
    "a title of two fields above numbers": (
        Csv(),
        "Sales, 2024\nnr,text,price\n" + BODY,
        NAMES,
        FIVE,
        {"lines_above_the_header": 1},
    ),
    "a note with a delimiter and a year": (
        Csv(),
        "Sales\nby Eve, 2023\n\nraw,clean\n" + "ulm st.,Ulm\n" * 9,
        ["raw", "clean"],
        [["ulm st.", "Ulm"]] * 9,
        {"lines_above_the_header": 3},
    ),
    "a note in the first line": (
        Csv(),
        "made by Eve, 2023\n\nraw,clean\n" + "ulm st.,Ulm\n" * 9,
        ["raw", "clean"],
        [["ulm st.", "Ulm"]] * 9,
        {"lines_above_the_header": 2},
    ),
    "a note of more fields": (
        Csv(),
        "Sales\nby Eve, Al, Bo\n\nraw,clean\n" + "ulm st.,Ulm\n" * 9,
        ["raw", "clean"],
        [["ulm st.", "Ulm"]] * 9,
        {"lines_above_the_header": 3},
    ),
    "a note with a year as a spreadsheet writes it": (
        Csv(),
        "Sales;;\nYear;2023;\n;;\nnr;text;price\n" + BODY.replace(",", ";"),
        NAMES,
        FIVE,
        {"lines_above_the_header": 3},
    ),
    "a blank line below the header": (
        Csv(),
        "raw, clean\n\n" + "".join(f"st. {c},Street {c}\n" for c in "abcdef"),
        ["raw", " clean"],
        [[f"st. {c}", f"Street {c}"] for c in "abcdef"],
        {"delimiter": ","},
    ),
    "a blank line among the records": (
        Csv(),
        "raw,clean\nst. x,Street x\n\n" + "".join(f"st. {c},Street {c}\n" for c in "abcdef"),
        ["raw", "clean"],
        [[f"st. {c}", f"Street {c}"] for c in "xabcdef"],
        {"delimiter": ","},
    ),
    "a year in the header, and a blank line below it": (
        Csv(),
        "city,2023\n\nUlm,5\nBern,6\nGraz,7\n",
        ["city", "2023"],
        [["Ulm", "5"], ["Bern", "6"], ["Graz", "7"]],
        {"delimiter": ","},
    ),
    "excel's hint": (
        Csv(),
        "sep=,\r\nnr,text,price\r\n" + BODY,
        NAMES,
        FIVE,
        {"above": "sep=,\r\n", "newline": "\r\n"},
    ),
    "lines left out": (
        Csv(skip_lines=2),
        "x,y,z\n1,2,3\nnr,text,price\n" + BODY,
        NAMES,
        FIVE,
        {"lines_above_the_header": 2},
    ),
    "lines left out, no header": (
        Csv(skip_lines=1, header=False, names=NAMES),
        "x,y,z\n" + BODY,
        NAMES,
        FIVE,
        {"header": False},
    ),
    "no header": (Csv(header=False), BODY, ["column 1", "column 2", "column 3"], FIVE, {"header": False}),
    "no header, names": (Csv(header=False, names=ABC), BODY, ABC, FIVE, {}),
    "names in place of the header": (Csv(names=ABC), "nr,text,price\n" + BODY, ABC, FIVE, {}),
    "names in place of a header that is repeated": (Csv(names=["a", "b"]), "x,x\n1,2\n", ["a", "b"], [["1", "2"]], {}),
    "an index without a name": (
        Csv(),
        "text,price\n" + BODY,
        ["column 1", "text", "price"],
        FIVE,
        {"index_without_a_name": True},
    ),
    "an index of names": (
        Csv(),
        '"mpg","cyl"\n"Mazda RX4",21,6\n"Datsun 710",22.8,4\n',
        ["column 1", "mpg", "cyl"],
        [["Mazda RX4", "21", "6"], ["Datsun 710", "22.8", "4"]],
        {"index_without_a_name": True},
    ),
    "a delimiter at the end of records": (
        Csv(),
        "nr,text,price\n" + BODY.replace("\n", ",\n"),
        NAMES,
        FIVE,
        {"delimiter_at_the_end": True},
    ),
    "a delimiter at the end of the header": (Csv(), "nr,text,price,\n" + BODY, NAMES, FIVE, {}),
    "a blank before quotes": (
        Csv(),
        'nr, text, price\n1, "a lamp, new", "2,5"\n2, "say ""hi""", "3"\n',
        NAMES,
        [["1", "a lamp, new", "2,5"], ["2", 'say "hi"', "3"]],
        {"skip_blanks": True},
    ),
    "a blank before every field": (
        Csv(),
        '"x", "y"\n"1", "2"\n"3", "4"\n',
        ["x", "y"],
        [["1", "2"], ["3", "4"]],
        {"skip_blanks": True},
    ),
    "blanks that belong to the values": (Csv(), "x, y\n1, 2\n", ["x", " y"], [["1", " 2"]], {}),
    "one quote behind a blank among many fields without": (
        Csv(),
        'x,y\n1, "a"\n2,b\n3,c\n4,d\n',
        ["x", "y"],
        [["1", ' "a"'], ["2", "b"], ["3", "c"], ["4", "d"]],
        {},
    ),
    "words in quotes within a field": (
        Csv(),
        'x,y\n1, "a" he said\n2, "b" she said\n',
        ["x", "y"],
        [["1", ' "a" he said'], ["2", ' "b" she said']],
        {},
    ),
    "blanks left out on wish": (Csv(skip_blanks=True), "x, y\n1, 2\n", ["x", "y"], [["1", "2"]], {"skip_blanks": True}),
    "blanks kept on wish": (
        Csv(skip_blanks=False),
        'x, y\n1, "2"\n',
        ["x", " y"],
        [["1", ' "2"']],
        {},
    ),
    "an escape": (
        Csv(escape="\\"),
        'x,y\n1,"say \\"hi\\", Al"\na\\,b,2\n',
        ["x", "y"],
        [["1", 'say "hi", Al'], ["a,b", "2"]],
        {"escape": "\\"},
    ),
    "a backslash is a letter": (Csv(), "x,y\n1,C:\\temp\n", ["x", "y"], [["1", "C:\\temp"]], {}),
    "tabs and an index": (
        Tsv(),
        "text\tprice\n1\tlamp\t2\n2\trug\t3\n",
        ["column 1", "text", "price"],
        [["1", "lamp", "2"], ["2", "rug", "3"]],
        {"index_without_a_name": True},
    ),
}


@pytest.mark.parametrize(("reader", "text", "columns", "rows", "told"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_layout_is_found_or_set_and_told(
    tmp_path: Path, reader: Csv, text: str, columns: list[str], rows: list[list[str]], told: dict[str, Any]
) -> None:
    path = written(tmp_path, text)
    described = reader.describe(path)
    assert described["columns"] == columns
    assert described.items() >= told.items()
    found = list(reader.rows(path))
    assert [list(row.values.values()) for row in found if isinstance(row, Row)] == rows
    assert len(found) == len(rows)
    lines = text.splitlines()
    assert all(lines[row.line - 1] == row.text for row in found)


REFUSED = {
    "a title above a header that is a number": (
        Csv(),
        "Sales\n2019,1,2\n" + BODY,
        ", line 1: the header has 1 field, and 6 of the 6 records below it have 3; if it is a title, set the reader's "
        "`skip_lines` (`prepare.reader: {kind: csv, skip_lines: 1}`) to the number of lines above the header; if it lacks "
        "names, correct it or set `header: false` and `names`",
    ),
    "too few names": (
        Csv(header=False, names=["a"]),
        BODY,
        ": 1 names are given where the records have 3 fields; give the reader 3 `names`",
    ),
    "too many names": (
        Csv(names=["a", "b", "c", "d"]),
        "nr,text,price\n" + BODY,
        ": 4 names are given where the header has 3; "
        "give the reader 3 `names`, or `header: false` if the first line is a record",
    ),
    "nothing below what is left out": (
        Csv(skip_lines=9),
        BODY,
        ": is empty; it needs a header and at least one record",
    ),
}


@pytest.mark.parametrize(("reader", "text", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_go_together_says_what_to_set(tmp_path: Path, reader: Csv, text: str, sentence: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as told:
        list(reader.rows(path))
    assert str(told.value) == f"{path}{sentence}"


DIVIDED = {  # a header, a record by its number, and how many fields it has too many
    "a comma in each text": ("id,text,label", "{n},Dale {n}, Ann {n},b"),
    "a comma in each text behind a column of any name": ("age,text,label", "{n},Dale {n}, Ann {n},b"),
    "a comma without a blank": ("order_id,text,label", "{n},tall,red,b"),
    "in a first column that is unique": ("text,label", "Dale {n},Ann,b"),
    "a decimal comma": ("article,price,label", "shelf {n},{n},75,b"),
    "a decimal comma behind quoted names": ("shelf,price,label", '"shelf {n}",{n},75,b'),
    "a decimal comma below ten": ("depth,price,label", "{n},{n},05,b"),
    "quoted names that have a name": ("name,price,label", '"shelf {n}",{n},x,b'),
    "single quotes": ("depth,text,label", "{n},'oh,my',b"),
    "blanks around a delimiter": ("nr,text,label", '{n} , "so, well" , "b"'),
    "a tab before a quote": ("depth,text,label", '{n},\t"so, well",b'),
    "a hard blank before a quote": ("depth,text,label", '{n},\xa0"so, well",b'),
}


@pytest.mark.parametrize(("header", "record"), DIVIDED.values(), ids=DIVIDED.keys())
@pytest.mark.parametrize("start", [0, 1])
def test_a_delimiter_within_a_value_of_each_record_is_no_index(
    tmp_path: Path, header: str, record: str, start: int
) -> None:
    body = "".join(record.replace("{n}", str(n)) + "\n" for n in range(start, start + 30))
    path = written(tmp_path, f"{header}\n{body}")
    n = header.count(",") + 1
    with pytest.raises(
        UserError,
        match=f"the header has {n} fields, and 30 of the 30 records below it have {n + 1}; if values hold ','",
    ):
        Csv().describe(path)


INDEXED = {
    "counted from zero": ("text,label", "{n},the lamp,b"),
    "quoted numbers": ('"text","label"', '"{n}","the lamp, new","b"'),
    "quoted names": ('"paid","label"', '"Lamp {n}",{n},"b"'),
    "integers of two digits": ("paid,label", "{n},20,31"),
    "some texts begin with a blank": ("text,label", "{n},the lamp,b", "{n}, a lamp,b"),
}


@pytest.mark.parametrize("given", INDEXED.values(), ids=INDEXED.keys())
def test_an_index_without_a_name_is_found(tmp_path: Path, given: tuple[str, ...]) -> None:
    header, record, *other = given
    body = "".join((other[0] if other and n == 7 else record).replace("{n}", str(n)) + "\n" for n in range(30))
    described = Csv().describe(written(tmp_path, f"{header}\n{body}"))
    assert described["index_without_a_name"]
    assert described["columns"] == ["column 1", *header.replace('"', "").split(",")]


RAGGED = {
    "one that lacks a field": ("a,b,c\n1,2,3\n1,2\n3,4,5\n", 1),
    "one with a field more": ("a,b\n1,2\n1,2,3\n3,4\n", 1),
    "one that ends with a delimiter": ("a,b\n1,2\n1,2,\n3,4\n", 1),
    "an index that repeats": ("a,b\nx,1,2\nx,3,4\n", 2),
}


@pytest.mark.parametrize(("text", "n"), RAGGED.values(), ids=RAGGED.keys())
def test_what_only_some_records_have_is_no_layout(tmp_path: Path, text: str, n: int) -> None:
    aside = [each for each in Csv().rows(written(tmp_path, text)) if isinstance(each, Quarantined)]
    assert [each.rule for each in aside] == ["ragged"] * n


def test_a_record_without_the_delimiter_at_the_end_is_read_too(tmp_path: Path) -> None:
    many = "".join(f"{n},x,\n" for n in range(1000))
    found = list(Csv().rows(written(tmp_path, f"a,b\n{many}1000,x\n1001,x,y\n")))
    assert isinstance(found[1000], Row)
    assert isinstance(found[1001], Quarantined)


DOUBTS = [
    ("The lamp,praise\nThe rug,praise\nThe fan,complaint\nThe tub,praise\n", "'praise' stands in 2 records below"),
    ("17,Ulm\n18,Bern\n19,Graz\n", "'17' is a number, as those below are"),
    ("nr,2024\n1,5\n2,7\n", ""),
    ("text,label\nThe rug,praise\n", ""),
]


@pytest.mark.parametrize(("text", "why"), DOUBTS)
def test_a_column_that_is_not_there_tells_where_the_first_line_looks_like_data(
    tmp_path: Path, text: str, why: str
) -> None:
    table = Table(written(tmp_path, text), Csv())
    with pytest.raises(UserError) as told:
        table.require(["title"])
    first, *others = str(told.value).splitlines()
    assert "no column 'title'" in first
    assert others == (
        [
            f"{table.path}: the first line looks like data: {why}; if the file has no header, set "
            "`prepare.reader: {kind: csv, header: false, names: [...]}`"
        ]
        if why
        else []
    )


def test_a_line_below_that_holds_the_columns_asked_for_is_named(tmp_path: Path) -> None:
    table = Table(written(tmp_path, "made by Eve, Ulm\n\nraw,clean\nulm st.,Ulm\n"), Csv())
    with pytest.raises(UserError) as told:
        table.require(["clean", "raw"])
    assert str(told.value).splitlines()[-1] == (
        f"{table.path}: line 3 looks like the header; set `prepare.reader: {{kind: csv, skip_lines: 2}}`"
    )


def test_lines_that_stand_in_quotes_as_a_whole_are_told(tmp_path: Path) -> None:
    table = Table(written(tmp_path, '"text,label"\n"The rug,bad"\n"The tub,good"\n'), Csv())
    with pytest.raises(UserError) as told:
        table.require(["text", "label"])
    assert str(told.value).splitlines()[-1] == (
        f"{table.path}: each line stands in quotes as a whole, so it is one field; remove the quotes around the lines"
    )


CAUSES = {
    '"a, b" ,"x"': "; remove the blanks behind it",
    '"a, b","x" ': "; remove the blanks behind it",
    '"so \\"big\\", he said","x"': "; if a backslash escapes it, set the reader's `escape: '\\'`",
    '"a"b,"x"': "",
}


@pytest.mark.parametrize(("record", "cause"), CAUSES.items())
def test_a_quote_that_stands_where_none_can_names_what_helps(tmp_path: Path, record: str, cause: str) -> None:
    [aside, _] = Csv().rows(written(tmp_path, f"text,label\n{record}\na,b\n"))
    assert isinstance(aside, Quarantined)
    assert aside.reason == f"a closing \" is followed by neither ',' nor the end of the line{cause}"


def test_an_empty_name_is_no_sign_of_data(tmp_path: Path) -> None:
    table = Table(written(tmp_path, "text,\nThe rug,\nThe tub,\nThe fan,x\n"), Csv())
    with pytest.raises(UserError, match=r"^(?!.*looks like data)"):
        table.require(["title"])


WRITTEN_AGAIN = [
    (b"a;b\r\n1;2\r\n", {"delimiter": ";", "newline": "\r\n", "mark": False}),
    (b"\xef\xbb\xbfa,b\r1,2\r", {"encoding": "utf-8", "newline": "\r", "mark": True}),
    ("a\tb\n1\t2\n".encode("utf-16"), {"encoding": "utf-16", "newline": "\n", "mark": True}),
]


@pytest.mark.parametrize(("content", "told"), WRITTEN_AGAIN)
def test_what_it_takes_to_write_such_a_file_is_told(tmp_path: Path, content: bytes, told: dict[str, Any]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert Csv().describe(path).items() >= told.items()
