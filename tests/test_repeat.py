"""Repeats: the spread over seeds and folds, and what the folds promise."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from luthier import flow, report, seams
from luthier.card import page as card_page
from luthier.errors import Problems, UserError
from luthier.facts import Spread, SpreadFacts
from luthier.recipe_file import loads
from luthier.runs import Run, find, reopen
from luthier.seams import Example
from luthier.splits import Split, Unit
from luthier.splits._folds import folded
from luthier.stages.spread import spread_of
from luthier.store import Artifact, Silent, Store

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: letters
task: {{kind: classify, table: letters.csv, text: text, label: letter}}
base: {{kind: folder, path: bert}}
prepare: {{split: {{kind: {split}, validation: 24, test: 20}}}}
encode: {{max_length: 16}}
train: {{precision: float32, epochs: 3, learning_rate: 3e-3, batch_size: 4}}
score: {{metrics: [accuracy, f1], baselines: [majority], latency_samples: 0}}
repeat: {repeat}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeat")
    tiny.build(folder / "bert", "bert", dropout=0.2)
    draw = random.Random(0)
    with (folder / "letters.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "letter", "owner"])
        for n in range(120):
            letter = draw.choice("AB")
            writer.writerow([f"{draw.choice([letter, letter, 'x']) * 4} {n}", letter, f"o{n // 3}"])
    return folder


def run(place: Path, repeat: str, split: str = "stratified", listener: Silent | None = None) -> tuple[Run, Store]:
    opened = loads(RECIPE.format(split=split, repeat=repeat), folder=place)
    store = flow.store_for(opened, listener)
    return flow.run(opened, store), store


@pytest.fixture(scope="module")
def seeded(place: Path) -> tuple[Run, Store]:
    return run(place, "{seeds: 3}")


@pytest.fixture(scope="module")
def in_folds(place: Path) -> tuple[Run, Store]:
    return run(place, "{folds: 3}", "grouped, by: owner")


def made_from(store: Store, artifact: Artifact) -> Counter[str]:
    return Counter(each.manifest["stage"] for each in store.why(artifact))


def test_seeds_share_examples_and_tokens_and_train_as_many_models(seeded: tuple[Run, Store]) -> None:
    done, store = seeded
    spread = done.artifacts["spread"]
    made = made_from(store, spread)
    assert (made["train"], made["predict"], made["score"]) == (3, 3, 3)
    assert (made["prepare"], made["encode"]) == (1, 1)
    trained = [each for each in store.why(spread) if each.manifest["stage"] == "train"]
    assert len({each.content for each in trained}) == 3
    assert done.artifacts["model"].content in {each.content for each in trained}
    assert done.facts.spread is not None
    assert done.facts.spread.names[0] == "seed 0"


def test_the_spread_is_that_of_the_models_and_the_test_is_opened_once(seeded: tuple[Run, Store]) -> None:
    facts = seeded[0].facts
    assert facts.spread is not None
    assert list(facts.spread.figures) == ["validation"]
    accuracy = facts.spread.figures["validation"]["accuracy"]
    assert accuracy.n == 3
    assert len(set(accuracy.values)) > 1, "seeds matter in this task"
    values = [value for value in accuracy.values if value is not None]
    mean = sum(values) / 3
    assert accuracy.mean == pytest.approx(mean)
    assert accuracy.deviation == pytest.approx((sum((value - mean) ** 2 for value in values) / 2) ** 0.5)
    assert (accuracy.least, accuracy.most) == (min(values), max(values))
    assert facts.test_openings == 1


def test_the_candidate_is_what_it_is_without_repeats(place: Path, seeded: tuple[Run, Store]) -> None:
    done, _ = run(place, "null")
    assert done.facts.spread is None
    for role, artifact in done.artifacts.items():
        assert artifact.content == seeded[0].artifacts[role].content, role


def test_further_models_answer_the_test_where_the_recipe_says_so_and_each_is_counted(
    place: Path, seeded: tuple[Run, Store], tmp_path: Path
) -> None:
    opened = loads(RECIPE.format(split="stratified", repeat="{seeds: 3, test: true}"), folder=place)
    done = flow.run(opened, flow.store_for(opened, root=tmp_path))
    assert done.facts.spread is not None
    assert done.facts.test_openings == 3
    tested = done.facts.spread.figures["test"]["accuracy"]
    assert tested.values[0] == done.facts.scores.systems["tuned"].metrics["accuracy"].estimate
    assert done.facts.spread.figures["validation"] == seeded[0].facts.spread.figures["validation"]  # type: ignore[union-attr]


def test_folds_validate_each_example_once_never_the_test_and_part_no_entity(in_folds: tuple[Run, Store]) -> None:
    done, store = in_folds
    assert done.facts.spread is not None
    assert done.facts.spread.names == ["fold 1", "fold 2", "fold 3"]
    assert done.facts.test_openings == 1
    scores = [each for each in store.why(done.artifacts["spread"]) if each.manifest["stage"] == "score"]
    folds = [store.get(each.manifest["inputs"]["examples"]["id"]) for each in scores]
    own = done.artifacts["examples"]
    validated: Counter[str] = Counter()
    for fold in folds:
        rows = {name: list(seams.read(fold.path / name, Example)) for name in ("train", "validation", "test")}
        assert not {e.entity for e in rows["train"]} & {e.entity for e in rows["validation"]}
        assert (fold.path / "test.jsonl").read_bytes() == (own.path / "test.jsonl").read_bytes()
        validated.update(e.id for e in rows["validation"])
    free = {e.id for name in ("train", "validation") for e in seams.read(own.path / name, Example)}
    assert dict(validated) == dict.fromkeys(free, 1)
    asked = {
        each.manifest["config"]["split"]
        for each in store.why(done.artifacts["spread"])
        if "split" in each.manifest["config"]
    }
    assert asked == {"validation"}


def test_repeats_are_taken_from_the_store_and_the_record_keeps_them(place: Path, seeded: tuple[Run, Store]) -> None:
    again, store = run(place, "{seeds: 3}")
    assert again.artifacts["spread"].reused
    assert again.name == seeded[0].name
    assert reopen(store, again.name).facts.spread == again.facts.spread
    assert not [name for name in store.gc().removed if name in {a.id for a in store.why(again.artifacts["spread"])}]
    assert find(store, again.name)["recipe"]["repeat"] == {"seeds": 3, "folds": None, "test": False}


def test_an_interrupted_repeat_goes_on_with_the_same_command(
    place: Path, seeded: tuple[Run, Store], tmp_path: Path
) -> None:
    class Interrupting(Silent):
        def say(self, line: str) -> None:
            if line.startswith("repeat 3"):
                raise KeyboardInterrupt

    opened = loads(RECIPE.format(split="stratified", repeat="{seeds: 3}"), folder=place)
    with pytest.raises(KeyboardInterrupt):
        flow.run(opened, flow.store_for(opened, Interrupting(), root=tmp_path))
    assert len(list(tmp_path.glob("artifacts/train-*"))) == 2
    done = flow.run(opened, flow.store_for(opened, root=tmp_path))
    assert done.artifacts["model"].reused
    assert done.artifacts["spread"].content == seeded[0].artifacts["spread"].content


def test_pages_show_the_spread(seeded: tuple[Run, Store]) -> None:
    facts = seeded[0].facts
    assert facts.spread is not None
    spread = facts.spread.figures["validation"]["accuracy"]
    text = report.page(facts)
    assert "<h3>Repeated training</h3>" in text
    assert f"<b>{report.number(spread.mean, 'share')}</b>" in text
    said = f"- accuracy on validation: {report.varied(spread)}."
    assert said in card_page(facts)
    assert seeded[0].artifacts["spread"].id in card_page(facts)


def test_what_is_defined_in_no_repeat_or_one_has_no_spread() -> None:
    assert spread_of([None, 0.5], "share") == Spread(
        values=[None, 0.5], n=1, mean=0.5, deviation=None, least=0.5, most=0.5, unit="share"
    )
    none = spread_of([None, None], "share")
    assert (none.n, none.mean, report.varied(none)) == (0, None, "not measured")
    facts = SpreadFacts(kind="folds", names=["fold 1", "fold 2"], figures={"validation": {"f1": none}})
    assert report.repeats(facts)[0]["words"] == "not measured"


@pytest.mark.parametrize(
    ("repeat", "sentence"),
    [
        ("{}", "give either `seeds` or `folds`"),
        ("{seeds: 3, folds: 5}", "give either `seeds` or `folds`"),
        ("{folds: 5, test: true}", "`test` belongs to `seeds`"),
        ("{seeds: 1}", "greater than or equal to 2"),
        ("{folds: 1}", "greater than or equal to 2"),
    ],
)
def test_a_block_that_says_nothing_or_two_things_is_refused(repeat: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Problems, match="repeat") as told:
        loads(RECIPE.format(split="stratified", repeat=repeat), folder=tmp_path)
    assert sentence in told.value.problems[0].sentence()


def test_more_folds_than_entities_are_told_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    opened = loads(RECIPE.format(split="grouped, by: owner", repeat="{folds: 90}"), folder=place)
    with pytest.raises(
        UserError, match=r"repeat\.folds: \d+ of what is kept whole in train and validation cannot fill 90"
    ):
        flow.run(opened, flow.store_for(opened, root=tmp_path))
    assert not list(tmp_path.glob("artifacts/train-*"))


def test_derived_seeds_follow_from_the_recipes_and_differ() -> None:
    found = flow.derived_seeds(7, 5)
    assert found[0] == 7
    assert len({*found, *flow.derived_seeds(8, 5)}) == 10
    assert flow.derived_seeds(7, 3) == found[:3]
    assert all(0 <= seed < 2**31 for seed in found)


STRATIFIED, RANDOM = Split.pick("stratified"), Split.pick("random")
Units = Callable[[], list[Unit]]


def units(labels: str, per_entity: int = 1) -> list[Unit]:
    return [Unit(f"r{n}", f"e{n // per_entity}" if per_entity > 1 else "", label, "") for n, label in enumerate(labels)]


@pytest.mark.parametrize("of", [2, 3, 5])
def test_strata_are_in_proportion_in_every_fold(of: int) -> None:
    rows = units("A" * 30 + "B" * 20 + "C" * 10)
    splits = ["test" if n % 6 == 0 else "train" for n in range(60)]
    counts = []
    for number in range(of):
        found = folded(rows, splits, STRATIFIED, number, of, 0, labelled=True)
        assert [n for n, part in enumerate(found) if part == "test"] == [n for n in range(60) if n % 6 == 0]
        counts.append(Counter(row.label for row, part in zip(rows, found, strict=True) if part == "validation"))
    for label in "ABC":
        of_label = [counted[label] for counted in counts]
        assert max(of_label) - min(of_label) <= 1
    sizes = [counted.total() for counted in counts]
    assert max(sizes) - min(sizes) <= 1


def test_a_label_of_one_entity_trains_in_every_fold() -> None:
    rows = units("A" * 12 + "B" * 12 + "C")
    for split in (STRATIFIED, RANDOM):
        for number in range(4):
            assert folded(rows, ["train"] * 25, split, number, 4, 0, labelled=True)[-1] == "train"


def test_unlike_entities_fill_folds_evenly_and_the_order_of_rows_does_not_matter() -> None:
    rows = [Unit(f"{n}.{k}", f"e{n}", "", "") for n in range(20) for k in range(1 + n % 5)]
    splits = ["train"] * len(rows)
    found = [folded(rows, splits, RANDOM, number, 4, 1, labelled=False) for number in range(4)]
    sizes = [each.count("validation") for each in found]
    assert sum(sizes) == len(rows)
    assert max(sizes) - min(sizes) <= 1
    backwards = folded(rows[::-1], splits, RANDOM, 2, 4, 1, labelled=False)
    assert backwards[::-1] == found[2]
    assert folded(rows, splits, RANDOM, 2, 4, 2, labelled=False) != found[2]


def test_folds_are_as_even_as_those_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.model_selection import GroupKFold

    draw = random.Random(3)
    sizes = [draw.randint(1, 9) for _ in range(40)]
    rows = [Unit(f"{n}.{k}", f"e{n}", "", "") for n, size in enumerate(sizes) for k in range(size)]
    groups = [row.entity for row in rows]
    theirs = sorted(len(test) for _, test in GroupKFold(5).split(np.zeros(len(rows)), groups=groups))
    ours = [folded(rows, ["train"] * len(rows), RANDOM, k, 5, 0, labelled=False).count("validation") for k in range(5)]
    assert sorted(ours) == theirs


def test_the_recipe_of_a_run_with_repeats_is_plain_json(seeded: tuple[Run, Store]) -> None:
    told = json.loads((seeded[0].artifacts["spread"].path / "spread.json").read_text())
    assert told == seeded[0].artifacts["spread"].facts
