"""Writing a table in the format that its name says, row by row, beside the place where it is to stand."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from luthier.durable import place_new, unique_beside
from luthier.errors import UserError

FORMATS = (".csv", ".tsv", ".jsonl")


def writable(path: Path) -> None:
    """UserError, before any work is done, where a table cannot be written under this name."""
    if path.suffix not in FORMATS:
        raise UserError(f"cannot write a table as '{path.suffix}'", where=str(path), hint="use .csv, .tsv or .jsonl")
    refuse_existing(path)


def refuse_existing(path: Path) -> None:
    """UserError where something has this name already."""
    if os.path.lexists(path):
        raise UserError("exists already and is not overwritten", where=str(path), hint="give another name")


@contextmanager
def new_file(target: Path) -> Iterator[TextIO]:
    """A text file that gets its name when it is whole and on disk; UserError where something got it in the meantime."""
    beside = unique_beside(target)
    try:
        with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            place_new(beside, target)
        except FileExistsError:
            refuse_existing(target)
            raise
    finally:
        beside.unlink(missing_ok=True)


def write_rows(
    file: TextIO, suffix: str, columns: Sequence[str], rows: Callable[[], Iterable[Mapping[str, Any]]]
) -> None:
    """CSV, TSV or JSON lines, by the suffix.

    `columns` of a CSV file are those that are known; where a row has a further one, the file is begun again with it.
    `rows` gives them from the first on, as often as it is called.
    """
    if suffix == ".jsonl":
        file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows())
        return
    known = list(columns)
    while True:
        file.seek(0)
        file.truncate()
        further = write_delimited(file, "\t" if suffix == ".tsv" else ",", known, rows())
        if not further:
            return
        known += further


def write_delimited(
    file: TextIO, delimiter: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Write rows until one has other columns than these, which are returned; none when all is written."""
    plain = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    quoted = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    known = dict.fromkeys(columns)
    plain.writerow(columns)
    for row in rows:
        further = [name for name in row if name not in known]
        if further:
            return further
        cells = [cell(row.get(name)) for name in columns]
        # before Python 3.13 a lone carriage return is not quoted, and readers end the record there
        (quoted if any("\r" in each for each in cells) else plain).writerow(cells)
    return []


def cell(value: Any) -> str:
    """A value as a cell: nothing is empty, and what is no text stands as in JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
