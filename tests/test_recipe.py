"""Recipes: every error at once, in the user's words, with line and path."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import Problems, UserError
from luthier.recipe import schema
from luthier.recipe_file import load, loads

GOOD = """\
version: 1
name: good
task: {kind: classify, table: t.csv, text: text, label: label}
base: {kind: package, name: minilm}
"""


def sentences(text: str, *changes: str) -> list[str]:
    with pytest.raises(Problems) as told:
        loads(text, folder=Path(), changes=changes, name="r.yaml")
    return [problem.sentence() for problem in told.value.problems]


def test_all_errors_of_a_recipe_are_told_at_once_with_line_path_and_suggestion() -> None:
    text = """\
version: 1
name: bad
task: {kind: clasify, table: t.csv}
base: {kind: package, name: minlm}
prepare:
  splitt: {kind: random}
train:
  epochs: -1
  learning_rate: fast
  techniques:
    - {kind: lorra}
    - {kind: lora, rnk: 3}
"""
    assert sentences(text) == [
        "r.yaml:3: task: no task called 'clasify'; did you mean 'classify'?",
        "r.yaml:4: base.name: Input should be 'minilm', 'mpnet', 'gemma-3-270m', 'smollm2-135m' or 'qwen2.5-coder-1.5b' (found 'minlm')",
        "r.yaml:6: prepare.splitt: no key 'splitt'; did you mean 'split'?",
        "r.yaml:8: train.epochs: Input should be greater than 0 (found -1)",
        "r.yaml:9: train.learning_rate: Input should be a valid number, unable to parse string as a number (found 'fast')",
        "r.yaml:11: train.techniques[0]: no technique called 'lorra'; did you mean 'lora'?",
        "r.yaml:12: train.techniques[1].rnk: no key 'rnk'; did you mean 'rank'?",
    ]


@pytest.mark.parametrize(
    ("addition", "sentence"),
    [
        (
            "score: {metrics: [{kind: f1}, {kind: f1, average: micro}]}\n",
            "r.yaml: score.metrics[1]: f1 is named twice, and figures go by that name; keep one of them",
        ),
        (
            "score: {baselines: [untuned, {kind: untuned, shots: 0}]}\n",
            "r.yaml: score.baselines[1]: untuned is named twice, and figures go by that name; keep one of them",
        ),
        (
            "train: {techniques: [full, lora]}\n",
            "r.yaml:5: train.techniques: full and lora do not combine: lora trains small matrices beside frozen weights, full trains the weights",
        ),
        (
            "gate: {checks: [{kind: floor, metric: acuracy, at_least: 0.5}]}\n",
            "r.yaml: gate.checks[0].metric: no scored metric called 'acuracy'; did you mean 'accuracy'?",
        ),
        (
            "gate: {checks: [{kind: better_than, baseline: tfidf}]}\n",
            "r.yaml: gate.checks[0].baseline: no baseline called 'tfidf'; known: ",
        ),
        (
            "score: {baselines: [rules]}\n",
            "r.yaml: score.baselines[0]: rules is made for table cells, classify is not about them",
        ),
        (
            "score: {baselines: [tfidf], metrics: [edit_similarity]}\ngate: {checks: [{kind: floor, metric: edit_similarity, at_most: 0.5}]}\n",
            "r.yaml: gate.checks[0]: edit_similarity is better when higher; write at_least, not at_most",
        ),
        (
            "gate: {checks: [{kind: floor, metric: accuracy}]}\n",
            "r.yaml: gate.checks[0]: needs at_least, the worst value of accuracy that may pass",
        ),
        (
            "gate: {checks: [{kind: floor, metric: accuracy, at_least: 80}]}\n",
            "r.yaml: gate.checks[0]: at_least 80 is no share; write a number from 0 to 1",
        ),
        ("prepare: {max_length: 64}\n", "r.yaml:5: prepare.max_length: is now encode.max_length; move it there"),
        ("prepare: {truncation: drop}\n", "r.yaml:5: prepare.truncation: is now encode.truncation; move it there"),
        (
            "prepare: {deduplicate: {within: true}}\n",
            "r.yaml:5: prepare.deduplicate: is now a step, prepare.steps: [{kind: dedup}]; move it there",
        ),
        (
            "train: {stop: {metric: f2}}\n",
            "r.yaml: train.stop.metric: no scored metric called 'f2'; known: accuracy, f1, loss",
        ),
    ],
)
def test_what_does_not_hang_together_is_refused_when_the_recipe_is_loaded(addition: str, sentence: str) -> None:
    assert sentences(GOOD + addition) == [sentence]


def test_yaml_is_version_1_2() -> None:
    recipe = loads(
        GOOD + "train: {learning_rate: 1e-5}\nprepare: {hold_out: {country: [NO, 2020-01-01]}}\n", folder=Path()
    ).recipe
    assert recipe.train.learning_rate == 1e-5
    assert recipe.prepare.hold_out == {"country": ["NO", "2020-01-01"]}


def test_a_key_that_is_written_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(UserError) as told:
        loads(GOOD + "name: again\n", folder=Path(), name="r.yaml")
    assert told.value.sentence().startswith('r.yaml:5:1: found duplicate key "name"')


def test_broken_yaml_is_told_with_line_and_column() -> None:
    with pytest.raises(UserError) as told:
        loads("version: 1\nname: [a\n", folder=Path(), name="r.yaml")
    assert told.value.where.startswith("r.yaml:3:")


def test_a_setting_is_changed_from_outside() -> None:
    loaded = loads(
        GOOD, folder=Path(), changes=["train.epochs=2", "train.techniques=[{kind: lora, rank: 3}]", "seed=9"]
    )
    assert (loaded.recipe.train.epochs, loaded.recipe.seed) == (2, 9)
    assert loaded.recipe.train.techniques[0].model_dump()["rank"] == 3
    assert "epochs: 2" in loaded.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.epochs", "--set: 'train.epochs' is not a change; write --set train.epochs=2"),
        ("a'b=x", "--set: 'a'b=x' is not a change; write --set train.epochs=2"),
        ("name.first=x", "--set: there is no place 'name.first' in the recipe; see `luthier schema`"),
    ],
)
def test_a_change_that_cannot_be_made_is_told(change: str, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        loads(GOOD, folder=Path(), changes=[change])
    assert told.value.sentence() == sentence


@pytest.mark.parametrize(
    ("change", "slices"),
    [
        ('prepare.slices."unit.price"=x', {"unit.price": "x"}),
        ("prepare.slices.'a=b[0]'=x=y", {"a=b[0]": "x=y"}),
        ('prepare.slices."it\'s {x}: y"=x', {"it's {x}: y": "x"}),
        ("prepare.slices.7=x", {"7": "x"}),
        ("prepare.slices={null: a, true: b, 1.5: c, '': d}", {"null": "a", "true": "b", "1.5": "c", "": "d"}),
    ],
)
def test_a_key_of_any_name_can_be_changed(change: str, slices: dict[str, str]) -> None:
    assert loads(GOOD, folder=Path(), changes=[change]).recipe.prepare.slices == slices


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("!!binary aGk=", "a recipe holds texts, numbers, lists and `key: value` lines, and this one something else"),
        ("!own 1", "a recipe holds texts, numbers, lists and `key: value` lines, and this one something else"),
        ("{[a, b]: c}", "a recipe holds texts, numbers, lists and `key: value` lines, and this one something else"),
        ("\a", "the character U+0007 may not stand in a recipe as it is; write it as an escape in double quotes"),
        ("9" * 5000, "holds a number of more digits, or lists deeper in each other, than can be read"),
        ("[" * 5000, "holds a number of more digits, or lists deeper in each other, than can be read"),
        ("{", "expected the node content"),
    ],
)
def test_what_no_recipe_holds_is_told(written: str, sentence: str) -> None:
    for text, changes in ((f"{GOOD}\ndevice: {written}\n", []), (GOOD, [f"device={written}"])):
        with pytest.raises(UserError) as told:
            loads(text, folder=Path(), changes=changes)
        assert sentence in str(told.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.epochs=two", "--set train.epochs: Input should be a valid number"),
        ("train={epochs: two}", "--set train.epochs: Input should be a valid number"),
        ("train.epoch=2", "--set train.epoch: no key 'epoch'; did you mean 'epochs'?"),
        ("score.metrics[0]=fone", "--set score.metrics[0]: no metric called 'fone'"),
        ("task.kind=paint", "r.yaml:3: task (changed by --set task.kind): no task called 'paint'"),
        ("train.stop={metric: bleu}", "r.yaml: train.stop.metric: no scored metric called 'bleu'"),
        ("train.stop.metric=bleu", "--set train.stop.metric: no scored metric called 'bleu'"),
        ("name=again", "r.yaml:6: train.batch_size: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_with_a_change_is_blamed_on_the_change(change: str, sentence: str) -> None:
    text = (
        f"{GOOD}train:\n  batch_size: {'x' if change.startswith('name') else 8}\n  epochs: 1\nscore:\n  metrics: [f1]\n"
    )
    (told,) = sentences(text, change)
    assert told.startswith(sentence)


def test_a_missing_recipe_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"no such recipe file; in that folder: mine\.yaml"):
        load(tmp_path / "nine.yaml")


def test_paths_are_looked_up_beside_the_recipe_and_then_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").touch()
    loaded = loads(GOOD, folder=tmp_path)
    with pytest.raises(UserError, match=r"there is no file t\.csv in"):
        loaded.path("t.csv", "task.table")
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "data"))
    assert loaded.path("t.csv", "task.table") == tmp_path / "data" / "t.csv"


def test_a_file_that_is_missing_is_told_by_its_key_and_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = loads(GOOD, folder=tmp_path)
    absolute = str(tmp_path / "t.csv")
    data = "set LUTHIER_DATA to the folder that holds it"

    def told(written: str, key: str, *, folder: bool = False) -> str:
        with pytest.raises(UserError) as error:
            opened.path(written, key, folder=folder)
        return error.value.sentence()

    looked = f"in {tmp_path}"
    file = "task.table: there is no file data/t.csv"
    assert told("data/t.csv", "task.table") == f"{file} {looked}; correct the path, or {data}"
    assert told(absolute, "task.table") == f"task.table: there is no file {absolute}; correct the path"
    base = "base.path: there is no folder models/x"
    assert told("models/x", "base.path", folder=True) == f"{base} {looked}; correct the path"
    monkeypatch.setenv("LUTHIER_DATA", "/elsewhere")
    assert told("data/t.csv", "task.table") == f"{file} {looked} nor in /elsewhere; correct the path, or {data}"


def test_the_schema_offers_every_member_of_a_family() -> None:
    text = str(schema())
    for kind in ("lora", "freeze", "exact_match", "stratified", "gemma-3-270m", "tfidf", "better_than"):
        assert f"'{kind}'" in text
    assert schema()["properties"]["train"]


def test_the_recipes_that_we_ship_are_valid() -> None:
    recipes = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    assert len(recipes) >= 4
    for path in recipes:
        assert load(path).recipe.name


@pytest.mark.parametrize("change", ['task.text="\\ud800"', 'prepare.hold_out={a: ["\\udce9"]}'])
def test_what_is_no_character_is_told(change: str) -> None:
    with pytest.raises(UserError, match=r"the lone surrogate \\ud(800|ce9) is no character; write"):
        loads(GOOD, folder=Path(), changes=[change])
