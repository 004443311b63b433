"""The report: what it says, that it stands alone, and that anyone can read it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from luthier import report

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


@pytest.mark.parametrize("name", ["full", "minimal"])
def test_the_page_stands_alone_and_runs_no_script(name: str, request: pytest.FixtureRequest) -> None:
    page = report.page(request.getfixturevalue(name))
    assert not re.search(r"https?://|@import|url\(|//cdn", page)
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in parsed.elements}
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on") or key == "src"]
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize("name", ["full", "minimal"])
def test_the_page_can_be_heard(name: str, request: pytest.FixtureRequest) -> None:
    parsed = Page(report.page(request.getfixturevalue(name)))
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
def test_text_has_the_contrast_of_wcag_aa(scheme: int, ink: str, minimal: dict[str, Any]) -> None:
    palettes = re.findall(r":root \{([^}]*--page[^}]*--sheet[^}]*)\}", report.page(minimal))
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


def test_the_same_facts_give_the_same_page(full: dict[str, Any]) -> None:
    assert report.page(full) == report.page(json.loads(json.dumps(full)))


def test_sections_come_in_the_order_of_a_readers_questions(full: dict[str, Any]) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", report.page(full))
    assert titles == [
        "Release checks", "Beside the baselines", "By group", "Training", "Errors", "Data",
        "What the model learns from", "Evidence", "Next",
    ]  # fmt: skip


def test_the_headline_stands_beside_the_best_baseline(full: dict[str, Any]) -> None:
    text = Page(report.page(full)).text
    assert "exact_match of the tuned model 0.935 95 % interval 0.898 to 0.959 260 test examples, 52 independent" in text
    assert "Best baseline rules 0.712 0.654 to 0.763 Difference +0.223" in text


def test_every_check_is_shown_with_its_evidence_in_numbers(full: dict[str, Any]) -> None:
    text = Page(report.page(full)).text
    assert "passed exact_match above rules by 0.05 0.223 0.171 to 0.290 260 0.050 required" in text
    assert "failed exact_match >= 0.9 where unseen=true 0.833 0.720 to 0.907 60 0.900 required" in text
    assert (
        "not enough data exact_match >= 0.8 in every country fewer than 20: CH (n 17), SE (n 14), PT (n 11), FI (n 7) "
        "not measured not measured 260 0.800 required"
    ) in text
    assert "passed p95 latency <= 900 ms 742 ms 698 to 811 ms 20 900 ms advisory" in text


def test_a_group_where_the_rules_are_better_says_so(full: dict[str, Any]) -> None:
    text = Page(report.page(full)).text
    assert "founded 0.811 n 53 rules wins: 0.981 vs 0.811" in text
    assert "phone 0.982 n 54 tuned wins: 0.982 vs 0.722" in text
    assert "true 0.833 n 60 tuned ahead: 0.833 vs 0.717, intervals overlap" in text
    assert "FI 1.000 n 7 few tuned ahead" in text


def test_groups_beyond_the_first_fifteen_are_folded_away_and_none_is_lost(full: dict[str, Any]) -> None:
    groups = full["scores"]["systems"]["tuned"]["slices"]["country"]
    one = groups["FI"]
    groups |= {f"X{number}": one for number in range(9)}
    text = Page(report.page(full)).text
    assert "5 smaller groups" in text
    assert all(f"X{number} 1.000 n 7" in text for number in range(9))


def test_text_of_the_users_rows_is_never_markup(full: dict[str, Any]) -> None:
    attack = "\"><script>alert(1)</script>' onload=x"
    full["name"] = full["recipe"] = full["next"] = full["verdicts"][0]["note"] = attack
    full["prepare"]["source"]["file"] = full["prepare"]["quarantine"][0]["excerpt"] = attack
    full["prepare"]["slices"]["country"] = {attack: 3}
    full["prepare"]["previews"][0]["pieces"][0][0] = attack
    full["scores"]["systems"]["tuned"]["slices"] = {attack: {attack: full["scores"]["systems"]["tuned"]["metrics"]}}
    full["scores"]["worst"][0] |= {"input": attack, "target": attack, "output": attack}
    full["scores"]["confusion"] = {"labels": [attack, "b"], "matrix": [[1, 2], [3, 4]]}
    full["lineage"][0] |= {"artifact": attack, "inputs": {attack: attack}}
    page = report.page(full)
    assert "<script" not in page
    assert not [key for _, attributes in Page(page).elements for key in attributes if key.startswith("on")]


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
        (None, []),
    ],
)
def test_what_cannot_be_seen_is_marked(text: str | None, expected: list[tuple[str, str]]) -> None:
    assert report.visible(text) == expected


def test_supervised_tokens_are_underlined_and_the_prompt_is_not(full: dict[str, Any]) -> None:
    page = report.page(full)
    assert '&lt;bos&gt;founded DE: anno 1998 =&gt;<u><span class="mark">·</span>1998-01-01&lt;eos&gt;</u>' in page
    assert "5,204 of 17,012 tokens in 797 examples carry loss (30.6 %)" in Page(page).text


def test_a_lone_surrogate_in_a_file_does_not_break_the_page(full: dict[str, Any]) -> None:
    full["recipe"] = "name: \ud800"
    assert "name: \\ud800" in report.page(full).encode().decode()


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_missing_estimate_is_not_measured(nothing: float | None, full: dict[str, Any]) -> None:
    figure = full["scores"]["systems"]["rules"]["metrics"]["edit_similarity"]
    figure |= {"estimate": nothing, "interval": None}
    assert "rules 0.712 0.654 to 0.763 not measured 260" in Page(report.page(full)).text


def test_a_run_with_nothing_measured_says_so_and_invents_nothing(minimal: dict[str, Any]) -> None:
    text = Page(report.page(minimal)).text
    assert "Not checked tiny tiny-000000 The recipe has no release checks, so nothing is signed off." in text
    assert "accuracy of the tuned model not measured 0 test examples Best baseline: not measured" in text
    for said in (
        "majority not measured", "Learning curves: not measured.", "Validation: not measured.", "Latency not measured",
        "Trained parameters: not measured.", "groups were not measured", "Lineage not recorded", "Leaks not measured",
    ):  # fmt: skip
        assert said in text
    assert not re.search(r"\b(nan|None|undefined)\b", text)


@pytest.mark.parametrize(
    ("released", "checks", "expected"),
    [
        (True, [("passed", True), ("passed", True)], ("passed", "Released", "2 of 2 required checks passed.")),
        (
            True, [("passed", True), ("not enough data", False)],
            ("passed", "Released", "1 of 1 required check passed; 1 advisory check did not pass."),
        ),
        (
            False, [("failed", True), ("not enough data", True), ("passed", True)],
            ("failed", "Not released", "1 of 3 required checks passed; failed: check 0; not enough data for: check 1."),
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_why(released: bool, checks: list[tuple[str, bool]], expected: tuple[str, str, str]) -> None:
    verdicts = [{"check": f"check {i}", "outcome": o, "required": required} for i, (o, required) in enumerate(checks)]
    found = report.verdict({"verdicts": verdicts, "released": released})
    assert (found["tone"], found["word"], found["why"]) == expected


def estimate(value: float | None, interval: list[float] | None) -> dict[str, Any]:
    return {"estimate": value, "interval": interval, "n": 30, "entities": 30, "unit": "share", "details": {}}


@pytest.mark.parametrize(
    ("tuned", "rival", "expected"),
    [
        (estimate(0.9, [0.8, 0.95]), estimate(0.5, [0.4, 0.6]), ("passed", "tuned wins: 0.900 vs 0.500")),
        (estimate(0.5, [0.4, 0.6]), estimate(0.9, [0.8, 0.95]), ("failed", "rules wins: 0.900 vs 0.500")),
        (
            estimate(0.9, [0.8, 0.95]),
            estimate(0.7, [0.6, 0.8]),
            ("unsure", "tuned ahead: 0.900 vs 0.700, intervals overlap"),
        ),
        (
            estimate(0.9, None),
            estimate(0.7, [0.6, 0.8]),
            ("unsure", "tuned ahead: 0.900 vs 0.700, without intervals to tell"),
        ),
        (estimate(0.9, [0.8, 0.95]), estimate(0.9, [0.8, 0.95]), ("unsure", "level with rules at 0.900")),
        (estimate(None, None), estimate(0.9, [0.8, 0.95]), ("unsure", "tuned not measured")),
        (estimate(0.9, [0.8, 0.95]), None, ("unsure", "no baseline measured")),
    ],
)
def test_someone_wins_only_where_the_intervals_do_not_overlap(
    tuned: dict[str, Any], rival: dict[str, Any] | None, expected: tuple[str, str]
) -> None:
    assert report.comparison(tuned, ("rules", rival) if rival else None) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.9375, "share", "0.938"), (0, "share", "0.000"), (-0.05, "share", "-0.050"), (742.318, "ms", "742 ms"),
        (1234.5, "ms", "1,234 ms"), (20, "", "20"), (1.5, "", "1.5"), (None, "share", "not measured"),
        (math.nan, "ms", "not measured"), (math.inf, "", "not measured"),
    ],
)  # fmt: skip
def test_figures_carry_their_unit(value: float | None, unit: str, expected: str) -> None:
    assert report.number(value, unit) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.23, "1.2 s"), (200.4, "3 min 20 s"), (119.7, "2 min 0 s"), (7500, "2 h 5 min"), (None, "not measured")],
)
def test_times_are_read_at_a_glance(value: float | None, expected: str) -> None:
    assert report.seconds(value) == expected


def test_a_split_opened_twice_is_a_warning(full: dict[str, Any]) -> None:
    once = Page(report.page(full)).text
    full["openings"]["test"] = 2
    twice = Page(report.page(full)).text
    warning = "Figures on a split opened more than once lean to the good side."
    assert "The test split was opened 1 time." in once and warning not in once
    assert "The test split was opened 2 times." in twice and warning in twice


def test_a_step_that_loses_rows_is_told(full: dict[str, Any]) -> None:
    assert "Every row is accounted for." in Page(report.page(full)).text
    full["prepare"]["flow"][2]["kept"] -= 1
    assert "The counts of some step do not add up." in Page(report.page(full)).text


def test_learning_curves_mark_the_best_step(full: dict[str, Any]) -> None:
    titles = [curve["title"] for curve in report.curves(full["train"])]
    assert titles == ["Training loss", "Validation exact_match", "Learning rate"]
    assert (
        'aria-label="Validation exact_match over epochs: from 0.708 to 0.938; best: step 96 of epoch 3"'
        in report.page(full)
    )


def test_a_confusion_matrix_is_shaded_by_row() -> None:
    found = report.confusion({"confusion": {"labels": ["a", "b"], "matrix": [[3, 1], [0, 0]]}})
    assert found == {
        "labels": ["a", "b"],
        "rows": [{"label": "a", "cells": [(3, 0.75), (1, 0.25)]}, {"label": "b", "cells": [(0, 0.0), (0, 0.0)]}],
    }
