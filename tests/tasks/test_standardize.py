"""Standardize: rows find their canonical values by key or by place, and a prompt shows values as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.errors import UserError
from luthier.noting import missing_columns
from luthier.readers import Quarantined, Table
from luthier.reading import detect
from luthier.recipe import PrepareSettings
from luthier.seams import Dropped, Example
from luthier.tasks import Task


def task(**settings: object) -> Task:
    return Task.pick({"kind": "standardize", "table": "t", "column": "raw", "target": "clean", **settings})


def made(folder: Path, messy: str, clean: str, suffix: str = "csv", **settings: object) -> list[str]:
    """`raw -> clean` of each example and `line: rule` of what was dropped, in order."""
    (folder / f"messy.{suffix}").write_text(messy, encoding="utf-8", newline="")
    (folder / f"clean.{suffix}").write_text(clean, encoding="utf-8", newline="")
    paths = {"table": folder / f"messy.{suffix}", "target_table": folder / f"clean.{suffix}"}
    tables = {role: Table(path, detect(path)) for role, path in paths.items()}
    found = task(target_table="clean", **settings).examples(tables)
    return [
        f"{e.line}: {e.rule}" if isinstance(e, Dropped) else f"{e.input['fields']['value']} -> {e.target}"
        for e in found
    ]


PAIRED = ["a -> A", "b -> B", "c -> C"]


@pytest.mark.parametrize(
    ("messy", "clean"),
    [
        ("raw,n\na,1\nb,2\nc,3\n", "clean\nA\nB\nC\n"),
        ("raw,n\na,1\n\nb,2\nc,3\n", "clean\nA\n\nB\nC\n"),  # blank at the same place
        ("raw,n\na,1\nb,2\nc,3\n\n\n", "clean\nA\nB\nC\n"),  # blank at the end
        ('raw,n\na,"1\n1"\nb,2\nc,3\n', "clean\nA\nB\nC\n"),  # a cell of several lines in one file alone
        ('raw,n\na,"1\n\n1"\nb,2\n\nc,3\n', 'clean\n"A"\nB\n\nC\n'),
        ("raw,n\na,1\nb,2,9\nc,3\n", "clean,n\nA,1\nB\nC,3\n"),  # unreadable at the same place
        ("raw,n\na,1\nraw,n\nb,2\nc,3\n", "clean,n\nA,1\nclean,n\nB,2\nC,3\n"),  # two exports, joined
    ],
)
def test_rows_of_two_files_are_paired_in_order(tmp_path: Path, messy: str, clean: str) -> None:
    expected = [pair for pair in PAIRED if "9" not in messy or "b" not in pair]
    assert made(tmp_path, messy, clean) == expected


@pytest.mark.parametrize(
    ("messy", "clean", "what"),
    [
        (
            "raw,n\na,1\nb,2\nc,3\n",
            "clean\nA\n\nC\nD\n",  # b has a blank answer, and a row too many hides it
            "before line 3 of messy.csv stand 0 blank lines, before line 4 of clean.csv 1",
        ),
        (
            "raw,n\n\na,1\nb,2\n",
            "clean\nA\nB\n",
            "before line 3 of messy.csv stand 1 blank lines, before line 2 of clean.csv 0",
        ),
        (
            "raw,n\na,1\nb,2,9\nc,3\n",
            "clean\nA\nB\nC\n",
            "line 3 of messy.csv cannot be read, line 3 of clean.csv beside it can",
        ),
        (
            "raw,n\na,1\nb,2\nc,3\n",
            "clean,n\nA,1\nclean,n\nB,2\nC,3\n",
            "line 3 of clean.csv cannot be read, line 3 of messy.csv beside it can",
        ),
        ("raw,n\na,1\nb,2\nc,3\n", "clean\nA\nB\n", "messy.csv has more rows than clean.csv"),
        ("raw,n\na,1\nb,2\n", "clean\nA\nB\nC\n", "clean.csv has more rows than messy.csv"),
    ],
)
def test_what_may_have_shifted_rows_is_refused(tmp_path: Path, messy: str, clean: str, what: str) -> None:
    with pytest.raises(UserError) as told:
        made(tmp_path, messy, clean)
    assert told.value.sentence() == (
        f"task.target_table: rows cannot be paired by their order: {what}; "
        "make the files agree, or name a column that both have as task.target_key"
    )


def test_lines_of_json_are_paired_in_order_and_a_blank_line_in_one_file_is_refused(tmp_path: Path) -> None:
    messy = "".join(json.dumps({"raw": raw}) + "\n" for raw in "abc")
    clean = [json.dumps({"clean": clean}) for clean in "ABC"]
    assert made(tmp_path, messy, "\n".join(clean), "jsonl") == PAIRED
    with pytest.raises(
        UserError, match=r"before line 2 of messy.jsonl stand 0 blank lines, before line 3 of clean.jsonl 1"
    ):
        made(tmp_path, messy, "\n\n".join(clean), "jsonl")


def test_a_key_pairs_rows_in_any_order_and_counts_what_has_no_partner(tmp_path: Path) -> None:
    messy = "id,raw\n3,c\n\n1,a\n9,x\n ,y\n2,b\n4,d,d\n"
    clean = "clean,id\nA,1\n\n\nB, 2\nZ,8\nbroken\nC,3\nD,4\nW,\n"
    assert made(tmp_path, messy, clean, target_key="id") == [
        "c -> C",
        "a -> A",
        "10: target row without a key",
        "5: no target row has its key",
        "6: no key",
        "b -> B",
        "6: target row whose key no row has",
        "9: target row whose key no row has",
    ]


def test_a_number_is_the_same_key_in_json_lines_and_text(tmp_path: Path) -> None:
    messy = "".join(json.dumps({"raw": raw, "id": n}) + "\n" for n, raw in enumerate("abc"))
    clean = "".join(json.dumps({"clean": raw.upper(), "id": str(n)}) + "\n" for n, raw in reversed([*enumerate("abc")]))
    assert made(tmp_path, messy, clean, "jsonl", target_key="id") == PAIRED


@pytest.mark.parametrize(
    ("messy", "clean", "where"),
    [("1,a\n1,b\n", "1,A\n2,B\n", "messy.csv:3"), ("1,a\n2,b\n", "1,A\n1,B\n", "clean.csv:3")],
)
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, messy: str, clean: str, where: str) -> None:
    with pytest.raises(UserError, match=rf"{where}: column 'id': the key '1' occurs twice; task.target_key needs"):
        made(tmp_path, f"id,raw\n{messy}", f"id,clean\n{clean}", target_key="id")


def test_rows_in_one_order_are_paired_without_holding_the_other_table(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,raw\n" + "".join(f"{n},r{n}\n" for n in range(50)))
    (tmp_path / "c.csv").write_text("id,clean\n" + "".join(f"{n},c{n}\n" for n in range(50)))
    tables = {
        "table": Table(tmp_path / "m.csv", detect(tmp_path / "m.csv")),
        "target_table": Table(tmp_path / "c.csv", detect(tmp_path / "c.csv")),
    }
    for n, _ in enumerate(task(target_table="c", target_key="id").examples(tables), start=1):
        assert tables["target_table"].n_read == n
    assert n == 50


def test_the_key_must_stand_in_both_tables_and_needs_a_second_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,raw\n1,a\n")
    (tmp_path / "c.csv").write_text("idd,clean\n1,A\n")
    tables = {
        "table": Table(tmp_path / "m.csv", detect(tmp_path / "m.csv")),
        "target_table": Table(tmp_path / "c.csv", detect(tmp_path / "c.csv")),
    }
    for key, told in (
        ("id", "c.csv: no column 'id'; did you mean 'idd'?"),
        ("idd", "m.csv: no column 'idd'; did you mean 'id'?"),
    ):
        problems = missing_columns(tables, task(target_table="c", target_key=key), PrepareSettings(), "target_table")
        assert [problem.sentence().replace(f"{tmp_path}/", "") for problem in problems] == [f"task.target_key, {told}"]
    with pytest.raises(
        ValidationError, match="target_key pairs the rows of two files; give the second as `target_table`"
    ):
        task(target_key="id")


def asked(template: str | None, value: str, column: str = "raw", **context: str) -> str:
    chosen = task(context=list(context), **({"prompt": template} if template else {}))
    return str(
        chosen.prompt(Example("1", "standardize", {"fields": {"column": column, "value": value, "context": context}}))
    )


@pytest.mark.parametrize(
    ("template", "value", "context", "expected"),
    [
        (None, "10 : 30", {}, "raw: 10 : 30 =>"),
        (None, "10 : 30", {"country": "DE"}, "raw DE: 10 : 30 =>"),
        (None, "a :b", {"x": "p :q", "y": ""}, "raw p :q, : a :b =>"),
        ("{column} : {value}", "5", {}, "raw : 5"),  # as the user wrote it
        ("{context} {value}", "5", {}, " 5"),
        ("{{{value}}} {country}", "{value} {0} {", {"country": "{column}"}, "{{value} {0} {} {column}"),
        ("{a.b} {value}", "5", {"a.b": "7"}, "7 5"),
        *(
            (f"{{{name}}} {{value}}", "5", {name: "7"}, "7 5")
            for name in ("a[0]", "0", "é b", "a: b", "b!r", "'", "a}b", "null")
        ),
    ],
)
def test_a_prompt_shows_values_as_they_are(
    template: str | None, value: str, context: dict[str, str], expected: str
) -> None:
    assert asked(template, value, **context) == expected


@settings(max_examples=200, deadline=None)
@given(value=st.text(min_size=1), country=st.text())
def test_no_value_is_edited_on_its_way_into_a_prompt(value: str, country: str) -> None:
    assert asked(None, value) == f"raw: {value} =>"
    assert asked(None, value, country=country) == f"raw {country}: {value} =>"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{value:>10}", "prompt takes names in braces alone"),
        ("{value!r}", "prompt takes names in braces alone"),
        ("{value} {}", "prompt names {}, which is neither"),
        ("{value} {value.x}", "prompt names {value.x}, which is neither"),
        ("{column}", "prompt must contain {value}"),
        ("{value} {", "prompt has a single '{'"),
        ("{value} }", "prompt has a single '}'"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused_on_loading(template: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as told:
        task(prompt=template)
    assert sentence in str(told.value)


def test_what_cannot_be_read_in_the_target_table_is_put_aside(tmp_path: Path) -> None:
    aside: list[Quarantined] = []
    (tmp_path / "m.csv").write_text("id,raw\n1,a\n2,b\n")
    (tmp_path / "c.csv").write_text("id,clean\n1,A,A\n2,B\n")
    tables = {
        "table": Table(tmp_path / "m.csv", detect(tmp_path / "m.csv"), aside.append),
        "target_table": Table(tmp_path / "c.csv", detect(tmp_path / "c.csv"), aside.append),
    }
    found = list(task(target_table="c", target_key="id").examples(tables))
    assert [type(each) for each in found] == [Dropped, Example]
    assert [(each.file, each.line, each.rule) for each in aside] == [("c.csv", 2, "ragged")]
