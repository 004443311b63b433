"""Bootstrap intervals by entity: how far a metric, or a difference of two models, may be from what was seen.

Whole entities are drawn with replacement, since rows of one supplier, patient or author resemble each other and are not
independent. Statistics are summed per entity once; a draw then only says how often each entity counts. Entities with
the very same sums are kept as one row with a multiplicity, which leaves the distribution of the draws untouched and
makes a share over a million rows as cheap as over ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.seams import Example, Prediction

if TYPE_CHECKING:
    from luthier.metrics import Metric

CELLS = 2**21  # entries of the largest array held at a time: 16 MB in float64

Sums = Mapping[str, np.ndarray]  # statistic -> its sums, one for each draw
MINE, THEIRS = "<", ">"  # first letter of a statistic's name where two models stand side by side

Key = tuple[str, str]  # (entity, ""), or ("", id) for a row that is its own entity


@dataclass(slots=True, frozen=True)
class Estimate:
    """A figure and how sure it is."""

    estimate: float  # in the metric's unit; nan where it is undefined
    interval: tuple[float, float] | None  # None where fewer than two entities, or too few defined draws
    n: int  # predictions
    entities: int  # independent units among them


def estimate(
    metric: Metric,
    predictions: Sequence[Prediction],
    examples: Mapping[str, Example],
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """The metric over all predictions, with its percentile interval at `level` (0..1); examples by id.

    The result depends on the predictions and the seed, not on the order of the predictions.
    """
    rows = sorted(((_key(p), p.id, p) for p in predictions), key=lambda row: row[:2])
    statistics = ((key, weighted(metric, p, examples)) for key, _, p in rows)
    bounds = (0.0, 1.0) if metric.unit == "share" else None
    return _resampled(statistics, len(rows), metric.combine, bounds, seed, draws, level)


def paired(
    metric: Metric,
    candidate: Sequence[Prediction],
    baseline: Sequence[Prediction],
    examples: Mapping[str, Example],
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """By how much the candidate is better than the baseline, both taken over the same draws of entities.

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
    statistics = ((key, _side_by_side(metric, p, rivals[name], examples)) for key, name, p in rows)
    sign = 1.0 if metric.higher_is_better else -1.0

    def gain(sums: Sums) -> np.ndarray:
        sides = [{name[1:]: sum_ for name, sum_ in sums.items() if name[0] == side} for side in (MINE, THEIRS)]
        difference: np.ndarray = sign * (metric.combine(sides[0]) - metric.combine(sides[1]))
        return difference

    bounds = (-1.0, 1.0) if metric.unit == "share" else None
    return _resampled(statistics, len(rows), gain, bounds, seed, draws, level)


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


def all_alike(value: float, low: float, high: float, entities: int, level: float) -> tuple[float, float]:
    """The interval of a bounded mean whose entities all show the same value, where every draw is that value.

    The draws then say nothing of what was not seen. Wilson's interval for 0 of `entities` gives the largest share of
    entities that may be otherwise, z^2 / (entities + z^2); these are put at the worst and best value there is. For a
    share of 0 or 1 that is exactly Wilson's interval.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    unseen = z**2 / (entities + z**2)
    return value - unseen * (value - low), value + unseen * (high - value)


def _key(prediction: Prediction) -> Key:
    return (prediction.entity, "") if prediction.entity else ("", prediction.id)


def _side_by_side(
    metric: Metric, candidate: Prediction, rival: Prediction, examples: Mapping[str, Example]
) -> dict[str, float]:
    mine = {MINE + name: value for name, value in weighted(metric, candidate, examples).items()}
    return mine | {THEIRS + name: value for name, value in weighted(metric, rival, examples).items()}


def _resampled(
    statistics: Iterator[tuple[Key, dict[str, float]]],
    n: int,
    combine: Callable[[Sums], np.ndarray],
    bounds: tuple[float, float] | None,
    seed: int,
    draws: int,
    level: float,
) -> Estimate:
    """Estimate and interval from one set of weighted statistics per prediction, sorted by entity."""
    if n == 0:
        return Estimate(float("nan"), None, 0, 0)
    names, sums, times = _distinct(statistics)
    entities = int(times.sum())
    value = float(combine(_named(names, sums.T @ times.astype(np.float64))))
    if entities < 2 or np.isnan(value):
        return Estimate(value, None, n, entities)
    drawn = _draws(sums, times, lambda counted: combine(_named(names, counted)), seed, draws)
    defined = drawn[~np.isnan(drawn)]
    if 2 * defined.size < draws:
        return Estimate(value, None, n, entities)
    if float(np.ptp(defined)) < 1e-12:  # rounding alone
        interval = all_alike(value, *bounds, entities, level) if bounds else None
        return Estimate(value, interval, n, entities)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, (float(low), float(high)), n, entities)


def _named(names: list[str], sums: np.ndarray) -> Sums:
    """Columns of (..., k) by name."""
    return {name: sums[..., column] for column, name in enumerate(names)}


def _distinct(statistics: Iterator[tuple[Key, dict[str, float]]]) -> tuple[list[str], Any, np.ndarray]:
    """Names of the statistics, distinct sums per entity, sparse (rows, k), and how many entities have each, (rows,).

    Sparse since F1 has three statistics per label and one prediction touches two of them at most.
    """
    from scipy.sparse import csr_array

    seen: Counter[tuple[tuple[str, float], ...]] = Counter()
    for _, group in groupby(statistics, key=lambda pair: pair[0]):
        summed: dict[str, float] = {}
        for _, found in group:
            for name, value in found.items():
                summed[name] = summed.get(name, 0.0) + value
        seen[tuple(sorted(summed.items()))] += 1
    names = sorted({name for row in seen for name, _ in row})
    columns = {name: column for column, name in enumerate(names)}
    starts = np.cumsum([0, *(len(row) for row in seen)])
    cells = np.array([value for row in seen for _, value in row], dtype=np.float64)
    where = np.array([columns[name] for row in seen for name, _ in row], dtype=np.int64)
    sums = csr_array((cells, where, starts), shape=(len(seen), len(names)))
    return names, sums, np.array(list(seen.values()))


def _draws(
    sums: Any, times: np.ndarray, combine: Callable[[np.ndarray], np.ndarray], seed: int, draws: int
) -> np.ndarray:
    """The metric in each bootstrap draw, (draws,). A sparse product adds in a fixed order at any thread count."""
    entities = int(times.sum())
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // max(sums.shape))
    drawn = []
    for start in range(0, draws, size):
        counts = generator.multinomial(entities, times / entities, size=min(size, draws - start))
        drawn.append(combine((sums.T @ counts.T.astype(np.float64)).T))
    return np.concatenate(drawn)
