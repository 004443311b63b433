"""Give-away: an input that tells its label is refused; one that holds labels' words by chance is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from luthier.give_away import GiveAway, stands
from luthier.seams import Example, Label, Text

Draw = random.Random
COLOURS = ("red", "green", "blue", "dark blue")


def looked(labels: tuple[str, ...], make: Callable[[Draw, str], Any], n: int = 200, weights: Any = None) -> GiveAway:
    """A look at n examples; `make` says what a row of a label reads."""
    draw = Draw(0)
    found = GiveAway(labels)
    for row in range(n):
        label = draw.choices(labels, weights)[0]
        made = make(draw, label)
        given = {"text": made} if isinstance(made, str) else {"fields": made}
        found.look(Example(str(row), "t", given, Label(label), origin={"file": "t.csv", "row": row + 2}))
    return found


def bit(draw: Draw, share: float = 0.5) -> str:
    return str(int(draw.random() < share))


def mostly(draw: Draw, label: str, share: float, others: tuple[str, ...] = ("0", "1")) -> str:
    """The label in a share of the rows, else another one."""
    return label if draw.random() < share else draw.choice([other for other in others if other != label])


INNOCENT: dict[str, tuple[tuple[str, ...], Callable[[Draw, str], Any], Any]] = {
    "columns of 0 and 1": (("0", "1"), lambda d, y: {name: bit(d) for name in "abcde"}, None),
    "one column of 0 and 1": (("0", "1"), lambda d, y: {"a": bit(d)}, None),
    "rare ones among zeros": (("0", "1"), lambda d, y: {"a": bit(d, 0.05), "b": bit(d, 0.02)}, (95, 5)),
    "yes and no that tell a good deal": (("yes", "no"), lambda d, y: {"a": mostly(d, y, 0.85, ("yes", "no"))}, None),
    "bits in a text": (("0", "1"), lambda d, y: " ".join(bit(d) for _ in range(3)), None),
    "every label in every text": (("A", "B"), lambda d, y: "Is it A or B?", None),
    "colours by chance": (COLOURS, lambda d, y: f"a {d.choice(COLOURS)} kettle, a {d.choice(COLOURS)} lamp", None),
    "some texts that name their class": (COLOURS, lambda d, y: y if d.random() < 0.3 else "a lamp", None),
    "the label within a word": (("cat", "dog"), lambda d, y: f"{y}alogue", None),
    "one text, short": (("1", "2"), lambda d, y: {"room": d.choice("123"), "nr": str(d.randrange(200))}, None),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_labels_that_stand_in_inputs_by_chance_or_in_part_are_no_give_away(name: str) -> None:
    labels, make, weights = INNOCENT[name]
    for n in (20, 200, 1000):
        assert list(looked(labels, make, n, weights).problems()) == []


TOLD: dict[str, tuple[tuple[str, ...], Callable[[Draw, str], Any], Any, str]] = {
    "the label itself": (("A", "B"), lambda d, y: y, None, ""),
    "a text that ends with it": (("yes", "no"), lambda d, y: f"{bit(d)} {bit(d)}, so {y}.", None, ""),
    "a copy among columns of bits": (
        ("0", "1"),
        lambda d, y: {"a": bit(d), "b": y, "c": bit(d)},
        None,
        " (column 'b')",
    ),
    "a copy of a rare label": (("0", "1"), lambda d, y: {"a": bit(d, 0.05), "b": y}, (95, 5), " (column 'b')"),
    "a copy with some errors": (("0", "1"), lambda d, y: {"b": mostly(d, y, 0.98)}, None, " (column 'b')"),
    "a note": (COLOURS, lambda d, y: {"n": f"it is {y}" if d.random() < 0.8 else "?", "m": "x"}, None, " (column 'n')"),
}


@pytest.mark.parametrize("name", TOLD)
def test_an_input_that_tells_its_label_is_refused_with_its_place(name: str) -> None:
    labels, make, weights, place = TOLD[name]
    (problem,) = looked(labels, make, weights=weights).problems()
    assert problem.what.startswith("the label stands in the input of ")
    assert problem.what.endswith(f"of 200 rows{place}")
    assert problem.where.startswith("t.csv:")
    assert "set encode.give_away to allow" in problem.hint


def test_few_rows_are_not_refused_and_all_are_counted() -> None:
    few = looked(("A", "B"), lambda d, y: f"{y} it is", 19)
    assert (list(few.problems()), few.counted()) == ([], 19)
    assert looked(("A", "B"), lambda d, y: f"{y} it is", 20).counted() == 20
    assert looked(("0", "1"), lambda d, y: {"a": bit(d), "b": bit(d)}).counted() == 0
    some = looked(COLOURS, lambda d, y: y if d.random() < 0.3 else "a lamp", 1000)
    assert 250 < some.counted() < 350


def test_what_has_no_label_says_nothing() -> None:
    found = GiveAway(("A", "B"))
    found.look(Example("1", "t", {"text": "A"}, Text("A")))
    found.look(Example("2", "t", {"text": "A"}, None))
    assert (found.own.total(), list(found.problems()), found.counted()) == (0, [], 0)


@pytest.mark.parametrize(
    ("label", "text", "way"),
    [
        ("A", " A ", "is"),
        ("A", "is it A?", "in"),
        ("A", "AA", ""),
        ("c++", "in c++ or c", "in"),
        ("a.b", "axb", ""),
        ("no show", "no show", "is"),
    ],
)
def test_a_label_stands_as_a_whole_or_as_a_word(label: str, text: str, way: str) -> None:
    assert stands(label, text) == way
