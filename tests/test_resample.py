"""Intervals by entity: that they cover, that better answers never lower them, pairing, and when there is none."""

from __future__ import annotations

import os
import tracemalloc
from functools import cache

import numpy as np
import pytest
from scipy.stats import beta, binom

from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.edit_similarity import EditSimilarity
from luthier.metrics.f1 import F1
from luthier.resample import entities, estimate, paired, totals
from luthier.seams import Example, Label, Prediction, Text


def graded(hits, entities=None, prefix=""):
    """One prediction per hit (1) or miss (0)."""
    entities = entities or [""] * len(hits)
    return [
        Prediction(
            id=f"{prefix}{i}", task="t", output=Label("yes" if hit else "no"), target=Label("yes"), entity=entity
        )
        for i, (hit, entity) in enumerate(zip(hits, entities, strict=True))
    ]


def written(n, target, entity=lambda i: "", output=lambda i: "a" * i):
    """Texts that become longer and longer."""
    return [
        Prediction(id=str(i), task="t", output=Text(output(i)), target=Text(target), entity=entity(i)) for i in range(n)
    ]


def asked(*lists):
    return {p.id: Example(id=p.id, task="t", input={"text": "w" * (i % 5)}) for of in lists for i, p in enumerate(of)}


def estimated(metric, predictions, seed=1, **options):
    return estimate(metric, predictions, asked(predictions), seed=seed, **options)


def compared(metric, candidate, baseline):
    return paired(metric, candidate, baseline, asked(candidate, baseline), seed=1)


def accuracy(predictions, **options):
    return estimated(Accuracy(), predictions, **options)


def width(found):
    return found.interval[1] - found.interval[0]


def clopper_pearson(hits, n, level=0.95):
    tail = (1 - level) / 2
    return beta.ppf(tail, hits, n - hits + 1) if hits else 0.0, beta.isf(tail, hits + 1, n - hits) if hits < n else 1.0


@pytest.mark.parametrize("level", [0.8, 0.95, 0.9995])
@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (1, 2), (3, 3), (0, 10), (9, 10), (29, 30), (30, 30), (71, 200)]
)
def test_a_plain_share_has_the_interval_of_clopper_and_pearson(hits, n, level):
    found = accuracy(graded([1] * hits + [0] * (n - hits)), level=level)
    assert found.interval == pytest.approx(clopper_pearson(hits, n, level), abs=1e-9)


def test_entities_that_agree_in_themselves_count_once_each():
    found = accuracy(graded([1] * 8 + [0] * 4, [f"e{i // 4}" for i in range(12)]))
    assert found.interval == pytest.approx(clopper_pearson(2, 3), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 30, 60])
def test_one_more_right_answer_never_lowers_an_end(n):
    ends = [accuracy(graded([1] * hits + [0] * (n - hits))).interval for hits in range(n + 1)]
    assert all(np.diff(ends, axis=0).ravel() > -1e-12)
    assert all(np.diff(ends, axis=0)[1:-1].ravel() > 0)


@pytest.mark.parametrize("metric", [Accuracy(), EditSimilarity()])
def test_whatever_the_sizes_and_weights_one_better_answer_never_lowers_an_end(metric):
    draw = np.random.default_rng(6)
    for _ in range(5):
        answers = written(24, "aaaa", lambda i: f"e{int(i**0.5)}", lambda i: "ab"[i % 2] * (i % 5))
        for answer in answers:
            answer.weight = float(draw.choice([0.3, 1.0, 4.0]))
        before = estimated(metric, answers).interval
        for place in draw.permutation(24):
            answers[place].output = Text("aaaa")
            after = estimated(metric, answers).interval
            assert after[0] >= before[0] - 1e-12 and after[1] >= before[1] - 1e-12
            before = after


TRIALS = 4000 if os.environ.get("LUTHIER_SOAK") else 150


def clustered(draw, n_entities, size, share, correlation):
    """Right or wrong, (entities, size); beta-binomial with an intra-class correlation."""
    chance = np.full(n_entities, share)
    if correlation:
        sharpness = (1 - correlation) / correlation
        chance = draw.beta(share * sharpness, (1 - share) * sharpness, n_entities)
    return draw.random((n_entities, size)) < chance[:, None]


def most_misses(trials):
    """An interval that covers 95 % misses more often than this once in 10,000 times."""
    return binom.ppf(0.9999, trials, 0.05)


