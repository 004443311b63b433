"""Metrics against tables of literal answers and against scikit-learn."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from luthier.choice import find, members
from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.edit_similarity import EditSimilarity
from luthier.metrics.exact_match import ExactMatch
from luthier.metrics.f1 import F1
from luthier.resample import totals
from luthier.resample import value as measured
from luthier.seams import Example, Label, Labels, Number, Prediction, Preference, Ranking, Spans, Text


def predictions(*pairs, kind=Label):
    return [
        Prediction(id=str(i), task="t", output=kind(said), target=kind(right)) for i, (said, right) in enumerate(pairs)
    ]


def asked(answers):
    return {p.id: Example(id=p.id, task="t", input={"text": ""}) for p in answers}


def value(metric, answers):
    return measured(metric, answers, asked(answers))


def summed(metric, answers):
    return totals(metric, answers, asked(answers))


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
@pytest.mark.parametrize("kind", [Text, Label])
def test_one_output_scores_as_in_the_table(kind, metric, output, target, expected):
    assert value(metric, predictions((output, target), kind=kind)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        (Labels(("b", "a")), Labels(("a", "b")), 1.0),  # a set: the order says nothing
        (Labels(("a",)), Labels(("a", "b")), 0.0),
        (Labels(()), Labels(()), 1.0),
        (Number(2.0), Number(2), 1.0),
        (Number(2.0), Number(2.5), 0.0),
        (Spans(((4, 6, "x"), (0, 2, "y"))), Spans(((0, 2, "y"), (4, 6, "x"))), 1.0),
        (Spans(((0, 2, "x"),)), Spans(((0, 3, "x"),)), 0.0),
        (Ranking(("a", "b")), Ranking(("a", "b")), 1.0),
        (Ranking(("b", "a")), Ranking(("a", "b")), 0.0),
        (Preference("a", "b"), Preference("a", "b"), 1.0),
        (Preference("b", "a"), Preference("a", "b"), 0.0),
    ],
)
def test_exact_match_compares_answers_of_every_kind(output, target, expected):
    answers = [Prediction(id="0", task="t", output=output, target=target)]
    assert ExactMatch().per_example(answers[0], asked(answers)["0"]) == {"n": 1.0, "score": expected}


def test_a_mean_weighs_each_prediction():
    answers = predictions(("a", "a"), ("b", "a"))
    answers[0].weight = 3.0
    assert value(Accuracy(), answers) == pytest.approx(0.75)


def test_a_mean_is_undefined_where_no_weight_was_drawn():
    sums = {"n": np.array([0.0, 2.0]), "score": np.array([0.0, 1.0])}
    assert np.isnan(ExactMatch().combine(sums)).tolist() == [True, False]


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
    said, right = ([str(getattr(p, name)) for p in answers] for name in ("output", "target"))
    weights = [p.weight for p in answers]
    occurring = sorted(set(right))
    oracle = {"labels": occurring, "sample_weight": weights, "zero_division": 0}

    assert value(F1(), answers) == pytest.approx(f1_score(right, said, average="macro", **oracle))
    micro = f1_score(right, said, average="micro", sample_weight=weights, zero_division=0)
    assert value(F1(average="micro"), answers) == pytest.approx(micro)

    details = F1().details(summed(F1(), answers))
    for name, figure in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = figure(right, said, average=None, **oracle)
        assert [details[f"{name} of {label}"] for label in occurring] == pytest.approx(list(expected))
    assert len(details) == 3 * len(occurring)


def test_f1_of_many_draws_is_the_f1_of_each():
    answers = predictions(("a", "a"), ("a", "b"), ("b", "b"), ("c", "a"))
    draws = [summed(F1(), answers[:2]), summed(F1(), answers[2:])]
    names = sorted({name for draw in draws for name in draw})
    together = F1().combine({name: np.array([draw.get(name, 0.0) for draw in draws]) for name in names})
    assert together.tolist() == [float(F1().combine(draw)) for draw in draws] == [pytest.approx(1 / 3), 0.5]


def test_f1_names_what_it_counts_and_leaves_out_what_is_nothing():
    said = summed(F1(), predictions(("a", "a"), ("a", "a"), ("a", "b")))
    assert {name: float(sum_) for name, sum_ in said.items()} == {"extra a": 1.0, "hit a": 2.0, "missed b": 1.0}


def test_a_label_that_begins_like_a_count_is_a_label_like_any_other():
    answers = predictions(("hit a", "hit a"), ("missed a", "hit a"), ("a", "a"))
    assert value(F1(), answers) == pytest.approx((2 / 3 + 1.0) / 2)
    assert "f1 of hit a" in F1().details(summed(F1(), answers))


def test_f1_is_undefined_without_any_target():
    nothing = np.zeros(())
    assert np.isnan(F1().combine({"hit a": nothing, "extra b": nothing, "missed a": nothing}))


class TooLong(Metric):
    """Characters beyond ten; better when lower, and more than an answer's own share only where it is too long."""

    unit = "characters"
    higher_is_better = False

    def per_example(self, prediction, example):
        return {"n": 1.0, "beyond": float(max(0, len(str(prediction.output)) - 10))}

    def combine(self, sums):
        return sums["beyond"] / sums["n"]


