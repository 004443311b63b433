"""Starting: a recipe that loads and prepares its table, and what was guessed and why; nothing is proposed that nobody wants."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import crashes

from luthier import flow
from luthier.errors import UserError
from luthier.facts import PreparedFacts
from luthier.recipe import Recipe
from luthier.recipe_file import RecipeFile, load
from luthier.starting import divided, quoted, write_recipe

WORDS = ["kettle", "lamp", "drill", "rug", "printer", "tent", "scale", "fan", "desk", "heater", "router"]


def sentence(n: int) -> str:
    return f"The {WORDS[n % 11]} number {n} came on day {n * 7 % 31}"


# columns of a table, by row number
Cells = dict[str, Callable[[int], Any]]
TEXT: Cells = {"text": sentence}
LABEL: Cells = {"label": lambda n: ("praise", "complaint")[n * 5 % 7 % 2]}


def csv(path: Path, cells: Cells, n: int = 60) -> Path:
    rows = [list(cells), *([make(i) for make in cells.values()] for i in range(n))]
    path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows), encoding="utf-8")
    return path


def started(table: Path, **given: Any) -> tuple[Recipe, list[str], RecipeFile]:
    """The recipe that was written for a table, and what was told."""
    told: list[str] = []
    settings: dict[str, Any] = {"out": None, "task": "", "column": "", "target": "", "base": "", "ask": None, **given}
    opened = load(write_recipe(table, tell=told.append, **settings))
    return opened.recipe, told, opened


GUESSED: dict[str, tuple[Cells, dict[str, Any], str]] = {
    "text and label": (TEXT | LABEL, {"kind": "classify", "text": "text", "label": "label"}, "stratified"),
    "ids, dates and a name": (
        {"ticket": lambda n: f"T{n}", "day": lambda n: f"2024-03-{n % 28 + 1:02d}", "customer": lambda n: f"K{n % 9}"}
        | TEXT
        | LABEL,
        {"kind": "classify", "text": "text", "label": "label"},
        "stratified",
    ),
    "the last that may be a label": (
        {"": lambda n: n, **TEXT, "channel": lambda n: ["mail", "phone"][n % 2], "team": lambda n: "ABC"[n % 3]},
        {"kind": "classify", "text": "text", "label": "team"},
        "stratified",
    ),
    "columns of bits": (
        {
            "nr": lambda n: n,
            **{name: (lambda n, k=k: n // k % 2) for k, name in enumerate("abc", 1)},
            "paid": lambda n: n * 7 % 5 % 2,
        },
        {"kind": "classify", "columns": ["a", "b", "c"], "label": "paid"},
        "stratified",
    ),
    "a name and its clean form": (
        {"id": lambda n: n, "name": lambda n: f"firm {n} gmbh", "name_clean": lambda n: f"Firm {n} GmbH"},
        {"kind": "standardize", "column": "name", "target": "name_clean"},
        "random",
    ),
    "raw and clean, few of them": (
        {"nr": lambda n: n, "raw": lambda n: WORDS[n % 11], "clean": lambda n: WORDS[n % 11 // 2]},
        {"kind": "standardize", "column": "raw", "target": "clean"},
        "grouped",
    ),
    "prompt and completion": (
        {"prompt": sentence, "completion": lambda n: f"It is {n}"},
        {"kind": "generate", "prompt_column": "prompt", "completion_column": "completion"},
        "random",
    ),
    "names that YAML reads otherwise": (
        {"null": sentence, "true, or not": lambda n: "ab"[n % 2]},
        {"kind": "classify", "text": "null", "label": "true, or not"},
        "stratified",
    ),
}


@pytest.mark.parametrize("name", GUESSED)
def test_what_is_guessed_is_told_with_the_reason_and_prepares_the_table(tmp_path: Path, name: str) -> None:
    cells, task, split = GUESSED[name]
    recipe, told, opened = started(csv(tmp_path / "my table.csv", cells))
    assert task.items() <= recipe.task.model_dump(by_alias=True).items()
    assert recipe.prepare.split.kind == split
    assert told[0].startswith("my table.csv: csv, utf-8, delimiter ','; columns ")
    assert told[0].endswith("; 60 records looked at")
    for line, start in zip(
        told[1:],
        [f"task: {task['kind']} (", *[f"{key}: " for key in told_of(task)], "base: ", f"split: {split} ("],
        strict=False,
    ):
        assert line.startswith(start)
    assert told[-1].startswith("what is not right can be given by --task")
    facts = PreparedFacts(**flow.prepared(opened, flow.store_for(opened)).facts)
    assert sum(facts.splits.values()) > 0


def told_of(task: dict[str, Any]) -> list[str]:
    """What is told of a task's columns, in order."""
    if task["kind"] == "standardize":
        return ["target", "column"]
    return [] if task["kind"] == "generate" else ["label", "text" if "text" in task else "columns"]


