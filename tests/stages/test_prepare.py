"""Prepare: a value means the same wherever it is named, and whatever is left out, blank or untested is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier import flow, seams
from luthier.errors import Problems, UserError
from luthier.facts import PreparedFacts
from luthier.recipe_file import loads
from luthier.seams import Example
from luthier.store import Store

CLASSIFY = """\
version: 1
name: values
task: {kind: classify, table: t.jsonl, text: text, label: label}
base: {kind: folder, path: none}
prepare: {split: {kind: random, validation: 5, test: 10}}
"""


class Heard:
    """A listener that remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)


class Prepared:
    """What prepare made of a table: its examples, facts and what it said."""

    def __init__(self, folder: Path, text: str, *changes: str) -> None:
        opened = loads(text, folder=folder, changes=changes)
        heard = Heard()
        made = flow.prepared(opened, Store(folder / ".luthier", heard))
        self.said = heard.lines
        self.facts = PreparedFacts(**made.facts)
        self.examples = [e for split in ("train", "validation", "test") for e in seams.read(made.path / split, Example)]
        self.folder = made.path

    def split_of(self, name: str, value: str) -> set[str]:
        """The splits that hold examples of a group."""
        return {e.split for e in self.examples if e.slices[name] == value}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path: Path, rows: list[list[Any]]) -> None:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


# value in JSON lines -> the same in a recipe
VALUES = [
    (True, "true"),
    (False, "false"),
    (1, "1"),
    (1.0, "1.0"),
    (-2.5, "-2.5"),
    ("None", "None"),
    ("NA", "NA"),
    ("null", "'null'"),
    ("yes", "yes"),
    ("no", "no"),
    (" FI ", "FI"),
    (None, "null"),
    ("", "''"),
    (None, "''"),
    ("  ", "null"),
]


@pytest.mark.parametrize(("value", "written"), VALUES)
def test_a_value_is_held_out_as_it_is_written_in_the_recipe(tmp_path: Path, value: Any, written: str) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "group": value if n % 10 == 0 else f"g{n % 3}"} for n in range(60)]
    lines(tmp_path / "t.jsonl", rows)
    done = Prepared(tmp_path, CLASSIFY, f"prepare.hold_out={{group: [{written}]}}", "prepare.slices={group: group}")
    name = seams.name_of(value)
    assert done.split_of("group", name) == {"test"}
    assert done.facts.slices["unseen"] == {"false": 54, "true": 6}
    assert done.facts.slices["group"][name] == 6


@pytest.mark.parametrize("written", ["true", "'true'", "1.0", "NA", "None"])
def test_json_lines_and_csv_hold_out_the_same_rows(tmp_path: Path, written: str) -> None:
    value = {"true": True, "'true'": True, "1.0": 1.0}.get(written, written)
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "group": value if n % 10 == 0 else "x"} for n in range(60)]
    lines(tmp_path / "t.jsonl", rows)
    table(
        tmp_path / "t.csv",
        [["text", "label", "group"], *([r["text"], r["label"], seams.text_of(r["group"])] for r in rows)],
    )
    change = f"prepare.hold_out={{group: [{written}]}}"
    texts = [
        {
            e.input["text"]
            for e in Prepared(tmp_path, CLASSIFY, change, f"task.table={name}").examples
            if e.slices["unseen"] == "true"
        }
        for name in ("t.jsonl", "t.csv")
    ]
    assert texts[0] == texts[1] == {f"t{n}" for n in range(0, 60, 10)}