class Agreement(Metric):
    """A figure that one example alone does not have."""

    def per_example(self, prediction, example):
        return {"n": 1.0}

    def combine(self, sums):
        return np.where(sums["n"] > 1, 1.0, np.nan)


@pytest.mark.parametrize(
    ("metric", "output", "target", "wrong"),
    [
        (ExactMatch(), "New  York ", "New York", False),
        (ExactMatch(ignore_space=False), "New  York ", "New York", True),
        (ExactMatch(), "berlin", "Berlin", True),
        (ExactMatch(ignore_case=True), "berlin", "Berlin", False),
        (Accuracy(), "refund ", "refund", True),
        (EditSimilarity(), "refunds", "refund", True),
        (EditSimilarity(), "refund", "refund", False),
        (F1(), "a", "b", True),
        (F1(), "a", "a", False),
        (TooLong(), "a" * 11, "b", True),
        (TooLong(), "a" * 9, "b", False),
        (Agreement(), "a", "b", True),
        (Agreement(), "a", "a", False),
    ],
)
def test_what_is_wrong_is_for_the_metric_to_say(metric, output, target, wrong):
    [answer] = predictions((output, target), kind=Text)
    assert metric.wrong(answer, asked([answer])["0"]) is wrong


def test_the_limits_of_f1_are_entities_of_one_label_each():
    typical = {"hit a": 3.0, "missed b": 1.0, "extra a": 1.0, "extra c": 0.0}
    assert F1().unseen(typical) == (
        [{"extra a": 4.0, "missed a": 4.0}, {"extra b": 4.0, "missed b": 4.0}],
        [{"hit a": 4.0}, {"hit b": 4.0}],
    )
    assert F1(average="micro").unseen(typical) == (
        [{"extra a": 3.0, "missed a": 3.0, "extra b": 1.0, "missed b": 1.0}],
        [{"hit a": 3.0, "hit b": 1.0}],
    )


def test_the_limits_of_a_mean_are_an_entity_all_wrong_and_one_all_right():
    assert Accuracy().unseen({"n": 2.5, "score": 1.0}) == ([{"n": 2.5, "score": 0.0}], [{"n": 2.5, "score": 2.5}])


@pytest.mark.parametrize("name", sorted(members("metrics")))
def test_a_prediction_without_a_target_is_refused(name):
    untold = Prediction(id="7", task="t", output=Text("a"))
    with pytest.raises(ValueError, match=r"^prediction '7' has no target, so it cannot be scored$"):
        find("metrics", name)().per_example(untold, asked([untold])["7"])


def test_nothing_has_no_sums():
    with pytest.raises(ValueError, match=r"^there are no predictions to sum$"):
        totals(F1(), [], {})