def test_reasons_name_what_was_seen(tmp_path: Path) -> None:
    cells = {
        "ticket": lambda n: f"T{n}",
        "nr": lambda n: n,
        "same": lambda n: "x",
        **TEXT,
        "mood": lambda n: "ab"[n % 2],
        **LABEL,
    }
    _, told, _ = started(csv(tmp_path / "t.csv", cells))
    assert told[2:4] == [
        "label: label (its name says that it holds answers; 2 different values in 60 rows; others: mood)",
        "text: text (it has the longest values; 'ticket' has another value in every row, as ids have; 'nr' numbers the "
        "rows; 'same' holds one value, 'x')",
    ]
    assert told[5] == "split: stratified (each label has its share of train, validation and test)"


NOBODY: Cells = {
    "id": lambda n: n * 7,
    "ticket": lambda n: f"T{n:05d}",
    "row": lambda n: n + 1,
    "day": lambda n: f"{n % 28 + 1}.3.2024",
    "price": lambda n: f"{n * 1.37:.2f}",
    "same": lambda n: "x",
    "none": lambda n: "",
    "customer": lambda n: f"K{n % 5}",
    "note": sentence,
    "place": lambda n: f"place {n // 2}",
}


def test_nothing_is_proposed_on_columns_that_nobody_would_predict(tmp_path: Path) -> None:
    table = csv(tmp_path / "t.csv", NOBODY)
    with pytest.raises(UserError) as told:
        started(table)
    assert told.value.exit_code == 2
    assert str(told.value).split("\n") == [
        f"{table}: no column looks like something that a model should predict; name the one with the answers by --target, "
        "and what is read by --column",
        "column 'id': is an id by its name",
        "column 'ticket': has another value in every row, as ids have",
        "column 'row': numbers the rows",
        "column 'day': holds dates",
        "column 'price': holds numbers, 60 different ones",
        "column 'same': holds one value, 'x'",
        "column 'none': is blank",
        "column 'customer': says whose or which row it is, by its name",
        "column 'note': holds free text",
        "column 'place': has 30 different values in 60 rows",
    ]
    assert not (tmp_path / "t.yaml").exists()
    recipe, _, _ = started(table, task="classify", target="place", column="note")
    assert (recipe.task.model_dump()["label"], recipe.task.model_dump()["text"]) == ("place", "note")


@pytest.mark.parametrize(
    ("line", "given", "sentence"),
    [
        (
            "The kettle came late,praise",
            {},
            "looks like data, not like names of columns: 'praise' stands in 30 rows below; put a line of 2 names",
        ),
        ("12,17", {}, "looks like data, not like names of columns: '12' is a number, as those below are"),
    ],
)
def test_a_table_without_a_header_is_told(tmp_path: Path, line: str, given: dict[str, str], sentence: str) -> None:
    praise = "praise" in line
    rows = [
        f"{'The lamp' if praise else ''}{n},{['praise', 'complaint'][n % 2] if praise else n * 3}" for n in range(60)
    ]
    (tmp_path / "t.csv").write_text("\n".join([line, *rows]) + "\n")
    with pytest.raises(UserError) as told:
        started(tmp_path / "t.csv")
    assert sentence in told.value.sentence()


