"""Which reader fits a file, found from its content; and how a table was read, for people."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.errors import UserError
from luthier.readers import Reader, Table
from luthier.readers._layout import beginning, find_dialect
from luthier.readers._lines import CHUNK_BYTES, find_encoding, refuse_unfit
from luthier.readers.csv import Csv
from luthier.readers.json import Json, is_document
from luthier.readers.jsonl import Jsonl, Unfit, parse
from luthier.readers.tsv import Tsv

JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
UNTOLD = ("columns", "above", "mark", "newline", "shapes")  # what only a writer or a program needs
TAB_SUFFIXES = {".tsv", ".tab"}


def detect(path: Path) -> Reader:
    """The reader for a file, configured; content decides and the suffix settles what content leaves open.

    Raises UserError for a file that is missing, a folder, empty, or no text. The encoding stays `auto`, so that
    `describe` can say how it was found.
    """
    refuse_unfit(path, encoding="auto")
    encoding, _ = find_encoding(path)
    lines = [line for line in beginning(path, encoding) if line.text.strip()]
    if not lines:
        raise UserError("is empty", where=str(path), hint="it needs at least one record")
    suffix = path.suffix.lower()
    opens = lines[0].text.lstrip()[0] in "{["
    if opens and is_document(path):
        return Json()
    holds = any(_is_object(line.text) for line in lines[:20])
    if opens + holds + (suffix in JSON_SUFFIXES) >= 2:
        return Jsonl()
    delimiter = find_dialect(lines, "auto", '"', "", "auto").delimiter
    if delimiter == "\t" or (suffix in TAB_SUFFIXES and delimiter not in lines[0].text):
        return Tsv()
    return Csv(delimiter=delimiter)


def contradicted(path: Path, reader: Reader) -> str:
    """Why a given encoding cannot be that of a file, or nothing: text beyond ASCII that is valid UTF-8 is nothing else."""
    encoding = str(reader.model_dump().get("encoding", "auto"))
    if encoding == "auto" or encoding.lower().replace("-", "").replace("_", "").startswith(("utf", "u8")):
        return ""
    refuse_unfit(path, encoding=encoding)
    found, how = find_encoding(path)
    with path.open("rb") as file:
        plain = all(chunk.isascii() for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))
    return "" if plain or found != "utf-8" else f"is not {encoding}, as prepare.reader says: {how}"


def said_of(table: Table) -> str:
    """What was found of a table: 'reading names.csv as csv, utf-8 (every byte is valid utf-8), delimiter ";"'.

    Not what only a writer needs.
    """
    facts = {key: value for key, value in table.described.items() if key not in UNTOLD}
    found_by = facts.pop("encoding_found_by", "")
    named = [str(facts.pop(name)) for name in ("format", "encoding") if name in facts]
    first = ", ".join(named) + (f" ({found_by})" if found_by else "")
    told = [
        key.replace("_", " ") + ("" if value is True else f" {json.dumps(value, ensure_ascii=False)}")
        for key, value in facts.items()
    ]
    return f"reading {table.path.name} as {', '.join([first, *told])}"


def _is_object(text: str) -> bool:
    try:
        parse(text)
    except Unfit:
        return False
    return True
