"""Coverage and width of the gate's intervals, by simulation: the tables of docs/intervals.md.

`python benchmarks/intervals.py [TRIALS]` prints them. 200 trials, the default, take a few minutes on one core; the tables of
the page have 2,000 for shares, which take an hour, and a coverage is then known to about one percentage point.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from statistics import NormalDist

import numpy as np

from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.f1 import F1
from luthier.resample import Estimate, estimate, paired
from luthier.seams import Example, Label, Prediction

Interval = tuple[float, float]
SHARES = (0.5, 0.75, 0.8, 0.95, 0.99)
DRAWS = 2000  # of the percentile bootstrap


class Excess(Metric):
    """Mean of a number from 0 up without a limit, which the output says."""

    unit = "units"
    higher_is_better = False

    def per_example(self, prediction: Prediction, example: Example) -> dict[str, float]:
        return {"n": 1.0, "excess": float(str(prediction.output))}

    def combine(self, sums: dict[str, np.ndarray]) -> np.ndarray:
        return sums["excess"] / sums["n"]


def answers(outputs: Iterable[str], targets: Iterable[str], size: int) -> list[Prediction]:
    """Predictions, `size` of each entity."""
    return [
        Prediction(str(i), "t", Label(output), target=Label(target), entity=f"e{i // size}")
        for i, (output, target) in enumerate(zip(outputs, targets, strict=True))
    ]


def graded(hits: np.ndarray) -> list[Prediction]:
    """Right and wrong answers, (entities, size)."""
    return answers(["yes" if hit else "no" for hit in hits.ravel()], ["yes"] * hits.size, hits.shape[1])


def found(metric: Metric, *predictions: list[Prediction]) -> Interval:
    """What Luthier gives: of one model, or of the gain of one over another."""
    examples = {p.id: Example(p.id, "t", {"text": ""}) for p in predictions[0]}
    ask: Callable[..., Estimate] = paired if len(predictions) == 2 else estimate
    interval = ask(metric, *predictions, examples, 0).interval
    return interval or (np.nan, np.nan)


def percentile(sums: np.ndarray, combine: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """The percentile bootstrap over entities, (entities, k); `combine` makes a figure of the k means of a draw."""
    n = len(sums)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    low, high = np.quantile(combine(counts @ sums / n), [0.025, 0.975])
    return float(low), float(high)


def mean(sums: np.ndarray) -> np.ndarray:
    """The figure of entities of one size, each of which is known by its own mean."""
    return sums[:, 0]


def clustered(draw: np.random.Generator, n: int, size: int, share: float, correlation: float) -> np.ndarray:
    """Right or wrong, (n, size): beta-binomial with an intra-class correlation."""
    chance = np.full(n, share)
    if correlation:
        sharpness = (1 - correlation) / correlation
        chance = draw.beta(share * sharpness, (1 - share) * sharpness, n)
    return draw.random((n, size)) < chance[:, None]


@cache
def of_share(hits: tuple[int, ...], size: int) -> tuple[Interval, Interval]:
    """Both intervals of entities of one size, by how many of their answers are right."""
    rights = np.array(hits)
    new = found(Accuracy(), graded(np.arange(size) < rights[:, None]))
    if len(set(hits)) == 1:  # Wilson's largest share of unseen entities, at the worst and the best value
        z = NormalDist().inv_cdf(0.975)
        unseen, value = z**2 / (len(hits) + z**2), hits[0] / size
        return (value - unseen * value, value + unseen * (1 - value)), new
    return percentile(rights[:, None] / size, mean), new


def told(true: float, intervals: list[tuple[Interval, ...]]) -> str:
    """`57 → 99 % (0.34 → 0.71)`: coverage and mean width of one method, or of one and the other."""
    parts = [np.array(method) for method in zip(*intervals, strict=True)]
    covered = [100 * np.mean((part[:, 0] <= true + 1e-9) & (true - 1e-9 <= part[:, 1])) for part in parts]
    widths = [np.nanmean(part[:, 1] - part[:, 0]) for part in parts]
    return f"{' → '.join(f'{c:.0f}' for c in covered)} % ({' → '.join(f'{w:.2f}' for w in widths)})"


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Markdown, printed row by row."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def shares(trials: int) -> Iterable[list[str]]:
    """Plain shares."""
    for n in (3, 5, 10, 20, 50, 200):
        for size, correlation in ((1, 0.0), (5, 0.0), (5, 0.2), (5, 0.5)):
            draw, cells = np.random.default_rng(1), []
            for share in SHARES:
                drawn = (clustered(draw, n, size, share, correlation).sum(axis=1) for _ in range(trials))
                cells.append(told(share, [of_share(tuple(sorted(hits.tolist())), size) for hits in drawn]))
            of_share.cache_clear()
            yield [str(n), str(size), "" if size == 1 else f"{correlation:g}", *cells]


def uneven(trials: int) -> Iterable[list[str]]:
    """Entities of unlike sizes, 1 to 10; how hard one is may go with its size."""

    def drawn(draw: np.random.Generator, n: int, steep: float) -> tuple[np.ndarray, np.ndarray]:
        sizes = draw.integers(1, 11, n)
        share = 1 / (1 + np.exp(-np.log(4) - steep * (np.log(sizes) - np.log(5))))
        return sizes, draw.binomial(sizes, draw.beta(4 * share, 4 * (1 - share)))  # ICC 0.2

    for n in (3, 5, 10, 20, 50, 200):
        cells = []
        for steep in (0.0, -1.0, 1.0):
            draw, intervals = np.random.default_rng(5), []
            sizes, hits = drawn(draw, 1_000_000, steep)
            true = float(hits.sum() / sizes.sum())
            for _ in range(trials):
                sizes, hits = drawn(draw, n, steep)
                owner, place = np.repeat(np.arange(n), sizes), np.concatenate([np.arange(size) for size in sizes])
                rows = graded((place < hits[owner])[:, None])
                for row, name in zip(rows, owner, strict=True):
                    row.entity = f"e{name}"
                old = percentile(np.stack([hits, sizes], axis=1), lambda sums: sums[:, 0] / sums[:, 1])
                intervals.append((old, found(Accuracy(), rows)))
            cells.append(told(true, intervals))
        yield [str(n), *cells]


def gains(trials: int) -> Iterable[list[str]]:
    """Two models, whose answers to an entity are alike in what they share: both draw from one chance."""
    for n in (5, 10, 20, 50):
        for size in (1, 5):
            draw, cells = np.random.default_rng(2), []
            for mine, theirs in ((0.7, 0.7), (0.9, 0.8), (0.99, 0.97), (0.6, 0.9)):
                intervals = []
                for _ in range(trials):
                    level = draw.random((n, size)) * 0.5 + draw.random((n, 1)) * 0.5  # of difficulty, shared by both
                    rank = np.where(level < 0.5, 2 * level**2, 1 - 2 * (1 - level) ** 2)  # its distribution function
                    hits = [rank < share for share in (mine, theirs)]
                    flips = [draw.random((n, size)) < 0.1 for _ in hits]  # one answer in ten is drawn anew
                    hits = [
                        np.where(flip, draw.random((n, size)) < share, hit)
                        for flip, hit, share in zip(flips, hits, (mine, theirs), strict=True)
                    ]
                    gained = (hits[0].astype(float) - hits[1]).mean(axis=1, keepdims=True)
                    old = percentile(gained, mean)
                    intervals.append((old, found(Accuracy(), *(graded(hit) for hit in hits))))
                cells.append(told(mine - theirs, intervals))
            yield [str(n), str(size), *cells]


def f1s(trials: int) -> Iterable[list[str]]:
    """Macro F1 of classes of unequal size, of which the first is answered best."""

    def drawn(draw: np.random.Generator, n: int, frequency: list[float]) -> tuple[np.ndarray, np.ndarray]:
        target = draw.choice(len(frequency), n, p=frequency)
        right = draw.random(n) < np.where(target == 0, 0.95, 0.75)
        return target, np.where(right, target, draw.choice(len(frequency), n))

    def macro(sums: np.ndarray) -> np.ndarray:
        hits, extra, missed = np.moveaxis(sums.reshape(len(sums), 3, -1), 1, 0)
        whole, occurs = 2 * hits + extra + missed, hits + missed > 0
        return (2 * hits / np.maximum(whole, 1e-9)).sum(axis=1, where=occurs) / np.maximum(1, occurs.sum(axis=1))

    for n in (10, 20, 50, 200):
        for size in (1, 5):
            cells = []
            for frequency in ([0.5, 0.5], [0.9, 0.1], [0.4, 0.3, 0.2, 0.1], [0.05] * 20):
                draw = np.random.default_rng(3)
                classes = np.arange(len(frequency))
                target, output = drawn(draw, 1_000_000, frequency)
                counts = [(target == output), (target != output), (target != output)]
                whole = [
                    np.bincount(by[c], minlength=len(classes))
                    for c, by in zip(counts, (target, output, target), strict=True)
                ]
                true = float(macro(np.concatenate(whole)[None].astype(float))[0])
                intervals = []
                for _ in range(trials):
                    target, output = drawn(draw, n * size, frequency)
                    is_target, is_output = (side[:, None] == classes for side in (target, output))
                    parts = [is_target & is_output, ~is_target & is_output, is_target & ~is_output]
                    sums = np.concatenate([p.reshape(n, size, -1).sum(axis=1) for p in parts], axis=1)
                    intervals.append(
                        (percentile(sums, macro), found(F1(), answers(map(str, output), map(str, target), size)))
                    )
                cells.append(told(true, intervals))
            yield [str(n), str(size), *cells]


def without_limits(trials: int) -> Iterable[list[str]]:
    """Means of numbers that have no largest value."""
    for n in (10, 20, 50, 200):
        cells = []
        for true, numbers in (
            (3.0, lambda draw, n: draw.poisson(3, n)),
            (1.0, lambda draw, n: draw.exponential(1, n)),
            (0.5, lambda draw, n: 5.0 * (draw.random(n) < 0.1)),
            (float(np.exp(0.5)), lambda draw, n: np.exp(draw.normal(0, 1, n))),
        ):
            draw, intervals = np.random.default_rng(4), []
            while len(intervals) < trials:
                drawn = numbers(draw, n).astype(float)
                if np.ptp(drawn) > 0:  # else there is no interval
                    old = percentile(drawn[:, None], mean)
                    intervals.append((old, found(Excess(), answers(map(repr, drawn.tolist()), [""] * n, 1))))
            cells.append(told(true, intervals))
        yield [str(n), *cells]


if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("\n## Shares\n")
    table(["entities", "values each", "ICC", *(f"share {share:g}" for share in SHARES)], shares(trials))
    print("\n## Entities of unlike sizes\n")
    kinds = ["alike in kind", "large ones harder", "large ones easier"]
    table(["entities", *kinds], uneven(max(1, trials // 2)))
    print("\n## Gains\n")
    pairs = ["0.7 against 0.7", "0.9 against 0.8", "0.99 against 0.97", "0.6 against 0.9"]
    table(["entities", "values each", *pairs], gains(trials))
    print("\n## Macro F1\n")
    kinds = ["two classes", "90 and 10 %", "40, 30, 20, 10 %", "twenty classes"]
    table(["entities", "values each", *kinds], f1s(max(1, trials // 2)))
    print("\n## Means without a limit\n")
    kinds = ["Poisson, mean 3", "exponential", "one in ten is 5, else 0", "log-normal"]
    table(["entities", *kinds], without_limits(max(1, trials // 2)))
