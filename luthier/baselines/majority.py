"""Majority: the commonest answer of the training split, for tables with several columns that of the column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthier.baselines import Baseline, Setting, answered
from luthier.seams import Example, Prediction


class Majority(Baseline):
    """Always the commonest training answer."""

    def predict(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        counts: dict[str, Counter[str]] = {}
        for example in train:
            counts.setdefault(example.slices.get("column", ""), Counter())[str(example.answer())] += 1
        best = {}
        for column, answers in counts.items():
            answer, n = min(answers.items(), key=lambda pair: (-pair[1], pair[0]))
            best[column] = (answer, n / answers.total())
        return [answered(example, *best.get(example.slices.get("column", ""), ("", 0.0))) for example in examples]
