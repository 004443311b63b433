"""Schedules: literal numbers against the published formulas, and against torch's own where it has them."""

from __future__ import annotations

import pytest
import torch

from luthier.recipe import TrainSettings
from luthier.schedules import LearningRate, Schedule
from luthier.schedules.plateau import falls


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("cosine", 0, [1.0, 0.853553, 0.5, 0.146447]),
        ("linear", 2, [1 / 3, 2 / 3, 1.0, 0.5]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1.0, 0.5]),
        ("plateau", 2, [1 / 3, 2 / 3, 1.0, 1.0]),
        # a cut of one step: what has a rise of its own takes no warm-up
        ("slanted_triangular", 2, [1 / 32, 1.0, (1 + 31 * 2 / 3) / 32, (1 + 31 / 3) / 32]),
    ],
)
def test_the_learning_rate_follows_its_schedule(kind: str, warmup: float, expected: list[float]) -> None:
    rate = LearningRate(1.0, 4, warmup, Schedule.pick(kind))
    assert [rate.factor(step) for step in range(4)] == pytest.approx(expected, abs=1e-6)


def test_slanted_triangular_is_the_formula_of_ulmfit() -> None:
    """cut = T cut_frac; p = t / cut up to it, then 1 - (t - cut) / (cut (1 / cut_frac - 1)); (1 + p (ratio - 1)) / ratio."""
    total, cut_frac, ratio = 40, 0.1, 32
    cut = 4
    expected = []
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        expected.append((1 + p * (ratio - 1)) / ratio)
    found = [Schedule.pick("slanted_triangular").factor(t, total, []) for t in range(total)]
    assert found == pytest.approx(expected)
    assert found[:6] == pytest.approx([0.03125, 0.2734375, 0.515625, 0.7578125, 1.0, 0.9730902777])
    assert found[-1] == pytest.approx((1 + 31 / 36) / 32)
    other = Schedule.pick({"kind": "slanted_triangular", "cut_frac": 0.5, "ratio": 2})
    assert [other.factor(t, 4, []) for t in range(4)] == pytest.approx([0.5, 0.75, 1.0, 0.75])


@pytest.mark.parametrize("settings", [{}, {"rise": 0.5, "start_divisor": 10, "end_divisor": 100}])
def test_one_cycle_is_torchs(settings: dict[str, float]) -> None:
    total, chosen = 20, {"rise": 0.3, "start_divisor": 25, "end_divisor": 1e4} | settings
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=total,
        pct_start=chosen["rise"],
        div_factor=chosen["start_divisor"],
        final_div_factor=chosen["end_divisor"],
        cycle_momentum=False,
    )
    expected = []
    for _ in range(total):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(expected) < total:
            theirs.step()
    found = [Schedule.pick({"kind": "one_cycle", **settings}).factor(t, total, []) for t in range(total)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(1 / chosen["start_divisor"])
    assert found[-1] == pytest.approx(found[0] / chosen["end_divisor"])


@pytest.mark.parametrize(
    ("figures", "patience", "n"),
    [
        ([], 2, 0),
        ([3.0, 2.0, 1.0], 2, 0),
        ([3.0, 3.0], 2, 0),
        ([3.0, 3.0, 3.1], 2, 1),
        ([3.0, 3.0, 2.9, 3.0], 2, 0),  # better in time
        ([3.0, 3.0, 3.0, 3.0, 3.0], 2, 2),  # counted anew after a fall
        ([3.0, 3.0, 3.0, 3.0], 2, 1),
        ([1.0, 2.0, 1.5, 1.2], 3, 1),  # the best one counts, not the last
        ([1.0, 1.0], 1, 1),
    ],
)
def test_plateau_falls_when_figures_no_longer_improve(figures: list[float], patience: int, n: int) -> None:
    assert falls(figures, patience) == n
    schedule = Schedule.pick({"kind": "plateau", "patience": patience, "by": 0.5})
    assert schedule.factor(0, 10, figures) == 0.5**n


def test_plateau_falls_where_torchs_does() -> None:
    torch.manual_seed(0)
    figures = (torch.randn(200).cumsum(0) / 10).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0.0, threshold_mode="abs", eps=0.0
    )
    for n, figure in enumerate(figures, 1):
        theirs.step(figure)
        assert 0.5 ** falls(figures[:n], 3) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_what_rises_by_itself_takes_no_warm_up() -> None:
    with pytest.raises(ValueError, match="warmup: one_cycle has a rise of its own; leave warmup out"):
        TrainSettings.model_validate({"schedule": "one_cycle", "warmup": 0.1})
    assert TrainSettings.model_validate({"schedule": "cosine", "warmup": 0.1}).warmup == 0.1
