"""Hints: training rows are hinted as later rows will be, the prompt shows them everywhere alike, and blanks can be learned."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plugging
import pytest
import tiny

from luthier import flow, report, runs, seams
from luthier.applying import Questions
from luthier.baselines import Baseline
from luthier.errors import UserError
from luthier.facts import PreparedFacts
from luthier.form import Form
from luthier.hints import fold_of, out_of_fold
from luthier.readers import Table
from luthier.readers.csv import Csv
from luthier.recipe_file import loads
from luthier.seams import Example, Text
from luthier.store import Store
from luthier.tasks import Task

RECIPE = """\
version: 1
name: hints
task: {kind: standardize, table: t.csv, column: weight, target: clean, hints: [rules]}
base: {kind: folder, path: llama}
prepare: {split: {kind: grouped, by: owner, validation: 0.2, test: 0.2}}
encode: {max_length: 64}
train: {precision: float32, epochs: 1}
predict: {engine: {kind: torch, max_new_tokens: 4}}
score: {latency_samples: 0, baselines: [identity]}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hints")
    tiny.build(root / "llama", "llama")
    with (root / "t.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["owner", "weight", "old", "clean"])
        rows.writerows([f"o{n // 3}", f"about {n}.0 kg", n if n % 2 else "", n] for n in range(90))
    return root


def hinted(place: Path, *changes: str, store: Path) -> tuple[PreparedFacts, dict[str, list[Example]], Task]:
    opened = loads(RECIPE, folder=place, changes=changes)
    kept = Store(store)
    made = flow.hinted(opened.recipe, kept, flow.prepared(opened, kept))
    splits = {split: list(seams.read(made.path / split, Example)) for split in ("train", "validation", "test")}
    return PreparedFacts(**made.facts), splits, opened.recipe.task


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plugging.use(plugging.plug_in(tmp_path / "package", baselines="memory"), monkeypatch)
    yield
    plugging.forget()


def test_a_source_that_knows_its_training_rows_by_heart_is_as_silent_in_training_as_later(
    place: Path, tmp_path: Path, memory: None
) -> None:
    facts, splits, task = hinted(place, "task.hints=[memory]", store=tmp_path / "s")
    (found,) = facts.hints
    assert (found.source, found.in_folds.estimate, found.on_validation.estimate) == ("memory", 0.0, 0.0)
    assert found.in_folds.n == len(splits["train"])
    assert {task.hints_of(example)["memory"] for split in splits.values() for example in split} == {""}


def test_training_rows_are_hinted_by_what_learned_from_other_entities_alone(memory: None) -> None:
    task = Task.pick({"kind": "standardize", "table": "t", "column": "c", "target": "d", "hints": ["memory"]})
    train = [
        Example(
            str(n),
            "standardize",
            {"fields": {"column": "c", "value": f"v{n % 3}", "context": {}}},
            Text(f"a{n}"),
            entity=f"e{n // 3}",
        )
        for n in range(12)
    ]
    folds = fold_of({example.entity for example in train}, 5, 0)
    assert sorted(folds.values()) == [0, 1, 2, 3]
    for example in out_of_fold(train, [Baseline.pick("memory")], task, 5, 0):
        said = task.hints_of(example)["memory"]
        others = {str(e.target) for e in train if e.entity != example.entity}
        assert said in others


@pytest.mark.parametrize("n", [1, 4, 5, 23])
def test_folds_are_even_and_depend_on_entities_and_seed_alone(n: int) -> None:
    names = [f"e{k}" for k in range(n)]
    folds = fold_of(names, 5, 3)
    sizes = [list(folds.values()).count(k) for k in set(folds.values())]
    assert max(sizes) - min(sizes) <= 1
    assert folds == fold_of(reversed(names), 5, 3)
    assert n < 5 or folds != fold_of(names, 5, 4)


def test_how_often_hints_are_right_is_counted_and_said(place: Path, tmp_path: Path) -> None:
    facts, splits, task = hinted(place, "task.hints=[rules, {column: old}]", store=tmp_path / "s")
    assert [(each.source, each.in_folds.estimate) for each in facts.hints][1] == ("rules", 1.0)
    old = facts.hints[0]
    right = [task.hints_of(e)["old"] == str(e.target) for e in splits["train"]]
    assert old.source == "old"
    assert old.in_folds.estimate == pytest.approx(sum(right) / len(right))
    assert old.in_folds.interval is not None


def test_the_prompt_shows_the_hints_where_it_says_so_and_goes_without_them(place: Path, tmp_path: Path) -> None:
    _, splits, task = hinted(place, "task.hints=[rules, {column: old}]", store=tmp_path / "s")
    example = next(e for e in splits["test"] if task.hints_of(e)["old"])
    n = str(example.target)
    assert task.form().prompt(example) == f"weight: about {n}.0 kg old: {n}, rules: {n} =>"
    _, other, shown = hinted(place, "task.prompt='{value} ({hints}) =>'", store=tmp_path / "s")
    first = other["test"][0]
    assert shown.prompt(first) == f"about {first.target}.0 kg (rules: {first.target}) =>"
    plain = loads(RECIPE, folder=place, changes=["task.hints=[]"]).recipe.task
    assert plain.prompt(replace(first, input={"fields": {"column": "weight", "value": "7 kg", "context": {}}})) == (
        "weight: 7 kg =>"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("task.hints=[rule]", "task.hints: no baseline called 'rule'; did you mean 'rules'?"),
        ("task.hints=[untuned]", "task.hints: untuned gives no hints: it does not answer each value by itself"),
        ("task.hints=[tfidf]", "task.hints: tfidf gives no hints"),
        ("task.hints=[rules, rules]", "task.hints: rules is named twice"),
        ("task.hints=[{columns: old}]", "a hint is the name or block of a baseline, or {column: name}"),
        ("task.prompt='{value} =>'", "prompt must contain {hints}, where the model reads them"),
    ],
)
def test_hints_that_cannot_be_given_are_refused_when_the_recipe_is_loaded(
    place: Path, change: str, sentence: str
) -> None:
    with pytest.raises(UserError) as told:
        loads(RECIPE, folder=place, changes=[change])
    assert sentence in str(told.value)


