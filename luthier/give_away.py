"""Give-away: whether inputs tell their own label, which a model would copy and learn nothing; measured beyond chance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import sqrt
from typing import Any, Literal

from luthier import seams
from luthier.errors import UserError
from luthier.seams import Example, Label, text_of

Way = Literal["is", "in"]  # the label is the whole of a place, or stands in a longer text as a word
MOST: dict[Way, float] = {"is": 0.8, "in": 0.5}
"""Share of the rows, beyond chance, above which a place gives the label away. A column with the labels' own words (0 and
1, yes and no) may be a good feature: only a near copy, equal in nine rows of ten where two labels are even, is refused. A
text has no reason to hold its label."""
FEWEST = 20  # rows below which nothing is refused
SURE = 1.5  # standard errors by which a share must be above that; twice as many for what is counted at all


class GiveAway:
    """Counts, for each place of the input, how often a row's label stands there, and how often another label does.

    For each row one other label is tried, each in turn. Were the input to say nothing of the label L, it would hold L
    as often in rows of other labels: `beyond` is the mean, over rows, of the difference (Youden's J, weighted by label).
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.numbers = {label: number for number, label in enumerate(self.labels)}
        self.own: Counter[str] = Counter()  # rows of each label
        self.other: Counter[str] = Counter()  # rows of other labels for which it was tried
        self.held: dict[tuple[str, Way], Counter[str]] = {}  # (place, way) -> rows that hold their own label
        self.chance: dict[tuple[str, Way], Counter[str]] = {}  # and rows that hold the other one
        self.first: dict[tuple[str, Way], str] = {}  # file and row of the first that holds its own

    def look(self, example: Example) -> None:
        """Count one example; those without a label say nothing here."""
        if not isinstance(example.target, Label) or len(self.labels) < 2:
            return
        own = example.target.label
        step = 1 + self.own[own] % (len(self.labels) - 1)
        other = self.labels[(self.numbers[own] + step) % len(self.labels)]
        self.own[own] += 1
        self.other[other] += 1
        for place, text in places(example.input):
            if way := stands(own, text):
                self.held.setdefault((place, way), Counter())[own] += 1
                self.first.setdefault((place, way), seams.place(example))
            if way := stands(other, text):
                self.chance.setdefault((place, way), Counter())[other] += 1

    def beyond(self, place: str, way: Way) -> tuple[float, float]:
        """Share of the rows that hold their label there, less what chance gives, -1..1, and its standard error."""
        held, chance = self.held[place, way], self.chance.get((place, way), Counter())
        total, difference, variance = self.own.total(), 0.0, 0.0
        for label, n in self.own.items():
            tried = self.other[label]
            difference += n / total * (held[label] / n - chance[label] / max(tried, 1))
            variance += (n / total) ** 2 * (spread(held[label], n) + spread(chance[label], tried))
        return difference, sqrt(variance)

    def counted(self) -> int:
        """Rows that hold their label beyond chance, at the place that has most of them."""
        total = self.own.total()
        found = [(difference, error) for difference, error in (self.beyond(*at) for at in self.held)]
        return max((round(d * total) for d, error in found if d > 2 * SURE * error), default=0)

    def problems(self) -> Iterator[UserError]:
        """Each place that gives the label away."""
        total = self.own.total()
        for place, way in self.held if total >= FEWEST else ():
            difference, error = self.beyond(place, way)
            if difference - SURE * error > MOST[way]:
                yield UserError(
                    f"the label stands in the input of {self.held[place, way].total()} of {total} rows{place}",
                    where=self.first[place, way],
                    hint="the model would only copy it; leave that column or text out of the input, or, if the label "
                    "may stand there, set encode.give_away to allow",
                )


def spread(n: int, of: int) -> float:
    """Variance of a share that was seen as n of so many, half a case of each kind added (Jeffreys): never 0."""
    share = (n + 0.5) / (of + 1)
    return share * (1 - share) / (of + 1)


def places(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(where, text) of each part of an input: ` (column 'name')`, or "" for the whole."""
    for kind, value in given.items():
        if kind == "fields":
            yield from ((f" (column '{name}')", text_of(cell)) for name, cell in value.items())
        else:
            yield "", text_of(value)


def stands(label: str, text: str) -> Way | Literal[""]:
    """How a label stands in a text, if it does."""
    if label not in text:
        return ""
    if text.strip() == label:
        return "is"
    return "in" if as_word(label).search(text) else ""


@cache
def as_word(label: str) -> re.Pattern[str]:
    """The label where no letter, digit or underscore touches it."""
    return re.compile(rf"(?<!\w){re.escape(label)}(?!\w)")
