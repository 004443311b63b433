"""Who goes on: by hand, on numbers small enough to see."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from luthier.hyperband import bracket, goes_on, rungs


@pytest.mark.parametrize(
    ("longest", "factor", "expected"),
    [(9, 3, [1, 3]), (10, 3, [1, 3, 9]), (1, 3, []), (4, 2, [1, 2]), (5, 2, [1, 2, 4])],
)
def test_rungs_stand_before_the_longest_training_ends(longest: int, factor: int, expected: list[int]) -> None:
    assert rungs(longest, factor) == expected


@pytest.mark.parametrize(
    ("value", "rivals", "higher", "expected"),
    [
        (0.5, [], True, True),  # the first one has no rivals
        (0.5, [0.6], True, False),  # the best of two goes on
        (0.7, [0.6], True, True),
        (0.7, [0.6], False, False),  # a loss
        (0.5, [0.9, 0.4, 0.3, 0.2, 0.1], True, True),  # the second of six
        (0.35, [0.9, 0.4, 0.3, 0.2, 0.1], True, False),  # the third
        (0.9, [0.9, 0.9], True, True),  # equals are not behind
        (math.nan, [], True, False),
    ],
)
def test_the_best_third_goes_on(value: float, rivals: list[float], higher: bool, expected: bool) -> None:
    assert goes_on(value, rivals, 3, higher) is expected


def test_brackets_get_the_shares_of_hyperbands_table() -> None:
    """R = 9, factor 3: 9, 5 and 3 configurations (Li and others 2018, table 1 for their R)."""
    drawn = Counter(bracket(number, 2, 3) for number in range(17_000))
    assert [round(drawn[skipped] / 1000) for skipped in (0, 1, 2)] == [9, 5, 3]
    assert bracket(5, 0, 3) == 0
