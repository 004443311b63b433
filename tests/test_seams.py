"""Records: what is written is read back, in every kind of answer and in both forms of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier import seams
from luthier.checks import slice_value
from luthier.seams import (
    ANSWERS,
    Answer,
    Answered,
    Example,
    Label,
    Labels,
    Number,
    Prediction,
    Preference,
    Ranking,
    Spans,
    Text,
    Verdict,
    answer_from,
    answer_json,
    lesson,
    name_of,
    names_in,
    prediction,
    question,
    text_of,
)

# answer, JSON, as text
KINDS: list[tuple[Answer, str, str]] = [
    (Text("1969-02-08"), '{"text": "1969-02-08"}', "1969-02-08"),
    (Text(""), '{"text": ""}', ""),
    (Label("refund"), '{"label": "refund"}', "refund"),
    (Labels(("b", "a", "b")), '{"labels": ["a", "b"]}', "a, b"),
    (Labels(()), '{"labels": []}', ""),
    (Number(2.5), '{"number": 2.5}', "2.5"),
    (Number(12.0), '{"number": 12.0}', "12"),
    (Spans(((7, 9, "DATE"), (0, 3, "NAME"))), '{"spans": [[0, 3, "NAME"], [7, 9, "DATE"]]}', "NAME 0-3, DATE 7-9"),
    (Spans(()), '{"spans": []}', ""),
    (Ranking(("c", "a", "b")), '{"ranking": ["c", "a", "b"]}', "c > a > b"),
    (Preference("good", "bad"), '{"chosen": "good", "rejected": "bad"}', "good"),
]


@pytest.mark.parametrize(("answer", "written", "shown"), KINDS)
def test_an_answer_of_any_kind_is_written_and_read_back(answer: Answer, written: str, shown: str) -> None:
    assert json.dumps(answer_json(answer)) == written
    assert answer_from(json.loads(written)) == answer
    assert str(answer) == shown


def test_no_kind_of_answer_is_left_out_of_the_table() -> None:
    assert {type(answer) for answer, _, _ in KINDS} == set(ANSWERS.values())
    assert {answer.kind for answer in ANSWERS.values()} == {
        "text",
        "label",
        "labels",
        "number",
        "spans",
        "ranking",
        "preference",
    }


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (Label("a"), ("a",)),
        (Labels(("b", "a")), ("a", "b")),
        (Text("a"), ()),
        (Ranking(("a",)), ()),
        (Spans(((0, 1, "a"),)), ()),
        (None, ()),
    ],
)
def test_only_labels_name_classes(answer: Answer | None, names: tuple[str, ...]) -> None:
    assert names_in(answer) == names


ODD = 'é ß 電\u2028\u2029\x85\r\n\t\0"\\ 😀'


def examples() -> list[Example]:
    plain = [Example(id="1", task="t", input={"text": "a"}), Example(id="2", task="t", input={"text": ODD})]
    full = [
        Example(
            id=f"{n}:{ODD}",
            task="classify",
            input={"fields": {"column": "x", "value": ODD, "context": {"land": "DE"}}},
            target=answer,
            weight=0.25,
            entity="acme",
            slices={"country": "DE", ODD: ODD},
            split="train",
            origin={"file": "t.csv", "row": 2, "column": "x"},
            parent="1",
        )
        for n, (answer, _, _) in enumerate(KINDS)
    ]
    return plain + full


def predictions() -> list[Prediction]:
    bare = Prediction(id="1", task="t", output=Text(ODD))
    return [bare] + [
        Prediction(
            id=str(n),
            task="t",
            output=answer,
            confidence=0.75,
            candidates=[(answer, 0.75), (Text(ODD), 0.25)],
            target=KINDS[n - 1][0],
            slices={"country": "DE"},
            weight=2.0,
            entity=ODD,
        )
        for n, (answer, _, _) in enumerate(KINDS)
    ]


def verdicts() -> list[Verdict]:
    return [Verdict("a >= 0.9", "passed", 0.95, None, 40, True, 0.9), Verdict("b", "failed", None, None, 0, False, 1.0)]


@pytest.mark.parametrize(("above", "suffix"), [(50_000, ".jsonl"), (3, ".parquet"), (0, ".parquet")])
@pytest.mark.parametrize(("record", "records"), [(Example, examples()), (Prediction, predictions())])
def test_records_are_read_back_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int, suffix: str, record: type, records: list[object]
) -> None:
    monkeypatch.setattr(seams, "PARQUET_ABOVE", above)
    path = seams.write(tmp_path / "records", iter(records))  # type: ignore[arg-type]
    assert path == tmp_path / f"records{suffix}"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert list(seams.read(tmp_path / "records", record)) == records


def test_verdicts_are_read_back(tmp_path: Path) -> None:
    seams.write(tmp_path / "verdicts", verdicts())
    assert list(seams.read(tmp_path / "verdicts", Verdict)) == verdicts()


@pytest.mark.parametrize("above", [50_000, 3])
def test_nothing_is_read_back_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int) -> None:
    monkeypatch.setattr(seams, "PARQUET_ABOVE", above)
    assert seams.write(tmp_path / "none", []).name == "none.jsonl"
    assert list(seams.read(tmp_path / "none", Example)) == []


@pytest.mark.parametrize(("n", "name"), [(3, "t.jsonl"), (4, "t.parquet")])
def test_a_file_is_parquet_from_the_first_row_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, name: str
) -> None:
    monkeypatch.setattr(seams, "PARQUET_ABOVE", 3)
    assert seams.write(tmp_path / "t", examples()[:n]).name == name


def test_records_are_written_as_they_come_and_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seams, "PARQUET_ABOVE", 3)
    many = (Example(id=str(n), task="t", input={"text": "x"}) for n in range(25_000))
    assert seams.write(tmp_path / "many", many).suffix == ".parquet"
    found = seams.read(tmp_path / "many", Example)
    assert next(found).id == "0"
    assert [example.id for example in found] == [str(n) for n in range(1, 25_000)]


def test_the_cells_of_the_row_are_for_splitting_and_never_stored(tmp_path: Path) -> None:
    seams.write(tmp_path / "t", [Example(id="1", task="t", input={"text": "a"}, row={"name": "Ada"})])
    assert "Ada" not in (tmp_path / "t.jsonl").read_text()
    (found,) = seams.read(tmp_path / "t", Example)
    assert found.row == {}


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_stands_on_one_line(name: str, words: str) -> None:
    example = Example(id=words, task="t", input={"text": words}, target=Text(words))
    text = seams.line(example)
    assert "\n" not in text
    assert "\r" not in text
    assert Example.of(json.loads(text)) == example
    assert len(question(Example(id="", task="", input={"text": name}))) == 12  # lone surrogates included


def asks(target: Answer | None = None, **said: object) -> Example:
    return Example(id="1", task="t", input=said, target=target)


@pytest.mark.parametrize(
    ("one", "other", "same_question", "same_lesson"),
    [
        (asks(Label("x"), text="a"), asks(Label("x"), text="a"), True, True),
        (asks(Label("x"), text="a"), asks(Label("y"), text="a"), True, False),
        (asks(Label("x"), text="a"), asks(None, text="a"), True, False),
        (asks(Label("x"), text="a"), asks(Text("x"), text="a"), True, False),
        (asks(Label("x"), text="a"), asks(Label("x"), text="a "), False, False),
        (asks(None, fields={"a": "1", "b": "2"}), asks(None, fields={"b": "2", "a": "1"}), True, True),
        (asks(Labels(("a", "b")), text="q"), asks(Labels(("b", "a")), text="q"), True, True),
        (asks(Ranking(("a", "b")), text="q"), asks(Ranking(("b", "a")), text="q"), True, False),
    ],
)
def test_what_is_the_same_question_and_the_same_lesson(
    one: Example, other: Example, same_question: bool, same_lesson: bool
) -> None:
    assert (question(one) == question(other)) == same_question
    assert (lesson(one) == lesson(other)) == same_lesson


def test_a_prediction_takes_all_but_the_answer_from_its_example() -> None:
    example = Example(
        id="7", task="t", input={"text": "a"}, target=Label("x"), weight=2.0, entity="acme", slices={"country": "DE"}
    )
    answered = Answered(Label("y"), 0.12345678, [(Label("y"), 0.12345678), (Label("x"), 0.1)])
    found = prediction(example, answered)
    assert found == Prediction(
        id="7",
        task="t",
        output=Label("y"),
        confidence=0.123457,
        candidates=[(Label("y"), 0.123457), (Label("x"), 0.1)],
        target=Label("x"),
        slices={"country": "DE"},
        weight=2.0,
        entity="acme",
    )
    found.slices["unseen"] = "true"
    assert example.slices == {"country": "DE"}, "they share nothing that can change"


@pytest.mark.parametrize(
    ("value", "text", "name"),
    [
        ("  a b ", "  a b ", "a b"),
        ("NA", "NA", "NA"),
        ("None", "None", "None"),
        ("yes", "yes", "yes"),
        ("True", "True", "True"),
        ("", "", ""),
        ("\u2028", "\u2028", ""),
        (None, "", ""),
        (True, "true", "true"),
        (False, "false", "false"),
        (1, "1", "1"),
        ("1", "1", "1"),
        (1.0, "1.0", "1"),
        (-3.0, "-3.0", "-3"),
        ("1.0", "1.0", "1.0"),
        (-0.5, "-0.5", "-0.5"),
        (1e22, "1e+22", "1e+22"),
        (10**20, "100000000000000000000", "100000000000000000000"),
        ({"é": [1, None, True]}, '{"é": [1, null, true]}', '{"é": [1, null, true]}'),
        ([], "[]", "[]"),
    ],
)
def test_a_cell_has_one_text_and_one_name(value: Any, text: str, name: str) -> None:
    assert text_of(value) == text
    assert name_of(value) == slice_value(value) == name
