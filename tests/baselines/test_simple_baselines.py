"""Simple rivals: what they say of literal rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.baselines import Setting
from luthier.baselines.identity import Identity
from luthier.baselines.majority import Majority
from luthier.baselines.rules import Rules
from luthier.baselines.tfidf import Tfidf
from luthier.baselines.untuned import spread
from luthier.seams import Example
from luthier.tasks.classify import Classify


def cell(column: str, value: str, country: str, answer: str | None) -> Example:
    fields = {"column": column, "value": value, "context": {"country": country}}
    target = None if answer is None else {"text": answer}
    return Example(
        id=f"{column}/{value}", task="standardize", input={"fields": fields}, target=target, slices={"column": column}
    )


SETTING = Setting(base=Path(), task=None, engine=None, seed=0, device="cpu", precision="float32", max_length=64)

LEARNED = [
    cell("date", "03.05.1987", "DE", "1987-05-03"), cell("date", "May 3, 1987", "US", "1987-05-03"),
    cell("phone", "030 123456", "DE", "+4930123456"), cell("phone", "(201) 555-0123", "US", "+12015550123"),
    cell("sum", "1.234,50 EUR", "DE", "EUR 1234.50"), cell("sum", "$1,200", "US", "USD 1200"),
    cell("firm", "BAUER AGRO G.m.b.H.", "DE", "Bauer Agro | GmbH"), cell("firm", "Redwood Steel, Inc.", "US", "Redwood Steel | Inc"),
    cell("land", "Allemagne", "DE", "DE"), cell("land", "SPAIN", "US", "ES"),
    cell("size", "12.0 oz", "", "12"), cell("size", "16 ounces", "", "16"),
    cell("code", "x1", "", "x1"), cell("code", "y2", "", "y2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "country", "answer"),
    [
        ("date", "gegr. 7.12.1968", "DE", "1968-12-07"), ("date", "12/7/1968", "US", "1968-12-07"),
        ("date", "12/7/1968", "GB", "1968-07-12"), ("date", "never", "GB", "never"),
        # No part of a date is made up: dateutil would put today's day here.
        ("date", "10 ottorbe 1983", "IT", "10 ottorbe 1983"), ("date", "May 1987", "US", "May 1987"),
        ("date", "19 października 1981; fuzja 1990", "PL", "1981-10-19"), ("date", "1969年2月8日", "JP", "1969-02-08"),
        ("phone", "tel. 030/123 457", "DE", "+4930123457"), ("phone", "03O/123 457 (office)", "DE", "+4930123457"),
        ("phone", "030 123457, 9-17h", "DE", "+4930123457"), ("phone", "ask Jo", "DE", "ask Jo"), ("phone", "+33 1 23 45 28 77", "DE", "+33123452877"),
        ("sum", "ca. 76.600 EUR", "DE", "EUR 76600"), ("sum", "~ 1,000.25", "US", "USD 1000.25"),
        ("sum", "Umsatz 2023: 1,2 Mio. €", "DE", "EUR 1200000"), ("sum", "31k USD (2020)", "US", "USD 31000"),
        ("firm", "Vogt Papier gmbh", "DE", "Vogt Papier | GmbH"), ("land", "Alemagne", "DE", "DE"),
        ("firm", "Fa. Vogt Papier, Ges.m.b.H.", "AT", "Vogt Papier | GmbH"), ("firm", "K.K. Fuji Steel", "JP", "Fuji Steel | KK"),
        ("land", "hecho en U.S.A.", "ES", "US"), ("land", "from Sapin, 100 %", "US", "ES"),
        ("land", "Hiszpania", "DE", "ES"), ("size", "8.4 fl. oz.", "", "8.4"), ("code", "  a b ", "", "a b"),
    ],
)  # fmt: skip
def test_rules_choose_for_each_column_what_fits_its_training_rows(
    column: str, value: str, country: str, answer: str
) -> None:
    (found,) = Rules().predict(LEARNED, [cell(column, value, country, None)], SETTING)
    assert found.output == answer
    assert found.confidence == 1.0, "every training row of the column was right"


def test_identity_changes_nothing_and_majority_knows_one_answer_per_column() -> None:
    asked = [cell("land", " Spain", "US", None), cell("other", "x", "", None)]
    assert [p.output for p in Identity().predict(LEARNED, asked, SETTING)] == [" Spain", "x"]
    more = [*LEARNED, cell("land", "Espagne", "FR", "ES")]
    assert [(p.output, round(p.confidence, 3)) for p in Majority().predict(more, asked, SETTING)] == [
        ("ES", 0.667),
        ("", 0.0),
    ]


def test_tfidf_tells_topics_apart() -> None:
    def text(number: int, words: str, label: str | None) -> Example:
        return Example(
            id=str(number), task="classify", input={"text": words}, target={"label": label} if label else None
        )

    learned = [text(n, f"{w} {n}", "animal") for n, w in enumerate(["the dog", "a cat", "dog and cat", "a cow"])]
    learned += [text(9 + n, f"{w} {n}", "metal") for n, w in enumerate(["iron", "raw steel", "steel and iron", "zinc"])]
    setting = Setting(
        base=Path(),
        task=Classify(table="t", text="x", label="y"),
        engine=None,
        seed=0,
        device="cpu",
        precision="float32",
        max_length=9,
    )
    found: Any = Tfidf().predict(learned, [text(99, "an iron bar", None), text(98, "the old dog", None)], setting)
    assert [p.output for p in found] == ["metal", "animal"]
    assert all(0.5 < p.confidence <= 1 and p.candidates[0] == (p.output, p.confidence) for p in found)


def test_examples_in_a_prompt_are_spread_over_the_columns() -> None:
    shots = spread(LEARNED, 5, seed=1)
    assert len({shot.slices["column"] for shot in shots}) == 5
    assert shots == spread(LEARNED[::-1], 5, seed=1)
    assert shots != spread(LEARNED, 5, seed=2)
