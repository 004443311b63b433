"""Intervals by entity: how far a metric, or a difference of two models, may be from what was seen.

Rows of one supplier, patient or author resemble each other, so entities are what counts, not rows. The seen entities get
random weights, Gamma(1) each (the Bayesian bootstrap, Rubin 1981), and so do further ones of which nothing was seen: for
the lower end they stand at the worst value there is, for the upper end at the best. The ends are quantiles of what
comes out. For a mean of scores with limits that is the interval of Gaffke (2005): of a plain share it is that of Clopper
and Pearson, and a better answer never lowers an end. How it covers, and how wide it is, stands in docs/intervals.md.

Statistics are summed per entity once, and entities with the very same sums become one with a multiplicity m and the
weight Gamma(m), which changes no chance and makes a share over a million rows as cheap as over ten. The ends of a mean are
computed (`dirichlet.py`), those of other metrics are drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.dirichlet import lower_end
from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    from luthier.metrics import Metric, Statistics

CELLS = 2**21  # entries of the largest array held at a time: 16 MB in float64
BEYOND, MOST_DRAWS = 100, 20_000  # draws beyond each end, as far as so many draws in all allow

Sums = Mapping[str, np.ndarray]  # statistic -> its sums, one for each draw
Unseen = tuple[list["Statistics"], list["Statistics"]]  # entities at their lowest, at their highest
MINE, THEIRS = "<", ">"  # first letter of a statistic's name where two models stand side by side

Key = tuple[str, str]  # (entity, ""), or ("", id) for a row that is its own entity
Counted = tuple[Key, float, "Statistics"]  # of a prediction: whose it is, its weight, its weighted statistics


@dataclass(slots=True, frozen=True)
class Estimate:
    """A figure and how sure it is."""

    estimate: float  # in the metric's unit; nan where it is undefined
    interval: tuple[float, float] | None  # None where it is undefined, or nothing varies and no limit is known
    n: int  # predictions
    entities: int  # independent units among them


def estimate(
    metric: Metric,
    predictions: Sequence[Prediction],
    examples: Mapping[str, Example],
    seed: int,
    level: float = 0.95,
) -> Estimate:
    """The metric over all predictions, with its interval at `level` (0.3 to 1); examples by id.

    The result depends on the predictions, and where it is drawn on the seed, not on the order of the predictions.
    """
    rows = sorted(((_key(p), p.id, p) for p in predictions), key=lambda row: row[:2])
    counted = ((key, p.weight, weighted(metric, p, examples)) for key, _, p in rows)
    return _with_interval(metric, counted, len(rows), seed, level)


def paired(
    metric: Metric,
    candidate: Sequence[Prediction],
    baseline: Sequence[Prediction],
    examples: Mapping[str, Example],
    seed: int,
    level: float = 0.95,
) -> Estimate:
    """By how much the candidate is better than the baseline, both taken under the same weights of the entities.

    The gain is candidate minus baseline, or the other way round for a metric that is better when lower. What is hard
    for both models cancels, so this is narrower than two separate intervals would suggest. Raises ValueError unless
    both lists hold the same ids, each once.
    """
    rivals = {p.id: p for p in baseline}
    ids = {p.id for p in candidate}
    if len(ids) != len(candidate) or len(rivals) != len(baseline):
        raise ValueError("an example was predicted twice: each id may occur once in each list")
    if ids != rivals.keys():
        odd = sorted(ids ^ rivals.keys())
        raise ValueError(f"{len(odd)} examples were predicted by one model only, such as '{odd[0]}'")
    rows = sorted(((_key(p), p.id, p) for p in candidate), key=lambda row: row[:2])
    gain = Gain(metric)
    counted = (
        (key, p.weight, gain.of(weighted(metric, p, examples), weighted(metric, rivals[name], examples)))
        for key, name, p in rows
    )
    return _with_interval(gain, counted, len(rows), seed, level)


@dataclass(slots=True, frozen=True)
class Gain:
    """By how much one model is better than another: a mean of differences, or else a difference of two figures."""

    metric: Metric

    @property
    def mean_of(self) -> tuple[str, str] | None:
        """As of the metric."""
        return self.metric.mean_of

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.metric.higher_is_better else -1

    def of(self, mine: Statistics, theirs: Statistics) -> Statistics:
        """Both models' statistics in one. The weights of a mean are of the example, and so the same for both."""
        if self.mean_of:
            score, weight = self.mean_of
            gained = self.sign * (mine.get(score, 0.0) - theirs.get(score, 0.0))
            return {score: gained, weight: mine.get(weight, 0.0)}
        return {MINE + name: x for name, x in mine.items()} | {THEIRS + name: x for name, x in theirs.items()}

    def combine(self, sums: Sums) -> np.ndarray:
        """The gain."""
        if self.mean_of:
            return self.metric.combine(sums)
        difference: np.ndarray = self.metric.combine(_side(MINE, sums)) - self.metric.combine(_side(THEIRS, sums))
        return self.sign * difference

    def unseen(self, typical: Mapping[str, float]) -> Unseen:
        """Entities for which one model is as bad, and the other as good, as there is."""
        limits = self.metric.unseen(typical if self.mean_of else _side(MINE, typical))
        worst, best = limits[:: self.sign]
        return [self.of(*pair) for pair in zip(worst, best, strict=True)], [
            self.of(*pair) for pair in zip(best, worst, strict=True)
        ]


