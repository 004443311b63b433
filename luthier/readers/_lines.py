"""Physical lines of a text file: whether it is text at all, in which encoding, and each line with its number."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

from pydantic import AfterValidator

from luthier.errors import UserError

LONGEST = 16 * 1024 * 1024  # characters of one record; a longer one is put aside
CHUNK_BYTES = 64 * 1024
SIGNATURES = (
    (re.compile(rb"PK\x03\x04(?=.*(\[Content_Types\]|xl/))", re.DOTALL), "an Excel workbook (.xlsx)"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"PAR1(?=[\x00-\x08\x0e-\x1f\x80-\xff])"), "a Parquet file"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "a bzip2 archive"),
    (re.compile(rb"\xfd7zXZ\x00"), "an xz archive"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "a zstd archive"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
    (re.compile(rb"\x80[\x02-\x05]"), "a Python pickle"),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Excel workbook (.xls)"),
    (re.compile(rb"SQLite format 3\x00"), "a SQLite database"),
    (re.compile(rb"ARROW1\x00"), "an Arrow file"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"%PDF-"), "a PDF document"),
)
BYTE_ORDER_MARKS = (  # utf-32 before utf-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
JAPANESE_ESCAPE = re.compile(rb"\x1b\$[@B][!-~]{2}")  # of ISO-2022-JP, before characters of two bytes
SURROGATE = re.compile("[\ud800-\udfff]")


def _known_encoding(encoding: str) -> str:
    if encoding != "auto":
        try:
            b"a".decode(encoding, "replace")
        except (LookupError, ValueError):
            raise ValueError(
                f"no text encoding called '{encoding}'; such as utf-8, utf-16, cp1252, shift_jis"
            ) from None
    return encoding


Encoding = Annotated[str, AfterValidator(_known_encoding)]  # "auto", or a text encoding that Python knows


class Line(NamedTuple):
    """One physical line, which ends with LF, CRLF or CR."""

    number: int  # 1-based
    text: str  # with its ending; cut off after LONGEST + 1 characters


class Flaw(NamedTuple):
    """A place in a text that could not be decoded."""

    at: int  # 0-based character
    byte: int | None  # None for a lone surrogate that the encoding itself let through


def _keep_bytes(error: UnicodeError) -> tuple[str, int]:
    """Every undecodable byte as U+DC00 + byte. `surrogateescape` does the same, but only for bytes from 0x80."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("luthier.bytes", _keep_bytes)


def refuse_unfit(path: Path, *, encoding: str) -> None:
    """UserError for a file that is missing, a folder, empty, or no text; `encoding` is "auto" or what was given."""
    if path.is_dir():
        raise UserError("is a folder, not a file", where=str(path), hint=_near(path.name, path, cutoff=0.0))
    if not path.exists():
        raise UserError("there is no such file", where=str(path), hint=_near(path.name, path.parent, cutoff=0.5))
    try:
        with path.open("rb") as file:
            head = file.read(CHUNK_BYTES)
    except PermissionError:
        raise UserError("may not be read", where=str(path), hint="give yourself read permission") from None
    if not head:
        raise UserError("is empty", where=str(path), hint="it needs at least one record")
    for signature, name in SIGNATURES:
        if signature.match(head):
            raise UserError(f"looks like {name}, not text", where=str(path), hint="unpack, export or convert it first")
    if encoding != "auto" or any(head.startswith(mark) for mark, _ in BYTE_ORDER_MARKS):
        return
    odd, even = head[1::2].count(0), head[::2].count(0)
    if odd + even > len(head) / 4 and min(odd, even) <= max(odd, even) / 10:
        name = "utf-16-le" if odd > even else "utf-16-be"
        refuse_unmarked(path, name)
    ends = head.count(b"\n")
    wide = {"utf-16-le": head.count(b"\n\0"), "utf-16-be": head.count(b"\0\n")}
    name = max(wide, key=lambda each: wide[each])
    if (odd or even) and ends and not min(wide.values()) and 10 * wide[name] >= 9 * ends:
        refuse_unmarked(path, name)
    control = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\f\r\x1b")
    if odd + even > len(head) / 4 or (len(head) >= 512 and control > len(head) / 20):
        raise UserError(
            f"looks like binary data, not text ({odd + even} NUL bytes in the first {len(head)})",
            where=str(path),
            hint="export it as text first",
        )


def refuse_unmarked(path: Path, name: str) -> NoReturn:
    """UserError for a file in UTF-16 that does not say so."""
    raise UserError(
        "looks like UTF-16 without a byte order mark",
        where=str(path),
        hint=f"save it as UTF-8 (it seems to be {name})",
    )


