"""Each pair of techniques trains, or is refused with the reason that docs/techniques.md gives."""

from __future__ import annotations

import json
import os
from pathlib import Path

import combining
import pytest

KNOWN: dict[str, dict[str, str]] = json.loads(combining.TABLE.read_text(encoding="utf-8"))
# one architecture for each pair, in turn; all of them with LUTHIER_SOAK
KINDS = list(combining.ARCHITECTURES)
TRIED = [
    (pair, kind)
    for n, pair in enumerate(combining.pairs())
    for k, kind in enumerate(KINDS)
    if os.environ.get("LUTHIER_SOAK") or k == n % len(KINDS)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    combining.build(folder)
    return folder


def test_every_pair_stands_in_the_table() -> None:
    assert sorted(KNOWN) == sorted("+".join(pair) for pair in combining.pairs())
    assert all(list(found) == sorted(KINDS) for found in KNOWN.values())


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "kind"), TRIED, ids=[f"{'+'.join(pair)} {kind}" for pair, kind in TRIED])
def test_a_pair_trains_or_is_refused_as_the_table_says(place: Path, pair: tuple[str, str], kind: str) -> None:
    assert combining.outcome(place, kind, pair) == KNOWN["+".join(pair)][kind]
