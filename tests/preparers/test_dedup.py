"""Dedup: what is asked later is not learned before, nothing is learned twice, and nothing vanishes untold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.preparers.dedup import Dedup
from luthier.seams import Dropped, Example, Text

LATER, TWICE = "same input in a later split", "duplicate in training"


def example(row: int, split: str, text: str, answer: str | None = "yes") -> Example:
    return Example(
        id=str(row),
        task="t",
        input={"text": text},
        target=None if answer is None else Text(answer),
        split=split,
        origin={"file": "t.csv", "row": row, "column": "text"},
    )


def fates(rows: list[tuple[str, str, str]], step: Dedup) -> list[str]:
    """What becomes of each (split, input, target): "kept", or the rule by which it was dropped."""
    examples = [example(row, *given) for row, given in enumerate(rows, start=2)]
    found = list(step.apply(examples))
    assert [each.line if isinstance(each, Dropped) else each.origin["row"] for each in found] == [
        *range(2, len(rows) + 2)
    ]
    assert all(each.column == "text" for each in found if isinstance(each, Dropped))
    return [each.rule if isinstance(each, Dropped) else "kept" for each in found]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # within training: the same lesson is learned once, the same question with another answer is another lesson
        ([("train", "a", "1"), ("train", "a", "1"), ("train", "a", "1")], ["kept", TWICE, TWICE]),
        ([("train", "a", "1"), ("train", "a", "2"), ("train", "b", "1")], ["kept", "kept", "kept"]),
        ([("train", "a", "1"), ("train", "a ", "1"), ("train", "A", "1")], ["kept", "kept", "kept"]),
        # across: whatever its answer, and wherever the later one stands in the table
        ([("train", "a", "1"), ("test", "a", "1")], [LATER, "kept"]),
        ([("test", "a", "1"), ("train", "a", "2")], ["kept", LATER]),
        ([("train", "a", "1"), ("validation", "a", "1")], [LATER, "kept"]),
        ([("validation", "a", "1"), ("test", "a", "1")], [LATER, "kept"]),
        ([("train", "a", "1"), ("validation", "a", "1"), ("test", "a", "1")], [LATER, LATER, "kept"]),
        # across, what looks alike is the same question
        ([("train", "A  b", "1"), ("test", "a b ", "1")], [LATER, "kept"]),
        ([("validation", "a\u200b", "1"), ("test", "\uff41", "1")], [LATER, "kept"]),
        # what is asked twice is asked twice
        ([("test", "a", "1"), ("test", "a", "1")], ["kept", "kept"]),
        ([("validation", "a", "1"), ("validation", "a", "1")], ["kept", "kept"]),
        ([], []),
    ],
)
def test_each_example_fares_as_in_the_table(rows: list[tuple[str, str, str]], expected: list[str]) -> None:
    assert fates(rows, Dedup()) == expected


ROWS = [("train", "a", "1"), ("train", "a", "1"), ("train", "b", "1"), ("validation", "b", "1"), ("test", "b", "1")]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Dedup(), ["kept", TWICE, LATER, LATER, "kept"]),
        (Dedup(across=False), ["kept", TWICE, "kept", "kept", "kept"]),
        (Dedup(within=False), ["kept", "kept", LATER, LATER, "kept"]),
        (Dedup(within=False, across=False), ["kept"] * 5),
    ],
)
def test_each_half_can_be_turned_off(step: Dedup, expected: list[str]) -> None:
    assert fates(ROWS, step) == expected


def test_fields_in_another_order_are_the_same_question() -> None:
    first, second = example(2, "train", ""), example(3, "test", "")
    first.input, second.input = {"fields": {"a": "1", "b": "2"}}, {"fields": {"b": "2", "a": "1"}}
    assert [type(found) for found in Dedup().apply([first, second])] == [Dropped, Example]


TABLES = st.lists(
    st.tuples(st.sampled_from(["train", "validation", "test"]), st.sampled_from("abcd"), st.sampled_from(["1", "2"]))
)


@settings(max_examples=200, deadline=None)
@given(rows=TABLES, within=st.booleans(), across=st.booleans())
def test_every_example_is_kept_or_dropped_once_and_no_test_example_ever(
    rows: list[tuple[str, str, str]], within: bool, across: bool
) -> None:
    found = list(zip(rows, fates(rows, Dedup(within=within, across=across)), strict=True))
    assert all(fate == "kept" for (split, _, _), fate in found if split == "test")
    kept = {split: [row[1:] for row, fate in found if fate == "kept" and row[0] == split] for split, _, _ in rows}
    asked = {split: {text for text, _ in pairs} for split, pairs in kept.items()}
    if within:
        assert max(Counter(kept.get("train", [])).values(), default=1) == 1
    if across:
        assert not asked.get("train", set()) & (asked.get("validation", set()) | asked.get("test", set()))
        assert not asked.get("validation", set()) & asked.get("test", set())


class Passing(Example):
    """An example that is counted while anybody holds it."""

    alive = 0

    def __init__(self, *given: object) -> None:
        type(self).alive += 1
        made = example(*given)  # type: ignore[arg-type]
        super().__init__(made.id, made.task, made.input, made.target, split=made.split, origin=made.origin)

    def __del__(self) -> None:
        type(self).alive -= 1


class OnDisk:
    """Examples that are made anew at each pass."""

    passes = 0

    def __iter__(self) -> Iterator[Example]:
        self.passes += 1
        for row in range(300):
            yield Passing(row, ("train", "validation", "test")[row % 3], f"text {row % 200}")


@pytest.mark.parametrize(("step", "passes"), [(Dedup(), 2), (Dedup(across=False), 1)])
def test_examples_are_passed_on_and_never_held(step: Dedup, passes: int) -> None:
    table, most = OnDisk(), 0
    fate: Counter[str] = Counter()
    for found in step.apply(table):
        fate["dropped" if isinstance(found, Dropped) else "kept"] += 1
        most = max(most, Passing.alive)
    assert most <= 4
    assert table.passes == passes
    assert fate.total() == 300
