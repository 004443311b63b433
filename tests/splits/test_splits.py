"""Splits: sizes, proportions, whole entities, and that rows which are appended move nobody."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from luthier.choice import class_name, find, members
from luthier.errors import UserError
from luthier.splits import Unit
from luthier.splits._sized import apportion
from luthier.splits.given import Given
from luthier.splits.grouped import Grouped
from luthier.splits.random import Random
from luthier.splits.stratified import Stratified

SEEDS = (0, 1, 2, 3, 20)


def rows(n, label="", prefix="r"):
    return [Unit(id=f"{prefix}{i}", entity=f"{prefix}{i}", label=label, role="") for i in range(n)]


def of(entity, n, label=""):
    return [Unit(id=f"{entity}-{i}", entity=entity, label=label, role="") for i in range(n)]


def sizes(split, units, seed=1):
    counted = Counter(split.assign(units, seed))
    return counted["train"], counted["validation"], counted["test"]


@pytest.mark.parametrize(
    ("split", "n", "expected"),
    [
        (Random(validation=7, test=13), 100, (80, 7, 13)),
        (Random(validation=1, test=0.5), 11, (4, 1, 6)),  # 5.5 is rounded up
        (Random(validation=0.1, test=1), 5, (3, 1, 1)),  # 0.5 is rounded up
        (Random(validation=1, test=1), 3, (1, 1, 1)),
        (Random(validation=1, test=1), 0, (0, 0, 0)),
        (Grouped(by="supplier", validation=10, test=20), 100, (70, 10, 20)),
        (Stratified(validation=10, test=20), 100, (70, 10, 20)),
    ],
)
def test_counts_are_met_exactly(split, n, expected):
    assert sizes(split, rows(n)) == expected


def as_expected(found, n, share):
    """Whether a size is one that chance gives a share of n rows, but for one draw in 5,000."""
    low, high = binom.interval(0.9998, n, share)
    return low <= found <= high + 1  # one more is dealt


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("split", "validation", "test"),
    [
        (Random(), 0.1, 0.2),
        (Random(validation=0.25, test=0.5), 0.25, 0.5),
        (Grouped(by="supplier"), 0.1, 0.2),
        (Stratified(), 0.1, 0.2),
    ],
)
def test_shares_are_met_as_nearly_as_chance_allows(split, validation, test, seed):
    found = sizes(split, rows(1000), seed)
    assert as_expected(found[1], 1000, validation)
    assert as_expected(found[2], 1000, test)
    assert sum(found) == 1000


@pytest.mark.parametrize(
    ("split", "n", "expected"),
    [
        (Random(), 0, []),
        (Random(), 3, ["train", "test", "validation"]),
        (Random(test=0.01, validation=0.01), 3, ["train", "test", "validation"]),
        (Grouped(by="supplier"), 3, ["train", "test", "validation"]),
        (Stratified(), 3, ["train", "test", "validation"]),
    ],
)
def test_the_first_three_are_dealt_so_that_no_split_is_empty(split, n, expected):
    assert [split.assign(rows(n), seed) for seed in SEEDS] == [expected] * len(SEEDS)


def test_another_seed_chooses_other_rows():
    units = rows(100)
    for split in (Random(), Random(test=20, validation=10)):
        assert split.assign(units, 1) == split.assign(units, 1)
        assert split.assign(units, 1) != split.assign(units, 2)


def test_another_validation_share_leaves_the_test_split_as_it_is():
    units = rows(200)
    tests = [
        [i for i, split in enumerate(Random(validation=share).assign(units, 1)) if split == "test"]
        for share in (0.1, 0.4)
    ]
    assert tests[0] == tests[1]


@pytest.mark.parametrize(("split", "first"), [(Random(), 3), (Random(validation=1, test=2), 0)])
def test_every_row_that_is_not_dealt_is_as_likely_to_be_in_the_test_split(split, first):
    units = rows(10 + first)
    chosen = Counter(i for seed in range(1000) for i, s in enumerate(split.assign(units, seed)) if s == "test")
    assert all(150 < chosen[i] < 250 for i in range(first, 10 + first))  # 200 expected, standard deviation 12.6


def many(n):
    """Rows of n suppliers, in turn, with labels of which some are rare and some come late."""
    labels = ["a", "a", "a", "b", "b", "c"]
    return [
        Unit(f"{i}", f"s{i * 7 % n}", labels[i * 5 % 6] if i % 50 else f"rare{i // 150}", "", {"part": PARTS_OF[i % 4]})
        for i in range(3 * n)
    ]


PARTS_OF = ("train", "train", "train", "test")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "split",
    [
        Random(),
        Random(test=0.5, validation=0.01),
        Grouped(by="supplier"),
        Stratified(),
        Stratified(by="part"),
        Given(column="part", validation_share=0.3),
    ],
)
def test_rows_that_are_appended_move_nobody(split, seed):
    units = many(120)
    if not isinstance(split, Grouped):
        for unit in units:
            unit.entity = unit.id
    whole = split.assign(units, seed)
    assert set(whole) == {"train", "validation", "test"}
    for n in (12, 13, 50, 200, len(units) - 1):
        assert split.assign(units[:n], seed) == whole[:n]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_that_grows_moves_no_row_to_validation_or_from_it(seed):
    table = [Unit(f"{i}", f"{i}", "", "") for i in range(60)]
    held = [Unit(f"test/{i}", f"test:{i}", "", "test") for i in range(5)]
    split = Given(test="out.csv", validation_share=0.3)
    whole = split.assign([*table, *held], seed)
    assert split.assign([*table[:20], *held[:2]], seed)[:20] == whole[:20]
    assert as_expected(Counter(whole)["validation"], 60, 0.3)


def test_what_is_met_exactly_moves_others_when_rows_are_appended():
    units = rows(200)
    counted = Random(test=40, validation=20)
    assert counted.assign(units[:100], 1) != counted.assign(units, 1)[:100]


@pytest.mark.parametrize("seed", SEEDS)
def test_strata_keep_their_shares(seed):
    units = rows(1000, "a", "a") + rows(300, "b", "b") + rows(100, "c", "c")
    found = Counter((unit.label, split) for unit, split in zip(units, Stratified().assign(units, seed), strict=True))
    for label, n in (("a", 1000), ("b", 300), ("c", 100)):
        assert as_expected(found[label, "test"], n, 0.2)
        assert as_expected(found[label, "validation"], n, 0.1)


def test_counted_strata_keep_their_shares_to_within_one():
    units = rows(100, "a", "a") + rows(30, "b", "b") + rows(10, "c", "c")
    assigned = Stratified(test=28, validation=14).assign(units, 1)
    found = Counter((unit.label, split) for unit, split in zip(units, assigned, strict=True))
    assert {label: found[label, "test"] for label in "abc"} == {"a": 20, "b": 6, "c": 2}
    assert {label: found[label, "validation"] for label in "abc"} == {"a": 10, "b": 3, "c": 1}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("split", [Stratified(), Stratified(test=0.01, validation=0.01)])
def test_a_label_of_three_or_more_examples_is_in_every_split(split, seed):
    counts = {"one": 1, "two": 2, "three": 3, "four": 4, "ten": 10, "many": 200}
    labels = [label for label, n in counts.items() for _ in range(n)]
    units = [Unit(f"{i}", f"{i}", labels[i * 89 % 220], "") for i in range(220)]  # 89 and 220 share no factor
    found = {label: set() for label in counts}
    for unit, name in zip(units, split.assign(units, seed), strict=True):
        found[unit.label].add(name)
    everywhere = {"train", "validation", "test"}
    assert {label: found[label] for label in counts} == {
        "one": {"train"},  # nothing is tested untaught
        "two": {"train", "test"},
        "three": everywhere,
        "four": everywhere,
        "ten": everywhere,
        "many": everywhere,
    }


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.sampled_from([*"aaaabbb", *(f"rare {i}" for i in range(20))]), min_size=5, max_size=60),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
def test_counts_never_take_a_labels_only_example_from_training(labels, sizes, seed):
    units = [Unit(f"{i}", f"{i}", label, "") for i, label in enumerate(labels)]
    test, validation = sizes
    try:
        found = Stratified(test=test, validation=validation).assign(units, seed)
    except UserError as told:
        assert test + validation > len(units) - len(set(labels))
        assert "nothing to train on" in told.sentence()
        return
    assert Counter(found) == {"test": test, "validation": validation, "train": len(units) - test - validation}
    assert {unit.label for unit, split in zip(units, found, strict=True) if split == "train"} == set(labels)


def test_counts_that_would_leave_a_label_untaught_are_refused_with_how_many_may_leave():
    units = [*rows(10, "a", "a"), *(Unit(f"{i}", f"{i}", f"rare {i}", "") for i in range(6))]
    with pytest.raises(UserError) as told:
        Stratified(test=8, validation=4).assign(units, 1)
    assert told.value.sentence() == (
        "prepare.split: test 8 and validation 4 of 16 examples leave some of the 7 parts that are kept in proportion "
        "nothing to train on; use 9 or fewer together"
    )


def test_strata_may_come_from_a_column():
    units = [Unit(f"{i}", f"{i}", "same", "", {"country": "DE" if i % 5 else "FR"}) for i in range(100)]
    split = Stratified(by="country", test=20, validation=10)
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
    assert apportion(seats, strata, strata, seed=1) == expected


@pytest.mark.parametrize(
    ("seats", "strata", "most", "expected"),
    [
        (4, {"a": 10, "b": 1, "c": 1}, {"a": 9, "b": 0, "c": 0}, {"a": 4, "b": 0, "c": 0}),
        (9, {"a": 6, "b": 6, "c": 2}, {"a": 5, "b": 5, "c": 1}, {"a": 4, "b": 4, "c": 1}),
        (8, {"a": 2, "b": 4, "c": 4}, {"a": 1, "b": 4, "c": 4}, {"a": 1, "b": 4, "c": 3}),
    ],
)
def test_what_a_stratum_cannot_give_the_others_do(seats, strata, most, expected):
    found = apportion(seats, strata, most, seed=1)
    assert sorted(found.values()) == sorted(expected.values())
    assert sum(found.values()) == seats
    assert all(found[name] <= most[name] for name in strata)


def test_groups_fill_the_counts_as_far_as_whole_groups_can():
    units = [unit for i in range(40) for unit in of(f"s{i}", 1 + i % 5)]  # 120 rows
    train, validation, test = sizes(Grouped(by="supplier", test=24, validation=12), units)
    assert abs(test - 24) <= 2
    assert abs(validation - 12) <= 2
    assert train + validation + test == 120


def test_a_group_much_larger_than_the_test_split_stays_in_train_and_the_others_fill_both():
    units = of("giant", 90) + [unit for i in range(10) for unit in of(f"s{i}", 1)]
    split = Grouped(by="supplier", test=20, validation=10)
    for seed in range(20):
        assert split.assign(units, seed)[0] == "train"
    assert sizes(split, units) == (90, 1, 9)


def test_three_large_groups_still_give_three_splits():
    units = of("a", 10) + of("b", 12) + of("c", 40)
    assert sizes(Grouped(by="supplier", test=3, validation=3), units) == (40, 10, 12)
    assert sizes(Grouped(by="supplier", test=0.05, validation=0.05), units) == (10, 40, 12)  # in the table's order


def test_grouped_names_its_column():
    assert Grouped(by="supplier").entity_column() == "supplier"
    assert [split.entity_column() for split in (Random(), Stratified(), Given(column="part"))] == ["", "", ""]


@st.composite
def tables(draw):
    """Rows of few entities; one entity may have rows of several labels."""
    entities = draw(st.lists(st.sampled_from([f"e{i}" for i in range(12)]), min_size=12, max_size=60))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=len(entities), max_size=len(entities)))
    pairs = enumerate(zip(entities, labels, strict=True))
    return [Unit(f"{i}", entity, label, "", {"part": PARTS[entity]}) for i, (entity, label) in pairs]


PARTS = {f"e{i}": ["train", "test", "val"][i % 3] for i in range(12)}
SHARED = [Random(), Grouped(by="x"), Stratified(), Random(test=0.6, validation=0.3)]
COUNTED = [Random(validation=3, test=3), Stratified(validation=2, test=3), Grouped(by="x", validation=0.2, test=4)]


def assigned(split, units, seed):
    """The splits, or None where the table is too small or lopsided for three of them."""
    try:
        return split.assign(units, seed)
    except UserError:
        assert isinstance(split, Given) or too_small(split, units)
        return None


def too_small(split, units):
    """Whether a table has fewer than three entities (of any label, if stratified), or fewer than counts ask for."""
    sizes_of = Counter(unit.entity for unit in units)
    per_label = Counter(label for _, label in {unit.entity: unit.label for unit in reversed(units)}.items())
    stratified = isinstance(split, Stratified)
    if len(sizes_of) < 3 or (stratified and max(per_label.values()) < 3):
        return True
    votes = Counter((unit.entity, unit.label) for unit in sorted(units, key=lambda unit: unit.label))
    most = {entity: label for (entity, label), _ in reversed(votes.most_common())}
    smallest = {label: min(n for e, n in sizes_of.items() if most[e] == label) for label in most.values()}
    stay = sum(smallest.values()) if stratified and len(smallest) > 1 else 1
    sizes = split.test, split.validation
    asked = sum(size if isinstance(size, int) else round(size * len(units)) for size in sizes)
    return any(isinstance(size, int) for size in sizes) and asked > len(units) - stay


@settings(max_examples=60, deadline=None)
@given(units=tables(), split=st.sampled_from([*SHARED, *COUNTED, Given(column="part")]), seed=st.integers(0, 99))
def test_no_entity_is_in_two_splits_and_no_split_is_empty(units, split, seed):
    found = assigned(split, units, seed)
    if found is not None:
        assert set(found) == {"train", "validation", "test"}
        pairs = {(unit.entity, name) for unit, name in zip(units, found, strict=True)}
        assert len(pairs) == len({unit.entity for unit in units})


@settings(max_examples=60, deadline=None)
@given(units=tables(), split=st.sampled_from(SHARED), seed=st.integers(0, 99), n=st.integers(0, 60))
def test_the_beginning_of_a_table_is_split_as_in_the_whole_table(units, split, seed, n):
    before, after = assigned(split, units[:n], seed), assigned(split, units, seed)
    if before is not None and after is not None:
        assert before == after[:n]


@settings(max_examples=60, deadline=None)
@given(units=tables(), split=st.sampled_from(COUNTED), seed=st.integers(0, 99), shuffle=st.randoms())
def test_the_order_of_rows_is_nothing_where_sizes_are_counts(units, split, seed, shuffle):
    found = assigned(split, units, seed)
    if found is None:
        return
    by_id = {unit.id: name for unit, name in zip(units, found, strict=True)}
    shuffle.shuffle(units)
    assert split.assign(units, seed) == [by_id[unit.id] for unit in units]


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_in_another_order_differ_only_where_rows_were_dealt(seed):
    units = rows(200)
    forth = dict(zip((unit.id for unit in units), Random().assign(units, seed), strict=True))
    back = dict(zip((unit.id for unit in units[::-1]), Random().assign(units[::-1], seed), strict=True))
    assert {name for name in forth if forth[name] != back[name]} <= {"r0", "r1", "r2", "r197", "r198", "r199"}


def test_rows_without_an_entity_stand_for_themselves():
    units = [Unit(f"{i}", "", "", "") for i in range(100)]
    assert sizes(Grouped(by="supplier", test=20, validation=10), units) == (70, 10, 20)
    assert Grouped(by="supplier").assign(units, 1) == Random().assign(units, 1)


def given_rows(*parts):
    return [Unit(f"{i}", f"{i}", "", "", {"part": part}) for i, part in enumerate(parts)]


def test_a_column_names_the_splits_in_any_of_the_usual_words():
    units = given_rows("train", "Train", " TEST ", "test", "validation", "valid", "val", "dev")
    assert Given(column="part").assign(units, 1) == ["train"] * 2 + ["test"] * 2 + ["validation"] * 4
    assert Given(column="part").needs() == ["part"]


@pytest.mark.parametrize("seed", SEEDS)
def test_validation_is_taken_from_train_where_none_is_given(seed):
    units = given_rows(*["train"] * 400, *["test"] * 100)
    found = Given(column="part", validation_share=0.25).assign(units, seed)
    assert as_expected(Counter(found)["validation"], 400, 0.25)
    assert found[400:] == ["test"] * 100
    assert "test" not in found[:400]


def test_one_of_two_training_examples_validates_whatever_the_share():
    for seed in SEEDS:
        assert Given(column="part").assign(given_rows("train", "test", "train"), seed) == [
            "train",
            "test",
            "validation",
        ]


def test_what_is_given_as_validation_is_all_that_validates():
    units = given_rows(*["train"] * 50, "val", "test")
    assert Given(column="part", validation_share=0.9).assign(units, 1) == ["train"] * 50 + ["validation", "test"]


def test_files_of_their_own_are_validation_and_test():
    split = Given(validation="data/dev.csv", test="../held/out.csv")
    units = [Unit(f"{role}/{i}", f"{role}:{i}", "", role) for role in ("", "validation", "test") for i in (1, 2)]
    assert split.assign(units, 1) == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert split.paths() == {"validation": "data/dev.csv", "test": "../held/out.csv"}
    assert Given(test="out.csv").paths() == {"test": "out.csv"}
    assert (Given(column="part").paths(), split.needs()) == ({}, [])


def test_where_files_lie_decides_nothing():
    here, there = Given(validation="a/dev.csv", test="a/test.csv"), Given(validation="b/x.csv", test="b/y.csv")
    units = [Unit(f"{role}/{i}", f"{role}:{i}", "", role) for role in ("", "validation", "test") for i in range(9)]
    assert here.placeless() == there.placeless()
    assert here.placeless().assign(units, 1) == there.assign(units, 1)


@pytest.mark.parametrize(
    ("split", "units", "sentence"),
    [
        (
            Random(test=1),
            rows(4),
            "prepare.split: validation 0.1 of 4 examples leaves nothing to validate on; "
            "use a larger share, or a count such as 1",
        ),
        (
            Random(test=0.01, validation=1),
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
            "prepare.split: validation_share 0.1 of 1 examples leaves nothing to validate on; "
            "give validation examples, or use another share",
        ),
        (
            Given(column="part"),
            [Unit(f"{i}", "acme", "", "", {"part": "train"}) for i in range(9)] + given_rows("test"),
            "prepare.split: validation_share 0.1 of 9 examples leaves nothing to validate on; "
            "give validation examples, or use another share",
        ),
        (
            Given(test="out.csv"),
            rows(2),
            "prepare.split: the given split leaves nothing to test on; "
            "the table and the file of test examples need rows",
        ),
        (
            Given(test="out.csv"),
            [Unit("test/1", "test:1", "", "test")],
            "prepare.split: the given split leaves nothing to train on; "
            "the table and the file of test examples need rows",
        ),
        (
            Random(),
            rows(2),
            "prepare.split: 2 of what is kept whole cannot fill train, validation and test; 3 or more are needed",
        ),
        (
            Stratified(),
            rows(1, "a", "a") + rows(1, "b", "b") + rows(1, "c", "c"),
            "prepare.split: no example is left to test on, since nothing that is kept in proportion is there three "
            "times; use `random`, or counts in place of shares",
        ),
        (
            Stratified(),
            rows(2, "a", "a") + rows(2, "b", "b"),
            "prepare.split: no example is left to validate on, since nothing that is kept in proportion is there three "
            "times; use `random`, or counts in place of shares",
        ),
        (
            Given(column="part"),
            [
                Unit("1", "acme", "", "", {"part": "train"}),
                Unit("2", "acme", "", "", {"part": "test"}),
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
            {"validation": "x/a.csv", "test": "x/../x/./a.csv"},
            "`validation` and `test` must be different files",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_on_loading(name, block, sentence):
    with pytest.raises(ValidationError) as error:
        find("splits", name).model_validate(block)
    assert error.value.errors()[0]["msg"].startswith(sentence)


def test_files_of_the_same_name_in_other_folders_are_other_files():
    assert Given(validation="dev/a.csv", test="test/a.csv").test == "test/a.csv"


def test_a_count_of_one_is_not_a_share_of_all():
    assert sizes(Random.model_validate({"test": 1, "validation": 1}), rows(10)) == (8, 1, 1)


@pytest.mark.parametrize("name", sorted(members("splits")))
def test_each_split_is_found_by_its_file_name(name):
    assert find("splits", name).__name__ == class_name(name)
