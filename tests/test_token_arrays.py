"""Token arrays: encoded examples come back from disk as they went there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.batching import Encoded
from luthier.token_arrays import TokenArrays, write

FIELDS = ("ids", "supervised", "targets", "numbers", "covers", "cut_tokens", "weight")


def plain(example: Encoded) -> list[Any]:
    """Every field, arrays as lists."""
    return [np.asarray(value).tolist() for value in (getattr(example, name) for name in FIELDS)]


def stored(folder: Path, examples: list[Encoded]) -> TokenArrays:
    assert write(folder / "train", iter(examples)) == len(examples)
    return TokenArrays(folder / "train")


DECODER = Encoded(ids=[1, 5, 7, 2], supervised=[False, False, True, True], covers=2, cut_tokens=3, weight=0.5)
SEQ2SEQ = Encoded(ids=[5, 2], targets=[9, 8, 2], covers=3)
CLASSIFIER = Encoded(ids=[1, 2, 3], targets=[4], covers=1)
REGRESSOR = Encoded(ids=[2**31 - 1], numbers=[0.1, -1e300], covers=1)
NOTHING = Encoded(ids=[])


@pytest.mark.parametrize(
    "examples",
    [
        [],
        [NOTHING],
        [NOTHING, NOTHING],
        [DECODER],
        [DECODER, DECODER],
        [NOTHING, DECODER, NOTHING, SEQ2SEQ, NOTHING],
        [CLASSIFIER, CLASSIFIER],
        [REGRESSOR, DECODER, SEQ2SEQ, CLASSIFIER],
    ],
)
def test_examples_come_back_as_they_were_written(tmp_path: Path, examples: list[Encoded]) -> None:
    found = stored(tmp_path, examples)
    assert len(found) == len(examples)
    assert [plain(example) for example in found] == [plain(example) for example in examples]
    assert [plain(found[number]) for number in range(len(found))] == [plain(example) for example in examples]
    assert found.lengths().tolist() == [example.length for example in examples]
    assert found.lengths().tolist() == [example.length for example in found]


def numbers(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(kind, max_size=5)


ENCODED = st.builds(
    Encoded,
    ids=numbers(st.integers(0, 2**31 - 1)),
    supervised=numbers(st.booleans()),
    targets=numbers(st.integers(0, 2**31 - 1)),
    numbers=numbers(st.floats(allow_nan=False)),
    covers=st.integers(0, 99),
    cut_tokens=st.integers(0, 2**40),
    weight=st.floats(0, 10),
)


@settings(max_examples=50, deadline=None)
@given(examples=st.lists(ENCODED, max_size=8))
def test_any_examples_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Encoded]
) -> None:
    found = stored(tmp_path_factory.getbasetemp(), examples)
    assert [plain(example) for example in found] == [plain(example) for example in examples]


def test_they_are_a_sequence_like_any_other(tmp_path: Path) -> None:
    examples = [DECODER, SEQ2SEQ, CLASSIFIER]
    found = stored(tmp_path, examples)
    assert [plain(found[-number]) for number in (1, 2, 3)] == [plain(examples[-number]) for number in (1, 2, 3)]
    assert [plain(example) for example in reversed(found)] == [plain(example) for example in examples[::-1]]
    for number in (3, -4):
        with pytest.raises(IndexError):
            found[number]


def test_examples_are_views_into_the_files_and_cannot_change_them(tmp_path: Path) -> None:
    found = stored(tmp_path, [DECODER])
    assert isinstance(found.flat["ids"], np.memmap)
    assert np.shares_memory(found[0].ids, found.flat["ids"])
    with pytest.raises(ValueError, match="read-only"):
        found[0].ids[0] = 3  # type: ignore[index]


def test_what_was_written_before_under_the_same_name_is_gone(tmp_path: Path) -> None:
    stored(tmp_path, [DECODER, SEQ2SEQ, REGRESSOR])
    assert [plain(example) for example in stored(tmp_path, [CLASSIFIER])] == [plain(CLASSIFIER)]
