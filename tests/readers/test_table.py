"""A table: read again at each pass, counted, and what cannot be read is put aside once."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import Problems
from luthier.readers import Quarantined, Row, Table
from luthier.readers.csv import Csv
from luthier.readers.jsonl import Jsonl

TEXT = "supplier,country,day\nAcme,DE,1\nragged\nBolt,FR,2\nragged,too\nCord,IT,3\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(TEXT)
    return tmp_path / "t.csv"


def test_each_pass_reads_every_row_and_puts_aside_once_what_cannot_be_read(path: Path) -> None:
    aside: list[Quarantined] = []
    table = Table(path, Csv(), aside.append)
    assert (table.n_read, table.n_rows, aside) == (0, 0, [])
    for _ in range(3):
        assert [row.values["supplier"] for row in table] == ["Acme", "Bolt", "Cord"]
        assert (table.n_read, table.n_rows) == (5, 3)
        assert [record.line for record in aside] == [3, 5]
    assert [type(record) for record in table.records()] == [Row, Quarantined, Row, Quarantined, Row]
    assert [record.line for record in aside] == [3, 5]


def test_a_pass_sees_the_file_as_it_is_then(path: Path) -> None:
    table = Table(path, Csv())
    assert len(list(table)) == 3
    path.write_text(TEXT + "Dorn,ES,4\n")
    assert len(list(table)) == 4
    assert (table.n_read, table.n_rows) == (6, 4)


def test_counts_are_those_of_the_last_pass_even_where_it_was_left_early(path: Path) -> None:
    table = Table(path, Csv())
    list(table)
    next(iter(table))
    assert (table.n_read, table.n_rows) == (1, 1)


def test_nobody_need_hear_what_is_put_aside(path: Path) -> None:
    assert len(list(Table(path, Csv()))) == 3


def test_columns_are_known_before_any_row_is_read(path: Path) -> None:
    table = Table(path, Csv())
    assert table.columns == ["supplier", "country", "day"]
    assert table.described["format"] == "csv"
    assert table.n_read == 0


def test_every_missing_column_is_told_at_once_and_each_only_once(path: Path) -> None:
    table = Table(path, Csv())
    table.require([])
    table.require(["day", "supplier"])
    with pytest.raises(Problems) as told:
        table.require(["suplier", "day", "contry", "suplier", "xyz"])
    assert str(told.value).splitlines() == [
        f"{path}: no column 'suplier'; did you mean 'supplier'?",
        f"{path}: no column 'contry'; did you mean 'country'?",
        f"{path}: no column 'xyz'; known: country, day, supplier",
    ]
    assert [problem.where for problem in told.value.problems] == [str(path)] * 3


def test_lines_of_json_have_the_columns_that_any_of_them_has(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "completion": "c"}\n')
    table = Table(path, Jsonl())
    assert table.columns == ["prompt", "completion"]
    with pytest.raises(Problems, match="no column 'competion'; did you mean 'completion'"):
        table.require(["competion"])
