"""Plots: the numbers behind a picture, and what a reader without eyes hears of it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from luthier.facts import FlowStep
from luthier.plots import POINTS, Dot, Span, dots, flow, known, lines, scale, short, smoothed, span, thinned, ticks


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (0.5, True),
        (-1.5, True),
        (None, False),
        (math.nan, False),
        (math.inf, False),
        (True, False),
        ("1", False),
    ],
)
def test_only_a_finite_number_counts_as_measured(value: object, expected: bool) -> None:
    assert known(value) is expected


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0.93, 0.98], "share", (0.0, 1.0)),
        ([], "share", (0.0, 1.0)),
        ([12.0, 87.0], "ms", (0.0, 100.0)),
        ([-0.3, 0.4], "share", (-0.4, 0.4)),
        ([0.0, 0.0], "", (0.0, 1.0)),
        ([2.17, math.nan], "", (0.0, 2.5)),
    ],
)
def test_an_axis_starts_at_zero_and_ends_on_a_round_number(
    values: list[float], unit: str, expected: tuple[float, float]
) -> None:
    assert span(values, unit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("axis", "about", "expected"),
    [
        (Span(0, 1), 4, [0, 0.25, 0.5, 0.75, 1]),
        (Span(0, 3), 6, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
        (Span(0, 2e-4), 4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
    ],
)
def test_ticks_are_round_numbers(axis: Span, about: int, expected: list[float]) -> None:
    assert ticks(axis, about) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (0.0025, "0.0025"),
        (-0.0125, "-0.0125"),
        (0.70834, "0.708"),
        (1.0, "1"),
        (2.125, "2.125"),
        (1500.0, "1,500"),
        (5e-5, "5e-5"),
        (1.5e-4, "1.5e-4"),
        (2e6, "2e6"),
    ],
)
def test_ticks_are_written_short(value: float, expected: str) -> None:
    assert short(value) == expected


def test_a_value_beyond_the_axis_stays_inside_the_picture() -> None:
    assert [Span(0, 2).at(value) for value in (-1, 0, 0.5, 2, 9)] == [0, 0, 25, 100, 100]


def test_smoothing_keeps_a_constant_and_the_place_of_what_is_missing() -> None:
    assert smoothed([2.0] * 40 + [None] + [2.0] * 40) == [2.0] * 40 + [None] + [2.0] * 40


def test_smoothing_averages_over_a_twentieth_of_the_curve() -> None:
    assert smoothed([0.0] * 20 + [3.0] + [0.0] * 20)[18:23] == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_long_curve_is_drawn_with_few_points_and_keeps_its_last_one() -> None:
    drawn = thinned([(float(x), 1.0) for x in range(100_001)])
    assert len(drawn) <= POINTS + 1
    assert drawn[-1] == (100_000.0, 1.0)


def test_dots_stand_at_their_share_of_the_axis() -> None:
    picture = ET.fromstring(dots(Span(0, 1), [Dot(0.6, (0.5, 0.7), "tuned"), Dot(0.2, None, "rival")], "in words"))
    assert picture.attrib["aria-label"] == "in words"
    assert [shape.attrib["cx"] for shape in picture.iter("circle")] == ["60.0%"]
    assert [shape.attrib["x"] for shape in picture.iter("svg") if "x" in shape.attrib] == ["20.0%"]
    whiskers = [shape for shape in picture.iter("line") if "whisker" in shape.attrib["class"]]
    assert [(shape.attrib["x1"], shape.attrib["x2"]) for shape in whiskers] == [("50.0%", "70.0%")]


def test_a_scale_writes_every_tick() -> None:
    assert [text.text for text in ET.fromstring(scale(Span(0, 1)))] == ["0", "0.25", "0.5", "0.75", "1"]


def test_a_gap_breaks_a_line_in_two() -> None:
    points = [(0.0, 1.0), (1.0, 0.5), (2.0, None), (3.0, 0.4), (4.0, 0.2)]
    picture = ET.fromstring(lines("loss", [("smooth", points)], (4.0, "best: step 4")))
    assert [shape.attrib["points"] for shape in picture.iter("polyline")] == [
        "0.0,0.0 25.0,50.0",
        "75.0,60.0 100.0,80.0",
    ]
    assert "best: step 4" in [text.text for text in picture.iter("text")]


def test_nothing_measured_draws_no_line() -> None:
    assert lines("loss", [("smooth", [(1.0, None)])]) == ""


def test_the_flow_tells_every_count_and_escapes_names() -> None:
    steps = [
        FlowStep(step="read", arrived=10, kept=8, fates={"<b>quarantined": 2}),
        FlowStep(step="examples", arrived=16, kept=16, made=16),
    ]
    picture = ET.fromstring(flow("a&b.csv", steps))
    told = [" ".join("".join(text.itertext()).split()) for text in picture.iter("text")]
    assert told == [
        "a&b.csv",
        "10 rows",
        "2 <b>quarantined",
        "read",
        "8 kept",
        "16 examples",
        "examples",
        "16 kept",
    ]
    assert picture.attrib["aria-label"] == (
        "Flow of rows from a&b.csv. read: 10 in, 8 kept, 2 <b>quarantined; examples: 16 in, 16 kept"
    )


def test_the_flow_says_whom_a_step_concerns_that_the_test_takes_no_part_in() -> None:
    steps = [FlowStep(step="read", arrived=10, kept=10)]
    learned = FlowStep(step="fit in max_length", arrived=6, kept=5, fates={"too long to learn from": 1}, made=6)
    picture = ET.fromstring(flow("a.csv", steps, learned))
    assert "6 examples of train and validation" in [text.text for text in picture.iter("text")]
    assert picture.attrib["aria-label"].endswith("; fit in max_length: 6 in, 5 kept, 1 too long to learn from")
