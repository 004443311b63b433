"""Bootstrap by entity: coverage, pairing, and the cases in which the draws say nothing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.edit_similarity import EditSimilarity
from luthier.metrics.f1 import F1
from luthier.resample import estimate, paired, totals
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


def test_the_interval_of_a_coin_covers_its_bias_nine_times_in_ten():
    draw = np.random.default_rng(20)
    covered = 0
    for seed in range(300):
        answers = graded(draw.random(60) < 0.7)
        low, high = estimated(Accuracy(), answers, seed=seed, draws=200).interval
        covered += low <= 0.7 <= high
    assert covered >= 270


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


def test_the_interval_agrees_with_drawing_rows_one_by_one():
    hits = np.array([1] * 30 + [0] * 10)
    draw = np.random.default_rng(5)
    by_hand = [hits[draw.integers(0, 40, 40)].mean() for _ in range(4000)]
    found = accuracy(graded(hits), draws=4000)
    assert found.interval == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=0.026)


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
    first, again, other = (estimated(EditSimilarity(), answers, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.interval != other.interval


def test_weights_move_estimate_and_interval():
    answers = graded([1] * 20 + [0] * 20)
    for answer in answers[:20]:
        answer.weight = 9.0
    found = accuracy(answers)
    assert found.estimate == pytest.approx(0.9)
    assert found.interval[0] > 0.8


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ([1] * 10, (10 / (10 + 1.959964**2), 1.0)),  # Wilson's interval for 10 of 10
        ([0] * 10, (0.0, 1.959964**2 / (10 + 1.959964**2))),
    ],
)
def test_a_share_of_nothing_or_all_has_wilsons_interval(hits, expected):
    assert accuracy(graded(hits)).interval == pytest.approx(expected, abs=1e-6)


def test_wilsons_interval_counts_entities_and_not_rows():
    found = accuracy(graded([1] * 10, ["x", "y"] * 5))
    assert found.interval == pytest.approx((2 / (2 + 1.959964**2), 1.0), abs=1e-6)


@pytest.mark.parametrize(("hits", "entities"), [([1], [""]), ([1, 0, 1], ["x", "x", "x"])])
def test_one_entity_gives_no_interval(hits, entities):
    found = accuracy(graded(hits, entities))
    assert (found.interval, found.entities) == (None, 1)


def test_no_predictions_give_no_estimate():
    found = accuracy([])
    assert np.isnan(found.estimate)
    assert (found.interval, found.n, found.entities) == (None, 0, 0)


class Demanding(Accuracy):
    """Accuracy where it is enough, and undefined elsewhere."""

    exactly: bool

    def combine(self, sums):
        share = super().combine(sums)
        enough = np.isclose(share, 0.9) if self.exactly else share > 0.89
        return np.where(enough, share, np.nan)


def test_draws_without_a_value_are_dropped():
    found = estimated(Demanding(exactly=False), graded([1] * 9 + [0]))  # undefined in 26 % of the draws
    assert (found.estimate, found.interval) == (0.9, (0.9, 1.0))


def test_more_than_half_of_the_draws_without_a_value_leave_no_interval():
    found = estimated(Demanding(exactly=True), graded([1] * 9 + [0]))  # undefined in 61 % of the draws
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
        (1, 0, 2, (1 - 2 * 0.657620, 1.0)),  # two examples do not show that a model is always better
        (1, 0, 100, (1 - 2 * 0.036995, 1.0)),
        (1, 1, 100, (-0.036995, 0.036995)),
    ],
)
def test_a_difference_that_never_varies_is_not_taken_for_certain(candidate, baseline, n, expected):
    found = compared(Accuracy(), graded([candidate] * n), graded([baseline] * n))
    assert found.interval == pytest.approx(expected, abs=1e-5)


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


def test_a_gain_is_a_gain_for_a_metric_that_is_better_when_lower():
    long, short = (written(20, "", output=lambda i, n=n: "a" * (n + i % 3)) for n in (5, 2))
    assert compared(Longer(), short, long).estimate == pytest.approx(3.0)
    assert compared(Longer(), long, short).estimate == pytest.approx(-3.0)


def test_a_difference_without_bounds_that_never_varies_has_no_interval():
    long, short = (written(20, "", output=lambda i, n=n: "a" * n) for n in (5, 2))
    found = compared(Longer(), short, long)
    assert (found.estimate, found.interval) == (pytest.approx(3.0), None)


def test_many_draws_of_many_alike_rows_take_little_memory():
    answers = graded([1, 1, 0] * 1000)  # 100,000 draws of 3,000 rows would be 2.4 GB of counts
    tracemalloc.start()
    found = accuracy(answers, draws=100_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.interval == pytest.approx((0.6497, 0.6835), abs=0.001)  # 2/3 -+ 1.96 * sqrt(2/9 / 3000)
    assert peak_bytes < 100e6


def test_many_draws_of_unlike_rows_take_little_memory():
    answers = written(3000, "a" * 3000)
    examples = asked(answers)
    tracemalloc.start()
    found = estimate(EditSimilarity(), answers, examples, seed=1, draws=4000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.interval is not None
    assert peak_bytes < 80e6  # all counts at once would be 96 MB, twice
