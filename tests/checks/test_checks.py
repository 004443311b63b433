"""Checks of the gate: rules by table, with the words a reader sees."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import expon

from luthier.checks import Check, Evidence
from luthier.checks.better_than import BetterThan
from luthier.checks.floor import Floor
from luthier.checks.latency import Latency, quantile_interval
from luthier.checks.subgroup_floor import SubgroupFloor, simultaneous
from luthier.errors import UserError
from luthier.metrics import Metric
from luthier.metrics.accuracy import Accuracy
from luthier.metrics.exact_match import ExactMatch
from luthier.seams import Example, Label, Prediction, Text


def graded(hits, misses, prefix="", weight=1.0, **slices):
    return [
        Prediction(
            id=f"{prefix}{i}",
            task="t",
            output=Label("yes" if i < hits else "no"),
            target=Label("yes"),
            slices=slices,
            entity=f"{prefix}{i}",
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


def evidence(candidate=(), latencies=None, **baselines):
    asked = [*candidate, *(p for answers in baselines.values() for p in answers)]
    return Evidence(
        candidate=list(candidate),
        baselines=baselines,
        metrics={"exact_match": ExactMatch(), "accuracy": Accuracy(), "invented": Invented()},
        examples={p.id: Example(id=p.id, task="t", input={"text": "the words read"}) for p in asked},
        measurements={} if latencies is None else {"latency_ms": {"samples": latencies, "n": len(latencies)}},
        seed=1,
        artifacts={"candidate": "sha-c", "untuned": "sha-u", "measure": "sha-m"},
    )


@pytest.mark.parametrize(
    ("settings", "hits", "misses", "outcome", "note"),
    [
        ({"at_least": 0.9}, 27, 3, "passed", ""),
        ({"at_least": 0.91}, 27, 3, "failed", ""),
        ({"at_least": 0.5}, 29, 0, "not enough data", "29 predictions; 30 are needed"),
        ({"at_least": 0.5}, 0, 29, "not enough data", "29 predictions; 30 are needed"),
        ({"at_least": 0.5}, 0, 0, "not enough data", "0 predictions; 30 are needed"),
        ({"at_least": 0.5, "min_n": 29}, 29, 0, "passed", ""),
        ({"at_least": 0.9, "confidence": "interval"}, 99, 1, "passed", ""),
        (
            {"at_least": 0.9, "confidence": "interval"},
            91,
            9,
            "not enough data",
            "the estimate reaches the bound, the worse end of its interval does not",
        ),
        ({"at_least": 0.9, "confidence": "interval"}, 89, 11, "failed", ""),
        (
            {"at_least": 0.9, "confidence": "interval", "min_n": 1},
            1,
            0,
            "not enough data",
            "no interval can be given for 1 entities",
        ),
        (
            {"at_least": 0.9, "confidence": "interval"},
            30,
            0,
            "not enough data",
            "the estimate reaches the bound, the worse end of its interval does not",
        ),
    ],
)
def test_floor_judges_as_in_the_table(settings, hits, misses, outcome, note):
    verdict = Floor(metric="exact_match", **settings).judge(evidence(graded(hits, misses)))
    assert (verdict.outcome, verdict.note, verdict.n) == (outcome, note, hits + misses)


@pytest.mark.parametrize(
    ("settings", "words", "outcome", "note"),
    [
        ({"at_most": 1.0}, [0, 1, 2] * 20, "passed", ""),
        ({"at_most": 0.3}, [0] * 7 + [1] * 3, "passed", ""),
        ({"at_most": 0.99}, [0, 1, 2] * 20, "failed", ""),
        ({"at_most": 0.0}, [0] * 30, "passed", ""),
        ({"at_most": 5.0}, [0] * 5, "not enough data", "5 predictions; 10 are needed"),
        ({"at_most": 1.5, "confidence": "interval"}, [0, 1, 2] * 20, "passed", ""),
        (
            {"at_most": 1.05, "confidence": "interval"},
            [0, 1, 2] * 20,
            "not enough data",
            "the estimate reaches the bound, the worse end of its interval does not",
        ),
        ({"at_most": 0.9, "confidence": "interval"}, [0, 1, 2] * 20, "failed", ""),
        # It has no largest value, so nothing can be said of what was not seen.
        (
            {"at_most": 2.0, "confidence": "interval"},
            [1] * 60,
            "not enough data",
            "no interval can be given for 60 entities",
        ),
    ],
)
def test_floor_is_a_ceiling_where_lower_is_better(settings, words, outcome, note):
    verdict = Floor(metric="invented", min_n=10, **settings).judge(evidence(inventing(*words)))
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
    assert verdict.interval == pytest.approx((0.9124, 1.0), abs=1e-4)
    assert (verdict.required, verdict.blocks) == (False, False)


def test_a_floor_is_not_passed_by_an_undefined_metric():
    verdict = Floor(metric="exact_match", at_least=0.0).judge(evidence(graded(40, 0, weight=0.0)))
    assert (verdict.outcome, verdict.estimate) == ("not enough data", None)
    assert verdict.note == "the metric is undefined on these predictions"


@pytest.mark.parametrize(
    ("by", "candidate", "baseline", "outcome", "note"),
    [
        (0.0, (80, 20), (60, 40), "passed", ""),
        (0.2, (80, 20), (60, 40), "passed", ""),
        (0.05, (30, 70), (25, 75), "passed", ""),  # 0.3 - 0.25 is 0.04999... in floating point
        (0.21, (80, 20), (60, 40), "failed", ""),
        (0.0, (60, 40), (80, 20), "failed", ""),
        (0.0, (61, 39), (60, 40), "not enough data", "the interval of the difference includes 0"),
        (0.0, (60, 40), (60, 40), "not enough data", "the interval of the difference includes 0"),
        (0.0, (5, 0), (0, 5), "not enough data", "5 entities; 6 are needed"),
        (0.0, (6, 0), (0, 6), "passed", ""),
        (0.0, (0, 0), (0, 0), "not enough data", "the difference is undefined on these predictions"),
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
        (0.0, [0, 1], [1, 3], "not enough data", "2 entities; 6 are needed"),
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


@pytest.mark.parametrize(
    ("settings", "candidate", "outcome", "note"),
    [
        ({}, groups(DE=(18, 2), FR=(38, 2)), "passed", "worst: country=DE (0.9, n 20)"),
        ({}, groups(DE=(15, 5), FR=(400, 0)), "failed", "worst: country=DE (0.75, n 20)"),
        (
            {},
            groups(DE=(15, 5), FR=(10, 10), IT=(20, 0)),
            "failed",
            "worst: country=FR (0.5, n 20); beyond the bound: DE (0.75), FR (0.5)",
        ),
        ({}, groups(DE=(20, 0), FR=(0, 19)), "passed", "worst: country=DE (1, n 20); fewer than 20: FR (n 19)"),
        (
            {"small_groups": "block"},
            groups(DE=(20, 0), FR=(19, 0)),
            "not enough data",
            "worst: country=DE (1, n 20); fewer than 20: FR (n 19)",
        ),
        (
            {"small_groups": "block"},
            groups(DE=(0, 20), FR=(19, 0)),
            "failed",
            "worst: country=DE (0, n 20); fewer than 20: FR (n 19)",
        ),
        ({"min_n": 19}, groups(DE=(20, 0), FR=(0, 19)), "failed", "worst: country=FR (0, n 19)"),
        ({}, groups(DE=(5, 0)), "not enough data", "fewer than 20: DE (n 5)"),
        ({}, [], "not enough data", ""),
        ({}, graded(40, 0, weight=0.0, country="DE"), "not enough data", "undefined: DE"),
    ],
)
def test_subgroup_floor_judges_as_in_the_table(settings, candidate, outcome, note):
    verdict = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8, **settings).judge(evidence(candidate))
    assert (verdict.outcome, verdict.note) == (outcome, note)


def test_subgroup_floor_reports_the_worst_group_with_an_interval_for_all_groups_at_once():
    candidate = groups(DE=(30, 10), FR=(40, 0), IT=(36, 4))
    check = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8)
    verdict = check.judge(evidence(candidate))
    assert verdict.check == "exact_match >= 0.8 in every country"
    assert (verdict.estimate, verdict.n, verdict.evidence) == (0.75, 40, ["sha-c"])
    worst = candidate[:40]
    assert verdict.interval == simultaneous(ExactMatch(), worst, 3, evidence(worst)).interval
    alone = simultaneous(ExactMatch(), worst, 1, evidence(worst)).interval
    assert verdict.interval[0] < alone[0] < alone[1] < verdict.interval[1]


def test_subgroup_floor_reads_only_what_where_selects():
    rows = graded(20, 0, "a", country="DE", unseen="false") + graded(0, 20, "b", country="FR", unseen="true")
    check = SubgroupFloor(slice="country", metric="exact_match", at_least=0.8, where={"unseen": False})
    verdict = check.judge(evidence(rows))
    assert (verdict.outcome, verdict.check) == ("passed", "exact_match >= 0.8 in every country where unseen=false")


@pytest.mark.parametrize(
    ("settings", "candidate", "outcome", "note"),
    [
        ({"at_most": 1.0}, {"DE": [0, 2] * 10, "FR": [0] * 20}, "passed", "worst: country=DE (1, n 20)"),
        ({"at_most": 0.9}, {"DE": [0, 2] * 10, "FR": [0] * 200}, "failed", "worst: country=DE (1, n 20)"),
        (
            {"at_most": 0.5},
            {"DE": [0, 2] * 10, "FR": [1, 3] * 10, "IT": [0] * 20},
            "failed",
            "worst: country=FR (2, n 20); beyond the bound: DE (1), FR (2)",
        ),
        (
            {"at_most": 0.5},
            {"DE": [0] * 20, "FR": [9] * 19},
            "passed",
            "worst: country=DE (0, n 20); fewer than 20: FR (n 19)",
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
        ({"at_most_ms": 19}, HUNDRED[:20], "passed", 19.0, None, "20 requests are too few for an interval"),
        ({"at_most_ms": 500}, HUNDRED[:19], "not enough data", 19.0, None, "19 requests; 20 are needed"),
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
        low, high = quantile_interval(list(draw.exponential(size=n)), quantile)
        covered += low <= true <= high
    assert covered >= 276  # 95 % of 300, less 2.4 standard deviations


def test_an_upper_end_of_a_p95_takes_72_requests():
    assert quantile_interval(HUNDRED[:71], 0.95) is None
    assert quantile_interval(HUNDRED[:72], 0.95)[1] == 72.0


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
