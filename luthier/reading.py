"""Which reader fits a file, found from its content; and how a table was read, for people."""

from __future__ import annotations

import codecs
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


def detect(path: Path, former: str = "") -> Reader:
    """The reader for a file, configured; content decides and the suffix settles what content leaves open.

    Raises UserError for a file that is missing, a folder, empty, or no text. The encoding stays `auto`, so that
    `describe` can say how it was found; `former` is believed where the bytes fit several.
    """
    refuse_unfit(path, encoding="auto")
    given = {}
    try:
        encoding, _ = find_encoding(path)
    except UserError:
        if not former or former.startswith("utf"):
            raise
        encoding, given = former, {"encoding": former}
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
        return Tsv().model_copy(update=given)
    return Csv(delimiter=delimiter).model_copy(update=given)


def reader_for_more(path: Path, given: Reader | None, former: str) -> Reader:
    """How to read further rows: as the recipe says, unless their bytes speak against its encoding, or else as they are found.

    `former` is the encoding of the table that was learned from, which is believed where the bytes fit several.
    """
    if given is not None and contradicted(path, given):
        return given.model_copy(update={"encoding": "auto"})
    return given or detect(path, former)


def contradicted(path: Path, reader: Reader) -> str:
    """Why a given encoding cannot be that of a file, or nothing: text beyond ASCII that is valid UTF-8 is nothing else."""
    encoding = str(reader.model_dump().get("encoding", "auto"))
    if encoding == "auto" or encoding.lower().replace("-", "").replace("_", "").startswith(("utf", "u8")):
        return ""
    refuse_unfit(path, encoding=encoding)
    decoder, plain = codecs.getincrementaldecoder("utf-8")(), True
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                plain &= chunk.isascii()
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return ""
    return "" if plain else f"is not {encoding}, as prepare.reader says: every byte is valid utf-8"


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
