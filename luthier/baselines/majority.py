"""Majority: the commonest answer of the training split, for tables with several columns that of the column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.baselines import Baseline
from luthier.seams import Answer, Answered, Example, answer_from, answer_json, judged_by


class Majority(Baseline):
    """Always the commonest training answer."""

    def fit(self, train: Sequence[Example], task: Any) -> dict[str, Any]:
        counts: dict[str, Counter[Answer]] = {}
        for example in train:
            if (answer := judged_by(example.target)) is not None:
                counts.setdefault(column_of(example), Counter())[answer] += 1
        if not counts:
            return {}  # nothing was learned, so nothing is said
        columns = {column: commonest(answers) for column, answers in counts.items()}
        return {"columns": columns, "overall": commonest(sum(counts.values(), Counter()))}

    def answer(self, fitted: Mapping[str, Any], example: Example, task: Any) -> Answered | None:
        if not fitted:
            return None
        answer, share = fitted["columns"].get(column_of(example), fitted["overall"])
        return Answered(answer_from(answer), share)


def column_of(example: Example) -> str:
    """The column that an example is about, where there are several."""
    return example.slices.get("column", "")


def commonest(answers: Counter[Answer]) -> tuple[dict[str, Any], float]:
    """The commonest answer, the first in order of its text among equals, and its share."""
    answer, n = min(answers.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return answer_json(answer), n / answers.total()
