"""Majority: the commonest answer of the training split, for tables with several columns that of the column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from luthier.baselines import Baseline, Setting
from luthier.seams import Answer, Answered, Example


class Majority(Baseline):
    """Always the commonest training answer."""

    def predict(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        counts: dict[str, Counter[Answer]] = {}
        for example in train:
            if example.target is not None:
                counts.setdefault(column_of(example), Counter())[example.target] += 1
        if not counts:
            return iter(())  # nothing was learned, so nothing is said
        best = {column: commonest(answers) for column, answers in counts.items()}
        overall = commonest(sum(counts.values(), Counter()))
        return ((example, best.get(column_of(example), overall)) for example in examples)


def column_of(example: Example) -> str:
    """The column that an example is about, where there are several."""
    return example.slices.get("column", "")


def commonest(answers: Counter[Answer]) -> Answered:
    """The commonest answer, the first in order of its text among equals, and its share."""
    answer, n = min(answers.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return Answered(answer, n / answers.total())
