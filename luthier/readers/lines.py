"""Lines: one record on each line, cut at a separator into named columns; for data sets that have no header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from luthier.errors import UserError
from luthier.readers import Quarantined, Reader, Row
from luthier.readers._lines import Encoding, excerpt, find_encoding, flaw, physical_lines, refuse_unfit


class Lines(Reader):
    """`label text of any length` and the like: the last column takes the rest of the line. Blank lines are skipped."""

    columns: list[str] = Field(min_length=1)
    """Names of the columns, in order."""
    separator: str = Field(" ", min_length=1)
    """What stands between two columns."""
    encoding: Encoding = "auto"
    """Encoding of the file; found from its bytes by default."""

    def rows(self, path: Path) -> Iterator[Row | Quarantined]:
        refuse_unfit(path, encoding=self.encoding)
        encoding = self._encoding(path)
        last = 0
        for line in physical_lines(path, encoding):
            text = line.text.rstrip("\r\n")
            if not text:
                continue
            blank, last = line.number - last - 1, line.number
            parts = text.split(self.separator, len(self.columns) - 1)
            if found := flaw(text):
                reason = f"character {found.at + 1} cannot be decoded"
                yield Quarantined(path.name, line.number, "", excerpt(text), "encoding", reason, blank, text)
            elif len(parts) < len(self.columns):
                reason = f"{len(parts)} columns where {len(self.columns)} were named"
                yield Quarantined(path.name, line.number, "", excerpt(text), "ragged", reason, blank, text)
            else:
                yield Row(path.name, line.number, dict(zip(self.columns, parts, strict=True)), blank, text)
        if not last:
            raise UserError("is empty", where=str(path), hint="it needs at least one record")

    def describe(self, path: Path) -> dict[str, Any]:
        refuse_unfit(path, encoding=self.encoding)
        return {
            "format": self.kind,
            "encoding": self._encoding(path),
            "separator": self.separator,
            "columns": self.columns,
        }

    def _encoding(self, path: Path) -> str:
        return find_encoding(path)[0] if self.encoding == "auto" else self.encoding
