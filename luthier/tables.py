"""Writing a table in the format that its name says, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import UserError
from luthier.store import write_durably

FORMATS = (".csv", ".tsv", ".jsonl")


def writable(path: Path) -> None:
    """UserError, before any work is done, where a table cannot be written under this name."""
    if path.suffix not in FORMATS:
        raise UserError(f"cannot write a table as '{path.suffix}'", where=str(path), hint="use .csv, .tsv or .jsonl")
    if path.exists():
        raise UserError("exists already and is not overwritten", where=str(path), hint="name another file")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """CSV, TSV or JSON lines (UTF-8), by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        buffer = io.StringIO()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(buffer, columns, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_durably(path, buffer.getvalue().encode("utf-8", "surrogatepass"))
    else:
        write_durably(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode())