def has_mark(path: Path) -> bool:
    """Whether a file begins with a byte order mark."""
    with path.open("rb") as file:
        head = file.read(4)
    return any(head.startswith(mark) for mark, _ in BYTE_ORDER_MARKS)


def find_encoding(path: Path) -> tuple[str, str]:
    """(encoding, how it was found), from every byte of the file, in flat memory.

    A byte order mark wins; then UTF-8 when all is valid, or when valid sequences outnumber invalid bytes ten to
    one (one bad line in a million must not turn the others into `Ã©`: that line is put aside); then a guess from the
    letters, and UserError where they fit several encodings.
    """
    with path.open("rb") as file:
        head = file.read(4)
        for mark, name in BYTE_ORDER_MARKS:
            if head.startswith(mark):
                return name, "byte order mark"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")("luthier.bytes")
        n_wide = n_bad = 0
        escapes = False
        sample = b""
        while chunk := file.read(CHUNK_BYTES):
            text = decoder.decode(chunk)
            escapes = escapes or bool(JAPANESE_ESCAPE.search(chunk))
            if chunk.isascii() and text.isascii():
                continue
            bad = len(SURROGATE.findall(text))
            n_bad += bad
            n_wide += len(text) - len(text.encode("ascii", "ignore")) - bad
            if len(sample) < CHUNK_BYTES:
                sample += chunk
        n_bad += len(decoder.decode(b"", final=True))
    if n_bad == n_wide == 0 and escapes:
        return "iso2022_jp", "its escape sequences"
    if n_bad == 0:
        return "utf-8", "every byte is valid utf-8"
    if n_wide >= 10 * n_bad:
        return "utf-8", f"{n_wide} valid utf-8 sequences against {n_bad} invalid bytes"
    from luthier.readers._encodings import guess, language_name

    found = guess(sample)
    if not found.sure:
        refuse_guess(path, found.shown)
    return found.encoding, f"guess from the letters of {language_name(found.language)}, not valid utf-8"


def refuse_guess(path: Path, shown: Sequence[tuple[str, str]]) -> NoReturn:
    """UserError that shows how a cell reads in each of the encodings that may be meant."""
    told = [f"'{excerpt(cell)}' in {encoding}" for encoding, cell in shown]
    raise UserError(
        f"is not utf-8, and its bytes do not tell which encoding it has: a cell reads {', '.join(told[:-1])} or {told[-1]}",
        where=str(path),
        hint=f"name it in the reader's `encoding`, such as `prepare.reader: {{kind: csv, encoding: {shown[0][0]}}}`, "
        "or save the file as utf-8",
    )


def physical_lines(path: Path, encoding: str) -> Iterator[Line]:
    """Every line in order, without a byte order mark; undecodable bytes stand as U+DC00 + byte (see `flaw`).

    Raises UserError where the file as a whole is not in this encoding, such as UTF-16 without its byte order mark.
    """
    try:
        yield from _decoded_lines(path, encoding)
    except UnicodeError as error:
        raise UserError(
            f"is no {encoding} text: {error}", where=str(path), hint="leave the reader's encoding at auto"
        ) from None


def _decoded_lines(path: Path, encoding: str) -> Iterator[Line]:
    size = LONGEST + 1
    with path.open(encoding=encoding, errors="luthier.bytes", newline="") as file:
        number, ahead = 0, ""
        while text := ahead or file.readline(size):
            number, ahead, piece = number + 1, "", text
            while len(piece) == size and not piece.endswith("\n"):  # cut off: go to where the line ends
                following = file.readline(size)
                if piece.endswith("\r") and following != "\n":
                    ahead = following
                    break
                piece = following
            yield Line(number, text.removeprefix("\ufeff") if number == 1 else text)


def flaw(text: str) -> Flaw | None:
    """The first place in a text that could not be decoded, or None."""
    if text.isascii():
        return None
    found = SURROGATE.search(text)
    if found is None:
        return None
    code = ord(found[0])
    return Flaw(found.start(), code - 0xDC00 if 0xDC00 <= code <= 0xDCFF else None)


def excerpt(text: str) -> str:
    """The beginning of a record in at most 80 characters, without its line ending, control characters escaped."""
    shown = "".join(_visible(character) for character in text[:81].rstrip("\r\n"))
    return shown if len(shown) <= 80 else shown[:79] + "…"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if 0xDC00 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _near(name: str, folder: Path, *, cutoff: float) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean '{folder / near[0]}'?"
    return f"nothing in {folder} has a similar name" if names else f"there are no files in {folder}"