def weighted(metric: Metric, prediction: Prediction, examples: Mapping[str, Example]) -> dict[str, float]:
    """One prediction's statistics times its weight."""
    found = metric.per_example(prediction, examples[prediction.id])
    return {name: value * prediction.weight for name, value in found.items()}


def totals(metric: Metric, predictions: Iterable[Prediction], examples: Mapping[str, Example]) -> Sums:
    """Weighted sums of the metric's statistics, as `combine` and `details` take them.

    Raises ValueError when there are no predictions, since there is then nothing to combine.
    """
    summed: dict[str, float] = {}
    for prediction in predictions:
        for name, value in weighted(metric, prediction, examples).items():
            summed[name] = summed.get(name, 0.0) + value
    if not summed:
        raise ValueError("there are no predictions to sum")
    return {name: np.asarray(value) for name, value in sorted(summed.items())}


def value(metric: Metric, predictions: Iterable[Prediction], examples: Mapping[str, Example]) -> float:
    """The metric over these predictions, without an interval."""
    return float(metric.combine(totals(metric, predictions, examples)))


def entities(predictions: Iterable[Prediction]) -> int:
    """Independent units among the predictions: entities, and rows of none. What has no weight says nothing."""
    return len({_key(prediction) for prediction in predictions if prediction.weight > 0})


def _key(prediction: Prediction) -> Key:
    return (prediction.entity, "") if prediction.entity else ("", prediction.id)


def _side(side: str, sums: Mapping[str, Any]) -> dict[str, Any]:
    """One model's statistics out of those of two."""
    return {name[1:]: sum_ for name, sum_ in sums.items() if name.startswith(side)}


@dataclass(slots=True, frozen=True)
class Units:
    """Entities: those with the very same sums are one row with a multiplicity."""

    names: list[str]  # of the statistics
    sums: Any  # sparse (rows, k), since F1 has three statistics per label and one prediction touches two of them
    sizes: np.ndarray  # (rows,) weight of an entity's predictions, above 0
    times: np.ndarray  # (rows,) how many entities

    def total(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Sums by name under weights of the rows, (rows, ...): (...). A sparse product adds in a fixed order."""
        return dict(zip(self.names, self.sums.T @ weights, strict=True))

    def alone(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Sums by name of some rows, each by itself."""
        return dict(zip(self.names, self.sums[start:stop].toarray().T, strict=True))


def _with_interval(figure: Metric | Gain, counted: Iterator[Counted], n: int, seed: int, level: float) -> Estimate:
    """Estimate and interval from the statistics of every prediction, sorted by entity."""
    units = _units(counted)
    if not units.times.size:
        return Estimate(float("nan"), None, n, 0)
    value, tail = float(figure.combine(units.total(units.times))), (1 - level) / 2
    if np.isnan(value):
        return Estimate(value, None, n, int(units.times.sum()))
    limits = _limits(figure, units)
    low, high = (
        _computed(figure.mean_of, units, limits, tail) if figure.mean_of else _drawn(figure, units, limits, tail, seed)
    )
    told = high > low and not math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-12)  # more than rounding
    return Estimate(value, (low, high) if told else None, n, int(units.times.sum()))


