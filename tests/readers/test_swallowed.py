"""An unclosed quote that a later one closes costs its own line alone; an honest text of several lines stays one value."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.readers import Quarantined, Row, Table
from luthier.readers.csv import Csv
from luthier.readers.tsv import Tsv

GOODS = ("kettle", "lamp", "drill", "rug", "tent", "fan", "desk")
SAID = ("arrived early", "came with a crack", "works as described", "stopped after a day")
CITIES = ("Ulm", "Graz", "Bern", "Lyon", "Oslo", "Turin", "Porto", "Ghent", "Basel", "Malmo")


def numbered(n: int) -> str:
    return f"{n},The {GOODS[n % 7]} {SAID[n % 4]},{('praise', 'complaint')[n % 2]}"


def labelled(n: int) -> str:
    return f"The {GOODS[n % 7]} of order {n * 37 % 101} {SAID[n % 3]},{('praise', 'complaint')[n % 2]}"


def towns(n: int) -> str:
    return f"{CITIES[n % 10].lower()} st. {n},{CITIES[n % 10]} Street {n}"


def orders(n: int) -> str:
    return f"2024-03-{n % 28 + 1:02},{CITIES[n * 3 % 10]},{n * 7 % 50}.50,{GOODS[n % 7]}"


def quoted(n: int) -> str:
    return f'"{n}","The {GOODS[n % 7]}, {SAID[n % 4]}","praise"'


def table(header: str, make: object, n: int, changed: dict[int, str], ending: str = "\n") -> str:
    assert callable(make)
    return ending.join([header, *(changed.get(at) or make(at) for at in range(n))]) + ending


NUMBERED, LABELLED, TOWNS, ORDERS = "nr,text,label", "text,label", "raw,clean", "day,city,price,article"
STRAY = {  # file, lines put aside, rows read
    "nine lines": (
        table(NUMBERED, numbered, 40, {12: '12,"shelf, bought for 12,praise', 21: '21,screen of 32",complaint'}),
        [14],
        39,
    ),
    "one line": (
        table(NUMBERED, numbered, 40, {12: '12,"shelf of wood,praise', 13: '13,screen of 32",complaint'}),
        [14],
        39,
    ),
    "the quote is closed in the last line": (
        table(NUMBERED, numbered, 40, {12: '12,"shelf of wood,praise', 39: '39,screen of 32",complaint'}),
        [14],
        39,
    ),
    "from the first record": (
        table(NUMBERED, numbered, 40, {0: '0,"shelf of wood,praise', 9: '9,screen of 32",complaint'}),
        [2],
        39,
    ),
    "in the last column": (
        table(
            "nr,label,text",
            lambda n: f"{n},{('good', 'bad')[n % 2]},lamp number {n * 7 % 30}",
            30,
            {5: '5,good,"shelf of wood', 11: '11,good,screen of 32"'},
        ),
        [7],
        29,
    ),
    "in the first column": (
        table(LABELLED, labelled, 40, {5: '"shelf of wood,praise', 11: 'screen of 32",praise'}),
        [7],
        39,
    ),
    "two of them": (
        table(
            NUMBERED,
            numbered,
            60,
            {
                5: '5,"shelf of wood,praise',
                11: '11,screen of 32",complaint',
                30: '30,"desk of oak,praise',
                44: '44,tube of 14",complaint',
            },
        ),
        [7, 32],
        58,
    ),
    "two columns of text": (
        table(TOWNS, towns, 40, {5: '"ulm st. 5,Ulm Street 5', 9: 'basel 9",Basel Street 9'}),
        [7],
        39,
    ),
    "four columns": (
        table(ORDERS, orders, 40, {5: '2024-03-06,"Turin,3.50,fan', 9: '2024-03-10,Ulm,3.50,tube 9"'}),
        [7],
        39,
    ),
    "some of the lines are ragged": (
        table(NUMBERED, numbered, 40, {5: '5,"shelf,praise', 9: "9,a, b, c,praise", 20: '20,tube of 14",praise'}),
        [7, 11],
        38,
    ),
    "a record that would be too wide as a whole": (
        table(NUMBERED, numbered, 40, {5: '5,"shelf of wood,praise', 9: '9,tube of 14",wide,praise'}),
        [7, 11],
        38,
    ),
    "crlf": (
        table(NUMBERED, numbered, 40, {12: '12,"shelf of wood,praise', 21: '21,screen of 32",complaint'}, "\r\n"),
        [14],
        39,
    ),
}


def read(path: Path, reader: Csv, content: str) -> tuple[list[int], int, list[Row | Quarantined]]:
    """Lines put aside, rows read, and all that was found."""
    path.write_bytes(content.encode())
    found = list(reader.rows(path))
    aside = [each.line for each in found if isinstance(each, Quarantined)]
    return aside, len(found) - len(aside), found


@pytest.mark.parametrize(("content", "aside", "n"), STRAY.values(), ids=STRAY.keys())
def test_a_stray_quote_costs_its_own_line_alone(tmp_path: Path, content: str, aside: list[int], n: int) -> None:
    assert read(tmp_path / "t.csv", Csv(), content)[:2] == (aside, n)


@pytest.mark.parametrize(("content", "aside", "n"), STRAY.values(), ids=STRAY.keys())
def test_a_stray_quote_between_tabs_costs_its_own_line_alone(
    tmp_path: Path, content: str, aside: list[int], n: int
) -> None:
    tabbed = content.replace(", ", "; ").replace(",", "\t")
    if "ragged" in content or "\t" not in tabbed:
        return
    found = read(tmp_path / "t.tsv", Tsv(), tabbed)
    assert found[0][:1] == aside[:1]
    assert sum(found[1:2]) >= n


def test_what_is_put_aside_says_which_line_closes_the_quote(tmp_path: Path) -> None:
    _, _, found = read(tmp_path / "t.csv", Csv(), STRAY["nine lines"][0])
    [aside] = [each for each in found if isinstance(each, Quarantined)]
    assert (aside.rule, aside.column, aside.text) == ("unclosed-quote", "text", '12,"shelf, bought for 12,praise\n')
    assert aside.reason == (
        'the " that opens field 2 is closed in line 23 only, and the 9 lines up to there are records of their own'
    )


def test_a_header_that_swallows_records_is_no_header(tmp_path: Path) -> None:
    from luthier.errors import UserError

    content = table('nr,"text,label', numbered, 40, {9: '9,tube of 14",praise'})
    with pytest.raises(
        UserError, match='line 1: the header cannot be read: the " that opens field 2 is closed in line'
    ):
        read(tmp_path / "t.csv", Csv(), content)


HONEST = {
    "a letter": (NUMBERED, numbered, '{n},"Dear sir,\nthe lamp broke, alas.\nYours, Al",complaint'),
    "a letter in the first column": (LABELLED, labelled, '"Dear sir, hello\nyours, Bob\nbye, Al",praise'),
    "a letter in the last column": ("nr,text", lambda n: f"{n},lamp {n}", '{n},"Dear sir,\nyours, Bob\nbye, Al"'),
    "an address": (
        "name,address,phone",
        lambda n: f"{CITIES[n % 10]} Ltd,{n} Main Street,0{n * 7919}",
        'Acme Ltd,"Acme, Inc.\n12 Main Street, Flat 4\nUlm, Germany",0731{n}',
    ),
    "an address in the last column": (
        "name,address",
        lambda n: f"{CITIES[n % 10]} Ltd,{n} Main Street",
        'Acme {n},"12 Main Street\nFlat 4, 2nd floor\nUlm, DE"',
    ),
    "code": ("id,code", lambda n: f"{n},x = {n}", '{n},"def f(a, b):\n    return a, b\nprint(f(1, 2))"'),
    "a list of three fields in a table of three": (
        NUMBERED,
        numbered,
        '{n},"article, size, price\nlamp, big, 3\nrug, small, 4",praise',
    ),
    "a list in a numbered table of two columns": (
        "nr,text",
        lambda n: f"{n},The {GOODS[n % 7]} {SAID[n % 3]}",
        '{n},"Items:\n1,apple\n2,pear"',
    ),
    "a list of texts in a numbered table of two columns": (
        "nr,text",
        lambda n: f"{n},The {GOODS[n % 7]} {SAID[n % 3]}",
        '{n},"Items:\n1,green apples\n2,ripe pears"',
    ),
    "paragraphs": (LABELLED, labelled, '"It came, finally.\n\nIt broke, though.\n\nSad, but true.",complaint'),
    "one comma in each of many lines": (
        "nr,text",
        lambda n: f"{n},lamp number {n}",
        '{n},"' + "\n".join(f"line {k}, of a poem" for k in range(40)) + '"',
    ),
    "quotes everywhere": ('"nr","text","label"', quoted, '"{n}","a,b,c\n1,The lamp,praise\n2,The rug,praise","praise"'),
    "a table of towns": (TOWNS, towns, '"ulm, near the river\nsecond floor, left",Ulm Street {n}'),
}


@pytest.mark.parametrize(("header", "make", "text"), HONEST.values(), ids=HONEST.keys())
@pytest.mark.parametrize("places", [[0], [12], [39], [3, 4, 5], list(range(0, 40, 2)), list(range(40))])
def test_an_honest_text_of_several_lines_is_one_value(
    tmp_path: Path, header: str, make: object, text: str, places: list[int]
) -> None:
    content = table(header, make, 40, {n: text.replace("{n}", str(n)) for n in places})
    aside, n, found = read(tmp_path / "t.csv", Csv(delimiter=","), content)
    assert (aside, n) == ([], 40)
    assert sum("\n" in each.text for each in found) == len(places)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
@pytest.mark.parametrize(("header", "make", "text"), HONEST.values(), ids=HONEST.keys())
def test_small_tables_of_honest_texts_are_read(
    tmp_path: Path, header: str, make: object, text: str, n_rows: int
) -> None:
    content = table(header, make, n_rows, {n: text.replace("{n}", str(n)) for n in range(n_rows)})
    assert read(tmp_path / "t.csv", Csv(delimiter=","), content)[:2] == ([], n_rows)


def test_each_stray_quote_is_looked_at_once_however_many_there_are(tmp_path: Path) -> None:
    strays = {n: f'{n},"shelf of wood,praise' for n in range(0, 4000, 5)}
    closing = {n: f'{n},tube of 14",praise' for n in range(2, 4000, 5)}
    content = table(NUMBERED, numbered, 4000, strays | closing)
    aside, n, _ = read(tmp_path / "t.csv", Csv(), content)
    assert (len(aside), n) == (800, 3200)


@pytest.mark.parametrize("n", [4, 5, 6, 8, 10, 12])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stray_quote_in_a_small_table_costs_its_own_line_alone(tmp_path: Path, n: int, at: int) -> None:
    strays = {at: '"shelf of wood,complaint', n - 1: 'tube of 14",praise'}
    said = table(LABELLED, lambda n: f"the {GOODS[n % 7]} {SAID[n % 4]},{('praise', 'complaint')[n % 2]}", n, strays)
    assert read(tmp_path / "t.csv", Csv(), said)[:2] == ([at + 2], n - 1)
    strays = {at: f'{at},"shelf of wood,7', n - 1: f'{n - 1},tube of 14",9'}
    counted = table("nr,text,price", lambda n: f"{n},the {GOODS[n % 7]},{n * 7 % 5}", n, strays)
    assert read(tmp_path / "t.csv", Csv(), counted)[0] == ([at + 2] if n - at > 2 else [])


@pytest.mark.parametrize("at", [0, 1, 20, 48])
@pytest.mark.parametrize(
    ("header", "make", "strays"),
    [
        (LABELLED, labelled, ['"shelf of wood,praise', 'tube of 14",praise']),
        ("label,text", lambda n: f"{('good', 'bad')[n % 2]},lamp {n}", ['good,"shelf of wood', 'bad,tube of 14"']),
        (TOWNS, towns, ['"ulm st. 5,Ulm Street 5', 'basel 9",Basel Street 9']),
    ],
)
def test_a_stray_quote_in_two_columns_that_the_next_line_closes_costs_its_own_line_alone(
    tmp_path: Path, header: str, make: object, strays: list[str], at: int
) -> None:
    content = table(header, make, 50, {at: strays[0], at + 1: strays[1]})
    assert read(tmp_path / "t.csv", Csv(), content)[:2] == ([at + 2], 49)


def told(path: Path, content: str) -> str:
    path.write_bytes(content.encode())
    found = Table(path, Csv())
    assert list(found)
    return found.joined()


TOLD = {
    "one column": (
        table("text", lambda n: f"a {GOODS[n % 7]}", 30, {4: '"shelf of wood', 7: 'tube of 14"'}),
        "t.csv, line 6: the record has 4 lines, and no other has several; if they are records of their own, a quote is not "
        "closed there",
    ),
    "two in one column": (
        table("text", lambda n: f"a {GOODS[n % 7]}", 40, {4: '"shelf', 7: '14"', 20: '"desk', 30: '9"'}),
        "t.csv, line 6: the record has 4 lines, and only 1 of the others has several; if they are records of their own, a "
        "quote is not closed there",
    ),
    "several lines as a rule": (table("text", lambda n: f'"a {GOODS[n % 7]}\nfor {n}"', 30, {}), ""),
    "a column in quotes": (table("text", lambda n: f'"a {GOODS[n % 7]}"', 30, {4: '"a shelf\nof wood"'}), ""),
    "a letter that cannot be divided": (table("nr,text", lambda n: f"{n},a", 9, {4: '4,"Dear sir\nbye",b,c'}), ""),
    "line endings of a spreadsheet": (table("text", lambda n: f"a {n}", 30, {4: '"a\nb"'}, "\r\n"), ""),
    "one line each": (table("text", lambda n: f"a {n}", 30, {}), ""),
}


@pytest.mark.parametrize(("content", "sentence"), TOLD.values(), ids=TOLD.keys())
def test_what_stays_undecided_is_told(tmp_path: Path, content: str, sentence: str) -> None:
    assert told(tmp_path / "t.csv", content) == sentence