def test_a_hinting_column_that_is_not_there_is_told(place: Path) -> None:
    with pytest.raises(UserError, match="no column 'olds'; did you mean 'old'"):
        flow.validate(loads(RECIPE, folder=place, changes=["task.hints=[{column: olds}]"]))


def test_apply_gives_the_model_the_hints_of_training_without_its_rows(place: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for name in ("t.csv", "llama"):
        (tmp_path / "home" / name).symlink_to(place / name)
    opened = loads(RECIPE, folder=tmp_path / "home")
    store = flow.store_for(opened)
    done = flow.run(opened, store)
    told = json.loads((done.folder / "model" / "model.json").read_text())
    assert told["hints"] == [
        {"source": {"kind": "rules"}, "learned": {"weight": ["number", 1.0]}},
    ]
    (tmp_path / "home" / "t.csv").unlink()
    (tmp_path / "home" / "new.csv").write_text("weight\nabout 7.0 kg\n")
    form = Form.read(done.folder / "model")
    new = Table(tmp_path / "home" / "new.csv", Csv())
    asked = [form.task.prompt(example) for example in Questions(opened.recipe.task, {"table": new}, form)]
    assert asked == ["weight: about 7.0 kg rules: 7 =>"]
    assert runs.apply(store, "latest", new.path, tmp_path / "home" / "out.csv")["predictions"] == 1


def test_an_empty_canonical_value_can_be_learned(place: Path, tmp_path: Path) -> None:
    with (tmp_path / "b.csv").open("w") as file:
        file.write("raw,clean\n" + "".join(f"v{n},{'' if n % 3 == 0 else n}\n" for n in range(60)))
    recipe = RECIPE.replace("t.csv, column: weight, target: clean, hints: [rules]", "b.csv, column: raw, target: clean")
    recipe = recipe.replace("{kind: grouped, by: owner, validation: 0.2, test: 0.2}", "random")
    opened = loads(recipe, folder=tmp_path, changes=["task.blank=(none)"])
    made = flow.prepared(opened, Store(tmp_path / "s"))
    examples = [e for split in ("train", "validation", "test") for e in seams.read(made.path / split, Example)]
    assert sum(str(e.target) == "" for e in examples) == 20
    task = opened.recipe.task.form()
    blank = next(e for e in examples if str(e.target) == "")
    assert task.completion(Text("")) == " (none)"
    assert task.completion(Text("7")) == " 7"
    assert [task.parse(text, blank) for text in (" (none)", " 7")] == [Text(""), Text("7")]
    left: Any = flow.prepared(loads(recipe, folder=tmp_path), Store(tmp_path / "s")).facts["flow"][1]["fates"]
    assert left == {"no target": 20}


def test_report_and_card_say_how_often_the_hints_are_right(place: Path) -> None:
    opened = loads(RECIPE, folder=place)
    done = flow.run(opened, flow.store_for(opened))
    stages = {entry.stage for entry in done.facts.lineage}
    assert {"prepare", "hint"} <= stages
    (hint,) = done.facts.prepared.hints
    n = done.facts.prepared.splits["train"]
    assert (
        f"1.000 ({report.spread(hint.in_folds.interval, 'share')}, n {n})" in (done.folder / "report.html").read_text()
    )
    card = (done.folder / "model" / "README.md").read_text()
    assert "Hints of rules stand in the prompt: right in 1.000" in card
    assert "not recorded" not in card.split("## Training")[1].split("- Technique")[0]