@cache
def interval_of(hits, size):
    """The interval of entities of one size, by how many of its answers are right."""
    answers = [hit for n in hits for hit in [1] * n + [0] * (size - n)]
    return accuracy(graded(answers, [f"e{i // size}" for i in range(len(answers))])).interval


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.8, 0.95])
@pytest.mark.parametrize(("size", "correlation"), [(1, 0.0), (5, 0.2)])
@pytest.mark.parametrize("n_entities", [3, 10, 30])
def test_intervals_cover_from_few_entities_up(n_entities, size, correlation, share):
    draw = np.random.default_rng(20)
    misses = 0
    for _ in range(TRIALS):
        hits = clustered(draw, n_entities, size, share, correlation).sum(axis=1)
        low, high = interval_of(tuple(sorted(hits.tolist())), size)
        misses += not low <= share <= high
    assert misses <= most_misses(TRIALS)


@pytest.mark.slow
@pytest.mark.parametrize(("mine", "theirs"), [(0.95, 0.95), (0.6, 0.9)])
@pytest.mark.parametrize("n_entities", [5, 20])
def test_intervals_of_gains_cover_from_few_entities_up(n_entities, mine, theirs):
    draw = np.random.default_rng(21)
    owners = [f"e{i // 5}" for i in range(n_entities * 5)]
    misses = 0
    for _ in range(TRIALS):
        answers = [graded(clustered(draw, n_entities, 5, share, 0.2).ravel(), owners) for share in (mine, theirs)]
        low, high = compared(Accuracy(), *answers).interval
        misses += not low <= mine - theirs <= high
    assert misses <= most_misses(TRIALS)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.15, 0.05), (0.9, 0.1)])
