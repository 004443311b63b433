"""The example tables: made again from their seed, and true."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import sys
import unicodedata
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import phonenumbers
import pytest
from rapidfuzz import fuzz

EXAMPLES = Path(__file__).parents[1] / "examples"
MADE_WITH = {"babel": "2.18.0", "phonenumbers": "9.0.43"}


def made_by(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return made_by("make_suppliers")


@pytest.fixture(scope="module")
def chatter() -> ModuleType:
    return made_by("make_chats")


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_committed_tables_are_what_the_seed_makes(maker: ModuleType) -> None:
    for package, version in MADE_WITH.items():
        if importlib.metadata.version(package) != version:
            pytest.skip(f"the tables were made with {package} {version}, and locale data change between versions")
    for name, made in maker.tables(10).items():
        assert rows(name) == made
    assert maker.tables(11)["suppliers.csv"] != maker.tables(10)["suppliers.csv"]


def plain(text: str, maker: ModuleType) -> str:
    """A name without accents and case, its German and Danish letters spelled out."""
    text = text.lower()
    for letter, written in maker.LETTERS.items():
        text = text.replace(letter, written)
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def test_canonical_values_are_true(maker: ModuleType) -> None:
    for row in rows("suppliers.csv"):
        if row["founded"]:
            assert date.fromisoformat(row["founded_clean"]).year >= 1950
        if row["phone"]:
            assert phonenumbers.is_valid_number(phonenumbers.parse(row["phone_clean"]))
        if row["revenue"]:
            currency, amount = row["revenue_clean"].split(" ")
            assert len(currency) == 3
            assert float(amount) > 0
        if row["company"]:
            name, form = row["company_clean"].split(" | ")
            assert form
            # of the country's suppliers the one that was meant is the nearest to what stands there
            known = {owner: plain(owner, maker) for owner in maker.NAMES[row["country"]]}
            near = {owner: fuzz.partial_ratio(way, plain(row["company"], maker)) for owner, way in known.items()}
            assert max(near, key=near.__getitem__) == name.rpartition(" ")[0], row


def test_held_out_countries_and_formats_are_a_small_part_and_the_new_table_holds_no_answers() -> None:
    labelled, new = rows("suppliers.csv"), rows("suppliers_new.csv")
    held = [row for row in labelled if row["country"] in ("NL", "JP", "BR") or row["style"] == "rare"]
    assert len(labelled) == 230
    assert len(held) == 20
    assert {row["country"] for row in held if row["style"] == "rare"} & {"NL", "JP", "BR"} == set()
    assert not [column for column in new[0] if "clean" in column]
    assert [row["supplier"] for row in new] == [row["supplier"] for row in rows("suppliers_new_truth.csv")]


def test_one_messy_value_never_means_two_things_in_one_country() -> None:
    meanings: dict[tuple[str, str, str], str] = {}
    for row in rows("suppliers.csv"):
        for column in ("founded", "phone", "revenue", "company", "origin"):
            key = (column, row["country"], row[column])
            assert meanings.setdefault(key, row[f"{column}_clean"]) == row[f"{column}_clean"]


def chats() -> list[dict[str, Any]]:
    with (EXAMPLES / "chats.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_the_committed_conversations_are_what_the_seed_makes(chatter: ModuleType) -> None:
    assert chats() == chatter.conversations(21)
    assert chatter.conversations(22) != chats()


def test_the_committed_pairs_are_those_conversations_each_with_a_mistaken_rule(chatter: ModuleType) -> None:
    with (EXAMPLES / "pairs.jsonl").open(encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    assert pairs == chatter.pairs(chats(), 21)
    for row, pair in zip(chats(), pairs, strict=True):
        assert [*pair["prompt"].split("\n"), pair["chosen"]] == [message["content"] for message in row["messages"]]
        wrong, right = json.loads(pair["rejected"]), json.loads(pair["chosen"])
        assert wrong != right
        assert "column" in wrong


def test_every_rule_is_json_about_columns_that_the_system_message_names_and_what_was_said() -> None:
    for row in chats():
        system, *turns = row["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert row["turns"] == {2: "one", 4: "two"}[len(turns)]
        shown = system["content"].partition("(")[2].partition(")")[0].split(", ")
        assert len(shown) == len(set(shown)) == 5
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            rule = json.loads(answered["content"])
            assert answered["content"] == json.dumps(rule, separators=(",", ":"))
            assert rule["column"] in shown
            assert rule.get("not_before", shown[0]) in shown
            assert rule.get("min", -40) <= rule.get("max", 9000)
            numbers = [str(rule[key]) for key in ("min", "max", "length") if key in rule]
            assert [each for each in [*numbers, *rule.get("one_of", [])] if each not in asked["content"]] == []
            if asked is turns[0]:  # later remarks may speak of `it`
                assert rule["column"].replace("_", " ") in asked["content"].lower().replace("_", " ")


def test_no_remark_is_made_twice_of_a_table_and_two_tables_are_for_the_test_alone(chatter: ModuleType) -> None:
    asked = [(row["table"], *(m["content"] for m in row["messages"] if m["role"] == "user")) for row in chats()]
    assert len(set(asked)) == len(asked) == 600
    unseen = [row for row in chats() if row["table"] in chatter.UNSEEN]
    assert len(unseen) == 72
    assert {row["rule"] for row in unseen} == {row["rule"] for row in chats()}
