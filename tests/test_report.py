"""The report: what it says, that it stands alone, and that anyone can read it."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from conftest import changed, share, with_groups

from luthier import card, report
from luthier.facts import (
    Confusion,
    ErrorPattern,
    Figure,
    FlowStep,
    Group,
    Grouping,
    Preview,
    RunFacts,
    Scores,
    WorstCase,
)
from luthier.seams import Verdict

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page as its text, elements and headings; unbalanced tags are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(params=["suppliers", "judged", "letters", "unmeasured"])
def facts(request: pytest.FixtureRequest) -> Any:
    """Every kind of run in turn."""
    return request.getfixturevalue(request.param)


def test_the_page_stands_alone_and_runs_no_script(facts: RunFacts) -> None:
    page = report.page(facts)
    assert not re.search(r"https?://|@import|url\(|//cdn", page)
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in parsed.elements}
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on") or key == "src"]
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_the_page_can_be_heard(facts: RunFacts) -> None:
    parsed = Page(report.page(facts))
    pictures = [a for tag, a in parsed.elements if tag == "svg" and "class" in a]
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for a in pictures)
    assert all(a.get("scope") in ("col", "row") for tag, a in parsed.elements if tag == "th")
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = {a["id"] for _, a in parsed.elements if "id" in a}
    assert {str(a["href"])[1:] for tag, a in parsed.elements if tag == "a"} <= ids
    assert dict(parsed.elements)["html"] == {"lang": "en"}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "soft", "accent", "good", "bad", "warn"])
def test_text_has_the_contrast_of_wcag_aa(scheme: int, ink: str, letters: RunFacts) -> None:
    palettes = re.findall(r":root \{([^}]*--page[^}]*--sheet[^}]*)\}", report.page(letters))
    assert len(palettes) == 2
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", palettes[scheme]))
    grounds = {"page", "sheet", *({f"{ink}-soft"} & colours.keys())}
    assert min(contrast(colours[ink], colours[ground]) for ground in grounds) >= 4.5


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted([luminance(first), luminance(second)])
    return (bright + 0.05) / (dark + 0.05)


def test_the_same_facts_give_the_same_page(facts: RunFacts) -> None:
    assert report.page(facts) == report.page(facts.model_copy(deep=True))


def test_sections_come_in_the_order_of_a_readers_questions(facts: RunFacts) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", report.page(facts))
    assert titles == [
        "Release checks",
        "Beside the baselines",
        "By group",
        "Training",
        "Errors",
        "Data",
        "What the model learns from",
        "Evidence",
        "Next",
    ]


def test_a_real_run_is_shown_whole(suppliers: RunFacts) -> None:
    text = Page(report.page(suppliers)).text
    assert {check.outcome for check in suppliers.verdicts} == {"passed", "failed", "not enough data"}
    assert "Not released suppliers " + suppliers.run in text
    for check in suppliers.verdicts:
        assert f"{check.outcome} {check.check} {check.note}".strip() in text
    for name, system in suppliers.scores.systems.items():
        cells = [report.number(found.estimate, found.unit) for found in system.metrics.values()]
        assert re.search(rf"{name} {cells[0]} [\d. to]+ {cells[1]} [\d. to]+ {system.metrics['exact_match'].n}", text)
    for values in suppliers.scores.systems["tuned"].slices.values():
        assert all(re.search(rf"{value} \d\.\d{{3}} n {f['exact_match'].n}", text) for value, f in values.items())


def test_the_headline_stands_beside_the_best_baseline(judged: RunFacts) -> None:
    text = Page(report.page(judged)).text
    assert "exact_match of the tuned model 0.935 95 % interval 0.898 to 0.959 260 test examples, 52 independent" in text
    assert "Best baseline rules 0.712 0.654 to 0.763 Difference +0.223 better" in text


def test_where_lower_is_better_the_headline_says_so_and_the_smallest_wins(judged: RunFacts) -> None:
    text = Page(report.page(changed(judged, "scores.higher_is_better.exact_match", False))).text
    assert "exact_match of the tuned model, lower is better 0.935" in text
    assert "Best baseline identity 0.200 0.156 to 0.253 Difference +0.735 worse" in text
    assert "exact_match on the same test examples; lower is better." in text
    assert "System exact_match lower is better edit_similarity n" in text
    assert "weight 0.811 n 53 tuned wins: 0.811 vs 0.981" in text
    assert "unit 0.982 n 54 rules wins: 0.722 vs 0.982" in text


@pytest.mark.parametrize(
    ("higher_is_better", "tuned", "rival", "expected"),
    [
        (True, share(0.9, (0.8, 1.0)), share(0.5, (0.4, 0.6)), ("+0.400", "better")),
        (True, share(0.5, (0.4, 0.6)), share(0.9, (0.8, 1.0)), ("-0.400", "worse")),
        (False, share(0.5, (0.4, 0.6)), share(0.9, (0.8, 1.0)), ("-0.400", "better")),
        (False, share(0.9, (0.8, 1.0)), share(0.5, (0.4, 0.6)), ("+0.400", "worse")),
        (True, share(0.9, (0.7, 1.0)), share(0.8, (0.6, 0.9)), ("+0.100", "better, intervals overlap")),
        (False, share(0.9, None), share(0.8, (0.6, 0.9)), ("+0.100", "worse, without intervals to tell")),
        (True, share(0.5), share(0.5), ("0.000", "level")),
        (False, share(0.5), share(0.50001), ("0.000", "level")),
        (True, share(None), share(0.5), None),
        (True, share(0.5), None, None),
    ],
)
def test_a_difference_says_which_side_is_better(
    higher_is_better: bool, tuned: Figure, rival: Figure | None, expected: tuple[str, str] | None, judged: RunFacts
) -> None:
    facts = changed(judged, "scores.higher_is_better.exact_match", higher_is_better)
    assert report.difference(facts, tuned, ("rules", rival) if rival else None) == expected


def test_a_difference_carries_its_unit(judged: RunFacts) -> None:
    facts = changed(judged, "scores.higher_is_better.exact_match", False)
    edits = Figure(estimate=1.5, interval=None, n=9, entities=9, unit="edits")
    rival = edits.model_copy(update={"estimate": 4.0})
    assert report.difference(facts, edits, ("rules", rival)) == ("-2.5 edits", "better, without intervals to tell")


def test_every_check_is_shown_with_its_evidence_in_numbers(judged: RunFacts) -> None:
    text = Page(report.page(judged)).text
    assert "passed exact_match above rules by 0.05 0.223 0.171 to 0.290 260 0.050 required" in text
    assert "failed exact_match >= 0.9 where unseen=true 0.833 0.720 to 0.907 60 12 independent 0.900 required" in text
    assert (
        "not enough data exact_match >= 0.8 in every country fewer than 10 entities: CH (9), SE (7), PT (6), FI (2) "
        "not measured not measured 260 0.800 required"
    ) in text
    assert "passed p95 latency <= 900 ms 742 ms 742 to 811 ms 100 900 ms advisory" in text
    assert "p50 611 ms 611 to 742 ms p95 742 ms 742 to 811 ms Requests 100, one at a time" in text


def test_a_group_where_the_rules_are_better_says_so(judged: RunFacts) -> None:
    text = Page(report.page(judged)).text
    assert "weight 0.811 n 53 rules wins: 0.981 vs 0.811" in text
    assert "unit 0.982 n 54 tuned wins: 0.982 vs 0.722" in text
    assert "true 0.833 n 60 tuned ahead: 0.833 vs 0.717, intervals overlap" in text
    assert "FI 1.000 n 7 few tuned ahead" in text


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (3, ""),
        (4, "The 3 worst of 4 groups; 2 have fewer than 10 independent examples and are not judged."),
        (1234, "The 3 worst of 1,234 groups; 1,232 have fewer than 10 independent examples and are not judged."),
    ],
)
def test_a_slice_with_many_groups_is_shown_as_its_worst_and_their_number(n: int, said: str, judged: RunFacts) -> None:
    groups = judged.scores.systems["tuned"].slices["country"]
    facts = with_groups(judged, "country", groups, n=n)
    [country] = [slice for slice in report.slice_plots(facts) if slice["name"] == "country"]
    assert country["counted"] == said
    assert [row.value for row in country["rows"]] == (list(groups) if said else ["DE", "FR", "FI"])
    assert said in Page(report.page(facts)).text


def test_a_slice_whose_groups_are_all_too_small_is_counted(judged: RunFacts) -> None:
    text = Page(report.page(with_groups(judged, "country", {}, n=5000))).text
    assert "country 5,000 groups, of which none has the 10 independent examples to be judged by. Training" in text


def test_a_group_is_small_by_its_independent_examples(judged: RunFacts) -> None:
    groups = {"DE": {"exact_match": share(0.9, (0.6, 1.0), n=500, entities=9)}}
    assert "DE 0.900 n 500 few" in Page(report.page(with_groups(judged, "country", groups))).text
    groups = {"DE": {"exact_match": share(0.9, (0.6, 1.0), n=10, entities=10)}}
    assert "DE 0.900 n 10 tuned" in Page(report.page(with_groups(judged, "country", groups))).text


def test_ten_thousand_groups_do_not_flood_the_page(letters: RunFacts) -> None:
    owners = {f"owner {number}": 1 + (number == 7) for number in range(10_000)}
    page = report.page(changed(changed(letters, "prepared.slices.owner", owners), "prepared.labels", owners))
    assert len(page) < len(report.page(letters)) + 20_000
    text = Page(page).text
    assert text.count("value examples owner 7 2 owner 0 1 owner 1 1 ") == 2
    assert text.count("9,985 more values of 9,985 examples together") == 2


ATTACK = "\"><script>alert(1)</script>' onload=x"
HIDDEN = "a\x00b\x1bc\u202ed\u2066e\x85f"


def hostile(facts: RunFacts, text: str) -> RunFacts:
    """The facts with a text wherever one of the user's or of the base's may stand."""
    case = WorstCase(id=text, input=text, target=text, output=text, confidence=1.0, slices={text: text})
    figures = facts.scores.systems["tuned"].metrics
    for path, value in {
        "base.name": text,
        "base.notes": [text],
        "verdicts.1.check": text,
        "verdicts.1.note": text,
        "prepared.source.file": text,
        "prepared.slices": {"country": {text: 3}},
        "prepared.labels": {text: 3},
        "previews": [Preview(id=text, pieces=[(text, False), (text, True)])],
        "quarantine.0": {"file": text, "line": 1, "column": text, "excerpt": text, "rule": "ragged", "reason": text},
        "scores.systems.tuned.slices": {"country": {text: figures}},
        "scores.systems.tuned.metrics.exact_match": figures["exact_match"].model_copy(update={"details": {text: 0.5}}),
        "scores.confusion": Confusion(labels=[text, "b"], matrix=[[1, 2], [3, 4]]),
        "cases.worst": [case],
        "cases.errors": [ErrorPattern(pattern=text, n=1)],
    }.items():
        facts = changed(facts, path, value)
    return facts


def test_text_of_the_users_rows_is_never_markup(judged: RunFacts) -> None:
    facts = hostile(judged, ATTACK).model_copy(update={"name": ATTACK, "recipe": ATTACK, "next": ATTACK})
    facts = changed(
        facts, "lineage.0", facts.lineage[0].model_copy(update={"artifact": ATTACK, "inputs": {ATTACK: ATTACK}})
    )
    page = report.page(with_groups(facts, ATTACK, {ATTACK: facts.scores.systems["rules"].metrics}))
    assert "<script" not in page
    assert not [key for _, attributes in Page(page).elements for key in attributes if key.startswith("on")]


def test_characters_that_could_hide_or_turn_text_around_are_spelt_out(judged: RunFacts) -> None:
    page = report.page(hostile(judged, HIDDEN))
    assert not set(page) & {"\x00", "\x1b", "\u202e", "\u2066", "\x85"}
    spelt = "a[U+0000]b[U+001B]c[U+202E]d[U+2066]e[U+0085]f"
    assert re.sub("<[^>]*>", "", page).count(spelt) >= 18


@pytest.mark.parametrize("broken", ["\ud800", "\udfff\ud800"])
def test_a_lone_surrogate_anywhere_does_not_break_the_page(broken: str, judged: RunFacts) -> None:
    facts = hostile(judged, broken).model_copy(update={"recipe": f"name: {broken}", "next": broken})
    page = report.page(facts).encode().decode()
    assert "name: \\ud800" in page or "name: \\udfff\\ud800" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", [("", "a b")]),
        (" a", [("mark", "·"), ("", "a")]),
        ("a ", [("", "a"), ("mark", "·")]),
        ("a  b", [("", "a"), ("mark", "··"), ("", "b")]),
        ("\ta", [("mark", "⇥\t"), ("", "a")]),
        ("a\r\nb", [("", "a"), ("mark", "[U+000D]↵\n"), ("", "b")]),
        ("a\u00a0b\u200b\u202e", [("", "a"), ("mark", "[U+00A0]"), ("", "b"), ("mark", "[U+200B][U+202E]")]),
        ("\ud800é日", [("mark", "[U+D800]"), ("", "é日")]),
        ("", []),
    ],
)
def test_what_cannot_be_seen_is_marked(text: str, expected: list[tuple[str, str]]) -> None:
    assert report.visible(text) == expected


def test_supervised_tokens_are_underlined_and_the_prompt_is_not(judged: RunFacts) -> None:
    pieces = [("<bos>", False), ("unit DE: KG 7 =>", False), (" k", True), ("g<eos>", True)]
    facts = changed(judged, "previews", [Preview(id="2:unit", pieces=pieces)])
    audit = {"supervised_tokens": 5204, "tokens": 17012, "examples": 797}
    page = report.page(facts.model_copy(update={"encoded": facts.encoded.model_copy(update=audit)}))
    assert '&lt;bos&gt;unit DE: KG 7 =&gt;<u><span class="mark">·</span>kg&lt;eos&gt;</u>' in page
    assert "5,204 of 17,012 tokens in 797 examples carry loss (30.6 %)" in Page(page).text


def test_every_preview_of_a_real_run_ends_with_what_it_is_supervised_on(suppliers: RunFacts) -> None:
    page = report.page(suppliers)
    assert len(suppliers.previews) == page.count('<p class="pieces">') == page.count("&lt;eos&gt;</u></bdi>")


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_missing_estimate_is_not_measured(nothing: float | None, judged: RunFacts) -> None:
    figure = share(None).model_copy(update={"estimate": nothing})
    facts = changed(judged, "scores.systems.rules.metrics.edit_similarity", figure)
    assert "rules 0.712 0.654 to 0.763 not measured 260" in Page(report.page(facts)).text


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_missing_main_estimate_is_not_compared(nothing: float | None, judged: RunFacts) -> None:
    figure = share(None).model_copy(update={"estimate": nothing})
    text = Page(report.page(changed(judged, "scores.systems.tuned.metrics.exact_match", figure))).text
    assert "exact_match of the tuned model not measured" in text
    assert "tuned not measured" in text
    assert "Difference" not in text
    assert not re.search(r"\b(nan|None)\b", text)


def test_a_run_with_nothing_measured_says_so_and_invents_nothing(unmeasured: RunFacts) -> None:
    text = Page(report.page(unmeasured)).text
    assert f"Not checked letters {unmeasured.run} The recipe has no release checks, so nothing is signed off." in text
    assert "accuracy of the tuned model not measured 0 test examples Best baseline: not measured" in text
    for said in (
        "majority not measured",
        "Learning curves: not measured.",
        "Validation: not measured.",
        "Latency not measured",
        "Time taken not measured",
        "groups were not measured",
        "Lineage not recorded",
        "No preview was kept.",
        "No wrong answers were kept.",
        "No row was put aside.",
    ):
        assert said in text
    assert not re.search(r"\b(nan|None|undefined)\b", text)


@pytest.mark.parametrize(
    ("released", "checks", "expected"),
    [
        (True, [("passed", True), ("passed", True)], ("passed", "Released", "2 of 2 required checks passed.")),
        (
            True,
            [("passed", True), ("not enough data", False)],
            ("passed", "Released", "1 of 1 required check passed; 1 advisory check did not pass."),
        ),
        (
            False,
            [("failed", True), ("not enough data", True), ("passed", True)],
            ("failed", "Not released", "1 of 3 required checks passed; failed: check 0; not enough data for: check 1."),
        ),
        (True, [], ("unsure", "Not checked", "The recipe has no release checks, so nothing is signed off.")),
    ],
)
def test_the_verdict_says_why(
    released: bool, checks: list[tuple[str, bool]], expected: tuple[str, str, str], letters: RunFacts
) -> None:
    verdicts = [
        Verdict(f"check {i}", outcome, None, None, 0, required, 0.5) for i, (outcome, required) in enumerate(checks)
    ]
    found = report.verdict(letters.model_copy(update={"verdicts": verdicts, "released": released}))
    assert (found["tone"], found["word"], found["why"]) == expected


@pytest.mark.parametrize(
    ("higher_is_better", "tuned", "rival", "expected"),
    [
        (True, share(0.9, (0.8, 0.95)), share(0.5, (0.4, 0.6)), ("passed", "tuned wins: 0.900 vs 0.500")),
        (True, share(0.5, (0.4, 0.6)), share(0.9, (0.8, 0.95)), ("failed", "rules wins: 0.900 vs 0.500")),
        (False, share(0.5, (0.4, 0.6)), share(0.9, (0.8, 0.95)), ("passed", "tuned wins: 0.500 vs 0.900")),
        (False, share(0.9, (0.8, 0.95)), share(0.5, (0.4, 0.6)), ("failed", "rules wins: 0.500 vs 0.900")),
        (
            True,
            share(0.9, (0.8, 0.95)),
            share(0.7, (0.6, 0.8)),
            ("unsure", "tuned ahead: 0.900 vs 0.700, intervals overlap"),
        ),
        (
            False,
            share(0.9, (0.8, 0.95)),
            share(0.7, (0.6, 0.8)),
            ("unsure", "rules ahead: 0.700 vs 0.900, intervals overlap"),
        ),
        (
            True,
            share(0.9, None),
            share(0.7, (0.6, 0.8)),
            ("unsure", "tuned ahead: 0.900 vs 0.700, without intervals to tell"),
        ),
        (True, share(0.9, (0.8, 0.95)), share(0.9, (0.8, 0.95)), ("unsure", "level with rules at 0.900")),
        (True, share(None), share(0.9, (0.8, 0.95)), ("unsure", "tuned not measured")),
        (True, share(0.9, (0.8, 0.95)), None, ("unsure", "no baseline measured")),
    ],
)
def test_someone_wins_only_where_the_intervals_do_not_overlap(
    higher_is_better: bool, tuned: Figure, rival: Figure | None, expected: tuple[str, str], judged: RunFacts
) -> None:
    facts = changed(judged, "scores.higher_is_better.exact_match", higher_is_better)
    assert report.comparison(facts, tuned, ("rules", rival) if rival else None) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.9375, "share", "0.938"),
        (0, "share", "0.000"),
        (-0.05, "share", "-0.050"),
        (-0.0001, "share", "0.000"),
        (742.318, "ms", "742 ms"),
        (1234.5, "ms", "1,234 ms"),
        (20, "", "20"),
        (1.5, "", "1.5"),
        (None, "share", "not measured"),
        (math.nan, "ms", "not measured"),
        (math.inf, "", "not measured"),
    ],
)
def test_figures_carry_their_unit(value: float | None, unit: str, expected: str) -> None:
    assert report.number(value, unit) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.23, "1.2 s"), (200.4, "3 min 20 s"), (119.7, "2 min 0 s"), (7500, "2 h 5 min"), (None, "not measured")],
)
def test_times_are_read_at_a_glance(value: float | None, expected: str) -> None:
    assert report.seconds(value) == expected


def test_a_split_opened_twice_is_a_warning(judged: RunFacts) -> None:
    once = Page(report.page(changed(judged, "test_openings", 1))).text
    twice = Page(report.page(changed(judged, "test_openings", 2))).text
    warning = "Figures on a split opened more than once lean to the good side."
    assert "The test split was opened 1 time." in once and warning not in once
    assert "The test split was opened 2 times." in twice and warning in twice


@pytest.mark.parametrize("step", ["prepared.flow.2", "encoded.flow"])
def test_a_step_that_loses_rows_is_told(step: str, suppliers: RunFacts) -> None:
    assert "Every row is accounted for." in Page(report.page(suppliers)).text
    lossy = changed(suppliers, step, FlowStep(step="dedup", arrived=9, kept=7, fates={"duplicate in training": 1}))
    assert "The counts of some step do not add up." in Page(report.page(lossy)).text


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("prepared.seen_in_training", "test inputs that also stand in training, or look like one that does"),
        ("prepared.conflicting", "training examples whose input has more than one answer"),
        ("encoded.counted.label_in_input", "examples with label_in_input"),
    ],
)
def test_a_leak_is_marked_only_where_there_is_one(path: str, words: str, suppliers: RunFacts) -> None:
    for n, said in ((0, f"0 {words}"), (3, f"3 {words} look at this")):
        text = Page(report.page(changed(suppliers, path, n))).text
        assert said in text
        assert ("look at this" in text) is (n > 0)


def test_learning_curves_mark_the_best_step(judged: RunFacts) -> None:
    history = [
        {"step": 32, "epoch": 1.0, "loss": 2.1, "learning_rate": 4e-5, "tokens": 162, "grad_norm": 1.5},
        {"step": 32, "epoch": 1.0, "validation": {"loss": 1.9, "exact_match": 0.7083}},
        {"step": 96, "epoch": 3.0, "loss": 0.2, "learning_rate": 0.0, "tokens": 162, "grad_norm": 1.1},
        {"step": 96, "epoch": 3.0, "validation": {"loss": 0.3, "exact_match": 0.9375}},
    ]
    best = {"epoch": 3.0, "step": 96, "metric": "exact_match", "value": 0.9375}
    facts = changed(changed(judged, "history", history), "trained.best", best)
    assert [curve["title"] for curve in report.curves(facts)] == [
        "Training loss",
        "Validation exact_match",
        "Learning rate",
    ]
    page = report.page(facts)
    assert 'aria-label="Validation exact_match over epochs: from 0.708 to 0.938; best: step 96 of epoch 3"' in page
    assert "96 3 0.3 nats 0.938 best" in Page(page).text


def test_a_real_run_has_its_learning_curves(suppliers: RunFacts) -> None:
    titles = [curve["title"] for curve in report.curves(suppliers)]
    assert titles == ["Training loss", "Validation exact_match", "Learning rate"]
    assert [entry["best"] for entry in report.evaluations(suppliers)] == [True]


def test_what_trained_stands_in_groups_from_each_step_at_which_it_changed(
    suppliers: RunFacts, judged: RunFacts
) -> None:
    (grouping,) = suppliers.trained.groups
    assert sum(group.parameters for group in grouping.groups) == suppliers.trained.trainable_parameters
    assert f"1 {grouping.groups[0].name} {grouping.groups[0].tensors}" in Page(report.page(suppliers)).text

    def group(name: str, rate: float) -> Group:
        return Group(name=name, tensors=2, parameters=1234, learning_rate=rate, weight_decay=0.01)

    top, block = group("above the blocks", 1e-3), group("block 1", 1e-3 / 2.6)
    found = [Grouping(step=0, groups=[top]), Grouping(step=300, groups=[top, block])]
    text = Page(report.page(changed(judged, "trained.groups", found))).text
    assert "1 above the blocks 2 1,234 0.001 0.01 301 above the blocks 2 1,234 0.001 0.01" in text
    assert "block 1 2 1,234 0.000385 0.01" in text
    assert "What trained, in groups" not in report.page(changed(judged, "trained.groups", []))


def test_a_confusion_matrix_is_shaded_by_row(letters: RunFacts) -> None:
    scores: Scores = changed(letters.scores, "confusion", Confusion(labels=["a", "b"], matrix=[[3, 1], [0, 0]]))
    assert report.confusion(scores) == {
        "labels": ["a", "b"],
        "rows": [{"label": "a", "cells": [(3, 0.75), (1, 0.25)]}, {"label": "b", "cells": [(0, 0.0), (0, 0.0)]}],
    }


def test_the_confusion_matrix_of_a_real_run_holds_every_test_example(letters: RunFacts) -> None:
    assert letters.scores.confusion is not None
    counts = [n for row in letters.scores.confusion.matrix for n in row]
    assert sum(counts) == letters.prepared.splits["test"]
    assert "truth A B A {} {} B {} {}".format(*counts) in Page(report.page(letters)).text


def test_what_was_told_while_the_run_went_stands_on_report_and_card(judged: RunFacts) -> None:
    assert report.told(judged) == {"prepare": [], "encode": [], "train": [], "predict": []}
    assert "Worth knowing" not in report.page(judged)
    facts = changed(
        judged, "trained.notes", ["lora leaves 36.2% of the weights of the blocks as they are: mixer.A_log"]
    )
    facts = changed(changed(facts, "encoded.asked_cut", 12), "prepared.untested_labels", {"a": 3, "b": 1})
    facts = changed(changed(facts, "prepared.blank_groups", 7), "cut_answers", 9)
    made = {entry.stage: entry.artifact for entry in facts.lineage}
    page, limits = report.page(facts), card.page(facts).replace("\\", "").split("## Limits")[1]
    for section, stage, part in (
        ("training", "train", "lora leaves 36.2% of the weights of the blocks as they are: mixer.A_log"),
        ("supervision", "encode", "12 test examples are longer than encode.max_length; the model read them cut"),
        ("data", "prepare", "2 labels (4 training examples) stand in no test example, so nothing is known of them"),
        ("errors", "predict", "9 test answers were cut off at predict.engine.max_new_tokens, before their end"),
        ("data", "prepare", "7 rows name no group; each was split as a unit of its own"),
    ):
        assert part in Page(page.split(f'<section id="{section}">')[1].split("</section>")[0]).text
        assert f"- {part} (`{made[stage]}`)." in limits
    assert page.count("<h3>Worth knowing</h3>") == 4


def test_one_of_a_kind_is_told_as_one(judged: RunFacts) -> None:
    facts = changed(changed(judged, "encoded.asked_cut", 1), "prepared.untested_labels", {"a": 1})
    told = report.told(changed(facts, "prepared.blank_groups", 1))
    assert told["prepare"] == [
        "1 label (1 training example) stands in no test example, so nothing is known of it",
        "1 row names no group; each was split as a unit of its own",
    ]
    assert told["encode"] == ["1 test example is longer than encode.max_length; the model read it cut"]


def test_the_most_that_the_base_reads_is_told_where_something_limits_it(judged: RunFacts) -> None:
    facts = changed(judged, "encoded.positions", 2048)
    assert "Reads 2,048 tokens at most" in Page(report.page(facts)).text
    assert "; it reads 2,048 tokens at most (`encode-" in card.page(facts)
    facts = changed(judged, "encoded.positions", None)
    assert "at most" not in Page(report.page(facts)).text.split("Base model")[1].split("Environment")[0]
    assert "at most" not in card.page(facts).split("## Base model")[1]