def test_the_type_of_a_cell_parts_neither_labels_nor_groups(tmp_path: Path) -> None:
    kinds = [1, 1.0, "1", " 1 "], [True, "true", "true ", True]
    rows = [{"text": f"t{n}", "label": kinds[n % 2][n // 2 % 4], "group": kinds[n // 8 % 2][n % 4]} for n in range(80)]
    lines(tmp_path / "t.jsonl", rows)
    done = Prepared(tmp_path, CLASSIFY, "prepare.slices={group: group}", "prepare.hold_out={group: [1.0]}")
    assert done.facts.labels == {"1": 40, "true": 40}
    assert done.facts.slices["group"] == {"1": 40, "true": 40}
    assert done.split_of("group", "1") == {"test"}


def test_labels_groups_slices_and_strata_name_a_value_alike(tmp_path: Path) -> None:
    flags = [True, False, "NA", "None", 1, 1.5]
    lines(
        tmp_path / "t.jsonl",
        [{"text": f"t{n}", "label": flags[n % 6], "group": flags[n // 6 % 6]} for n in range(180)],
    )
    split = "prepare.split={kind: grouped, by: group, validation: 0.1, test: 0.2}"
    grouped = Prepared(tmp_path, CLASSIFY, split, "prepare.slices={group: group, answer: label}")
    names = ["1", "1.5", "NA", "None", "false", "true"]
    assert sorted(grouped.facts.labels) == sorted(grouped.facts.slices["group"]) == names
    assert sorted(grouped.facts.slices["answer"]) == names
    assert {e.entity for e in grouped.examples} == set(names)
    assert all(str(e.target) == e.slices["answer"] for e in grouped.examples)
    strata = Prepared(
        tmp_path, CLASSIFY, "prepare.split={kind: stratified, by: group}", "prepare.slices={group: group}"
    )
    assert all(strata.split_of("group", name) == {"train", "validation", "test"} for name in names)


def test_null_and_blank_labels_are_no_labels_and_are_counted_with_the_first_place(tmp_path: Path) -> None:
    answers = [None, "", "  ", "None", "NA", True]
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": answers[n % 6]} for n in range(60)])
    done = Prepared(tmp_path, CLASSIFY)
    assert done.facts.labels == {"NA": 10, "None": 10, "true": 10}
    assert done.facts.flow[1].fates == {"no target": 30}
    assert "made 30 of 60 examples; left out: 30 with no target (the first: t.jsonl, line 1, column label)" in done.said


def test_a_split_column_of_any_type_is_read_as_text(tmp_path: Path) -> None:
    parts = ["train", " Test", "dev"]
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": "ab"[n // 3 % 2], "part": parts[n % 3]} for n in range(60)])
    assert Prepared(tmp_path, CLASSIFY, "prepare.split={kind: given, column: part}").facts.splits == {
        "train": 20,
        "validation": 20,
        "test": 20,
    }
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": "ab"[n % 2], "part": None} for n in range(60)])
    with pytest.raises(UserError, match="column 'part' holds ''"):
        Prepared(tmp_path, CLASSIFY, "prepare.split={kind: given, column: part}")


@pytest.mark.parametrize("blank", [None, "", "   "])
def test_each_row_of_a_blank_group_is_a_unit_and_it_is_said(tmp_path: Path, blank: Any) -> None:
    rows = [
        {"text": f"t{n}", "label": "ab"[n // 2 % 2], "customer": blank if n % 2 else f"K{n // 6}", "id": f"K{n}"}
        for n in range(120)
    ]
    lines(tmp_path / "t.jsonl", rows)
    split = "prepare.split={kind: grouped, by: customer, validation: 0.2, test: 0.3}"
    for more in ([], ["prepare.id_column=id"]):  # an id may be the name of a group
        done = Prepared(tmp_path, CLASSIFY, split, "prepare.slices={customer: customer}", *more)
        alone = [e for e in done.examples if not e.slices["customer"]]
        assert len({e.entity for e in alone}) == len(alone) == 60
        assert {e.split for e in alone} == {"train", "validation", "test"}
        assert not {e.entity for e in alone} & {e.entity for e in done.examples if e.slices["customer"]}
        assert done.facts.blank_groups == 60
        assert "60 rows have no customer; each is a unit of its own" in done.said


def test_all_cells_of_a_row_without_a_group_stay_together(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", [["g", "a", "b", "c"], *(["", f"a{n}", f"b{n}", n] for n in range(60))])
    text = CLASSIFY.replace(
        "{kind: classify, table: t.jsonl, text: text, label: label}",
        "{kind: standardize, table: t.csv, columns: {a: c, b: c}}",
    )
    done = Prepared(tmp_path, text, "prepare.split={kind: grouped, by: g}")
    splits: dict[int, set[str]] = {}
    for example in done.examples:
        splits.setdefault(example.origin["row"], set()).add(example.split)
    assert done.facts.blank_groups == len(splits) == 60
    assert {len(found) for found in splits.values()} == {1}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("F1", "prepare.hold_out: no row has country: F1; did you mean 'FI'?"),
        ("7", "prepare.hold_out: no row has country: 7; write a value in quotes, as it stands in the table"),
        ("null", "prepare.hold_out: no row has a blank country; write a value in quotes, as it stands in the table"),
    ],
)
def test_a_value_that_no_row_has_is_told_with_what_to_write(tmp_path: Path, written: str, sentence: str) -> None:
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": "ab"[n % 2], "country": "FI"} for n in range(60)])
    with pytest.raises(UserError) as told:
        Prepared(tmp_path, CLASSIFY, f"prepare.hold_out={{country: [{written}]}}")
    assert told.value.sentence() == sentence


def test_a_list_is_no_value_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hold_out.country\[0\]: Input should be a valid string"):
        Prepared(tmp_path, CLASSIFY, "prepare.hold_out={country: [[FI]]}")


def test_a_row_without_an_id_and_a_group_of_a_taken_name_are_told(tmp_path: Path) -> None:
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": "ab"[n % 2], "id": n or None} for n in range(60)])
    with pytest.raises(UserError, match=r"t.jsonl:1: column 'id': the row has no id; give it one"):
        Prepared(tmp_path, CLASSIFY, "prepare.id_column=id")
    with pytest.raises(UserError, match=r"prepare.slices: there is a group 'unseen' already; give yours another name"):
        Prepared(tmp_path, CLASSIFY, "prepare.hold_out={id: [3]}", "prepare.slices={unseen: label}")


def test_nested_values_are_taught_as_json(tmp_path: Path) -> None:
    answers = [{"shelf": n, "fragile": n % 2 == 0, "note": None, "town": "Łódź"} for n in range(40)]
    lines(tmp_path / "t.jsonl", [{"prompt": f"p{n}", "completion": answer} for n, answer in enumerate(answers)])
    done = Prepared(
        tmp_path, CLASSIFY.replace("kind: classify", "kind: generate").replace(", text: text, label: label", "")
    )
    assert sorted((json.loads(str(e.target)) for e in done.examples), key=lambda a: a["shelf"]) == answers
    assert all("Łódź" in str(e.target) for e in done.examples)


RARE = [("a", 30), ("b", 30), ("single", 1), ("alone", 1), ("two", 2)]


def test_a_record_that_may_be_several_joined_by_a_quote_is_said(tmp_path: Path) -> None:
    rows = [[f"shelf {n}", f"Shelf {n}"] for n in range(60)]
    rows[8][1], rows[9][1] = '"Shelf 8', 'Shelf 9"'
    table(tmp_path / "t.csv", [["raw", "clean"], *rows])
    done = Prepared(
        tmp_path,
        CLASSIFY.replace(
            CLASSIFY.splitlines()[2], "task: {kind: standardize, table: t.csv, column: raw, target: clean}"
        ),
    )
    assert [line for line in done.said if line.startswith("warning: t.csv, line 10: the record has 2 lines")]


@pytest.mark.parametrize("sizes", ["validation: 0.1, test: 0.2", "validation: 6, test: 12"])
def test_a_label_of_one_example_stays_in_training_and_it_is_said(tmp_path: Path, sizes: str) -> None:
    labels = [label for label, n in RARE for _ in range(n)]
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": labels[n * 27 % 64]} for n in range(64)])
    done = Prepared(tmp_path, CLASSIFY, f"prepare.split={{kind: stratified, {sizes}}}")
    assert {"single", "alone", "two"} <= set(done.facts.label_names)
    assert {label: n for label, n in done.facts.untested_labels.items() if label != "two"} == {"alone": 1, "single": 1}
    assert [line for line in done.said if "stand in training alone, so the test says nothing of them" in line]


def test_labels_that_training_lacks_are_all_named_with_what_helps(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "part": "train"} for n in range(40)]
    rows += [{"text": f"u{n}", "label": f"rare {n % 7}", "part": "test"} for n in range(8)]
    lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError) as told:
        Prepared(tmp_path, CLASSIFY, "prepare.split={kind: given, column: part}")
    assert told.value.sentence() == (
        "prepare.split: 7 labels, 'rare 0' (2), 'rare 1' (1), 'rare 2' (1), 'rare 3' (1), 'rare 4' (1), 'rare 5' (1) and "
        "'rare 6' (1), stand in validation or test, never in training; use `kind: stratified`, which keeps one example of "
        "each label in training, or leave labels out that are this rare (task.fewest), or merge them (task.rare, task.merge)"
    )
    twins = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(40)] + [{"text": "same", "label": "c"}] * 2
    lines(tmp_path / "t.jsonl", twins)
    with pytest.raises(
        UserError, match=r"label 'c' \(1\) stands in .*; what stood in training was held out or dropped"
    ):
        Prepared(tmp_path, CLASSIFY, "prepare.split=stratified")


def test_a_label_of_held_out_rows_alone_is_told_as_such(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "land": "DE"} for n in range(40)]
    lines(tmp_path / "t.jsonl", [*rows, {"text": "u", "label": "c", "land": "FI"}])
    with pytest.raises(
        UserError, match=r"label 'c' \(1\) stands in .* in training; they stand in rows that are held out"
    ):
        Prepared(tmp_path, CLASSIFY, "prepare.hold_out={land: [FI]}", "prepare.split=stratified")


def test_a_table_of_few_distinct_inputs_is_told_why_nothing_is_left_to_train_on(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", [["raw", "clean"], *([f"v{n % 6}", n % 6] for n in range(200))])
    text = CLASSIFY.replace(
        "{kind: classify, table: t.jsonl, text: text, label: label}",
        "{kind: standardize, table: t.csv, column: raw, target: clean}",
    )
    with pytest.raises(
        UserError,
        match="the train split is empty: 190 examples were dropped, as their input stands in a later split; keep equal",
    ):
        Prepared(tmp_path, text)
    assert Prepared(tmp_path, text, "prepare.split={kind: grouped, by: raw}").facts.splits["train"] > 0


def test_a_header_that_stands_again_is_put_aside_and_is_no_broken_row(tmp_path: Path) -> None:
    rows = [[f"t{n}", "ab"[n % 2]] for n in range(40)]
    table(tmp_path / "t.csv", [["text", "label"], *rows[:20], ["\ufefftext", "label"], *rows[20:]])
    done = Prepared(tmp_path, CLASSIFY, "task.table=t.csv", "prepare.quarantine_limit=0")
    assert (len(done.examples), done.facts.n_quarantined) == (40, 1)
    aside = json.loads((done.folder / "quarantine.jsonl").read_text())
    assert (aside["line"], aside["rule"]) == (22, "header")
    assert (
        "read 41 records of t.csv: 40 rows, 1 put aside (the first: t.csv, line 22: the header stands here again)"
        in done.said
    )


def test_a_key_that_is_no_character_is_put_aside_and_breaks_no_file(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(120)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "t.jsonl").write_text(whole + '{"\\ud800": 1, "\\ud800": 2}\n')
    done = Prepared(tmp_path, CLASSIFY)
    assert done.facts.n_quarantined == 1
    assert [json.loads(line)["line"] for line in (done.folder / "quarantine.jsonl").read_text().splitlines()] == [121]


def test_look_alikes_of_test_inputs_leave_training_or_are_counted_and_told(tmp_path: Path) -> None:
    ways = [str, str.upper, lambda text: f"{text} ", lambda text: text.replace(" ", "\u00a0 ")]
    rows = [{"text": way(f"note number {n}"), "label": "ab"[n % 2]} for n in range(30) for way in ways]
    lines(tmp_path / "t.jsonl", rows)
    kept = Prepared(tmp_path, CLASSIFY)
    assert kept.facts.seen_in_training == 0
    told = [line for line in kept.said if "to keep them, split by the column that is read" in line]
    assert len(told) == 1
    counted = Prepared(tmp_path, CLASSIFY, "prepare.steps=[]")
    assert counted.facts.seen_in_training > 8
    assert [line for line in counted.said if "of 10 test inputs look like one of training" in line]
    together = Prepared(tmp_path, CLASSIFY, "prepare.split={kind: grouped, by: text, validation: 0.2, test: 0.2}")
    assert (together.facts.seen_in_training, len(together.examples)) == (0, 120)


def test_groups_that_look_alike_stay_together_and_are_told(tmp_path: Path) -> None:
    ways = ["ACME {}", "acme {}", " ACME  {}", "AC\u200bME {}"]
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "owner": ways[n // 20].format(n % 20)} for n in range(80)]
    lines(tmp_path / "t.jsonl", rows)
    done = Prepared(tmp_path, CLASSIFY, "prepare.split={kind: grouped, by: owner}", "prepare.slices={owner: owner}")
    assert {e.entity for e in done.examples} == {f"ACME {n}" for n in range(20)}
    splits = [{e.split for e in done.examples if e.entity == f"ACME {n}"} for n in range(20)]
    assert all(len(found) == 1 for found in splits)
    assert done.facts.respelled_groups == 20  # blanks and invisible characters name the same; another case does not
    assert [line for line in done.said if line.startswith("20 rows write their owner otherwise")]


def test_labels_that_look_the_same_are_one_and_those_that_may_be_are_told(tmp_path: Path) -> None:
    ways = ["praise", "praise\u200b", "pr\u00e9sent", "pre\u0301sent", 1, "1", "1.0", True, "Praise", "\u0440raise"]
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": ways[n % 10]} for n in range(200)])
    done = Prepared(tmp_path, CLASSIFY, "prepare.split=stratified")
    assert done.facts.labels["praise"] == done.facts.labels["pr\u00e9sent"] == done.facts.labels["1"] == 40
    assert done.facts.relabelled == 40
    assert done.facts.alike_labels == [["1", "1.0", "true"], ["Praise", "praise", "\u0440raise"]]
    assert [line for line in done.said if "'pr\u00e9sent' for 'pre\\u0301sent' (20)" in line]
    assert (
        "warning: labels that may be one: 'Praise' (20) and 'praise' (40) and '\u0440raise' (20, with U+0440); `task.merge` "
        "takes them as one"
    ) in done.said
    merged = Prepared(
        tmp_path,
        CLASSIFY,
        "prepare.split=stratified",
        "task.merge={praise: [Praise, \u0440raise], 'yes': [1, 1.0, true]}",
    )
    assert merged.facts.labels == {"praise": 80, "pr\u00e9sent": 40, "yes": 80}
    assert merged.facts.alike_labels == []


def test_rare_labels_are_left_out_or_become_one(tmp_path: Path) -> None:
    labels = [label for label, n in RARE for _ in range(n)]
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": labels[n]} for n in range(64)])
    left = Prepared(tmp_path, CLASSIFY, "prepare.split=stratified", "task.fewest=2")
    assert left.facts.labels == {"a": 30, "b": 30, "two": 2}
    assert left.facts.flow[1].fates == {"a rare label": 2}
    one = Prepared(tmp_path, CLASSIFY, "prepare.split=stratified", "task.fewest=3", "task.rare=other")
    assert one.facts.labels == {"a": 30, "b": 30, "other": 4}


@pytest.mark.parametrize(("n", "limit", "stops"), [(40, 0.01, False), (40, 0, True), (300, 0.01, True)])
def test_one_bad_row_of_a_small_table_stops_nothing_and_many_do(
    tmp_path: Path, n: int, limit: float, stops: bool
) -> None:
    rows = [[f"t{n}", "ab"[n % 2]] for n in range(n)]
    broken = [["a", "b", "c"]] * (1 if n < 100 else 4)
    table(tmp_path / "t.csv", [["text", "label"], *rows, *broken])
    change = ["task.table=t.csv", f"prepare.quarantine_limit={limit}"]
    if stops:
        with pytest.raises(UserError, match=f"{len(broken)} of {n + len(broken)} records cannot be read"):
            Prepared(tmp_path, CLASSIFY, *change)
    else:
        assert Prepared(tmp_path, CLASSIFY, *change).facts.n_quarantined == 1


def test_a_table_that_makes_few_examples_stops_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": "ab"[n % 2] if n % 3 == 0 else None} for n in range(90)])
    with pytest.raises(
        UserError, match=r"60 of 90 rows make no example \(limit 50%\): 60 with no target .*left_out_limit"
    ):
        Prepared(tmp_path, CLASSIFY)
    assert len(Prepared(tmp_path, CLASSIFY, "prepare.left_out_limit=0.7").examples) == 30


def test_reading_says_what_was_read_put_aside_left_out_and_kept(tmp_path: Path) -> None:
    rows = [[f"t{n % 50}", "ab"[n % 2] if n % 9 else ""] for n in range(90)]
    table(tmp_path / "t.csv", [["text", "label"], *rows, ["a", "b", "c"]])
    done = Prepared(tmp_path, CLASSIFY, "task.table=t.csv", "prepare.quarantine_limit=0.1")
    read, made, kept = done.said[1:4]
    assert (
        read
        == "read 91 records of t.csv: 90 rows, 1 put aside (the first: t.csv, line 92: 3 fields where the header has 2)"
    )
    assert made == "made 80 of 90 examples; left out: 10 with no target (the first: t.csv, line 2, column label)"
    counts = {split: done.facts.splits[split] for split in ("train", "validation", "test")}
    assert kept.startswith(
        f"kept {sum(counts.values())} examples: train {counts['train']}, validation {counts['validation']}"
    )
    assert "; dedup dropped " in kept


def test_all_that_is_wrong_with_the_names_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "land": ["DE", "FR"][n % 3 == 0], "id": n % 7} for n in range(60)]
    lines(tmp_path / "t.jsonl", rows)

    def problems(*changes: str) -> list[str]:
        with pytest.raises(Problems) as told:
            flow.validate(loads(CLASSIFY, folder=tmp_path, changes=changes))
        return [problem.sentence().replace(f"{tmp_path}/", "") for problem in told.value.problems]

    assert problems(
        "task.label=lable", "prepare.id_column=nr", "prepare.slices={l: lnd}", "prepare.hold_out={land: [De]}"
    ) == [
        "prepare.slices, t.jsonl: no column 'lnd'; did you mean 'land'?",
        "prepare.id_column, t.jsonl: no column 'nr'; known: id, label, land, text",
        "task.label, t.jsonl: no column 'lable'; did you mean 'label'?",
        "prepare.hold_out: no row has land: De; did you mean 'DE'?",
    ]
    assert problems("prepare.id_column=id", "prepare.hold_out={land: [XX]}") == [
        "prepare.id_column 'id': the id '0' occurs twice, and 52 more do; make the ids unique, or leave id_column out: line "
        "numbers then serve",
        "prepare.hold_out: no row has land: XX; write a value in quotes, as it stands in the table",
    ]
    checks = "gate.checks=[{kind: floor, metric: accuracy, at_least: 0.5, where: {land: FI, lands: DE}}, {kind: subgroup_floor, "
    checks += "metric: accuracy, at_least: 0.5, slice: town}]"
    assert problems("prepare.slices={land: land}", checks) == [
        "gate.checks[0].where: no test example with land 'FI'; known: DE, FR",
        "gate.checks[0].where: no group called 'lands'; did you mean 'land'?",
        "gate.checks[1].slice: no group called 'town'; known: land",
    ]
    (tmp_path / "v.jsonl").write_text("")
    assert problems("prepare.split={kind: given, validation: v.jsonl, test: no.jsonl}", "task.label=lable")[1:] == [
        "prepare.split.validation, v.jsonl: is empty; it needs at least one record",
        "task.label, t.jsonl: no column 'lable'; did you mean 'label'?",
    ]
    assert flow.validate(loads(CLASSIFY, folder=tmp_path)).splits["test"] == 10
    assert not (tmp_path / ".luthier").exists()


def test_a_word_for_blanks_that_is_a_canonical_value_is_refused(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", [["raw", "clean"], *([f"v{n}", ["", "unknown", n][n % 3]] for n in range(60))])
    text = CLASSIFY.replace(
        "{kind: classify, table: t.jsonl, text: text, label: label}",
        "{kind: standardize, table: t.csv, column: raw, target: clean}",
    )
    with pytest.raises(UserError, match=r"task.blank, t.csv:3, column clean: the canonical value 'unknown' stands in"):
        Prepared(tmp_path, text, "task.blank=unknown")
    with pytest.raises(UserError, match="blank must be a word"):
        Prepared(tmp_path, text, "task.blank=' '")
    told = "no target (the first: t.csv, line 2, column clean)"
    assert [line for line in Prepared(tmp_path, text).said if told in line]


def test_labels_to_merge_that_no_row_has_are_told(tmp_path: Path) -> None:
    lines(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": ["praise", "Praise", "b"][n % 3]} for n in range(60)])
    with pytest.raises(UserError, match=r"task.merge: no row with the label 'Praize'; did you mean 'Praise'?"):
        Prepared(tmp_path, CLASSIFY, "prepare.split=stratified", "task.merge={praise: [Praize]}")
    done = Prepared(tmp_path, CLASSIFY, "prepare.split=stratified", "task.merge={praise: [Praise]}")
    assert done.facts.labels == {"b": 20, "praise": 40}


def test_a_label_that_only_the_test_writes_so_is_told_with_what_it_looks_like(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ["praise", "b"][n % 2], "part": "train"} for n in range(40)]
    rows += [{"text": f"u{n}", "label": "Praise", "part": "test"} for n in range(8)]
    lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=r"'Praise' may be 'praise' of training: `task.merge` takes them as one"):
        Prepared(tmp_path, CLASSIFY, "prepare.split={kind: given, column: part}")


def test_an_encoding_that_is_given_for_files_of_which_one_is_utf_8_is_refused(tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"Gdańsk {n},{'ab'[n % 2]}\n" for n in range(30))
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "e.csv").write_text(rows.replace("Gdańsk", "Łódź"), encoding="cp1250")
    change = ["task.table=t.csv", "prepare.split={kind: given, test: e.csv}"]
    with pytest.raises(UserError, match=r"t.csv: is not cp1250, as prepare.reader says: every byte is valid utf-8"):
        Prepared(tmp_path, CLASSIFY, *change, "prepare.reader={kind: csv, encoding: cp1250}")


def test_a_table_that_makes_no_example_is_told_with_its_columns(tmp_path: Path) -> None:
    lines(tmp_path / "t.jsonl", [{"instruction": f"i{n}", "output": "o"} for n in range(40)])
    text = CLASSIFY.replace("kind: classify", "kind: generate").replace(", text: text, label: label", "")
    with pytest.raises(UserError, match=r"neither prompt nor messages .*; its columns are instruction, output"):
        Prepared(tmp_path, text)


def test_an_empty_table_of_answers_is_told_with_its_key_and_nothing_is_missed_elsewhere(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", [["raw"], ["x"], ["y"]])
    (tmp_path / "g.csv").write_text("")
    text = CLASSIFY.replace(
        "{kind: classify, table: t.jsonl, text: text, label: label}",
        "{kind: standardize, table: t.csv, column: raw, target: clean, target_table: g.csv}",
    )
    with pytest.raises(Problems) as told:
        flow.validate(loads(text, folder=tmp_path))
    assert [problem.sentence().replace(f"{tmp_path}/", "") for problem in told.value.problems] == [
        "task.target_table, g.csv: is empty; it needs at least one record"
    ]


def test_files_of_pandas_joined_end_to_end_have_their_header_put_aside(tmp_path: Path) -> None:
    rows = [[n, f"t{n}", "ab"[n % 2]] for n in range(40)]
    table(tmp_path / "t.csv", [["", "text", "label"], *rows[:20], ["", "text", "label"], *rows[20:]])
    done = Prepared(tmp_path, CLASSIFY, "task.table=t.csv")
    assert (len(done.examples), done.facts.n_quarantined) == (40, 1)
    assert done.facts.labels == {"a": 20, "b": 20}
