"""The stage score: errors are what the main metric says, and of many groups the worst are scored and all are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier import seams
from luthier.facts import Cases, Groups, Scores
from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.seams import Example, Prediction, Text
from luthier.stages.score import Score, chosen, grouped, score
from luthier.store import Store
from luthier.tasks import Task

TASK = Task.pick({"kind": "generate", "table": "t", "prompt_column": "p", "completion_column": "c"})


def answered(*pairs: tuple[str, str], **slices: str) -> list[Prediction]:
    return [
        Prediction(id=str(n), task="t", output=Text(said), target=Text(right), confidence=n / 100, slices=dict(slices))
        for n, (said, right) in enumerate(pairs)
    ]


def scored(folder: Path, metrics: list[str | dict[str, object]], predictions: list[Prediction]) -> tuple[Scores, Cases]:
    """What the stage leaves of these answers."""
    for name, stem, records in (
        ("examples", "test", [Example(p.id, "t", {"text": f"ask {p.id}"}, p.target) for p in predictions]),
        ("tuned", "predictions", predictions),
    ):
        (folder / name).mkdir()
        seams.write(folder / name / stem, records)
    store = Store(folder / "store")
    config = Score(task=TASK, metrics=[Metric.pick(m) for m in metrics], split="test", worst=9, seed=0)
    made = store.do(score, config, examples=store.take(folder / "examples"), tuned=store.take(folder / "tuned"))
    found = (json.loads((made.path / name).read_text()) for name in ("scores.json", "cases.json"))
    return Scores.model_validate(next(found)), Cases.model_validate(next(found))


ANSWERS = [("New  York ", "New York"), ("berlin", "Berlin"), ("Rome", "Rome"), ("Pari", "Paris")]


@pytest.mark.parametrize(
    ("metric", "wrong", "patterns"),
    [
        ("exact_match", ["3", "1"], {"letters differ": 1, "upper and lower case differ": 1}),
        ({"kind": "exact_match", "ignore_case": True}, ["3"], {"letters differ": 1}),
        (
            {"kind": "exact_match", "ignore_space": False},
            ["3", "1", "0"],
            {"letters differ": 1, "upper and lower case differ": 1, "spaces differ": 1},
        ),
        (
            "edit_similarity",
            ["3", "1", "0"],
            {"letters differ": 1, "upper and lower case differ": 1, "spaces differ": 1},
        ),
    ],
)
def test_an_answer_that_the_main_metric_calls_right_is_no_error(
    tmp_path: Path, metric: str | dict[str, object], wrong: list[str], patterns: dict[str, int]
) -> None:
    scores, cases = scored(tmp_path, [metric, "accuracy"], answered(*ANSWERS))
    assert [case.id for case in cases.worst] == wrong
    assert {error.pattern: error.n for error in cases.errors} == patterns
    if scores.main == "exact_match":
        assert scores.systems["tuned"].metrics["exact_match"].estimate == 1 - len(wrong) / 4


def rows(**groups: tuple[int, int]) -> list[Prediction]:
    """Right and wrong answers of each group, each its own entity."""
    return [
        Prediction(f"{name} {n}", "t", Text("a" if n < right else "b"), target=Text("a"), slices={"owner": name})
        for name, (right, wrong) in groups.items()
        for n in range(right + wrong)
    ]


def picked(predictions: list[Prediction], metric: Metric | None = None) -> tuple[list[str], Groups]:
    asked = {p.id: Example(p.id, "t", {"text": ""}) for p in predictions}
    return chosen(metric or Accuracy(), grouped(predictions, "owner"), asked)


def test_of_a_few_groups_all_are_scored() -> None:
    few = {f"o{n:02d}": (n % 3, 1) for n in range(20)}
    assert picked(rows(**few)) == (list(few), Groups(n=20, judged=0))


def test_of_many_groups_the_worst_that_can_be_judged_are_scored_and_all_are_counted() -> None:
    many = {f"o{n:02d}": (n, 30 - n) for n in range(30)} | {f"small {n}": (0, 9) for n in range(500)}
    assert picked(rows(**many)) == ([f"o{n:02d}" for n in range(10)], Groups(n=530, judged=30))


def test_the_worst_groups_are_the_highest_where_lower_is_better() -> None:
    class Errors(Accuracy):
        """Share of wrong answers."""

        higher_is_better = False

    many = {f"o{n:02d}": (n, 30 - n) for n in range(30)}
    assert picked(rows(**many), Errors())[0] == [f"o{n:02d}" for n in range(29, 19, -1)]


def test_of_many_groups_that_are_all_too_small_none_is_shown() -> None:
    assert picked(rows(**{f"o{n}": (1, 2) for n in range(100)})) == ([], Groups(n=100, judged=0))


def test_the_stage_leaves_the_worst_groups_and_their_number(tmp_path: Path) -> None:
    predictions = rows(**{f"o{n:02d}": (n % 11, 10 - n % 11) for n in range(30)})
    scores, _ = scored(tmp_path, ["accuracy"], predictions)
    assert scores.groups == {"owner": Groups(n=30, judged=30)}
    assert scores.fewest_entities == 10
    assert list(scores.systems["tuned"].slices["owner"])[:3] == ["o00", "o11", "o22"]
