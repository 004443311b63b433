"""Columns: what a look at some rows says of each column, and whether anybody would have a model predict it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from luthier.readers import Row
from luthier.seams import name_of

FEWEST_OF_A_LABEL = 3  # rows of a label, on average, below which values are no labels
MOST_LABELS = 100
MOST_NUMBERS = 20  # different numbers that may be labels, such as stars; more are measurements
LONG_CHARACTERS, LONG_WORDS = 40, 4  # means above which values are free text
NEARLY_ALL = 0.9  # share of the values
ID = re.compile(r"(?:^|[_\W])(?:id|ids|uuid|guid|nr|idx|index|row|key)$|[a-z]Id$")
WHOSE = re.compile(
    r"(?:customer|client|supplier|vendor|user|author|owner|account|patient|session|device|name|e?mail|phone|address|url|file"
    r"|path)(?:[ _-]?(?:name|code|no|number))?",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[-+]?[\d.,' ]*\d%?|[-+]?\d+(?:\.\d+)?[eE][-+]?\d+")
DATE = re.compile(
    r"(?:\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{2,4}|\d\d? [^\W\d]{3,}\.? \d{4}|[^\W\d]{3,}\.? \d\d?, \d{4})"
    r"(?:[T ]\d\d?:\d\d.*)?"
)


@dataclass(frozen=True)
class Column:
    """One column as some rows show it."""

    name: str
    cells: list[Any]  # as they were read, None where a row lacks it
    values: list[str]  # those that are not blank, as names

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> Column:
        """The column of some rows."""
        cells = [row.values.get(name) for row in rows]
        return cls(name, cells, [value for value in map(name_of, cells) if value])

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs."""
        return Counter(self.values)

    @cached_property
    def characters(self) -> float:
        """Mean length of the values."""
        return sum(map(len, self.values)) / max(len(self.values), 1)

    @cached_property
    def words(self) -> float:
        """Mean number of words."""
        return sum(len(value.split()) for value in self.values) / max(len(self.values), 1)

    def mostly(self, pattern: re.Pattern[str]) -> bool:
        """Whether nearly all values have a form."""
        return sum(bool(pattern.fullmatch(value)) for value in self.values) >= NEARLY_ALL * len(self.values)

    def is_text(self) -> bool:
        """Whether its values are texts to read: long ones, or many different ones that are neither dates nor numbers."""
        if self.characters > LONG_CHARACTERS or self.words > LONG_WORDS:
            return True
        many = bool(self.unpredicted()) and not WHOSE.fullmatch(self.name)
        return many and not self.mostly(DATE) and not self.mostly(NUMBER)

    def unread(self) -> str:
        """Why a model would learn nothing from reading it, or nothing."""
        if not self.values:
            return "is blank"
        if any(isinstance(cell, list | dict) for cell in self.cells):
            return "holds lists or objects"
        if len(self.counts) == 1:
            return f"holds one value, '{short(self.values[0])}'"
        if all(value.isdecimal() for value in self.values) and is_running([int(value) for value in self.values]):
            return "numbers the rows"
        if ID.search(self.name):
            return "is an id by its name"
        if len(self.counts) == len(self.values) and self.words < 2 and not self.mostly(NUMBER) and not is_prose(self):
            return "has another value in every row, as ids have"
        return ""

    def unpredicted(self) -> str:
        """Why nobody would have a model predict it as a label, or nothing."""
        if why := self.unread():
            return why
        n, n_different = len(self.values), len(self.counts)
        if WHOSE.fullmatch(self.name):
            return "says whose or which row it is, by its name"
        if self.mostly(DATE):
            return "holds dates"
        if self.characters > LONG_CHARACTERS or self.words > LONG_WORDS:
            return "holds free text"
        if self.mostly(NUMBER) and n_different > MOST_NUMBERS:
            return f"holds numbers, {n_different} different ones"
        if n < FEWEST_OF_A_LABEL * n_different or n_different > MOST_LABELS:
            return f"has {n_different} different values in {n} rows"
        return ""


def is_running(numbers: Sequence[int]) -> bool:
    """Whether each number is the one before and one more."""
    return len(numbers) > 1 and all(after == before + 1 for before, after in pairwise(numbers))


def is_prose(column: Column) -> bool:
    """Whether the values are words rather than codes: letters alone, in the mean."""
    letters = sum(sum(c.isalpha() or c.isspace() for c in value) for value in column.values)
    return letters >= NEARLY_ALL * sum(map(len, column.values))


def short(text: str) -> str:
    """At most 30 characters of a value."""
    return text if len(text) <= 30 else f"{text[:29]}…"
