"""What is tried next: the same after the same trials, every point of a grid once, and better than chance by TPE."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from luthier.searchers import Searcher, Tried
from luthier.searchers._optuna import importance
from luthier.searchers.grid import points
from luthier.space import Dimension

SPACE = {
    "train.learning_rate": Dimension(low=1e-5, high=1e-1, log=True),
    "train.warmup": Dimension(low=0.0, high=0.5),
    "train.batch_size": Dimension(low=8, high=64, step=8),
    "train.techniques": Dimension(choices=[["full"], [{"kind": "lora", "rank": 4}]]),
}


def loss(params: dict[str, Any]) -> float:
    """Least, and 0, at one point of the space."""
    away = (math.log10(params["train.learning_rate"]) + 3) ** 2 + 4 * (params["train.warmup"] - 0.1) ** 2
    return away + (params["train.batch_size"] / 64 - 0.25) ** 2 + (params["train.techniques"] == ["full"])


def searched(searcher: Searcher, n: int, seed: int, space: dict[str, Dimension] = SPACE) -> list[Tried]:
    trials: list[Tried] = []
    for _ in range(n):
        params = searcher.next(trials, space, seed, False)
        if params is None:
            break
        trials.append(Tried(params, "complete", loss(params)))
    return trials


def best(trials: list[Tried]) -> float:
    return min(trial.value for trial in trials if trial.value is not None)


def test_tpe_finds_the_optimum_of_a_toy_better_than_chance_does() -> None:
    tpe, chance = Searcher.pick("tpe"), Searcher.pick("random")
    found = [(best(searched(tpe, 40, seed)), best(searched(chance, 40, seed))) for seed in range(6)]
    assert sum(clever < lucky for clever, lucky in found) >= 5
    assert statistics.median(c for c, _ in found) < 0.3 * statistics.median(r for _, r in found)


def test_tpe_looks_for_more_where_more_is_better() -> None:
    tpe, trials = Searcher.pick("tpe"), []
    for _ in range(30):
        params = tpe.next(trials, SPACE, 0, True)
        trials.append(Tried(params, "complete", -loss(params)))
    late = [abs(math.log10(trial.params["train.learning_rate"]) + 3) for trial in trials[20:]]
    assert statistics.mean(late) < 0.7  # a random draw is 1 away


@pytest.mark.parametrize("kind", ["tpe", "random", "grid"])
def test_the_same_trials_are_followed_by_the_same_one_whoever_asks(kind: str) -> None:
    space = {path: each for path, each in SPACE.items() if kind != "grid" or each.values() is not None}
    full = {"train.learning_rate": 1e-3, "train.warmup": 0.1}
    trials: list[Tried] = []
    for _ in range(14):
        first = Searcher.pick(kind).next(trials, space, 5, False)
        assert first is not None
        assert Searcher.pick(kind).next(list(trials), dict(space), 5, False) == first
        trials.append(Tried(first, "complete", loss(full | first)))
    assert Searcher.pick(kind).next(trials, space, 6, False) != Searcher.pick(kind).next(trials, space, 5, False)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_every_value_lies_in_its_range_and_on_its_steps(kind: str) -> None:
    for trial in searched(Searcher.pick(kind), 30, 1):
        assert 1e-5 <= trial.params["train.learning_rate"] <= 1e-1
        assert trial.params["train.batch_size"] in range(8, 65, 8)
        assert type(trial.params["train.batch_size"]) is int
        assert trial.params["train.techniques"] in SPACE["train.techniques"].choices


def test_pruned_failed_and_running_trials_are_no_obstacle() -> None:
    trials = searched(Searcher.pick("random"), 12, 2)
    mixed = [
        *trials[:6],
        Tried(trials[6].params, "pruned", 3.0, [(1, 4.0), (3, 3.0)]),
        Tried(trials[7].params, "failed"),
        Tried(trials[8].params, "running", None, [(1, 2.0)]),
        *trials[9:],
    ]
    assert Searcher.pick("tpe").next(mixed, SPACE, 0, False)
    assert set(importance(mixed, SPACE, False) or {}) == set(SPACE)


def test_a_grid_tries_each_point_once_and_the_seed_orders_it() -> None:
    space = {
        "a": Dimension(choices=[1, "x", None]),
        "b": Dimension(low=0.0, high=1.0, step=0.5),
        "c": Dimension(low=1, high=2),
    }
    trials: list[Tried] = []
    while (params := Searcher.pick("grid").next(trials, space, 4, False)) is not None:
        trials.append(Tried(params, "failed"))
    assert len(trials) == 3 * 3 * 2
    assert all(point in [trial.params for trial in trials] for point in points(space))
    assert [trial.params for trial in trials] != points(space)


def test_what_matters_is_called_important() -> None:
    found = importance(searched(Searcher.pick("random"), 40, 3), SPACE, False)
    assert found is not None
    assert max(found, key=lambda path: found[path]) == "train.learning_rate"
    assert importance(searched(Searcher.pick("random"), 3, 3), SPACE, False) is None
