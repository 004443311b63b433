"""The page of a search, from facts by hand."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from luthier.facts import Figure, SearchFacts, TrialFacts
from luthier.plots import history, parallel
from luthier.search_page import height, marks, page, ranked

FIGURE = Figure(estimate=0.9, interval=(0.8, 0.95), n=50, entities=50, unit="share")
TRIALS = [
    TrialFacts(
        number=0,
        params={"train.learning_rate": 1e-4, "encode.kind": "<a>"},
        state="complete",
        value=0.9,
        rungs=[(1, 0.5)],
        figures={"accuracy": FIGURE},
        steps=9,
        model="m",
        seconds=61,
    ),
    TrialFacts(
        number=1,
        params={"train.learning_rate": 1e-3, "encode.kind": ["b"]},
        state="pruned",
        value=0.4,
        rungs=[(1, 0.4)],
    ),
    TrialFacts(
        number=2,
        params={"train.learning_rate": 1e-2, "encode.kind": "<a>"},
        state="failed",
        value=None,
        rungs=[],
        problem="train: the loss became nan",
    ),
    TrialFacts(
        number=3,
        params={"train.learning_rate": 3e-4, "encode.kind": ["b"]},
        state="complete",
        value=0.95,
        rungs=[(1, 0.6)],
        figures={"accuracy": FIGURE},
        steps=9,
        model="n",
    ),
]
FACTS = SearchFacts(
    name="words",
    study="words-12345678",
    database="study.sqlite",
    searcher={"kind": "tpe", "startup": 10},
    pruner="hyperband",
    reduction_factor=3,
    metric="accuracy",
    unit="share",
    higher_is_better=True,
    seed=0,
    space={
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True, "step": None, "choices": None},
        "encode.kind": {"low": None, "high": None, "log": False, "step": None, "choices": ["<a>", ["b"]]},
    },
    trials=TRIALS,
    best=3,
    importance={"train.learning_rate": 0.75, "encode.kind": 0.25},
    recipe="words-best.yaml",
    test_openings=0,
)


def test_the_page_says_which_trial_is_best_and_what_that_is_worth() -> None:
    text = page(FACTS)
    assert "Trial 3 is the best of 4 trials" in text
    assert "0.950" in text
    assert "0.900 (0.800 to 0.950, n 50)" in text
    assert "2 complete, 1 pruned, 1 failed; 1 min 1 s of work" in text
    assert "fANOVA" in text
    assert "the loss became nan" in text
    assert "after 1 evaluation<" in text
    assert "words-best.yaml" in text
    assert "<a>" not in text
    assert text == page(FACTS)


def test_without_enough_trials_nothing_is_called_important() -> None:
    text = page(FACTS.model_copy(update={"importance": None}))
    assert "Too few finished trials differ" in text


def test_a_search_of_which_nothing_came_has_a_page_too() -> None:
    failed = FACTS.model_copy(update={"trials": [TRIALS[2]], "best": None, "importance": None})
    assert "No trial was finished" in page(failed)


def test_trials_stand_by_how_they_came_out() -> None:
    assert [trial.number for trial in ranked(FACTS)] == [3, 0, 1, 2]
    assert [trial.number for trial in ranked(FACTS.model_copy(update={"higher_is_better": False}))] == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("block", "value", "expected"),
    [
        ({"low": 1e-4, "high": 1e-2, "log": True, "choices": None}, 1e-3, 0.5),
        ({"low": 8, "high": 64, "log": False, "choices": None}, 64, 1.0),
        ({"choices": ["x", ["y"], None]}, ["y"], 0.5),
        ({"choices": ["x"]}, "x", 0.5),
    ],
)
def test_a_value_has_its_height_on_its_axis(block: dict[str, object], value: object, expected: float) -> None:
    assert math.isclose(height(block, value), expected)


def test_axes_name_their_ends_or_some_of_their_choices() -> None:
    assert marks(FACTS.space["train.learning_rate"]) == [(0.0, "0.0001"), (1.0, "0.01")]
    assert [text for _, text in marks({"choices": list(range(20))})] == ["0", "4", "8", "12", "16"]


def test_figures_are_wellformed_and_say_in_words_what_they_show() -> None:
    drawn = history(
        "three trials", [(0, 0.5, "complete"), (1, 0.4, "pruned"), (2, 0.7, "complete")], [(0, 0.5), (2, 0.7)]
    )
    root = ET.fromstring(str(drawn))
    assert root.get("aria-label") == "three trials"
    assert len(root.findall("circle")) == 3
    (line,) = root.iter("polyline")
    assert len((line.get("points") or "").split()) == 5  # a stair: 0.5, on to 2, up to 0.7, and to the end
    root = ET.fromstring(str(parallel("two", [("a", [(0.0, "1")]), ("b", [])], [([0.0, 1.0], "best")])))
    assert [line.get("points") for line in root.iter("polyline")] == ["0.0,100.0 100.0,0.0"]
    assert history("none", [], []) == parallel("one axis", [("a", [])], []) == ""