@pytest.mark.parametrize(
    ("cells", "given", "sentence"),
    [
        (
            TEXT | LABEL,
            {"task": "standardize"},
            "no two columns look, by their names, like a value and its canonical form",
        ),
        (
            TEXT | LABEL,
            {"task": "generate"},
            "the table has no column 'prompt'; it needs messages, or a prompt (--column)",
        ),
        (LABEL, {}, "has one column only; it needs one to read and one with the answers"),
        (LABEL | {"same": lambda n: 1}, {}, "there is no column to read; name one with --column"),
        (TEXT | LABEL, {"column": "text", "target": "text"}, "'text' is both read and asked for"),
        (TEXT | LABEL, {"target": "lable"}, "the table has no column 'lable'; it has text, label"),
    ],
)
def test_what_cannot_be_started_is_told(tmp_path: Path, cells: Cells, given: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as told:
        started(csv(tmp_path / "t.csv", cells), **given)
    assert sentence in str(told.value)


def test_what_is_given_is_neither_guessed_nor_told(tmp_path: Path) -> None:
    cells = {"question": sentence, "reply": lambda n: f"It is {n}"}
    recipe, told, _ = started(
        csv(tmp_path / "t.csv", cells), task="generate", column="question", target="reply", base="minilm"
    )
    assert {"prompt_column": "question", "completion_column": "reply"}.items() <= recipe.task.model_dump().items()
    assert [line.partition(":")[0] for line in told] == ["t.csv", "split", told[-1]]


def test_a_person_is_asked_and_the_guess_is_the_default(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def ask(question: str, choices: list[str], default: str) -> str:
        assert default in choices
        asked.append((question, default))
        return "text" if question == "Which column shall the model read?" else default

    recipe, told, _ = started(csv(tmp_path / "t.csv", {"no": lambda n: n, **TEXT, **LABEL}), ask=ask)
    assert [default for _, default in asked] == ["classify", "label", "text", "minilm"]
    assert len(told) == 1, "what a person decides need not be explained"
    assert recipe.task.model_dump()["text"] == "text"


def test_columns_are_those_of_any_line_and_conversations_are_known_by_their_content(tmp_path: Path) -> None:
    lines = [{"id": n, "text": sentence(n), **({"label": "ab"[n % 2]} if n else {})} for n in range(60)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert started(tmp_path / "t.jsonl")[0].task.model_dump()["label"] == "label"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for name, messages in (("talk", talk), ("other", [{"from": "human", "value": "a"}])):
        rows = [{"key": n, name: messages} for n in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert started(tmp_path / "talk.jsonl")[0].task.model_dump()["messages_column"] == "talk"
    with pytest.raises(
        UserError, match="column 'other': holds conversations of from and value, where role and content"
    ):
        started(tmp_path / "other.jsonl")


@pytest.mark.parametrize(
    ("name", "stem", "marked"),
    [
        ("name_clean", "name", True),
        ("Clean Name", "name", True),
        ("clean", "", True),
        ("name", "name", False),
        ("cleaner", "cleaner", False),
    ],
)
def test_a_mark_of_clean_values_is_a_word_of_the_name(name: str, stem: str, marked: bool) -> None:
    assert divided(name, ("clean",)) == (stem, marked)


@pytest.mark.parametrize(
    "text",
    ["a b", "null", "True", "1e5", ".5", "- x", "a: b", "[x]", "ä", "../t.csv", "my notes [final].csv", "a#b", '"'],
)
def test_names_and_paths_are_read_back_as_they_are(text: str) -> None:
    from luthier.recipe_file import parse

    assert parse(f"key: {quoted(text)}\nlist: [{quoted(text)}]", "t") == {"key": text, "list": [text]}


@pytest.mark.slow
def test_what_is_written_runs(tmp_path: Path) -> None:
    import tiny

    tiny.build(tmp_path / "bert", "bert")
    started(csv(tmp_path / "t.csv", TEXT | LABEL), base=str(tmp_path / "bert"))
    opened = load(tmp_path / "t.yaml", ["train.epochs=1", "score.latency_samples=1"])
    done = flow.run(opened, flow.store_for(opened))
    assert set(done.facts.scores.systems) == {"majority", "tfidf", "tuned", "untuned"}


def test_a_recipe_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    csv(tmp_path / "made" / "t.csv", TEXT | LABEL)
    whole = started(tmp_path / "made" / "t.csv")[2].text.encode()
    (tmp_path / "made" / "t.yaml").unlink()
    n = 0
    for root in crashes(tmp_path / "made", tmp_path / "cut", lambda root: started(root / "t.csv")):
        n += 1
        written = root / "t.yaml"
        assert not written.exists() or written.read_bytes() == whole
    assert n > 1


def test_a_table_whose_name_no_recipe_can_hold_is_told(tmp_path: Path) -> None:
    table = csv(tmp_path / os.fsdecode(b"caf\xe9.csv"), TEXT | LABEL)
    with pytest.raises(UserError, match=r"caf\\udce9\.csv: has a name that is no UTF-8, .*; rename it"):
        started(table)
    assert list(tmp_path.iterdir()) == [table]