def test_intervals_of_f1_cover_from_twenty_entities_up(shares, size):
    draw = np.random.default_rng(22)
    labels = np.array(list("abcd")[: len(shares)])

    def answered(n):
        target = draw.choice(labels, n, p=shares)
        other = draw.choice(labels, n)
        output = np.where(draw.random(n) < np.where(target == "a", 0.9, 0.7), target, other)
        return [
            Prediction(id=str(i), task="t", output=Label(said), target=Label(right), entity=f"e{i // size}")
            for i, (said, right) in enumerate(zip(output, target, strict=True))
        ]

    true = estimated(F1(), answered(30_000)).estimate
    trials = max(100, TRIALS // 8)
    misses = 0
    for _ in range(trials):
        low, high = estimated(F1(), answered(20 * size)).interval
        misses += not low <= true <= high
    assert misses <= most_misses(trials)


def test_estimate_counts_predictions_and_entities():
    found = accuracy(graded([1, 0, 1, 1], ["x", "x", "y", ""]))
    assert (found.estimate, found.n, found.entities) == (0.75, 4, 3)


def test_rows_of_one_entity_are_drawn_together_and_so_say_less():
    hits = [1, 1, 1, 1, 0, 0, 1, 1] * 10
    alone = accuracy(graded(hits))
    together = accuracy(graded(hits, [f"e{i // 4}" for i in range(80)]))
    clumped = accuracy(graded(sorted(hits), [f"e{i // 4}" for i in range(80)]))
    assert alone.estimate == together.estimate == clumped.estimate == 0.75
    assert width(clumped) > 1.5 * width(alone)


def test_a_mean_has_the_ends_of_draws_of_its_weights():
    answers = written(40, "a" * 9, lambda i: f"e{i % 13}", lambda i: "a" * (i % 10))
    found = estimated(EditSimilarity(), answers)
    scores = np.array([i % 10 / 9 for i in range(40)])
    sums = np.array([[scores[k::13].sum(), len(scores[k::13])] for k in range(13)])
    size = (sums[:, 1] ** 2).sum() / sums[:, 1].sum()
    for beyond, end, quantile in ((0, 0, 0.025), (1, 1, 0.975)):
        weights = np.random.default_rng(1).standard_exponential((100_000, 14))
        drawn = weights @ np.vstack([sums, [beyond * size, size]])
        assert found.interval[end] == pytest.approx(np.quantile(drawn[:, 0] / drawn[:, 1], quantile), abs=0.003)


def test_of_large_entities_that_may_be_otherwise_more_is_left_open():
    alike = accuracy(graded([1] * 40, [f"e{i // 4}" for i in range(40)]))
    one_large = accuracy(graded([1] * 40, [f"e{max(0, i - 30)}" for i in range(40)]))
    assert alike.entities == one_large.entities == 10
    assert one_large.interval[0] < 0.5 < alike.interval[0]


def test_an_interval_at_a_higher_level_is_wider():
    answers = graded([1, 0, 1] * 20)
    assert width(accuracy(answers, level=0.99)) > width(accuracy(answers, level=0.8))


def test_the_order_of_predictions_changes_nothing():
    answers = written(50, "aaa", entity=lambda i: f"e{i % 11}", output=lambda i: "a" * (i % 7))
    for metric in (EditSimilarity(), F1()):
        examples = asked(answers)
        assert estimate(metric, answers, examples, 3) == estimate(metric, answers[::-1], examples, 3)


def test_another_seed_draws_otherwise_and_the_same_seed_alike():
    answers = written(30, "a" * 30)
    first, again, other = (estimated(Longer(), answers, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.interval != other.interval


def test_weights_move_estimate_and_interval():
    answers = graded([1] * 20 + [0] * 20)
    for answer in answers[:20]:
        answer.weight = 9.0
    found = accuracy(answers)
    assert found.estimate == pytest.approx(0.9)
    assert found.interval[0] > 0.7


def test_one_entity_says_little_and_is_believed_little():
    found = accuracy(graded([1, 1, 1], ["x", "x", "x"]))
    assert found.entities == 1
    assert found.interval == pytest.approx((0.025, 1.0))


def test_what_has_no_weight_is_no_entity():
    answers = graded([1, 1, 0], ["x", "y", "z"])
    answers[2].weight = 0.0
    found = accuracy(answers)
    assert (found.estimate, found.n, found.entities) == (1.0, 3, 2)
    assert entities(answers) == 2
    assert found.interval == pytest.approx(clopper_pearson(2, 2), abs=1e-9)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_an_f1_of_answers_that_are_all_right_is_not_certain(average):
    low, high = estimated(F1(average=average), graded([1] * 30)).interval
    assert low == pytest.approx(clopper_pearson(30, 30)[0], abs=0.01)
    assert high == 1.0


def test_a_label_seen_once_leaves_its_f1_open():
    answers = graded([1] * 30)
    answers[0].output = answers[0].target = Label("rare")
    rare, common = (estimated(F1(), found).interval[0] for found in (answers, graded([1] * 30)))
    assert rare < common - 0.3


def test_no_predictions_give_no_estimate():
    found = accuracy([])
    assert np.isnan(found.estimate)
    assert (found.interval, found.n, found.entities) == (None, 0, 0)


class Demanding(Accuracy):
    """Accuracy where it is enough, and undefined elsewhere."""

    mean_of = None

    def combine(self, sums):
        share = super().combine(sums)
        return np.where(share > 0.89, share, np.nan)


def test_a_draw_without_a_value_leaves_no_interval():
    found = estimated(Demanding(), graded([1] * 9 + [0]))
    assert (found.estimate, found.interval) == (0.9, None)


def test_pairing_is_narrower_than_two_intervals_apart():
    draw = np.random.default_rng(2)
    hard = draw.random(200) < 0.4
    baseline = graded(~hard)
    candidate = graded(~hard | (draw.random(200) < 0.2))
    both = compared(Accuracy(), candidate, baseline)
    apart = [accuracy(answers) for answers in (candidate, baseline)]
    assert both.estimate == pytest.approx(apart[0].estimate - apart[1].estimate)
    assert width(both) < 0.6 * (width(apart[0]) ** 2 + width(apart[1]) ** 2) ** 0.5


def test_the_order_of_the_baseline_changes_nothing():
    candidate, baseline = graded([1, 1, 0, 1] * 5), graded([0, 1, 0, 1] * 5)
    examples = asked(candidate)
    forth = paired(F1(), candidate, baseline, examples, seed=1)
    assert forth == paired(F1(), candidate, baseline[::-1], examples, seed=1)


@pytest.mark.parametrize(
    ("candidate", "baseline", "n", "expected"),
    [
        (1, 0, 2, (2 * 0.025 ** (1 / 2) - 1, 1.0)),  # two examples do not show that a model is always better
        (1, 0, 100, (2 * 0.025 ** (1 / 100) - 1, 1.0)),
        (1, 1, 100, (0.025 ** (1 / 100) - 1, 1 - 0.025 ** (1 / 100))),
    ],
)
def test_a_difference_that_never_varies_is_not_taken_for_certain(candidate, baseline, n, expected):
    found = compared(Accuracy(), graded([candidate] * n), graded([baseline] * n))
    assert found.interval == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("won", "lost"), [(5, 0), (6, 0), (10, 1), (10, 2), (20, 7), (21, 7)])
def test_a_gain_is_shown_just_where_the_exact_sign_test_shows_it(won, lost):
    candidate, baseline = [1] * won + [0] * lost + [1] * 30, [0] * won + [1] * lost + [1] * 30
    found = compared(Accuracy(), graded(candidate), graded(baseline))
    assert (found.interval[0] > 0) is bool(binom.cdf(lost, won + lost, 0.5) < 0.025)


def test_a_gain_in_f1_is_measured_from_the_worst_to_the_best():
    alike = graded([1, 1, 1, 0] * 10)
    none = compared(F1(), alike, alike)
    assert none.interval[0] == pytest.approx(-none.interval[1], abs=0.01)
    assert none.interval[0] < 0.0 < none.interval[1]
    assert compared(F1(), alike, graded([0, 0, 0, 1] * 10)).interval[0] > 0


def test_other_examples_cannot_be_paired():
    with pytest.raises(ValueError, match=r"^2 examples were predicted by one model only, such as '0'$"):
        compared(Accuracy(), graded([1]), graded([1], prefix="b"))


def test_an_example_predicted_twice_cannot_be_paired():
    with pytest.raises(ValueError, match=r"^an example was predicted twice: each id may occur once in each list$"):
        compared(Accuracy(), graded([1]) * 2, graded([1]))


def test_totals_are_weighted_sums():
    answers = graded([1, 0, 1])
    answers[2].weight = 2.5
    assert totals(Accuracy(), answers, asked(answers)) == {"n": 4.5, "score": 3.5}


class Longer(Metric):
    """By how many characters outputs are longer than what was read; judged by the example, better when lower."""

    unit = "characters"
    higher_is_better = False

    def per_example(self, prediction, example):
        return {"n": 1.0, "characters": len(str(prediction.output)) - len(example.input["text"])}

    def combine(self, sums):
        return sums["characters"] / sums["n"]


def test_a_metric_may_read_the_example_that_was_asked():
    answers = written(10, "", output=lambda i: "a" * 4)  # inputs have 0 to 4 characters
    found = estimated(Longer(), answers)
    assert found.estimate == 2.0
    assert 0 < found.interval[0] < 2.0 < found.interval[1] < 4


def test_where_there_is_no_limit_the_extremes_that_were_seen_stand_for_it():
    lengths = np.random.default_rng(3).exponential(9, 40).round().astype(int)
    answers = written(40, "", output=lambda i: "a" * lengths[i])
    low, high = estimated(Longer(), answers, seed=1).interval
    off = lengths - np.arange(40) % 5
    ends = [(off.min(), 0.025), (off.max(), 0.975)]
    weights = np.random.default_rng(2).standard_exponential((100_000, 41))
    drawn = [np.quantile(weights @ [*off, end] / weights.sum(axis=1), quantile) for end, quantile in ends]
    assert (low, high) == pytest.approx(drawn, abs=0.2)


def test_a_gain_is_a_gain_for_a_metric_that_is_better_when_lower():
    long, short = (written(20, "", output=lambda i, n=n: "a" * (n + i % 3)) for n in (5, 2))
    assert compared(Longer(), short, long).estimate == pytest.approx(3.0)
    assert compared(Longer(), long, short).estimate == pytest.approx(-3.0)


def test_a_difference_without_bounds_that_never_varies_has_no_interval():
    long, short = (written(20, "", output=lambda i, n=n: "a" * n) for n in (5, 2))
    found = compared(Longer(), short, long)
    assert (found.estimate, found.interval) == (pytest.approx(3.0), None)


def test_many_alike_rows_take_little_memory():
    answers = graded([1, 1, 0] * 5_000)
    examples = asked(answers)
    tracemalloc.start()
    found = estimate(Accuracy(), answers, examples, seed=1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.interval == pytest.approx(clopper_pearson(10_000, 15_000), abs=1e-9)
    assert peak_bytes < 10e6  # the weights of one draw in a hundred would be more


def test_many_draws_of_unlike_rows_take_little_memory():
    answers = written(3000, "a" * 3000)
    examples = asked(answers)
    tracemalloc.start()
    found = estimate(Longer(), answers, examples, seed=1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.interval is not None
    assert peak_bytes < 80e6  # 4,000 draws of 3,000 weights at once would be 96 MB
