"""What is no number is noticed before it is applied, and the recipe says what is done; a spike is told, and noise is none."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import combining
import lasting
import pytest
import torch
from safetensors.torch import load_file
from test_resume import prepared, train_until

from luthier import divergence, fit
from luthier.errors import DivergedError, UserError
from luthier.recipe import TrainSettings
from luthier.recipe_file import loads
from luthier.store import Artifact

pytestmark = pytest.mark.slow

FLAT = [1.0, 1.1, 0.9, 1.05, 0.95] * 12


@pytest.mark.parametrize(
    ("course", "loss", "norm", "expected"),
    [
        (FLAT, 1.1, 1.0, ""),
        (FLAT, math.nan, 1.0, "not finite"),
        (FLAT, 1.0, math.inf, "not finite"),
        ([], math.nan, 1.0, "not finite"),
        (FLAT, 9.0, 1.0, "outlier"),
        (FLAT[:19], 9.0, 1.0, ""),  # too few to compare with
        ([*FLAT, 1.6, 1.6, 1.0, 1.6, 1.0, 0.9], 1.6, 1.0, "rise"),
        ([*FLAT, 1.6, 1.6, 1.0, 1.0, 1.0, 0.9], 1.6, 1.0, ""),  # no more than half of the latest
        ([0.001] * 40, 0.02, 1.0, ""),  # twenty times as much, and nothing
    ],
)
def test_a_loss_is_judged_by_the_course_before_it(course: list[float], loss: float, norm: float, expected: str) -> None:
    assert divergence.found(course, loss, norm) == expected


def test_a_policy_acts_on_what_it_is_for() -> None:
    table = {
        (policy, found): divergence.done(policy, found)  # type: ignore[arg-type]
        for policy in ("stop", "skip", "rollback")
        for found in ("not finite", "outlier", "rise")
    }
    assert table == {
        ("stop", "not finite"): "stopped",
        ("stop", "outlier"): "applied",
        ("stop", "rise"): "applied",
        ("skip", "not finite"): "skipped",
        ("skip", "outlier"): "skipped",
        ("skip", "rise"): "applied",
        ("rollback", "not finite"): "rolled back",
        ("rollback", "outlier"): "applied",
        ("rollback", "rise"): "rolled back",
    }


def test_what_is_remembered_holds_no_outlier_and_no_more_than_it_needs() -> None:
    assert divergence.remembered([1.0], 2.0, "") == [1.0, 2.0]
    assert divergence.remembered([1.0], 9.0, "outlier") == [1.0]
    assert divergence.remembered([1.0], math.nan, "not finite") == [1.0]
    assert divergence.remembered(FLAT, 9.0, "rise") == []
    assert len(divergence.remembered([1.0] * divergence.COURSE, 2.0, "")) == divergence.COURSE


@contextmanager
def harmed(times: dict[int, int], how: str = "loss") -> Iterator[list[int]]:
    """Steps (from 0) whose loss or gradient is no number, so many times each; lists the steps as they are taken."""
    taken: list[int] = []
    left = dict(times)
    plain, plain_step = fit.gradients, fit.take_step

    def gradients(model: Any, *rest: Any) -> float:
        loss = plain(model, *rest)
        if left.get(taken[-1], 0) > 0:
            left[taken[-1]] -= 1
            if how == "loss":
                return math.nan
            next(p for p in model.trainable().values() if p.grad is not None).grad.view(-1)[0] = math.inf
        return loss

    def take_step(state: Any, *rest: Any) -> tuple[float, float]:
        taken.append(state.progress.step)
        return plain_step(state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "gradients", gradients)
        patch.setattr(fit, "take_step", take_step)
        yield taken


def policy(name: str, techniques: str = "[full]") -> str:
    return f"{techniques}\n  on_divergence: {name}"


def history(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "history.jsonl").read_text().splitlines()]


def is_finite(artifact: Artifact) -> bool:
    return all(
        bool(torch.isfinite(tensor).all())
        for file in (artifact.path / "model").glob("*.safetensors")
        for tensor in load_file(file).values()
    )


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_stop_ends_before_the_step_is_applied(tmp_path: Path, how: str) -> None:
    recipe = prepared(tmp_path / "run", policy("stop"))
    with harmed({5: 1}, how) as taken, pytest.raises(DivergedError, match="at step 6"):
        train_until(recipe, 0)
    assert taken[-1] == 5
    (last,) = recipe.parent.glob(".luthier/work/train-*/checkpoints/last/weights.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(last).values())


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_skip_leaves_the_step_out_and_says_so(tmp_path: Path, how: str) -> None:
    with harmed({5: 1, 9: 1}, how):
        made = train_until(prepared(tmp_path / "run", policy("skip")), 0)
    assert is_finite(made)
    assert [(each["step"], each["done"]) for each in made.facts["divergences"]] == [(6, "skipped"), (10, "skipped")]
    assert [each["step"] for each in history(made) if each.get("done") == "skipped"] == [6, 10]
    assert any(
        "step 6: the loss or its gradient was no number; the step was left out" in n for n in made.facts["notes"]
    )


def test_skip_gives_up_after_ten_steps(tmp_path: Path) -> None:
    with (
        harmed(dict.fromkeys(range(3, 30), 1)),
        pytest.raises(DivergedError, match="at step 14, after 10 skipped steps"),
    ):
        train_until(prepared(tmp_path / "run", policy("skip")), 0)


def test_a_training_of_which_every_step_is_left_out_is_none(tmp_path: Path) -> None:
    recipe = prepared(tmp_path / "run", policy("skip"))
    recipe.write_text(recipe.read_text().replace("epochs: 3", "epochs: 0.5"))
    with harmed(dict.fromkeys(range(30), 1)), pytest.raises(DivergedError, match="after 3 skipped steps"):
        train_until(recipe, 0)


@pytest.mark.parametrize("techniques", ["[full]", "[gradual]", "[{kind: lora, rank: 4, dropout: 0.1}]"])
def test_rollback_goes_on_from_the_last_checkpoint_at_a_lower_rate(tmp_path: Path, techniques: str) -> None:
    recipe = prepared(tmp_path / "run", policy("rollback", techniques))
    with harmed({9: 1, 17: 1}) as taken:
        made = train_until(recipe, 0)
    assert taken[9:12] == [9, 8, 9], "checkpoints are two steps apart"
    assert is_finite(made)
    assert [(each["step"], each["done"], each["to"]) for each in made.facts["divergences"]] == [
        (10, "rolled back", 8),
        (18, "rolled back", 16),
    ]
    with harmed({}):
        plain = train_until(prepared(tmp_path / "plain", policy("rollback", techniques)), 0)
    rates = [
        {entry["step"]: entry["learning_rate"] for entry in history(each) if "loss" in entry} for each in (plain, made)
    ]
    expected = [rate * (0.3 if 8 < step <= 16 else 0.09 if step > 16 else 1) for step, rate in rates[0].items()]
    assert list(rates[1].values()) == pytest.approx(expected)
    same = [[entry for entry in history(each) if entry["step"] <= 8 and "loss" in entry] for each in (plain, made)]
    assert same[0] == same[1]


def test_a_rollback_gives_back_the_bytes_of_the_checkpoint(tmp_path: Path) -> None:
    """Went back across the moment at which more begins to train, as if that had not been."""
    seen = {}
    plain = fit.go_back

    def go_back(state: Any, *rest: Any) -> None:
        plain(state, *rest)
        seen["back"] = {name: each.detach().clone() for name, each in state.model.named_parameters()}

    recipe = prepared(tmp_path / "run", policy("rollback", "[gradual]") + "\n  keep: last")
    text = recipe.read_text().replace("checkpoint_steps: 2", "checkpoint_steps: 6")
    recipe.write_text(text)  # epochs are 8 steps long
    kept = {}
    taking = fit.take_step

    def take_step(state: Any, *rest: Any) -> tuple[float, float]:
        if state.progress.step == 6 and "then" not in kept:
            kept["then"] = {name: each.detach().clone() for name, each in state.model.named_parameters()}
        return taking(state, *rest)

    with pytest.MonkeyPatch.context() as patch, harmed({10: 1}):
        inner = fit.take_step
        patch.setattr(fit, "go_back", go_back)
        taking = inner
        patch.setattr(fit, "take_step", take_step)
        train_until(recipe, 0)
    assert all(torch.equal(kept["then"][name], each) for name, each in seen["back"].items())


def test_rollback_gives_up_after_three(tmp_path: Path) -> None:
    with harmed({9: 99}), pytest.raises(DivergedError, match="at step 10, after 3 rollbacks"):
        train_until(prepared(tmp_path / "run", policy("rollback")), 0)


@pytest.mark.parametrize("name", ["skip", "rollback"])
def test_what_was_done_survives_a_crash_to_the_bit(tmp_path: Path, name: str) -> None:
    times = {5: 1, 11: 1}
    with harmed(times):
        whole = train_until(prepared(tmp_path / "plain", policy(name)), 0)
    recipe = prepared(tmp_path / "stopped", policy(name))
    for steps in (3, 6, 8):
        with harmed(times), pytest.raises(StopIteration):
            train_until(recipe, steps)
        times = {at: n for at, n in times.items() if not recorded(recipe, at)}
    with harmed(times):
        resumed = train_until(recipe, 0)
    assert resumed.content == whole.content
    assert resumed.facts == whole.facts


def recorded(recipe: Path, step: int) -> bool:
    """Whether the last checkpoint knows what became of a step (from 0)."""
    (file,) = recipe.parent.glob(".luthier/work/train-*/checkpoints/last/manifest.json")
    return any(event["step"] == step + 1 for event in json.loads(file.read_text())["facts"]["events"])


def test_the_checkpoints_to_go_back_to_are_part_of_what_decides_the_weights() -> None:
    from luthier.stages.train import Train

    common: dict[str, Any] = {"evaluation": None, "seed": 0, "device": "cpu", "base_name": "b", "longest_answer": 1}
    for name, expected in (("stop", None), ("skip", None), ("rollback", 7)):
        settings = TrainSettings(on_divergence=name, checkpoint_steps=7)
        assert Train(settings=settings, **common).model_dump(exclude=Train.unkeyed)["goes_back_by"] == expected


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("techniques")
    combining.build(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", lasting.KINDS)
def test_no_technique_applies_what_is_no_number(place: Path, kind: str) -> None:
    """The first step is harmed, and nothing that trains has moved when training stops."""
    seen: dict[str, Any] = {}
    plain = fit.take_step

    def take_step(state: Any, *rest: Any) -> tuple[float, float]:
        before = {name: each.detach().clone() for name, each in state.model.named_parameters()}
        found = plain(state, *rest)
        seen["same"] = all(torch.equal(before[name], each) for name, each in state.model.named_parameters())
        seen["n"] = seen.get("n", 0) + 1
        return found

    with harmed({0: 1}, "gradient"), pytest.MonkeyPatch.context() as patch:
        plain = fit.take_step
        patch.setattr(fit, "take_step", take_step)
        ready = lasting.Ready(place, kind)
        seen.clear()
        with pytest.raises(DivergedError, match="at step 1"):
            ready.train(place / f"harmed-{kind}")
    assert seen == {"same": True, "n": 1}


def test_noise_around_a_falling_loss_is_no_spike() -> None:
    draw = random.Random(0)
    course: list[float] = []
    for step in range(3000):
        loss = (0.2 + 3 * math.exp(-step / 200)) * draw.lognormvariate(0, 0.25)
        found = divergence.found(course, loss, 1.0)
        assert found == "", step
        course = divergence.remembered(course, loss, found)


@pytest.mark.parametrize("name", ["skip", "rollback"])
def test_a_private_step_is_neither_left_out_nor_taken_again(name: str) -> None:
    techniques = [{"kind": "private", "noise": 1.0}]
    with pytest.raises(ValueError, match="on_divergence: private allows stop alone"):
        TrainSettings.model_validate({"techniques": techniques, "on_divergence": name})
    assert TrainSettings.model_validate({"techniques": techniques}).on_divergence == "stop"


def test_a_search_has_no_other_points_to_go_back_to(place: Path) -> None:
    made = lasting.recipe("full", on_divergence="rollback")
    made["search"] = {"space": {"train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}, "trials": 2}
    with pytest.raises(UserError, match="other points to go back to; use stop or skip"):
        loads(json.dumps(made), folder=place)
    made["train"]["on_divergence"] = "skip"
    loads(json.dumps(made), folder=place)
