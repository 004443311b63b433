"""What is done again after a change, and what is not: a key holds what changes the bytes and nothing else."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import tiny

from luthier import flow, runs, seams
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.seams import Example

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: keys
task: {kind: standardize, table: data/table.csv, column: messy, target: clean, context: [kind]}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 0.2, test: 0.3}}
encode: {max_length: 64}
train: {precision: float32, epochs: 1, learning_rate: 1e-3, techniques: [{kind: lora, rank: 2}], stop: {metric: exact_match}}
predict: {engine: {kind: torch, max_new_tokens: 4}}
score: {latency_samples: 0, baselines: [identity]}
gate: {checks: [{kind: floor, metric: exact_match, at_least: 0, min_n: 1}]}
"""
STAGES = ("examples", "encoded", "model", "tuned", "baseline_identity", "scores", "gate")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keys_of_stages")
    for shape in ("llama", "gemma3"):
        tiny.build(root / shape, shape)
    (root / "data").mkdir()
    write(root / "data" / "table.csv", 70)
    ran(root, RECIPE)
    return root


def write(path: Path, n: int) -> None:
    draw = random.Random(2)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [["AB"[i % 2], f"{draw.randint(1, 9999):05d} kg", draw.randint(1, 9999)] for i in range(n)]
        csv.writer(file).writerows([["kind", "messy", "clean"], *rows])


def ran(place: Path, text: str, *changes: str) -> Run:
    opened = loads(text, folder=place, changes=changes)
    return flow.run(opened, flow.store_for(opened))


def redone(done: Run) -> set[str]:
    return {role for role in STAGES if role in done.artifacts and not done.artifacts[role].reused}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("score.metrics=[exact_match, edit_similarity]", {"scores", "gate"}),
        ("score.worst=3", {"scores"}),
        ("gate.checks=[{kind: floor, metric: exact_match, at_least: 0.1}]", {"gate"}),
        ("predict.engine.batch_size=7", {"tuned"}),
        ("train.checkpoint_steps=2", set()),
        ("name=other", set()),
        # a group is shown in the report: examples carry it, their tokens do not
        ("prepare.slices={kind: kind}", {"examples", "encoded", "tuned", "baseline_identity", "scores", "gate"}),
        ("task.prompt='{value} ->'", {"encoded", "model", "tuned", "baseline_identity", "scores"}),
        ("train.epochs=2", {"model", "tuned"}),
        ("seed=5", {"examples", "encoded", "model", "tuned", "baseline_identity", "scores", "gate"}),
    ],
)
def test_a_change_does_again_what_depends_on_it_and_no_more(place: Path, change: str, expected: set[str]) -> None:
    done = redone(ran(place, RECIPE, change))
    # predictions of a tiny model may be the very same after a change: what reads them is then not done again
    assert expected - {"scores", "gate", "tuned"} <= done <= expected | {"scores", "gate"}
    assert ("model" in done) == ("model" in expected)


def test_a_table_that_was_moved_and_renamed_trains_nothing(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "renamed.csv").write_bytes((place / "data" / "table.csv").read_bytes())
    done = ran(place, RECIPE, "task.table=elsewhere/renamed.csv")
    # the examples say in which file they stood; that is all that differs
    assert "model" not in redone(done)
    assert done.artifacts["encoded"].content == ran(place, RECIPE).artifacts["encoded"].content


def test_another_base_reads_no_table_again(place: Path) -> None:
    done = redone(ran(place, RECIPE, "base.path=gemma3"))
    assert "examples" not in done
    assert "model" in done


def test_a_report_that_is_written_again_makes_nothing(place: Path) -> None:
    done = ran(place, RECIPE)
    store = flow.store_for(loads(RECIPE, folder=place))
    assert not redone(runs.reopen(store, done.name))


def test_a_base_folder_may_hold_a_manifest_of_its_own(place: Path) -> None:
    tiny.build(place / "odd", "llama")
    (place / "odd" / "manifest.json").write_text("{}")
    text = RECIPE.replace("path: llama", "path: odd")
    done = ran(place, text)
    assert runs.reopen(flow.store_for(loads(text, folder=place)), done.name).name == done.name


def test_rows_keep_their_split_when_rows_are_appended(place: Path) -> None:
    before = splits_of(ran(place, RECIPE))
    write(place / "data" / "longer.csv", 200)
    after = splits_of(ran(place, RECIPE, "task.table=data/longer.csv"))
    assert len(after) > len(before) > 60
    assert {name: after[name] for name in before if name in after} == {n: s for n, s in before.items() if n in after}
    assert set(after.values()) == {"train", "validation", "test"}


