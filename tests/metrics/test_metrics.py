"""Metrics against tables of literal answers and against scikit-learn."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from luthier.choice import find, members
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.edit_similarity import EditSimilarity
from luthier.metrics.exact_match import ExactMatch
from luthier.metrics.f1 import F1
from luthier.resample import label_set, totals
from luthier.seams import Prediction


def predictions(*pairs):
    return [Prediction(id=str(i), task="t", output=said, target=right) for i, (said, right) in enumerate(pairs)]


def value(metric, answers):
    labels = label_set(answers)
    return float(metric.combine(totals(metric, answers, labels), labels))


@pytest.mark.parametrize(
    ("metric", "output", "target", "expected"),
    [
        (ExactMatch(), "1998-04-01", "1998-04-01", 1.0),
        (ExactMatch(), " 1998-04-01\n", "1998-04-01", 1.0),
        (ExactMatch(), "New \t York", "New York", 1.0),
        (ExactMatch(), "NewYork", "New York", 0.0),
        (ExactMatch(), "berlin", "Berlin", 0.0),
        (ExactMatch(), "", "", 1.0),
        (ExactMatch(ignore_case=True), "berlin", "Berlin", 1.0),
        (ExactMatch(ignore_case=True), "STRASSE", "Straße", 1.0),
        (ExactMatch(ignore_space=False), "a ", "a", 0.0),
        (ExactMatch(ignore_space=False), "a  b", "a b", 0.0),
        (Accuracy(), "refund", "refund", 1.0),
        (Accuracy(), "refund ", "refund", 0.0),
        (Accuracy(), "Refund", "refund", 0.0),
        (EditSimilarity(), "kitten", "sitting", 1 - 3 / 7),
        (EditSimilarity(), "abc", "abc", 1.0),
        (EditSimilarity(), "abc", "xyz", 0.0),
        (EditSimilarity(), "", "abcd", 0.0),
        (EditSimilarity(), "", "", 1.0),
    ],
)
def test_one_output_scores_as_in_the_table(metric, output, target, expected):
    assert value(metric, predictions((output, target))) == pytest.approx(expected)


def test_a_mean_weighs_each_prediction():
    answers = predictions(("a", "a"), ("b", "a"))
    answers[0].weight = 3.0
    assert value(Accuracy(), answers) == pytest.approx(0.75)


def test_a_mean_is_undefined_where_no_weight_was_drawn():
    assert np.isnan(ExactMatch().combine(np.array([[0.0, 0.0], [2.0, 1.0]]), [])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("average", "pairs", "expected"),
    [
        ("macro", [("a", "a"), ("b", "b")], 1.0),
        ("macro", [("a", "a"), ("a", "b")], (2 / 3 + 0.0) / 2),
        ("macro", [("a", "a"), ("c", "a"), ("b", "b")], (2 / 3 + 1.0) / 2),  # c is no target: it counts by missing a
        ("macro", [("x", "a")], 0.0),
        ("micro", [("a", "a"), ("a", "b"), ("b", "b"), ("c", "c")], 0.75),
    ],
)
def test_f1_is_as_counted_by_hand(average, pairs, expected):
    assert value(F1(average=average), predictions(*pairs)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_f1_agrees_with_scikit_learn_weights_and_unseen_labels_included(seed):
    draw = random.Random(seed)
    answers = predictions(*((draw.choice("abcdxy"), draw.choice("aaabcd")) for _ in range(60)))
    for answer in answers:
        answer.weight = draw.choice([0.5, 1.0, 2.0])
    said, right, weights = ([getattr(p, name) for p in answers] for name in ("output", "target", "weight"))
    occurring = sorted(set(right))
    oracle = {"labels": occurring, "sample_weight": weights, "zero_division": 0}

    assert value(F1(), answers) == pytest.approx(f1_score(right, said, average="macro", **oracle))
    micro = f1_score(right, said, average="micro", sample_weight=weights, zero_division=0)
    assert value(F1(average="micro"), answers) == pytest.approx(micro)

    labels = label_set(answers)
    details = F1().details(totals(F1(), answers, labels), labels)
    for name, figure in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = figure(right, said, average=None, **oracle)
        assert [details[f"{name} of {label}"] for label in occurring] == pytest.approx(list(expected))
    assert len(details) == 3 * len(occurring)


def test_f1_of_many_draws_is_the_f1_of_each():
    answers = predictions(("a", "a"), ("a", "b"), ("b", "b"), ("c", "a"))
    labels = label_set(answers)
    first, second = totals(F1(), answers[:2], labels), totals(F1(), answers[2:], labels)
    together = F1().combine(np.stack([first, second]), labels)
    assert together.tolist() == [float(F1().combine(first, labels)), float(F1().combine(second, labels))]


def test_f1_is_undefined_without_any_target():
    assert np.isnan(F1().combine(np.zeros(6), ["a", "b"]))


@pytest.mark.parametrize("name", sorted(members("metrics")))
def test_a_prediction_without_a_target_is_refused(name):
    with pytest.raises(ValueError, match=r"^prediction '7' has no target, so it cannot be scored$"):
        find("metrics", name)().per_example(Prediction(id="7", task="t", output="a"), ["a"])


def test_a_label_that_is_not_compared_is_refused():
    with pytest.raises(ValueError, match=r"^label 'b' is not among the labels that are compared$"):
        F1().per_example(Prediction(id="7", task="t", output="b", target="a"), ["a", "c"])
