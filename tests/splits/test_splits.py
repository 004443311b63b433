"""Splits: sizes, proportions, whole entities, and no dependence on the order of rows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.choice import class_name, find, members
from luthier.errors import UserError
from luthier.splits import Unit
from luthier.splits._sized import apportion
from luthier.splits.given import Given
from luthier.splits.grouped import Grouped
from luthier.splits.random import Random
from luthier.splits.stratified import Stratified


def rows(n, label="", prefix="r"):
    return [Unit(id=f"{prefix}{i}", entity=f"{prefix}{i}", label=label, file="table.csv") for i in range(n)]


def of(entity, n, label=""):
    return [Unit(id=f"{entity}-{i}", entity=entity, label=label, file="table.csv") for i in range(n)]


def sizes(split, units, seed=1):
    counted = Counter(split.assign(units, seed))
    return counted["train"], counted["validation"], counted["test"]


@pytest.mark.parametrize(
    ("split", "n", "expected"),
    [
        (Random(), 100, (70, 10, 20)),
        (Random(validation=0.25, test=0.5), 100, (25, 25, 50)),
        (Random(validation=7, test=13), 100, (80, 7, 13)),
        (Random(validation=1, test=0.5), 11, (4, 1, 6)),  # 5.5 is rounded up
        (Random(validation=1, test=1), 3, (1, 1, 1)),
        (Random(), 5, (3, 1, 1)),  # 0.5 is rounded up
        (Random(), 0, (0, 0, 0)),
        (Grouped(by="supplier"), 100, (70, 10, 20)),
        (Stratified(), 100, (70, 10, 20)),
    ],
)
def test_sizes_are_as_asked_for(split, n, expected):
    assert sizes(split, rows(n)) == expected


def test_another_seed_chooses_other_rows():
    units = rows(100)
    assert Random().assign(units, 1) == Random().assign(units, 1)
    assert Random().assign(units, 1) != Random().assign(units, 2)


def test_another_validation_share_leaves_the_test_split_as_it_is():
    units = rows(200)
    tests = [
        [i for i, split in enumerate(Random(validation=share).assign(units, 1)) if split == "test"]
        for share in (0.1, 0.4)
    ]
    assert tests[0] == tests[1]


def test_every_row_is_as_likely_to_be_in_the_test_split():
    units = rows(10)
    chosen = Counter(i for seed in range(1000) for i, s in enumerate(Random().assign(units, seed)) if s == "test")
    assert all(150 < chosen[i] < 250 for i in range(10))  # 200 expected, standard deviation 12.6


def test_strata_keep_their_shares():
    units = rows(100, "a", "a") + rows(30, "b", "b") + rows(10, "c", "c")
    found = Counter((unit.label, split) for unit, split in zip(units, Stratified().assign(units, 1), strict=True))
    assert {label: found[label, "test"] for label in "abc"} == {"a": 20, "b": 6, "c": 2}
    assert {label: found[label, "validation"] for label in "abc"} == {"a": 10, "b": 3, "c": 1}


def test_strata_may_come_from_a_column():
    units = [Unit(f"{i}", f"{i}", "same", "t", {"country": "DE" if i % 5 else "FR"}) for i in range(100)]
    split = Stratified(by="country")
    found = Counter((unit.columns["country"], s) for unit, s in zip(units, split.assign(units, 1), strict=True))
    assert (found["DE", "test"], found["FR", "test"]) == (16, 4)
    assert (split.needs(), Stratified().needs()) == (["country"], [])


@pytest.mark.parametrize(
    ("seats", "strata", "expected"),
    [
        (10, {"a": 50, "b": 30, "c": 20}, {"a": 5, "b": 3, "c": 2}),
        (4, {"a": 55, "b": 30, "c": 15}, {"a": 2, "b": 1, "c": 1}),  # quotas 2.2, 1.2, 0.6
        (1, {"a": 60, "b": 40}, {"a": 1, "b": 0}),
        (0, {"a": 60, "b": 40}, {"a": 0, "b": 0}),
        (100, {"a": 60, "b": 40}, {"a": 60, "b": 40}),
    ],
)
def test_seats_are_shared_by_largest_remainder(seats, strata, expected):
    assert apportion(seats, strata, seed=1) == expected


def test_groups_fill_the_sizes_as_far_as_whole_groups_can():
    units = [unit for i in range(40) for unit in of(f"s{i}", 1 + i % 5)]  # 120 rows
    train, validation, test = sizes(Grouped(by="supplier"), units)
    assert abs(test - 24) <= 2
    assert abs(validation - 12) <= 2
    assert train + validation + test == 120


def test_a_group_much_larger_than_the_test_split_stays_in_train_and_the_others_fill_both():
    units = of("giant", 90) + [unit for i in range(10) for unit in of(f"s{i}", 1)]
    for seed in range(20):
        assert Grouped(by="supplier").assign(units, seed)[0] == "train"
    assert sizes(Grouped(by="supplier"), units) == (90, 1, 9)


def test_three_large_groups_still_give_three_splits():
    units = of("a", 10) + of("b", 12) + of("c", 40)
    assert sizes(Grouped(by="supplier", test=0.05, validation=0.05), units) == (40, 10, 12)


def test_grouped_names_its_column():
    assert Grouped(by="supplier").entity_column() == "supplier"
    assert [split.entity_column() for split in (Random(), Stratified(), Given(column="part"))] == ["", "", ""]


@st.composite
def tables(draw):
    """Rows of few entities; one entity may have rows of several labels."""
    entities = draw(st.lists(st.sampled_from([f"e{i}" for i in range(12)]), min_size=12, max_size=60))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=len(entities), max_size=len(entities)))
    pairs = enumerate(zip(entities, labels, strict=True))
    return [Unit(f"{i}", entity, label, "table.csv", {"part": PARTS[entity]}) for i, (entity, label) in pairs]


PARTS = {f"e{i}": ["train", "test", "val"][i % 3] for i in range(12)}
SPLITS = [Random(), Grouped(by="x"), Stratified(), Random(validation=3, test=3), Given(column="part")]


@settings(max_examples=60, deadline=None)
@given(units=tables(), split=st.sampled_from(SPLITS), seed=st.integers(0, 99), shuffle=st.randoms())
def test_no_entity_is_in_two_splits_no_split_is_empty_and_row_order_is_nothing(units, split, seed, shuffle):
    try:
        found = split.assign(units, seed)
    except UserError:
        assert len({unit.entity for unit in units}) < 3 or isinstance(split, Given)  # a given split may be lopsided
        return
    assert set(found) == {"train", "validation", "test"}
    assert len({(unit.entity, name) for unit, name in zip(units, found, strict=True)}) == len({u.entity for u in units})
    by_id = {unit.id: name for unit, name in zip(units, found, strict=True)}
    shuffle.shuffle(units)
    assert split.assign(units, seed) == [by_id[unit.id] for unit in units]


def test_rows_without_an_entity_stand_for_themselves():
    units = [Unit(f"{i}", "", "", "table.csv") for i in range(100)]
    assert sizes(Grouped(by="supplier"), units) == (70, 10, 20)


def given_rows(*parts):
    return [Unit(f"{i}", f"{i}", "", "table.csv", {"part": part}) for i, part in enumerate(parts)]


def test_a_column_names_the_splits_in_any_of_the_usual_words():
    units = given_rows("train", "Train", " TEST ", "test", "validation", "valid", "val", "dev")
    assert Given(column="part").assign(units, 1) == ["train"] * 2 + ["test"] * 2 + ["validation"] * 4
    assert Given(column="part").needs() == ["part"]


def test_validation_is_taken_from_train_where_none_is_given():
    units = given_rows(*["train"] * 80, *["test"] * 20)
    found = Given(column="part", validation_share=0.25).assign(units, 1)
    assert Counter(found) == {"train": 60, "validation": 20, "test": 20}
    assert found[80:] == ["test"] * 20


def test_files_of_their_own_are_validation_and_test():
    split = Given(validation="data/dev.csv", test="../held/out.csv")
    units = [Unit(f"{file}{i}", f"{file}{i}", "", file) for file in ("all.csv", "dev.csv", "out.csv") for i in (1, 2)]
    assert split.assign(units, 1) == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert split.files() == {"validation": "data/dev.csv", "test": "../held/out.csv"}
    assert Given(test="out.csv").files() == {"test": "out.csv"}
    assert (Given(column="part").files(), split.needs()) == ({}, [])


@pytest.mark.parametrize(
    ("split", "units", "sentence"),
    [
        (
            Random(),
            rows(4),
            "prepare.split: validation 0.1 of 4 examples leaves nothing to validate on; "
            "use a larger share, or a count such as 1",
        ),
        (
            Random(test=0.01),
            rows(10),
            "prepare.split: test 0.01 of 10 examples leaves nothing to test on; "
            "use a larger share, or a count such as 1",
        ),
        (
            Random(test=20, validation=10),
            rows(30),
            "prepare.split: test 20 and validation 10 of 30 examples leave nothing to train on; use less of them",
        ),
        (
            Grouped(by="supplier"),
            of("a", 30),
            "prepare.split: 1 of what is kept whole cannot fill train, validation and test; 3 or more are needed",
        ),
        (
            Grouped(by="supplier"),
            of("a", 30) + of("b", 30),
            "prepare.split: 2 of what is kept whole cannot fill train, validation and test; 3 or more are needed",
        ),
        (
            Given(column="part"),
            given_rows("train", "tset"),
            "prepare.split: column 'part' holds 'tset' in '1'; use train, validation or test",
        ),
        (
            Given(column="part"),
            given_rows(*["train"] * 20),
            "prepare.split: the given split leaves nothing to test on; give train and test in column 'part'",
        ),
        (
            Given(column="part"),
            given_rows("test", "dev"),
            "prepare.split: the given split leaves nothing to train on; give train and test in column 'part'",
        ),
        (
            Given(column="part"),
            given_rows("train", "test"),
            "prepare.split: validation_share 0.1 of 1 examples leaves nothing to train on; "
            "give validation examples, or use another share",
        ),
        (
            Given(column="part"),
            [Unit(f"{i}", "acme", "", "t", {"part": "train"}) for i in range(9)] + given_rows("test"),
            "prepare.split: validation_share 0.1 of 9 examples leaves nothing to validate on; "
            "give validation examples, or use another share",
        ),
        (
            Given(test="table.csv"),
            given_rows("", ""),
            "prepare.split: the given split leaves nothing to train on; "
            "the table and the files need examples, and different names",
        ),
        (
            Given(column="part"),
            [
                Unit("1", "acme", "", "t", {"part": "train"}),
                Unit("2", "acme", "", "t", {"part": "test"}),
            ],
            "prepare.split: 'acme' is given in both train and test; keep each in one of them",
        ),
    ],
)
def test_a_split_that_cannot_be_made_says_what_to_change(split, units, sentence):
    with pytest.raises(UserError) as error:
        split.assign(units, 1)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "block", "sentence"),
    [
        ("random", {"test": 0.0}, "test 0.0 leaves nothing to test on; use 0.1 or more"),
        ("random", {"validation": 0}, "validation 0 leaves nothing to validate on; use 0.1 or more"),
        ("grouped", {"by": "x", "test": -1}, "test -1 leaves nothing to test on; use 0.1 or more"),
        (
            "stratified",
            {"test": 0.9, "validation": 0.1},
            "validation 0.1 and test 0.9 leave nothing to train on; use smaller shares",
        ),
        ("random", {"test": 1.0}, "validation 0.1 and test 1.0 leave nothing to train on; use smaller shares"),
        ("random", {"test": True}, "Input should be a valid"),
        ("given", {}, "give either `column`, or `test` (and `validation`) as files"),
        ("given", {"column": "part", "test": "a.csv"}, "give either `column`, or `test` (and `validation`) as files"),
        ("given", {"validation": "a.csv"}, "`validation` alone leaves nothing to test on; give `test` as well"),
        (
            "given",
            {"validation": "x/a.csv", "test": "y/a.csv"},
            "`validation` and `test` must be files of different names",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_on_loading(name, block, sentence):
    with pytest.raises(ValidationError) as error:
        find("splits", name).model_validate(block)
    assert error.value.errors()[0]["msg"].startswith(sentence)


def test_a_count_of_one_is_not_a_share_of_all():
    assert sizes(Random.model_validate({"test": 1, "validation": 1}), rows(10)) == (8, 1, 1)


@pytest.mark.parametrize("name", sorted(members("splits")))
def test_each_split_is_found_by_its_file_name(name):
    assert find("splits", name).__name__ == class_name(name)
