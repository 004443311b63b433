"""Encoded examples on disk: flat arrays and an index, read memory-mapped, so that a million of them cost no memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.batching import Encoded

FLAT = {"ids": np.int32, "supervised": np.bool_, "targets": np.int32, "numbers": np.float64}
INDEX = len(FLAT) + 2  # columns: where each flat array ends, tokens that carry loss, tokens cut


def write(stem: Path, examples: Iterable[Encoded]) -> int:
    """Write `stem.<part>.bin` as the examples come; returns how many there were."""
    n = 0
    ends = np.zeros(len(FLAT), dtype=np.int64)
    files = {name: _file(stem, name).open("wb") for name in (*FLAT, "index", "weights")}
    try:
        for example in examples:
            for column, (name, kind) in enumerate(FLAT.items()):
                values: np.ndarray = np.asarray(getattr(example, name), dtype=kind)
                files[name].write(values.tobytes())
                ends[column] += len(values)
            row = np.array([*ends, example.covers, example.cut_tokens], dtype=np.int64)
            files["index"].write(row.tobytes())
            files["weights"].write(np.float64(example.weight).tobytes())
            n += 1
    finally:
        for file in files.values():
            file.close()
    return n


class TokenArrays(Sequence[Encoded]):
    """The examples behind a stem; each is made of views into the files when it is asked for."""

    def __init__(self, stem: Path) -> None:
        self.flat = {name: _mapped(_file(stem, name), kind) for name, kind in FLAT.items()}
        self.rows = _mapped(_file(stem, "index"), np.int64).reshape(-1, INDEX)
        self.weights = _mapped(_file(stem, "weights"), np.float64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        number = range(len(self))[number]  # from the end where it is negative, IndexError where there is none
        ends = self.rows[number]
        starts = self.rows[number - 1] if number else np.zeros(INDEX, dtype=np.int64)
        parts: dict[str, Any] = {
            name: array[starts[column] : ends[column]] for column, (name, array) in enumerate(self.flat.items())
        }
        return Encoded(**parts, covers=int(ends[-2]), cut_tokens=int(ends[-1]), weight=float(self.weights[number]))

    def __iter__(self) -> Iterator[Encoded]:
        return (self[number] for number in range(len(self)))

    def lengths(self) -> np.ndarray:
        """Tokens computed for each example, (n,)."""
        columns = [list(FLAT).index(name) for name in ("ids", "targets")]
        ends = self.rows[:, columns].sum(axis=1)
        found: np.ndarray = np.diff(ends, prepend=0)
        return found

    def tokens(self) -> np.ndarray:
        """The distinct tokens that are read, sorted."""
        found: np.ndarray = np.unique(self.flat["ids"])
        return found


def _file(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}.bin")


def _mapped(path: Path, kind: Any) -> np.ndarray:
    """A file as an array of numbers; an empty file cannot be mapped and is an empty array."""
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)
