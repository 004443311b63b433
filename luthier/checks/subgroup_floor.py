"""Subgroup floor: a metric must reach a value in every group of a slice, not only on average."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from luthier.checks import Evidence, described, within
from luthier.checks._scored import WHERE, Bounded, cited, defined, known, listed, metric_of
from luthier.errors import UserError
from luthier.seams import Prediction, Verdict

if TYPE_CHECKING:
    from luthier.resample import Estimate


class SubgroupFloor(Bounded):
    """Passed when each group with enough entities reaches the bound, by the worse end of its interval.

    Estimate, interval and n are those of the group that decides: the worst one. The worst of many groups is bad by chance
    too, so the intervals are wider: Bonferroni's, which hold for all judged groups at once at 95 %.
    """

    slice: str
    """Name of a slice of the recipe, such as `country`; each of its values is a group."""
    small_groups: Literal["ignore", "block"] = "ignore"
    """What becomes of groups with too few entities: `ignore` lists them only, `block` makes the verdict "not enough
    data"."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict over the predictions that `where` selects and that have the slice."""
        from luthier.resample import entities, estimate, value

        metric = metric_of(evidence, self.metric)
        groups = self._groups(evidence)
        counts = {name: entities(group) for name, group in groups.items()}
        small = [name for name in groups if self.too_few(metric, counts[name])]
        large = {name: group for name, group in groups.items() if name not in small}
        values = {name: value(metric, group, evidence.examples) for name, group in large.items()}
        undefined = [name for name in large if defined(values[name]) is None]
        sign = 1 if metric.higher_is_better else -1
        worst_first = sorted(large.keys() - undefined, key=lambda name: (sign * values[name], name))
        failing = [name for name in worst_first if self.misses(values[name])]

        @cache
        def found(name: str) -> Estimate:
            return estimate(metric, large[name], evidence.examples, evidence.seed, level=1 - 0.05 / len(large))

        sure = bool(failing) or self.confidence == "estimate"
        unsure = [] if sure else [name for name in worst_first if not self.shown(found(name))]
        if failing:
            outcome = "failed"
        elif not worst_first or undefined or unsure or (small and self.small_groups == "block"):
            outcome = "not enough data"
        else:
            outcome = "passed"
        decisive = next(iter([*failing, *unsure, *worst_first]), None)
        worst = found(decisive) if decisive is not None else None
        told = {name: f"{name} ({values[name]:.3g})" for name in worst_first}
        notes = []
        if decisive is not None:
            notes.append(f"worst: {self.slice}={decisive} ({values[decisive]:.3g}, {counts[decisive]} entities)")
        if len(failing) > 1:
            notes.append("beyond the bound: " + listed([told[name] for name in failing]))
        if unsure:
            notes.append("beyond the bound by the end of the interval: " + listed([told[name] for name in unsure]))
        if undefined:
            notes.append("undefined: " + listed(undefined))
        if small:
            few = listed([f"{name} ({counts[name]})" for name in small])
            notes.append(f"fewer than {self.needed(metric)} entities: {few}")
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
            entities=worst.entities if worst else 0,
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