def _units(counted: Iterator[Counted]) -> Units:
    """The distinct entities; one without any weight is none."""
    from scipy.sparse import csr_array

    seen: Counter[tuple[float, tuple[tuple[str, float], ...]]] = Counter()
    for _, group in groupby(counted, key=lambda entry: entry[0]):
        size, summed = 0.0, dict[str, float]()
        for _, weight, found in group:
            size += weight
            for name, value in found.items():
                summed[name] = summed.get(name, 0.0) + value
        if size > 0:
            seen[size, tuple(sorted(summed.items()))] += 1
    names = sorted({name for _, row in seen for name, _ in row})
    columns = {name: column for column, name in enumerate(names)}
    starts = np.cumsum([0, *(len(row) for _, row in seen)])
    cells = np.array([value for _, row in seen for _, value in row], dtype=np.float64)
    where = np.array([columns[name] for _, row in seen for name, _ in row], dtype=np.int64)
    sums = csr_array((cells, where, starts), shape=(len(seen), len(names)))
    sizes = np.array([size for size, _ in seen], dtype=np.float64)
    return Units(names, sums, sizes, np.array(list(seen.values()), dtype=np.float64))


def _limits(figure: Metric | Gain, units: Units) -> Unseen:
    """Entities of which nothing was seen, at their lowest and at their highest.

    They are as large as the entity in which an average row stands. That is more than the average size: whether a large
    entity may be otherwise is what matters. Where no limit is known, the lowest and the highest entity seen stand for it.
    """
    share = units.times * units.sizes / (units.times @ units.sizes)  # of the rows
    limits = figure.unseen({name: float(sum_) for name, sum_ in units.total(share).items()})
    if any(limits):
        return limits
    step = max(1, CELLS // len(units.names))
    starts = range(0, len(units.sizes), step)
    own = np.concatenate([np.atleast_1d(figure.combine(units.alone(start, start + step))) for start in starts])
    if np.isnan(own).all():
        return [], []
    size = float(share @ units.sizes)
    lowest, highest = (
        {name: float(sum_[0]) * size / units.sizes[row] for name, sum_ in units.alone(row, row + 1).items()}
        for row in (int(np.nanargmin(own)), int(np.nanargmax(own)))
    )
    return [lowest], [highest]


def _computed(mean_of: tuple[str, str], units: Units, limits: Unseen, tail: float) -> tuple[float, float]:
    """Both ends of a mean; the upper one is the lower one of the negated mean, negated."""
    seen, nothing = units.alone(0, len(units.sizes)), np.zeros(len(units.sizes))

    def end(sign: int, further: list[Statistics]) -> float:
        score, weight = (
            np.append(seen.get(name, nothing), [entity.get(name, 0.0) for entity in further]) for name in mean_of
        )
        times, there = np.append(units.times, np.ones(len(further))), weight > 0
        return sign * lower_end(sign * score[there], weight[there], times[there], tail)

    return end(1, limits[0]), end(-1, limits[1])


def _drawn(figure: Metric | Gain, units: Units, limits: Unseen, tail: float, seed: int) -> tuple[float, float]:
    """Both ends of what is no mean; nan where a draw is undefined."""
    generator = np.random.default_rng(seed)
    draws = min(MOST_DRAWS, round(BEYOND / tail))
    size = max(1, CELLS // max(units.sums.shape))
    drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, draws, size):
        n = min(size, draws - start)
        seen = units.total(generator.standard_gamma(units.times, (n, len(units.times))).T)
        for values, further in zip(drawn, limits, strict=True):
            sums = dict(seen)
            for entity in further:
                weight = generator.standard_exponential(n)
                for name, sum_ in entity.items():
                    sums[name] = sums.get(name, 0.0) + weight * sum_
            values.append(figure.combine(sums))
    low, high = (np.concatenate(values) for values in drawn)
    return float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail))
