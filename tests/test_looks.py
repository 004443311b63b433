"""Looks: what a reader cannot tell apart is one, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.looks import look_alike, looked_through, tidy, unconfused

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("praise\u200b", "praise"),
        ("\ufeffpraise", "praise"),
        ("pra\u00adise", "praise"),
        ("pra\u200dise", "praise"),
        ("praise\u200c", "praise"),
        ("\u2800praise\x00\x7f", "praise"),
        (" New\u00a0 York\t\n", "New York"),
        ("re\u0301clame", "r\u00e9clame"),
        ("Praise", "Praise"),
        ("\uff46ull", "\uff46ull"),
        ("m\u00b2", "m\u00b2"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        (FAMILY, FAMILY),
        ("", ""),
        ("\u200b", ""),
    ],
)
def test_a_name_is_what_it_shows(written: str, shown: str) -> None:
    assert tidy(written) == shown


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The kettle arrived", "THE  kettle arrived "),
        ("caf\u00e9", "CAFE\u0301"),
        ("\uff46ull", "full"),
        ("\ufb01ne", "fine"),
        ("stra\u00dfe", "STRASSE"),
        ("a\u200bb", "ab"),
        ("\u2764\ufe0f", "\u2764"),
        ("\u0130ADE", "iade"),
        ("I\u015eIK", "\u0131\u015f\u0131k"),
        ("\u0391\u0398\u0397\u039d\u0391", "\u0391\u03b8\u03ae\u03bd\u03b1"),
        ("it\u2019s", "it's"),
        ("a \u2013 b", "a - b"),
        ("\u201eso\u201c", '"so"'),
    ],
)
def test_what_differs_in_blanks_case_or_unicode_form_looks_alike(one: str, other: str) -> None:
    assert look_alike(one) == look_alike(other)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("caf\u00e9", "cafe"), ("1", "1.0"), ("a-b", "a b")])
def test_other_texts_do_not(one: str, other: str) -> None:
    assert look_alike(one) != look_alike(other)


def test_letters_of_another_script_that_pass_for_latin_ones_are_found() -> None:
    assert unconfused(look_alike("\u0440r\u0430ise")) == look_alike("Praise")
    assert look_alike("\u0440raise") != look_alike("praise")


def test_all_texts_of_a_value_are_looked_through_and_no_names_of_keys() -> None:
    assert looked_through({"A": ["X ", {"B": "Y\u200b"}], "n": 1, "none": None}) == {
        "A": ["x", {"B": "y"}],
        "n": 1,
        "none": None,
    }


@given(st.text())
def test_looking_twice_changes_nothing(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert look_alike(tidy(text)) == look_alike(text)
