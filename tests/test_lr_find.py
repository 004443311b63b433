"""The range test: how its curve is read, and that it changes nothing."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path

import pytest
import tiny

from luthier import flow, range_page, rising
from luthier.errors import UserError
from luthier.facts import RangeFacts
from luthier.recipe_file import loads
from luthier.rising import Rise, read
from luthier.runs import settled

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: letters
task: {kind: classify, table: letters.csv, text: text, label: letter}
base: {kind: folder, path: bert}
prepare: {split: {kind: stratified, validation: 10, test: 20}}
encode: {max_length: 16}
train: {precision: float32, batch_size: 8}
score: {latency_samples: 0}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("range")
    tiny.build(folder / "bert", "bert")
    with (folder / "letters.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "letter"), *((f"{'ab'[n % 2]} {n}", "AB"[n % 2]) for n in range(100))])
    return folder


@pytest.fixture(scope="module")
def tested(place: Path) -> tuple[RangeFacts, Path]:
    opened = loads(RECIPE, folder=place)
    return flow.lr_find(opened, flow.store_for(opened), 1e-6, 10.0, 60)


def rates(low: float = 1e-7, high: float = 1.0, total: int = 100) -> list[float]:
    rise = Rise(low, high, total)
    return [high * rise.factor(step) for step in range(total)]


def test_rates_rise_by_one_factor_from_the_lowest_to_the_highest() -> None:
    found = rates(1e-3, 1.0, 4)
    assert found == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])


# a loss that falls along a logistic curve around 1e-4, and rises steeply from 1e-2 on
def course(rate: float) -> float:
    x = math.log10(rate)
    return 2 - 1.5 / (1 + math.exp(-3 * (x + 4))) + math.exp(4 * (x + 2)) / 50


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_place_and_the_lowest_are_those_of_the_curve(noise: float) -> None:
    draw = random.Random(0)
    found = read(rates(), [course(rate) + draw.gauss(0, noise) for rate in rates()], 100)
    fine = rates(total=100_000)
    lowest = min(fine, key=course)
    assert found.steepest is not None and found.lowest is not None
    near = 0.45 if noise else 0.2  # powers of ten
    assert math.log10(found.steepest) == pytest.approx(-4, abs=near)
    assert math.log10(found.lowest) == pytest.approx(math.log10(lowest), abs=3 * near if noise else near)
    assert found.tenth == found.lowest / 10
    assert found.suggestion == float(f"{min(found.steepest, found.tenth):.1e}")


@pytest.mark.parametrize(
    ("turns", "rule"), [(-2.0, "steepest descent"), (-3.6, "a tenth of the rate at the lowest loss")]
)
def test_the_lower_of_the_two_is_suggested_and_named(turns: float, rule: str) -> None:
    losses = [course(rate) if math.log10(rate) < turns else 3 + math.log10(rate) - turns for rate in rates()]
    assert read(rates(), losses, 100).rule == rule


def test_a_loss_that_does_not_fall_beyond_its_noise_suggests_nothing() -> None:
    draw = random.Random(1)
    found = read(rates(), [2 + draw.gauss(0, 0.3) for _ in rates()], 100)
    assert (found.suggestion, found.lowest, found.rule) == (None, None, "")
    assert found.noise == pytest.approx(0.3 / math.sqrt(rising.window(100)), rel=0.3)
    assert read(rates(), [2 + rate for rate in rates()], 100).suggestion is None


def test_a_loss_has_run_away_at_four_times_its_lowest_mean_or_where_it_is_no_number() -> None:
    rise = Rise(1e-7, 1.0, 20)
    assert not rise.over([1.0, 1.0, 1.0, 3.9, 3.9, 3.9])
    assert rise.over([1.0, 1.0, 1.0, 4.1, 4.1, 4.1])
    assert not rise.over([1.0, 9.0]), "one step alone says nothing"
    assert rise.over([math.nan]) and rise.over([1.0, math.inf])


def test_the_test_is_that_of_the_recipe_and_changes_nothing(place: Path, tested: tuple[RangeFacts, Path]) -> None:
    facts, folder = tested
    assert facts.rates[0] == pytest.approx(1e-6)
    assert facts.rates == sorted(facts.rates)
    assert len(facts.losses) == len(facts.smooth) == len(facts.rates)
    assert facts.ran_away == (facts.taken < facts.steps)
    stages = {path.name.rpartition("-")[0] for path in (place / ".luthier" / "artifacts").iterdir()}
    assert stages == {"prepare", "encode", "range_test"}
    assert not (place / ".luthier" / "openings.jsonl").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["page.html", "range.json"]
    assert json.loads((folder / "range.json").read_text()) == facts.model_dump(mode="json")


def test_the_first_losses_are_those_of_training_with_hardly_any_rate(
    place: Path, tested: tuple[RangeFacts, Path]
) -> None:
    opened = loads(RECIPE, folder=place, changes=["train.learning_rate=1e-12", "train.epochs=1"])
    store = flow.store_for(opened)
    opened = settled(opened, store)
    base = flow.base_model(opened.recipe.base, opened, store)
    model = flow.trained(opened, store, flow.encode_for(opened.recipe, store, flow.prepared(opened, store), base), base)
    history = [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert tested[0].losses[:3] == pytest.approx(losses[1:4], rel=1e-4)


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(
    place: Path, tested: tuple[RangeFacts, Path], tmp_path: Path
) -> None:
    opened = loads(RECIPE, folder=place)
    facts, folder = flow.lr_find(opened, flow.store_for(opened, root=tmp_path / "a"), 1e-6, 10.0, 60)
    assert facts == tested[0]
    assert (folder / "page.html").read_bytes() == (tested[1] / "page.html").read_bytes()
    other = loads(RECIPE, folder=place, changes=["seed=3"])
    assert flow.lr_find(other, flow.store_for(other, root=tmp_path / "a"), 1e-6, 10.0, 60)[0].losses != facts.losses


def test_a_suggestion_can_be_set(tested: tuple[RangeFacts, Path], place: Path) -> None:
    facts = tested[0]
    assert facts.suggestion is not None
    change = range_page.change(facts).removeprefix("--set ")
    assert loads(RECIPE, folder=place, changes=[change]).recipe.train.learning_rate == facts.suggestion
    page = (tested[1] / "page.html").read_text()
    assert change in page
    assert all(sentence in page for sentence in range_page.told(facts))


def test_a_page_without_a_suggestion_says_why(tested: tuple[RangeFacts, Path]) -> None:
    nothing = {"lowest": None, "steepest": None, "tenth": None, "suggestion": None, "rule": "", "ran_away": False}
    facts = tested[0].model_copy(update=nothing)
    assert range_page.change(facts) == ""
    assert "The loss did not fall" in range_page.page(facts, "x")
    assert "No learning rate suggested" in range_page.page(facts, "x")


def test_rates_that_do_not_rise_are_refused(place: Path) -> None:
    opened = loads(RECIPE, folder=place)
    with pytest.raises(UserError, match="--low: 1 is not below 1; the rate rises from --low to --high"):
        flow.lr_find(opened, flow.store_for(opened), 1.0, 1.0, 60)
