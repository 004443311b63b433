"""Checks of the gate: rules by table, with the words a reader sees."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import expon

from luthier.checks import Check, Evidence
from luthier.checks.better_than import BetterThan
from luthier.checks.cut_answers import CutAnswers
from luthier.checks.floor import Floor
from luthier.checks.latency import Latency, fewest_requests
from luthier.checks.subgroup_floor import SubgroupFloor
from luthier.errors import UserError
from luthier.facts import LatencyFacts
from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.exact_match import ExactMatch
from luthier.metrics.f1 import F1
from luthier.resample import estimate
from luthier.seams import Example, Label, Prediction, Text


def graded(hits, misses, prefix="", weight=1.0, each=1, **slices):
    """Right and wrong answers; `each` of them belong to one entity."""
    return [
        Prediction(
            id=f"{prefix}{i}",
            task="t",
            output=Label("yes" if i < hits else "no"),
            target=Label("yes"),
            slices=slices,
            entity=f"{prefix}{i // each}",
            weight=weight,
        )
        for i in range(hits + misses)
    ]


class Invented(Metric):
    """Words of an output that its input does not have, per answer; better when lower."""

    unit = "words"
    higher_is_better = False

    def per_example(self, prediction, example):
        return {"n": 1.0, "words": len(set(str(prediction.output).split()) - set(example.input["text"].split()))}

    def combine(self, sums):
        weight = np.where(sums["n"] > 0, sums["n"], np.nan)
        return sums["words"] / weight


class Nowhere(Accuracy):
    """Undefined on whatever is asked."""

    def combine(self, sums):
        return np.full(np.shape(sums["n"]), np.nan)


class ErrorRate(Accuracy):
    """Share of wrong answers."""

    higher_is_better = False

    def score(self, output, target):
        return 1.0 - super().score(output, target)


def inventing(*words, prefix="", weight=1.0, **slices):
    """One prediction for each number: with so many words that its input, `the words read`, does not have."""
    return [
        Prediction(
            id=f"{prefix}{i}",
            task="t",
            output=Text(" ".join(["read", *(f"new{word}" for word in range(n))])),
            slices=slices,
            weight=weight,
        )
        for i, n in enumerate(words)
    ]


def evidence(candidate=(), latencies=None, metrics=(), **baselines):
    asked = [*candidate, *(p for answers in baselines.values() for p in answers)]
    return Evidence(
        candidate=list(candidate),
        baselines=baselines,
        metrics={"exact_match": ExactMatch(), "accuracy": Accuracy(), "invented": Invented(), **dict(metrics)},
        examples={p.id: Example(id=p.id, task="t", input={"text": "the words read"}) for p in asked},
        measurements={} if latencies is None else {"latency_ms": {"samples": latencies}},
        seed=1,
        artifacts={"candidate": "sha-c", "untuned": "sha-u", "measure": "sha-m"},
    )


NOT_SHOWN = "the estimate reaches the bound, the worse end of its interval does not"


@pytest.mark.parametrize(
    ("settings", "hits", "misses", "outcome", "note"),
    [
        ({"at_least": 0.9}, 99, 1, "passed", ""),
        ({"at_least": 0.9}, 91, 9, "not enough data", NOT_SHOWN),
        ({"at_least": 0.9}, 89, 11, "failed", ""),
        ({"at_least": 0.88}, 30, 0, "passed", ""),  # 0.025 ** (1 / 30) is 0.884
        ({"at_least": 0.89}, 30, 0, "not enough data", NOT_SHOWN),
        ({"at_least": 0.88}, 29, 1, "not enough data", NOT_SHOWN),
        ({"at_least": 0.0}, 0, 10, "passed", ""),
        ({"at_least": 0.1}, 9, 0, "not enough data", "9 entities; 10 are needed"),
        ({"at_least": 0.1}, 0, 9, "not enough data", "9 entities; 10 are needed"),
        ({"at_least": 0.1}, 0, 0, "not enough data", "0 entities; 10 are needed"),
        ({"at_least": 0.1, "min_entities": 9}, 9, 0, "passed", ""),
        ({"at_least": 0.1, "min_entities": 101}, 100, 0, "not enough data", "100 entities; 101 are needed"),
        ({"at_least": 0.9, "confidence": "estimate"}, 27, 3, "passed", ""),
        ({"at_least": 0.91, "confidence": "estimate"}, 27, 3, "failed", ""),
        ({"at_least": 0.9, "confidence": "estimate"}, 9, 0, "not enough data", "9 entities; 10 are needed"),
        ({"at_least": 0.9, "min_entities": 1}, 1, 0, "not enough data", NOT_SHOWN),
        ({"at_least": 0.02, "min_entities": 1}, 1, 0, "passed", ""),
    ],
)
def test_floor_judges_as_in_the_table(settings, hits, misses, outcome, note):
    verdict = Floor(metric="exact_match", **settings).judge(evidence(graded(hits, misses)))
    assert (verdict.outcome, verdict.note, verdict.n) == (outcome, note, hits + misses)


@pytest.mark.parametrize(
    ("rows", "each", "outcome"), [(90, 10, "not enough data"), (100, 10, "passed"), (10, 1, "passed")]
)
@pytest.mark.parametrize("check", ["floor", "subgroup_floor", "better_than"])
def test_entities_are_counted_and_not_rows(check, rows, each, outcome):
    found = evidence(graded(rows, 0, each=each, country="DE"), untuned=graded(0, rows, each=each, country="DE"))
    settings = {
        "floor": {"metric": "exact_match", "at_least": 0.6},
        "subgroup_floor": {"slice": "country", "metric": "exact_match", "at_least": 0.6},
        "better_than": {"baseline": "untuned"},
    }[check]
    verdict = Check.pick({"kind": check, **settings}).judge(found)
    assert verdict.outcome == outcome
    assert check == "subgroup_floor" or (verdict.n, verdict.entities) == (rows, rows // each)


def test_a_metric_that_is_no_mean_needs_twenty_entities():
    few, enough = (evidence(graded(n, 0), metrics={"f1": F1()}) for n in (19, 20))
    check = Floor(metric="f1", at_least=0.5)
    assert (check.judge(few).outcome, check.judge(few).note) == ("not enough data", "19 entities; 20 are needed")
    assert check.judge(enough).outcome == "passed"
    assert Floor(metric="f1", at_least=0.5, min_entities=19).judge(few).outcome == "passed"


def test_the_key_of_earlier_recipes_still_says_how_many_entities_are_needed():
    check = Check.pick({"kind": "floor", "metric": "exact_match", "at_least": 0.1, "min_n": 12})
    assert check == Floor(metric="exact_match", at_least=0.1, min_entities=12)
    assert check.judge(evidence(graded(11, 0))).note == "11 entities; 12 are needed"


@pytest.mark.parametrize(
    ("settings", "words", "outcome", "note"),
    [
        ({"at_most": 1.5}, [0, 1, 2] * 20, "passed", ""),
        ({"at_most": 1.05}, [0, 1, 2] * 20, "not enough data", NOT_SHOWN),
        ({"at_most": 0.99}, [0, 1, 2] * 20, "failed", ""),
        ({"at_most": 5.0}, [0] * 19, "not enough data", "19 entities; 20 are needed"),
        # It has no largest value, so nothing can be said of what was not seen.
        ({"at_most": 2.0}, [1] * 60, "not enough data", "no interval can be given for 60 entities"),
        ({"at_most": 1.0, "confidence": "estimate"}, [0, 1, 2] * 20, "passed", ""),
        ({"at_most": 0.3, "confidence": "estimate"}, [0] * 14 + [1] * 6, "passed", ""),
        ({"at_most": 0.0, "confidence": "estimate"}, [0] * 30, "passed", ""),
        ({"at_most": 0.9, "confidence": "estimate"}, [0, 1, 2] * 20, "failed", ""),
    ],
)
def test_floor_is_a_ceiling_where_lower_is_better(settings, words, outcome, note):
    verdict = Floor(metric="invented", **settings).judge(evidence(inventing(*words)))
    assert (verdict.outcome, verdict.note) == (outcome, note)


def test_a_ceiling_says_so_in_the_metrics_unit():
    verdict = Floor(metric="invented", at_most=1.5).judge(evidence(inventing(*[0, 1, 2] * 20)))
    assert (verdict.check, verdict.threshold, verdict.unit) == ("invented <= 1.5", 1.5, "words")
    assert verdict.estimate == 1.0
    assert verdict.interval[0] < 1.0 < verdict.interval[1]


def test_floor_reads_only_what_where_selects_and_says_so():
    seen, unseen = graded(40, 0, "s", unseen="false"), graded(0, 40, "u", unseen="true")
    check = Floor(metric="exact_match", at_least=0.9, where={"unseen": False}, required=False)
    verdict = check.judge(evidence(seen + unseen))
    assert verdict.check == "exact_match >= 0.9 where unseen=false"
    assert (verdict.outcome, verdict.estimate, verdict.n) == ("passed", 1.0, 40)
    assert (verdict.threshold, verdict.unit, verdict.evidence) == (0.9, "share", ["sha-c"])
    assert verdict.interval == pytest.approx((0.025 ** (1 / 40), 1.0))
    assert (verdict.required, verdict.blocks) == (False, False)


@pytest.mark.parametrize("blank", [None, "", " "])
def test_where_takes_null_for_a_blank_cell(blank):
    check = Check.pick({"kind": "floor", "metric": "exact_match", "at_least": 0.9, "where": {"country": blank}})
    verdict = check.judge(evidence(graded(40, 0, "b", country="") + graded(0, 40, "d", country="DE")))
    assert verdict.check == "exact_match >= 0.9 where country=(empty)"
    assert (verdict.outcome, verdict.n) == ("passed", 40)


def test_a_floor_is_not_passed_by_an_undefined_metric():
    verdict = Floor(metric="nowhere", at_least=0.0).judge(evidence(graded(40, 0), metrics={"nowhere": Nowhere()}))
    assert (verdict.outcome, verdict.estimate) == ("not enough data", None)
    assert verdict.note == "the metric is undefined on these predictions"


def test_what_has_no_weight_is_no_evidence():
    verdict = Floor(metric="exact_match", at_least=0.0).judge(evidence(graded(40, 0, weight=0.0)))
    assert (verdict.outcome, verdict.estimate, verdict.note) == ("not enough data", None, "0 entities; 10 are needed")


@pytest.mark.parametrize(
    ("by", "candidate", "baseline", "outcome", "note"),
    [
        (0.0, (80, 20), (60, 40), "passed", ""),
        (0.2, (80, 20), (60, 40), "passed", ""),
        (0.05, (60, 140), (50, 150), "passed", ""),  # 0.3 - 0.25 is 0.04999... in floating point
        (0.21, (80, 20), (60, 40), "failed", ""),
        (0.0, (60, 40), (80, 20), "failed", ""),
        (0.0, (61, 39), (60, 40), "not enough data", "the interval of the difference includes 0"),
        (0.0, (60, 40), (60, 40), "not enough data", "the interval of the difference includes 0"),
        (0.0, (9, 0), (0, 9), "not enough data", "9 entities; 10 are needed"),
        (0.0, (0, 9), (9, 0), "not enough data", "9 entities; 10 are needed"),
        (0.0, (10, 0), (0, 10), "passed", ""),
        (0.0, (6, 4), (0, 10), "passed", ""),  # 6 of 6 that differ: one chance in 64
        (0.0, (5, 5), (0, 10), "not enough data", "the interval of the difference includes 0"),
        (0.0, (0, 0), (0, 0), "not enough data", "0 entities; 10 are needed"),
    ],
)
def test_better_than_judges_as_in_the_table(by, candidate, baseline, outcome, note):
    found = evidence(graded(*candidate), untuned=graded(*baseline))
    verdict = BetterThan(baseline="untuned", by=by).judge(found)
    assert (verdict.outcome, verdict.note) == (outcome, note)


def test_better_than_says_what_is_compared_and_cites_both():
    rows = {"unseen": "true"}
    found = evidence(graded(40, 10, **rows), untuned=graded(20, 30, **rows))
    verdict = BetterThan(baseline="untuned", by=0.05, metric="accuracy", where={"unseen": True}).judge(found)
    assert verdict.check == "accuracy above untuned by 0.05 where unseen=true"
    assert (verdict.estimate, verdict.n, verdict.threshold) == (pytest.approx(0.4), 50, 0.05)
    assert verdict.evidence == ["sha-c", "sha-u"]
    assert BetterThan(baseline="untuned").judge(found).check == "exact_match above untuned"


def test_better_than_draws_whole_entities():
    candidate, baseline = graded(70, 30), graded(60, 40)
    assert BetterThan(baseline="untuned").judge(evidence(candidate, untuned=baseline)).outcome == "passed"
    for i, prediction in enumerate(candidate):  # all that was gained belongs to one entity of seven
        prediction.entity = f"e{i // 15}"
    verdict = BetterThan(baseline="untuned").judge(evidence(candidate, untuned=baseline))
    assert verdict.outcome == "not enough data"


@pytest.mark.parametrize(
    ("by", "candidate", "baseline", "outcome", "note"),
    [
        (0.0, [0, 1] * 20, [1, 3] * 20, "passed", ""),
        (1.5, [0, 1] * 20, [1, 3] * 20, "passed", ""),
        (1.6, [0, 1] * 20, [1, 3] * 20, "failed", ""),
        (0.0, [1, 3] * 20, [0, 1] * 20, "failed", ""),
        (0.0, [0, 2] * 20, [2, 0] * 20, "not enough data", "the interval of the difference includes 0"),
        (0.0, [0, 1], [1, 3], "not enough data", "2 entities; 20 are needed"),
        (0.0, [0] * 20, [2] * 20, "not enough data", "no interval can be given for 20 entities"),
    ],
)
def test_fewer_is_a_gain_where_lower_is_better(by, candidate, baseline, outcome, note):
    found = evidence(inventing(*candidate), untuned=inventing(*baseline))
    verdict = BetterThan(baseline="untuned", metric="invented", by=by).judge(found)
    assert (verdict.outcome, verdict.note) == (outcome, note)


def test_better_than_says_below_and_counts_the_gain_in_the_metrics_unit():
    found = evidence(inventing(*[0, 1] * 20), untuned=inventing(*[1, 3] * 20))
    verdict = BetterThan(baseline="untuned", metric="invented", by=1).judge(found)
    assert verdict.check == "invented below untuned by 1"
    assert (verdict.estimate, verdict.unit) == (pytest.approx(1.5), "words")
    assert 0 < verdict.interval[0] < 1.5 < verdict.interval[1]


def test_better_than_compares_on_the_rows_that_the_baseline_was_asked():
    candidate = graded(80, 20)
    verdict = BetterThan(baseline="untuned").judge(evidence(candidate, untuned=graded(20, 0)))
    assert (verdict.n, verdict.estimate) == (20, 0.0)


def groups(**counts):
    return [p for name, (hits, misses) in counts.items() for p in graded(hits, misses, name, country=name)]


WORST = "worst: country="


@pytest.mark.parametrize(
    ("settings", "candidate", "outcome", "note"),
    [
        ({}, groups(DE=(38, 2), FR=(40, 0)), "passed", f"{WORST}DE (0.95, 40 entities)"),
        (
            {},
            groups(DE=(18, 2), FR=(12, 0)),
            "not enough data",
            f"{WORST}DE (0.9, 20 entities); beyond the bound by the end of the interval: DE (0.9), FR (1)",
        ),
        (
            {},
            groups(DE=(38, 2), FR=(12, 0)),
            "not enough data",
            f"{WORST}FR (1, 12 entities); beyond the bound by the end of the interval: FR (1)",
        ),
        ({}, groups(DE=(15, 5), FR=(400, 0)), "failed", f"{WORST}DE (0.75, 20 entities)"),
        (
            {},
            groups(DE=(15, 5), FR=(10, 10), IT=(40, 0)),
            "failed",
            f"{WORST}FR (0.5, 20 entities); beyond the bound: FR (0.5), DE (0.75)",
        ),
        ({}, groups(DE=(40, 0), FR=(0, 9)), "passed", f"{WORST}DE (1, 40 entities); fewer than 10 entities: FR (9)"),
        (
            {"small_groups": "block"},
            groups(DE=(40, 0), FR=(9, 0)),
            "not enough data",
            f"{WORST}DE (1, 40 entities); fewer than 10 entities: FR (9)",
        ),
        (
            {"small_groups": "block"},
            groups(DE=(0, 20), FR=(9, 0)),
            "failed",
            f"{WORST}DE (0, 20 entities); fewer than 10 entities: FR (9)",
        ),
        ({"min_entities": 9}, groups(DE=(40, 0), FR=(0, 9)), "failed", f"{WORST}FR (0, 9 entities)"),
        ({"confidence": "estimate"}, groups(DE=(18, 2), FR=(12, 0)), "passed", f"{WORST}DE (0.9, 20 entities)"),
        ({"confidence": "estimate"}, groups(DE=(15, 5), FR=(12, 0)), "failed", f"{WORST}DE (0.75, 20 entities)"),
        ({}, groups(DE=(5, 0)), "not enough data", "fewer than 10 entities: DE (5)"),
        ({}, [], "not enough data", ""),
        ({}, graded(40, 0, weight=0.0, country="DE"), "not enough data", "fewer than 10 entities: DE (0)"),
    ],
)
def test_subgroup_floor_judges_as_in_the_table(settings, candidate, outcome, note):
    verdict = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8, **settings).judge(evidence(candidate))
    assert (verdict.outcome, verdict.note) == (outcome, note)


def test_a_group_without_a_figure_is_not_passed():
    found = evidence(groups(DE=(40, 0)), metrics={"nowhere": Nowhere()})
    verdict = SubgroupFloor(slice="country", metric="nowhere", at_least=0.0).judge(found)
    assert (verdict.outcome, verdict.note) == ("not enough data", "undefined: DE")


def test_of_hundreds_of_groups_a_few_are_named_and_the_rest_is_counted():
    many = groups(**{f"C{n:03d}": (1, 9) for n in range(300)}, **{f"S{n:03d}": (0, 2) for n in range(300)})
    verdict = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8).judge(evidence(many))
    assert verdict.note == (
        f"{WORST}C000 (0.1, 10 entities); "
        "beyond the bound: C000 (0.1), C001 (0.1), C002 (0.1), C003 (0.1), C004 (0.1) and 295 more; "
        "fewer than 10 entities: S000 (2), S001 (2), S002 (2), S003 (2), S004 (2) and 295 more"
    )


def test_subgroup_floor_reports_the_worst_group_with_an_interval_for_all_groups_at_once():
    candidate = groups(DE=(30, 10), FR=(40, 0), IT=(36, 4))
    check = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8)
    verdict = check.judge(evidence(candidate))
    assert verdict.check == "exact_match >= 0.8 in every country"
    assert (verdict.estimate, verdict.n, verdict.entities, verdict.evidence) == (0.75, 40, 40, ["sha-c"])
    worst, found = candidate[:40], evidence(candidate)
    at_once, alone = (estimate(ExactMatch(), worst, found.examples, 1, level) for level in (1 - 0.05 / 3, 0.95))
    assert verdict.interval == at_once.interval
    assert verdict.interval[0] < alone.interval[0] < alone.interval[1] < verdict.interval[1]


def test_subgroup_floor_reads_only_what_where_selects():
    rows = graded(40, 0, "a", country="DE", unseen="false") + graded(0, 20, "b", country="FR", unseen="true")
    check = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8, where={"unseen": False})
    verdict = check.judge(evidence(rows))
    assert (verdict.outcome, verdict.check) == ("passed", "exact_match >= 0.8 in every country where unseen=false")


@pytest.mark.parametrize(
    ("settings", "candidate", "outcome", "note"),
    [
        ({"at_most": 2.0}, {"DE": [0, 2] * 15, "FR": [0] * 29 + [1]}, "passed", f"{WORST}DE (1, 30 entities)"),
        ({"at_most": 0.9}, {"DE": [0, 2] * 10, "FR": [0] * 200}, "failed", f"{WORST}DE (1, 20 entities)"),
        (
            {"at_most": 0.5},
            {"DE": [0, 2] * 10, "FR": [1, 3] * 10, "IT": [0] * 20},
            "failed",
            f"{WORST}FR (2, 20 entities); beyond the bound: FR (2), DE (1)",
        ),
        (
            {"at_most": 0.5, "confidence": "estimate"},
            {"DE": [0] * 20, "FR": [9] * 19},
            "passed",
            f"{WORST}DE (0, 20 entities); fewer than 20 entities: FR (19)",
        ),
    ],
)
def test_the_worst_group_is_the_highest_where_lower_is_better(settings, candidate, outcome, note):
    rows = [p for name, words in candidate.items() for p in inventing(*words, prefix=name, country=name)]
    verdict = SubgroupFloor(slice="country", metric="invented", **settings).judge(evidence(rows))
    assert (verdict.outcome, verdict.note) == (outcome, note)
    assert verdict.check == f"invented <= {settings['at_most']:g} in every country"


@pytest.mark.parametrize(
    ("check", "metric", "sentence"),
    [
        (Floor(metric="m", at_least=0.9), Accuracy(), ""),
        (Floor(metric="m", at_most=3), Invented(), ""),
        (Floor(metric="m", at_most=0.1), ErrorRate(), ""),
        (Floor(metric="m", at_most=0.1), Accuracy(), "m is better when higher; write at_least, not at_most"),
        (
            Floor(metric="m", at_least=0.1, at_most=1),
            Accuracy(),
            "m is better when higher; write at_least, not at_most",
        ),
        (Floor(metric="m", at_least=0.9), Invented(), "m is better when lower; write at_most, not at_least"),
        (Floor(metric="m"), Accuracy(), "needs at_least, the worst value of m that may pass"),
        (SubgroupFloor(slice="s", metric="m"), Invented(), "needs at_most, the worst value of m that may pass"),
        (Floor(metric="m", at_least=90), Accuracy(), "at_least 90 is no share; write a number from 0 to 1"),
        (Floor(metric="m", at_least=-0.1), Accuracy(), "at_least -0.1 is no share; write a number from 0 to 1"),
        (
            SubgroupFloor(slice="s", metric="m", at_most=5),
            ErrorRate(),
            "at_most 5 is no share; write a number from 0 to 1",
        ),
        (BetterThan(baseline="b", by=1), Accuracy(), ""),
        (BetterThan(baseline="b", by=2), Invented(), ""),
        (BetterThan(baseline="b", by=2), Accuracy(), "by 2 is no share; write a number from 0 to 1"),
        (Latency(at_most_ms=500), Accuracy(), ""),
    ],
)
def test_a_check_says_why_it_does_not_suit_a_metric(check, metric, sentence):
    assert check.misfit(metric) == sentence


HUNDRED = [float(ms) for ms in range(1, 101)]


@pytest.mark.parametrize(
    ("settings", "samples", "outcome", "estimate", "interval", "note"),
    [
        ({"at_most_ms": 95}, HUNDRED, "passed", 95.0, (90.0, 100.0), ""),
        ({"at_most_ms": 94.9}, HUNDRED[::-1], "failed", 95.0, (90.0, 100.0), ""),
        ({"at_most_ms": 50, "quantile": 0.5}, HUNDRED, "passed", 50.0, (40.0, 61.0), ""),
        ({"at_most_ms": 500, "quantile": 0.8}, HUNDRED[:20], "passed", 16.0, (12.0, 20.0), ""),
        ({"at_most_ms": 500}, HUNDRED[:72], "passed", 69.0, (64.0, 72.0), ""),
        (
            {"at_most_ms": 500},
            HUNDRED[:71],
            "not enough data",
            68.0,
            None,
            "71 requests give no interval; 72 are needed (score.latency_samples)",
        ),
        (
            {"at_most_ms": 5},
            HUNDRED[:20],
            "not enough data",
            19.0,
            None,
            "20 requests give no interval; 72 are needed (score.latency_samples)",
        ),
        ({"at_most_ms": 500}, [], "not enough data", None, None, "no latency was measured"),
        ({"at_most_ms": 500}, None, "not enough data", None, None, "no latency was measured"),
    ],
)
def test_latency_judges_as_in_the_table(settings, samples, outcome, estimate, interval, note):
    verdict = Latency(**settings).judge(evidence(latencies=samples))
    assert (verdict.outcome, verdict.estimate, verdict.interval, verdict.note) == (outcome, estimate, interval, note)
    assert verdict.n == len(samples or [])


def test_latency_says_which_quantile_in_which_unit():
    verdict = Latency(at_most_ms=500).judge(evidence(latencies=HUNDRED))
    assert (verdict.check, verdict.unit, verdict.evidence) == ("p95 latency <= 500 ms", "ms", ["sha-m"])
    assert Latency(at_most_ms=2.5, quantile=0.999).judge(evidence()).check == "p99.9 latency <= 2.5 ms"


@pytest.mark.parametrize(("n", "quantile"), [(80, 0.95), (100, 0.5), (200, 0.9)])
def test_the_interval_of_a_quantile_covers_it(n, quantile):
    draw = np.random.default_rng(4)
    true = expon.ppf(quantile)
    covered = 0
    for _ in range(300):
        low, high = LatencyFacts(samples=list(draw.exponential(size=n))).interval(quantile)
        covered += low <= true <= high
    assert covered >= 276  # 95 % of 300, less 2.4 standard deviations


@pytest.mark.parametrize(("quantile", "fewest"), [(0.5, 6), (0.8, 17), (0.9, 36), (0.95, 72), (0.99, 368), (0.05, 72)])
def test_a_quantile_has_an_interval_from_so_many_requests_on(quantile, fewest):
    assert fewest_requests(quantile) == fewest
    intervals = [LatencyFacts(samples=[1.0] * n).interval(quantile) for n in (fewest - 1, fewest)]
    assert intervals == [None, (1.0, 1.0)]


def raises(check, found=None):
    with pytest.raises(UserError) as error:
        check.judge(found or evidence(graded(3, 0, country="DE"), untuned=graded(3, 0)))
    return str(error.value)


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (
            Floor(metric="f1", at_least=0.5),
            "gate.checks: no metric 'f1' was scored; known: accuracy, exact_match, invented",
        ),
        (
            BetterThan(baseline="untuned", metric="f1"),
            "gate.checks: no metric 'f1' was scored; known: accuracy, exact_match, invented",
        ),
        (BetterThan(baseline="rules"), "gate.checks: no baseline 'rules' was scored; known: untuned"),
        (
            SubgroupFloor(slice="country", metric="f1", at_least=0.5),
            "gate.checks: no metric 'f1' was scored; known: accuracy, exact_match, invented",
        ),
        (
            SubgroupFloor(slice="county", metric="accuracy", at_least=0.5),
            "gate.checks: no slice 'county' in the predictions; known: country",
        ),
    ],
)
def test_a_name_that_was_not_scored_is_told_with_the_known_ones(check: Check, sentence):
    assert raises(check) == sentence


@pytest.mark.parametrize(
    ("check", "block"),
    [
        (Floor, {"metric": "invented", "at_most": float("nan")}),
        (Floor, {"metric": "invented", "at_least": float("-inf")}),
        (SubgroupFloor, {"metric": "invented", "slice": "country", "at_most": float("inf")}),
        (BetterThan, {"baseline": "untuned", "by": float("nan")}),
        (BetterThan, {"baseline": "untuned", "by": -0.1}),
    ],
)
def test_a_bound_that_everything_reaches_is_refused_on_loading(check, block):
    with pytest.raises(ValidationError):
        check.model_validate(block)


def test_latency_takes_no_where():
    with pytest.raises(ValidationError, match="latency is measured over all requests; leave out `where`"):
        Latency(at_most_ms=500, where={"unseen": True})


@pytest.mark.parametrize(
    ("n_cut", "n", "outcome", "note"),
    [
        (0, 100, "passed", ""),
        (1, 100, "passed", ""),
        (2, 100, "failed", "2 of 100; raise predict.engine.max_new_tokens, or train until answers end"),
        (0, 0, "not enough data", ""),
    ],
)
def test_hardly_any_answer_may_be_cut_off(n_cut: int, n: int, outcome: str, note: str) -> None:
    said = [Prediction(str(i), "t", Text("a"), target=Text("a"), cut=i < n_cut) for i in range(n)]
    evidence = Evidence(said, {}, {}, {}, {}, seed=0, artifacts={"candidate": "predict-1"})
    verdict = CutAnswers().judge(evidence)
    assert (verdict.outcome, verdict.note, verdict.n, verdict.evidence) == (outcome, note, n, ["predict-1"])
    assert verdict.estimate == (n_cut / n if n else None)
