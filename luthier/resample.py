"""Bootstrap intervals by entity: how far a metric, or a difference of two models, may be from what was seen.

Whole entities are drawn with replacement, since rows of one supplier, patient or author resemble each other and are not
independent. Statistics are summed per entity once; a draw then only says how often each entity counts. Entities with
the very same sums are kept as one row with a multiplicity, which leaves the distribution of the draws untouched and
makes a share over a million rows as cheap as over ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.seams import Prediction

if TYPE_CHECKING:
    from luthier.metrics import Metric

CELLS = 2**21  # entries of the largest array held at a time: 16 MB in float64

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
    labels: list[str],
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """The metric over all predictions, with its percentile interval at `level` (0..1).

    The result depends on the predictions and the seed, not on the order of the predictions.
    """
    rows = sorted(((_key(p), p.id, p) for p in predictions), key=lambda row: row[:2])
    vectors = ((key, metric.per_example(p, labels) * p.weight) for key, _, p in rows)
    bounds = (0.0, 1.0) if metric.unit == "share" else None
    return _resampled(vectors, len(rows), lambda sums: metric.combine(sums, labels), bounds, seed, draws, level)


def paired(
    metric: Metric,
    candidate: Sequence[Prediction],
    baseline: Sequence[Prediction],
    labels: list[str],
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """The metric of the candidate minus that of the baseline, both taken over the same draws of entities.

    What is hard for both models cancels, so this is narrower than two separate intervals would suggest. Raises
    ValueError unless both lists hold the same ids, each once.
    """
    rivals = {p.id: p for p in baseline}
    ids = {p.id for p in candidate}
    if len(ids) != len(candidate) or len(rivals) != len(baseline):
        raise ValueError("an example was predicted twice: each id may occur once in each list")
    if ids != rivals.keys():
        odd = sorted(ids ^ rivals.keys())
        raise ValueError(f"{len(odd)} examples were predicted by one model only, such as '{odd[0]}'")
    rows = sorted(((_key(p), p.id, p) for p in candidate), key=lambda row: row[:2])
    vectors = ((key, _side_by_side(metric, p, rivals[name], labels)) for key, name, p in rows)

    def difference(sums: np.ndarray) -> np.ndarray:
        mine, theirs = np.split(sums, 2, axis=-1)
        gain: np.ndarray = metric.combine(mine, labels) - metric.combine(theirs, labels)
        return gain

    bounds = (-1.0, 1.0) if metric.unit == "share" else None
    return _resampled(vectors, len(rows), difference, bounds, seed, draws, level)


def totals(metric: Metric, predictions: Iterable[Prediction], labels: list[str]) -> np.ndarray:
    """Weighted sums of the metric's statistics, shape (k,), as `combine` and `details` take them.

    Raises ValueError when there are no predictions, since k is then unknown.
    """
    summed: np.ndarray | None = None
    for prediction in predictions:
        vector = metric.per_example(prediction, labels) * prediction.weight
        summed = vector if summed is None else summed + vector
    if summed is None:
        raise ValueError("there are no predictions to sum")
    return summed


def label_set(*prediction_lists: Sequence[Prediction]) -> list[str]:
    """Sorted distinct targets and outputs of all the lists: the `labels` that metrics are given."""
    outputs = {p.output for predictions in prediction_lists for p in predictions}
    targets = {p.target for predictions in prediction_lists for p in predictions if p.target is not None}
    return sorted(outputs | targets)


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


def _side_by_side(metric: Metric, candidate: Prediction, rival: Prediction, labels: list[str]) -> np.ndarray:
    mine = metric.per_example(candidate, labels) * candidate.weight
    theirs = metric.per_example(rival, labels) * rival.weight
    return np.concatenate([mine, theirs])


def _resampled(
    vectors: Iterator[tuple[Key, np.ndarray]],
    n: int,
    combine: Callable[[np.ndarray], np.ndarray],
    bounds: tuple[float, float] | None,
    seed: int,
    draws: int,
    level: float,
) -> Estimate:
    """Estimate and interval from one weighted statistic vector per prediction, sorted by entity."""
    if n == 0:
        return Estimate(float("nan"), None, 0, 0)
    sums, times = _distinct(vectors)
    entities = int(times.sum())
    value = float(combine(sums.T @ times.astype(np.float64)))
    if entities < 2 or np.isnan(value):
        return Estimate(value, None, n, entities)
    drawn = _draws(sums, times, combine, seed, draws)
    defined = drawn[~np.isnan(drawn)]
    if 2 * defined.size < draws:
        return Estimate(value, None, n, entities)
    if float(np.ptp(defined)) < 1e-12:  # rounding alone
        interval = all_alike(value, *bounds, entities, level) if bounds else None
        return Estimate(value, interval, n, entities)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, (float(low), float(high)), n, entities)


def _distinct(vectors: Iterator[tuple[Key, np.ndarray]]) -> tuple[Any, np.ndarray]:
    """Distinct sums per entity, sparse (rows, k), and how many entities have each, (rows,).

    Sparse since F1 has three statistics per label and one prediction touches three of them at most.
    """
    from scipy.sparse import csr_array

    seen: Counter[tuple[bytes, bytes]] = Counter()
    k = 0
    for _, group in groupby(vectors, key=lambda pair: pair[0]):
        summed = reduce(np.add, (vector for _, vector in group))
        k = summed.size
        touched = np.flatnonzero(summed).astype(np.int64)
        seen[touched.tobytes(), summed[touched].astype(np.float64).tobytes()] += 1
    columns = [np.frombuffer(where, dtype=np.int64) for where, _ in seen]
    cells = [np.frombuffer(what, dtype=np.float64) for _, what in seen]
    starts = np.cumsum([0, *(row.size for row in columns)])
    sums = csr_array((np.concatenate(cells), np.concatenate(columns), starts), shape=(len(seen), k))
    return sums, np.array(list(seen.values()))


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
