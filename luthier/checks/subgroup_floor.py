"""Subgroup floor: a metric must reach a value in every group of a slice, not only on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.checks import Evidence, described, within
from luthier.checks._scored import WHERE, Bounded, cited, defined, known, metric_of
from luthier.errors import UserError
from luthier.metrics import Metric
from luthier.seams import Prediction, Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate

MOST_DRAWS = 20_000


class SubgroupFloor(Bounded):
    """Passed when each large enough group reaches the bound; estimate, interval and n are those of the worst group.

    The worst of many groups is bad by chance too, so its interval is wider: Bonferroni's, which holds for all judged
    groups at once at 95 %.
    """

    slice: str
    """Name of a slice of the recipe, such as `country`; each of its values is a group."""
    min_n: int = Field(default=20, ge=1)
    """Fewest predictions to judge a group by, 1 or more."""
    small_groups: Literal["ignore", "block"] = "ignore"
    """What becomes of groups below `min_n`: `ignore` lists them only, `block` makes the verdict "not enough data"."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects and that have the slice."""
        from luthier.resample import value

        metric = metric_of(evidence, self.metric)
        groups = self._groups(evidence)
        large = {name: group for name, group in groups.items() if len(group) >= self.min_n}
        small = {name: len(group) for name, group in groups.items() if name not in large}
        found = {name: value(metric, group, evidence.examples) for name, group in large.items()}
        undefined = [name for name in found if defined(found[name]) is None]
        values = {name: found[name] for name in found if name not in undefined}
        failing = [name for name in values if self.misses(values[name])]
        if failing:
            outcome = "failed"
        elif not values or undefined or (small and self.small_groups == "block"):
            outcome = "not enough data"
        else:
            outcome = "passed"
        notes = []
        worst: Estimate | None = None
        if values:
            sign = 1 if metric.higher_is_better else -1
            name = min(values, key=lambda name: (sign * values[name], name))
            worst = simultaneous(metric, large[name], len(large), evidence)
            notes.append(f"worst: {self.slice}={name} ({values[name]:.3g}, n {len(large[name])})")
        if len(failing) > 1:
            notes.append("beyond the bound: " + ", ".join(f"{name} ({values[name]:.3g})" for name in failing))
        if undefined:
            notes.append("undefined: " + ", ".join(undefined))
        if small:
            notes.append(f"fewer than {self.min_n}: " + ", ".join(f"{name} (n {n})" for name, n in small.items()))
        return Verdict(
            check=f"{self.named()} in every {self.slice}{described(self.where)}",
            outcome=outcome,
            estimate=worst.estimate if worst else None,
            interval=worst.interval if worst else None,
            n=worst.n if worst else 0,
            required=self.required,
            threshold=self.bound,
            unit=metric.unit,
            evidence=cited(evidence, "candidate"),
            note="; ".join(notes),
        )

    def _groups(self, evidence: Evidence) -> dict[str, list[Prediction]]:
        """Predictions by value of the slice, values in alphabetical order."""
        slices = {name for prediction in evidence.candidate for name in prediction.slices}
        if evidence.candidate and self.slice not in slices:
            raise UserError(f"no slice '{self.slice}' in the predictions", where=WHERE, hint=known(slices))
        groups: dict[str, list[Prediction]] = {}
        for prediction in within(evidence.candidate, self.where):
            if self.slice in prediction.slices:
                groups.setdefault(prediction.slices[self.slice], []).append(prediction)
        return dict(sorted(groups.items()))


def simultaneous(metric: Metric, predictions: list[Prediction], n_groups: int, evidence: Evidence) -> Estimate:
    """The estimate of one group at the level at which the intervals of all groups hold together at 95 %.

    A level further out in the tail takes more draws: as many in proportion as there are groups, up to 20,000.
    """
    from luthier.resample import estimate

    draws = min(2000 * n_groups, MOST_DRAWS)
    return estimate(metric, predictions, evidence.examples, evidence.seed, draws=draws, level=1 - 0.05 / n_groups)