def splits_of(done: Run) -> dict[str, str]:
    folder = done.artifacts["examples"].path
    return {e.id: split for split in ("train", "validation", "test") for e in seams.read(folder / split, Example)}


def test_a_candidate_is_evaluated_on_any_split_alike(place: Path) -> None:
    opened = loads(RECIPE, folder=place)
    store = flow.store_for(opened)
    opened = flow.settled(opened, store)
    done = flow.run(opened, store)
    candidate = flow.Candidate(done.artifacts["model"], done.artifacts["base"], opened.recipe)
    opened_before = store.openings(done.facts.prepared.test_split)
    found = flow.evaluate(candidate, done.artifacts["examples"], store, "validation")
    assert [p.id for p in runs.predictions_of(found.tuned)] == [
        p.id for p in runs.predictions_of(found.rivals["identity"])
    ]
    assert found.scores.facts["systems"].keys() == {"identity", "tuned"}
    assert found.tuned.facts["n"] == done.facts.prepared.splits["validation"]
    assert store.openings(done.facts.prepared.test_split) == opened_before, "validation opens no test"
    again = flow.evaluate(candidate, done.artifacts["examples"], store, "test")
    assert again.tuned.content == done.artifacts["tuned"].content


def test_ids_are_not_learned_from_and_train_nothing(place: Path) -> None:
    with (place / "data" / "given.csv").open("w", newline="", encoding="utf-8") as file:
        parts = ("train", "train", "validation", "test")
        rows = [["AB"[i % 2], f"{i:05d} kg", i, f"name {i}", parts[i % 4]] for i in range(60)]
        csv.writer(file).writerows([["kind", "messy", "clean", "key", "part"], *rows])
    text = RECIPE.replace("table.csv", "given.csv").replace(
        "{kind: random, validation: 0.2, test: 0.3}", "{kind: given, column: part}"
    )
    plain, named = (ran(place, text, *changes) for changes in ((), ("prepare.id_column=key",)))
    assert plain.artifacts["examples"].content != named.artifacts["examples"].content
    assert named.artifacts["encoded"].content == plain.artifacts["encoded"].content
    assert named.artifacts["model"].reused


def test_blank_groups_stand_each_for_itself(place: Path) -> None:
    rows = [
        {"kind": "A", "messy": f"{i:05d} kg", "clean": f"{i}", "sup": None if i % 2 else f"s{i}"} for i in range(80)
    ]
    lines = [json.dumps(row) for row in rows]
    (place / "data" / "nulls.jsonl").write_text("\n".join(lines) + "\n")
    text = RECIPE.replace("table.csv", "nulls.jsonl").replace("{kind: random,", "{kind: grouped, by: sup,")
    splits = splits_of(ran(place, text))
    odd = {split for name, split in splits.items() if int(name.partition(":")[0]) % 2 == 0}  # lines from 1: the nulls
    assert odd == {"train", "validation", "test"}, "null is no group of its own"
    held = ran(place, text, "prepare.hold_out={messy: [00001 kg, 00002 kg]}")
    assert held.facts.prepared.slices["unseen"] == {"false": 78, "true": 2}


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ("score.worst=1", 0),
        ("train.checkpoint_steps=3", 0),
        ("predict.engine.max_new_tokens=3", 1),
        ("task.prompt='{value} :'", 1),
        ("task.context=[]", 1),  # another input, the same rows
        ("seed=9", None),  # other rows
    ],
)
def test_every_new_prediction_of_the_same_test_rows_is_an_opening(place: Path, change: str, more: int | None) -> None:
    before = ran(place, RECIPE)
    after = ran(place, RECIPE, change)
    assert (after.facts.prepared.test_split == before.facts.prepared.test_split) == (more is not None)
    assert after.facts.test_openings - before.facts.test_openings == (
        more if more is not None else 1 - before.facts.test_openings
    )


def test_true_in_json_lines_is_the_true_of_a_recipe(place: Path) -> None:
    rows = [{"kind": i % 2 == 0, "messy": f"{i:05d} kg", "clean": f"{i}"} for i in range(60)]
    (place / "data" / "flags.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    changes = ("task.table=data/flags.jsonl", "prepare.slices={kind: kind}", "task.context=[]")
    where = "gate.checks=[{kind: floor, metric: exact_match, at_least: 0, min_n: 1, where: {kind: true}}]"
    done = ran(place, RECIPE, *changes, where)
    assert done.facts.prepared.slices["kind"] == {"false": 30, "true": 30}
    assert done.facts.verdicts[0].n == done.facts.scores.systems["tuned"].slices["kind"]["true"]["exact_match"].n > 0
