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
        [
            f"task: {task['kind']} (",
            *[f"{key}: " for key in told_of(task)],
            "base: ",
            "technique: ",
            f"split: {split} (",
        ],
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
    assert told[6] == "split: stratified (each label has its share of train, validation and test)"


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
    recipe, _, _ = started(table, task="classify", target="customer", column="note")
    assert (recipe.task.model_dump()["label"], recipe.task.model_dump()["text"]) == ("customer", "note")


HEADLESS: dict[str, tuple[str, Callable[[int], str], str, str]] = {
    "a label stands below": (
        ".csv",
        lambda n: f"The lamp {n} came late,{('praise', 'complaint')[n % 2]}",
        "{kind: csv, header: false, names: [text, label]}",
        "'praise' stands in 29 records below",
    ),
    "numbers below a number, in a file of tabs": (
        ".tsv",
        lambda n: f"{n * 3 + 1}\t2024-01-{n % 28 + 1:02d}\tThe lamp {n}\t{'ab'[n % 2]}\t{'xyz'[n % 3]}",
        "{kind: tsv, header: false, names: [number, date, text, column_4, label]}",
        "'1' is a number, as those below are",
    ),
    "equal fields in the first line": (
        ".csv",
        lambda n: f"{'ab'[n % 2]},{'ab'[n // 2 % 2]},The lamp {n}",
        "{kind: csv, header: false, names: [column_1, label, text]}",
        "'a' stands in 29 records below",
    ),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_table_without_a_header_is_told_and_read_whole(tmp_path: Path, name: str) -> None:
    suffix, line, reader, why = HEADLESS[name]
    table = tmp_path / f"t{suffix}"
    table.write_text("".join(line(n) + "\n" for n in range(60)))
    recipe, told, opened = started(table)
    assert told[0].startswith(f"header: none (the first line looks like data: {why}")
    assert f"reader: {reader}" in opened.text
    assert {"kind": "classify", "text": "text", "label": "label"}.items() <= recipe.task.model_dump().items()
    assert PreparedFacts(**flow.prepared(opened, flow.store_for(opened)).facts).flow[0].kept == 60


def test_a_first_line_holds_names_where_columns_are_given_by_them_or_a_person_says_so(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("The lamp came late,b\n" + "".join(f"The lamp {n},{'ab'[n % 2]}\n" for n in range(60)))
    offered = started(table, out=tmp_path / "1.yaml", column="text", target="label")
    assert "names: [text, label]" in offered[2].text
    own = started(table, out=tmp_path / "2.yaml", column="The lamp came late", target="b")
    assert (own[0].prepare.reader, own[0].task.model_dump()["label"]) == (None, "b")
    for n, what in enumerate(("data", "names"), start=3):
        said = started(table, out=tmp_path / f"{n}.yaml", ask=lambda q, c, guess, w=what: w if w in c else guess)
        assert ("names: [text, label]" in said[2].text) == (what == "data")
    with pytest.raises(UserError, match="the table has no column 'txt'; it has text, label"):
        started(table, out=tmp_path / "5.yaml", column="txt")


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
        (
            {"text": lambda n: "ab"[n % 2]} | LABEL,
            {"column": "text", "target": "label"},
            "holds 2 different inputs, too few to train on one part and test on another; give more rows",
        ),
        (
            TEXT | LABEL | {"one": lambda n: "x"},
            {"task": "classify", "column": "text", "target": "one"},
            "holds the one label 'x', too few",
        ),
        (
            TEXT | {"nr": lambda n: n // 2},
            {"task": "classify", "column": "text", "target": "nr"},
            "holds 30 different labels in 60 rows, too few",
        ),
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
    assert [line.partition(":")[0] for line in told] == ["t.csv", "technique", "split", told[-1]]


def test_a_person_is_asked_and_the_guess_is_the_default(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def ask(question: str, choices: list[str], default: str) -> str:
        assert default in choices
        asked.append((question, default))
        return "text" if question == "Which column shall the model read?" else default

    recipe, told, _ = started(csv(tmp_path / "t.csv", {"no": lambda n: n, **TEXT, **LABEL}), ask=ask)
    assert [default for _, default in asked] == ["classify", "label", "text", "minilm"]
    assert [line.partition(":")[0] for line in told] == ["t.csv", "technique"], "what a person decides is not explained"
    assert recipe.task.model_dump()["text"] == "text"


def test_columns_are_those_of_any_line_and_conversations_are_known_by_their_content(tmp_path: Path) -> None:
    lines = [{"id": n, "text": sentence(n), **({"label": "ab"[n % 2]} if n else {})} for n in range(60)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert started(tmp_path / "t.jsonl")[0].task.model_dump()["label"] == "label"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [{"key": n, "talk": talk} for n in range(60)]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    recipe, told, _ = started(tmp_path / "talk.jsonl")
    assert recipe.task.model_dump()["messages_column"] == "talk"
    assert recipe.base.model_dump()["name"] == "smollm2-135m", "it has a chat template"
    assert told[1] == "task: generate (column 'talk' holds conversations; not read: key)"


def json_lines(path: Path, cells: Cells, n: int = 60) -> Path:
    rows = ({name: make(i) for name, make in cells.items()} for i in range(n))
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(n: int) -> dict[str, str]:
    return {"role": "user", "content": sentence(n)}


def answered(n: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"It is {n}"}


def shared(n: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": sentence(n)}, {"from": "gpt", "value": f"It is {n}"}]


REPLY: Cells = {"reply": lambda n: f"It is {n}, and nobody else knows"}
WRITTEN: dict[str, tuple[Cells, dict[str, str]]] = {
    "ShareGPT": ({"id": lambda n: n, "conversations": shared}, {"messages_column": "conversations"}),
    "messages as text": ({"talk": lambda n: json.dumps(shared(n))}, {"messages_column": "talk"}),
    "messages before all": (
        {"prompt": sentence, "other": shared, "messages": shared},
        {"messages_column": "messages"},
    ),
    "a prompt of messages": (
        {"prompt": lambda n: [asked(n)], "completion": lambda n: [answered(n)]},
        {"prompt_column": "prompt", "completion_column": "completion"},
    ),
    "Alpaca": (
        {"instruction": sentence, "input": lambda n: "x" if n % 2 else "", "output": lambda n: str(n)},
        {"prompt_column": "instruction", "input_column": "input", "completion_column": "output"},
    ),
    "Alpaca whose input is always blank": (
        {"instruction": sentence, "input": lambda n: "", "output": lambda n: f"It is {n}"},
        {"prompt_column": "instruction", "input_column": "", "completion_column": "output"},
    ),
    "an instruction, its context and a kind": (
        {"instruction": sentence, "context": sentence, "response": lambda n: f"{n}", "category": lambda n: "ab"[n % 2]},
        {"prompt_column": "instruction", "input_column": "context", "completion_column": "response"},
    ),
    "question and answer": (
        {"Question": sentence, "Answer": lambda n: n * 7},
        {"prompt_column": "Question", "completion_column": "Answer"},
    ),
    "input and output in JSON": (
        {"input": sentence, "output": lambda n: {"n": n, "none": None}},
        {"prompt_column": "input", "completion_column": "output"},
    ),
    "source and target": (
        {"source": sentence, "target": lambda n: f"Le {sentence(n)}"},
        {"prompt_column": "source", "completion_column": "target"},
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_asked_and_answered_is_found(tmp_path: Path, name: str) -> None:
    cells, settings = WRITTEN[name]
    recipe, _, opened = started(json_lines(tmp_path / "t.jsonl", cells))
    assert {"kind": "generate", **settings}.items() <= recipe.task.model_dump().items()
    assert sum(PreparedFacts(**flow.prepared(opened, flow.store_for(opened)).facts).splits.values()) == 60


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        ({"question": sentence, "answer": lambda n: ("yes", "no")[n % 2]}, "answer"),
        ({"input": sentence, "output": lambda n: n % 5}, "output"),
        ({"source": lambda n: "web", "text": sentence, "target": lambda n: n % 2}, "target"),
    ],
)
def test_an_answer_out_of_a_few_is_a_label(tmp_path: Path, cells: Cells, label: str) -> None:
    assert started(json_lines(tmp_path / "t.jsonl", cells))[0].task.model_dump()["label"] == label


def test_pairs_of_better_and_worse_answers_are_told_with_what_can_be_learned_of_them(tmp_path: Path) -> None:
    told = "holds pairs of a chosen and a rejected answer, and no task here learns from what was rejected; to learn the"
    texts = {"prompt": sentence, "chosen": lambda n: f"good {n}", "rejected": lambda n: f"bad {n}"}
    talks = {"chosen": shared, "rejected": shared}
    with pytest.raises(UserError, match=f"{told} .* give --task generate --column prompt --target chosen"):
        started(json_lines(tmp_path / "texts.jsonl", texts))
    with pytest.raises(UserError, match=f"{told} .* give --task generate --column chosen$"):
        started(json_lines(tmp_path / "talks.jsonl", talks))
    recipe, *_ = started(tmp_path / "texts.jsonl", task="generate", column="prompt", target="chosen")
    assert recipe.task.model_dump()["completion_column"] == "chosen"
    recipe, *_ = started(tmp_path / "talks.jsonl", task="generate", column="chosen")
    assert recipe.task.model_dump()["messages_column"] == "chosen"


def test_rows_that_make_no_example_are_counted_by_reason(tmp_path: Path) -> None:
    tool = {"role": "tool", "content": "rain"}
    mixed = {"messages": lambda n: [asked(n), *([tool] if n % 3 else []), answered(n)]}
    _, told, _ = started(json_lines(tmp_path / "t.jsonl", mixed))
    assert told[2] == "rows: 20 of 60 make examples; left out: 40 with role tool (the first in line 2)"
    with pytest.raises(UserError, match=r"no row makes an example; 60 with role tool \(the first in line 1\); name"):
        started(json_lines(tmp_path / "u.jsonl", {"messages": lambda n: [tool]}))


NAMES = ["null", "true", "1", "1.5", "-", "a.b", "a[0]", "{x}", "{value}", 'q"u', "it's", "a: b", "a #b", " lead", "~"]
NAMES += [
    "trail ",
    "größe",
    "日本",
    "two\nlines",
    "\u2028",
    "\u0085",
    "\x7f",
    "*a",
    "&a",
    "!t",
    "%x",
    "@x",
    "value",
    "context",
]
NAMES += ["a=b", "\U0001f600", "\U000e0001", "\\", "<<", "{", "]", "| ", ">", "?", "`"]


@pytest.mark.parametrize("kind", ["classify", "standardize"])
def test_columns_of_any_name_are_read(tmp_path: Path, kind: str) -> None:
    for n, name in enumerate(NAMES):
        cells: dict[str, Cells] = {
            "classify": {name: sentence, f"{name}?": lambda n: "ab"[n % 2]},
            "standardize": {f"{name} raw": lambda n: f"f {n}", name: lambda n: f"F {n}", "a.b": lambda n: n},
        }
        folder = tmp_path / str(n)
        folder.mkdir()
        started(json_lines(folder / "t.jsonl", cells[kind]))
        opened = load(folder / "t.yaml", [f"prepare.slices={{x: {quoted(name)}}}"])
        facts = PreparedFacts(**flow.prepared(opened, flow.store_for(opened)).facts)
        assert opened.recipe.task.kind == kind
        assert sum(facts.splits.values()) == sum(facts.slices["x"].values()) == 60


@pytest.mark.parametrize("stem", ["größe, [x] (1)", "12", "x" * 200, "--", "{a: b}"])
def test_a_table_of_any_name_has_a_recipe(tmp_path: Path, stem: str) -> None:
    opened = started(csv(tmp_path / f"{stem}.csv", TEXT | LABEL))[2]
    assert flow.prepared(opened, flow.store_for(opened)).facts["source"]["file"] == f"{stem}.csv"


@pytest.mark.parametrize(
    ("name", "stem", "marked"),
    [
        ("name_clean", "name", True),
        ("Clean Name", "name", True),
        ("clean", "", True),
        ("a[0] clean", "a 0", True),
        ("a[0]", "a 0", False),
        ("name", "name", False),
        ("cleaner", "cleaner", False),
    ],
)
def test_a_mark_of_clean_values_is_a_word_of_the_name(name: str, stem: str, marked: bool) -> None:
    assert divided(name, ("clean",)) == (stem, marked)


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "\u2028",
        "\u0085",
        "\x7f",
        "\U0001f600",
        "\ufeff",
        "null",
        "True",
        "1e5",
        ".5",
        "- x",
        "a: b",
        "[x]",
        "ä",
        "../t.csv",
        "my notes [final].csv",
        "a#b",
        '"',
    ],
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


def test_lines_above_the_header_are_said(tmp_path: Path) -> None:
    rows = "".join(f"{n};wo ist Lieferung {n};{'Versand' if n % 2 else 'Rechnung'}\n" for n in range(40))
    (tmp_path / "t.csv").write_text("Bericht;;\nvon M;;\n;;\nNr.;Text;Abteilung\n" + rows)
    heard: list[str] = []
    write_recipe(tmp_path / "t.csv", tmp_path / "t.yaml", "", "", "", "", ask=None, tell=heard.append)
    assert "3 lines above the header left out; columns Nr., Text, Abteilung" in heard[0]


def test_a_column_below_a_title_with_a_comma_is_told_with_its_line(tmp_path: Path) -> None:
    rows = "".join(f"wo ist Lieferung {n},{'Versand' if n % 2 else 'Rechnung'}\n" for n in range(40))
    (tmp_path / "t.csv").write_text("Export of notes, Berlin\ntext,label\n" + rows)
    with pytest.raises(
        UserError, match=r"--column: the table has no column 'text'; .*; line 2 looks like the header; set"
    ):
        write_recipe(tmp_path / "t.csv", tmp_path / "t.yaml", "", "text", "", "", ask=None, tell=lambda line: None)
