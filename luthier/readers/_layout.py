"""The layout of a delimited file: its dialect, what stands above the header, and the columns, from its first lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from luthier.errors import UserError
from luthier.readers._lines import Line, physical_lines
from luthier.readers._records import Dialect, Record, split
from luthier.readers._swallowed import Judge

DELIMITERS = "\t|;,"  # of two that fit equally well, the one that is rarer in prose
DELIMITER_HINT = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)  # Excel's, in a first line of its own
MOST_ABOVE = 20  # records that may stand above a header which is found
AGREEING = 0.9  # share of the records that have as many fields as most
NUMBER = re.compile(r"[-+]?\d[\d.,]*")
YEAR = re.compile(r"(?:19|20)\d\d")
INTEGER = re.compile(r"[+-]?\d+")
DIGITS, CENTS = re.compile(r"\d{2,}"), re.compile(r"0\d+")
# A column of such a name holds what an index would, and of these what names of records would.
ID_NAME = re.compile(
    r"(?i:#|(.*[\W_])?(ids?|nr|no\.?|num|number|nummer|n|i|idx|index|key|rows?|line|lfd|pos)|[ug]uid)|[a-z]+I[dD]"
)
OWN_NAME = re.compile(r"(.*[\W_])?(name|title|item|product|article)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the records of a file begin, and what their fields are called."""

    n_above: int  # physical lines above the header, or above the first record where there is none
    header: Record | None
    columns: list[str]
    width: int  # fields of a record as it is cut
    extra: Literal["", "index", "delimiter"]  # what records have beyond the header: an index, or a delimiter at the end


def beginning(path: Path, encoding: str) -> list[Line]:
    """The first 1,000 physical lines, or as many as reach a million characters."""
    lines: list[Line] = []
    size = 0
    for line in islice(physical_lines(path, encoding), 1000):
        lines.append(line)
        size += len(line.text)
        if size > 1_000_000:
            break
    return lines


def find_dialect(
    sample: Sequence[Line], delimiter: str, quote: str, escape: str, skip_blanks: bool | Literal["auto"]
) -> Dialect:
    """The dialect whose records agree best; what is not `auto` stands.

    Of , ; tab | it is the one that cuts most records into equally many fields: a candidate scores (share of the
    records with as many fields as most have) squared x (fields - 1). It is a comma if none occurs.
    """
    if delimiter == "auto" and sample and (hint := DELIMITER_HINT.fullmatch(sample[0].text)):
        delimiter = hint[1]
    candidates = DELIMITERS.replace(quote, "") if delimiter == "auto" and quote else DELIMITERS
    best, most = Dialect("," if delimiter == "auto" else delimiter, quote, escape, skip_blanks is True), 0.0
    for character in candidates if delimiter == "auto" else delimiter:
        plain = Dialect(character, quote, escape, skip_blanks is True)
        score, records = _agreement(sample, plain)
        if skip_blanks == "auto" and _blank_before_quotes(records, plain):
            skipping = Dialect(character, quote, escape, skip_blanks=True)
            other, cut = _agreement(sample, skipping)
            if not any(record.rule for record in cut):
                plain, score = skipping, other
        if score > most:
            best, most = plain, score
    return best


def _agreement(sample: Sequence[Line], dialect: Dialect) -> tuple[float, list[Record]]:
    records = list(split(iter(sample), dialect))
    if not records:
        return 0.0, records
    width, n = Counter(len(record.fields) for record in records).most_common(1)[0]
    return (n / len(records)) ** 2 * (width - 1), records


def _blank_before_quotes(records: list[Record], dialect: Dialect) -> bool:
    """Whether at least half of the records below the first have a quote behind a delimiter and blanks."""
    if not dialect.quote:
        return False
    pattern = re.compile(re.escape(dialect.delimiter) + " +" + re.escape(dialect.quote))
    below = records[1:] or records
    return bool(below) and sum(bool(pattern.search(record.text)) for record in below) >= len(below) / 2


def find_layout(
    path: Path, sample: Sequence[Line], dialect: Dialect, *, header: bool, names: Sequence[str], skip_lines: int
) -> tuple[Layout, Judge]:
    """Where the header stands and what it means, and a judge of long records that knows the file's beginning.

    UserError where the file is empty, and where the header and the records below it do not go together.
    """
    n_above = skip_lines
    lines = [line for line in sample if line.number > n_above]
    first = next((line for line in lines if line.text.strip("\r\n")), None)
    if first is not None and DELIMITER_HINT.fullmatch(first.text):
        n_above = first.number
        lines = [line for line in lines if line.number > n_above]
    records = list(split(iter(lines), dialect))
    usual = Counter(len(record.fields) for record in records if not record.rule)
    width = usual.most_common(1)[0][0] if usual else len(records[0].fields) if records else 0
    judge = Judge(dialect, width)
    judge.learn_all(records[1:])
    records = list(split(iter(lines), dialect, judge.swallows))
    if not records:
        needs = "a header and at least one record" if header else "at least one record"
        raise UserError("is empty", where=str(path), hint=f"it needs {needs}")
    if not header:
        return Layout(n_above, None, _named(path, list(names), width, usual[width], records), width, ""), judge
    at = 0 if skip_lines or names else _title_lines(records, width)
    if at:
        n_above = records[at].lines[0].number - 1
    extra: Literal["", "index", "delimiter"] = ""
    fields, below = records[at].fields, records[at + 1 :]
    if not records[at].rule:
        fields, extra = _with_extra(fields, below, dialect.quote)
        _refuse_title(path, records[at], fields, extra, below, width, dialect.delimiter)
        if names:
            fields = _renamed(path, list(names), fields, extra)
    columns = [name if name.strip() else f"column {n}" for n, name in enumerate(fields, start=1)]
    return Layout(n_above, records[at], columns, len(columns) + (extra == "delimiter"), extra), judge


def _named(path: Path, names: list[str], width: int, n: int, records: list[Record]) -> list[str]:
    if names and len(names) != width and n >= AGREEING * len(records):
        raise UserError(
            f"{len(names)} names are given where the records have {width} fields",
            where=str(path),
            hint=f"give the reader {width} `names`",
        )
    return names or [f"column {n}" for n in range(1, width + 1)]


def _renamed(path: Path, names: list[str], fields: list[str], extra: str) -> list[str]:
    if len(names) != len(fields):
        raise UserError(
            f"{len(names)} names are given where the header has {len(fields)}",
            where=str(path),
            hint=f"give the reader {len(fields)} `names`, or `header: false` if the first line is a record",
        )
    return names


def _title_lines(records: list[Record], width: int) -> int:
    """How many records stand above the header: titles, notes. 0 where that is not beyond doubt.

    They have fewer fields than most records, or one alone that is not blank, and what stands below them can be a header
    and has the width of what is below it. A title with a delimiter in it may look like a header: then a blank line tells.
    """
    if width < 2 or not records:
        return 0
    if lower := _below_blank(records, width):
        return lower
    if not _is_title(records[0], width):
        return 0
    for at, record in enumerate(records[1 : MOST_ABOVE + 1], start=1):
        if _is_title(record, width) or len(record.fields) != width:
            continue
        below = records[at + 1 :]
        n_agree = sum(len(each.fields) == width for each in below)
        sure = bool(below) and n_agree >= AGREEING * len(below) and _may_be_header(record, width)
        # a first line that lacks one field alone may be the header itself, without the name of an index
        if sure and at == 1 and len(records[0].fields) == width - 1 > 1:
            sure = _contrasts(record.fields, below)
        return at if sure else 0
    return 0


def _below_blank(records: list[Record], width: int) -> int:
    """The place of a header below a blank line, where all that stands above it looks like titles; 0 where there is none.

    A title has another width, a number, or a piece that begins with a blank as in prose, and not all have the last
    alone. The header's names differ, are no numbers and do not stand again below them.
    """
    if len(records[0].fields) == width - 1 > 1:
        return 0  # it may be the header, without the name of an index
    above: list[Record] = []
    for at, record in enumerate(records[: MOST_ABOVE + 1]):
        if not any(map(str.strip, record.fields)):
            continue  # delimiters alone
        before = records[at - 1].lines[-1].number if at else record.lines[0].number
        gap = record.lines[0].number > before + 1 or (at and not any(map(str.strip, records[at - 1].fields)))
        if (
            gap
            and above
            and any(_unlike(each, width) for each in above)
            and _is_header(record, records[at + 1 :], width)
        ):
            return at
        if not (_unlike(record, width) or any(cell[:1].isspace() for cell in record.fields[1:])):
            return 0
        above.append(record)
    return 0


def _unlike(record: Record, width: int) -> bool:
    """Whether a record can be no header."""
    numbers = any(NUMBER.fullmatch(cell.strip()) for cell in record.fields)
    return _is_title(record, width) or len(record.fields) != width or numbers


def _is_header(record: Record, below: list[Record], width: int) -> bool:
    """Whether a record that stands lower down is the header: names that differ, without numbers, none a value below."""
    cells = [each.fields for each in below if len(each.fields) == width]
    if _unlike(record, width) or not _may_be_header(record, width) or len(cells) < max(2, AGREEING * len(below)):
        return False
    columns = zip(*cells, strict=True)
    return not any(name.strip() and name in column for name, column in zip(record.fields, columns, strict=True))


def _is_title(record: Record, width: int) -> bool:
    n_told = sum(bool(field.strip()) for field in record.fields)
    return not record.rule and (len(record.fields) < width or (width > 2 and n_told < 2))


def _may_be_header(record: Record, width: int) -> bool:
    names = [field.strip() for field in record.fields]
    told = [name for name in names if name]
    return (
        not record.rule
        and len(names) == width
        and len(told) >= width - 1
        and len(set(told)) == len(told)
        and not any(NUMBER.fullmatch(name) and not YEAR.fullmatch(name) for name in told)
    )


def _contrasts(names: list[str], below: list[Record]) -> bool:
    """Whether a name stands over numbers alone."""
    cells = [[record.fields[at] for record in below if len(record.fields) == len(names)] for at in range(len(names))]
    return any(
        column and not NUMBER.fullmatch(name) and all(NUMBER.fullmatch(cell) for cell in column)
        for name, column in zip(names, cells, strict=True)
    )


def _with_extra(
    fields: list[str], below: list[Record], quote: str
) -> tuple[list[str], Literal["", "index", "delimiter"]]:
    """The header's fields as the records have them, and what it is that every record has beyond it."""
    whole = [record.fields for record in below if not record.rule]
    if len(fields) > 1 and whole and not fields[-1].strip() and all(len(each) == len(fields) - 1 for each in whole):
        return fields[:-1], ""  # the header alone ends with a delimiter
    if len(whole) < 2 or not all(len(each) == len(fields) + 1 for each in whole):
        return fields, ""
    if not any(each[-1] for each in whole):
        return fields, "delimiter"
    quoted = [record.text.startswith(quote) for record in below if not record.rule] if quote else []
    return (["", *fields], "index") if _is_index(fields[0], whole, all(quoted) and bool(quoted)) else (fields, "")


def _is_index(name: str, whole: list[list[str]], quoted: bool) -> bool:
    """Whether the field that each record has beyond the header is its first one, which no name is given.

    It may as well be a delimiter within a text or a number, so the first fields must count, or be names in quotes that
    occur once, and nothing may speak for such a delimiter. `name` is the first one of the header.
    """
    firsts = [each[0] for each in whole]
    if ID_NAME.fullmatch(name.strip()) or _divided(whole):
        return False
    if firsts[0] in ("0", "1"):
        start = int(firsts[0])
        if all(first == str(n) for n, first in enumerate(firsts, start=start)):
            return True
    return quoted and len(set(firsts)) == len(firsts) and not OWN_NAME.fullmatch(name.strip()) and not _decimal(whole)


def _divided(whole: list[list[str]]) -> bool:
    """Whether fields look like the halves of one: a blank in front, a single quote that the next one closes, a zero in
    front behind an integer."""
    few = len(whole) / 10
    blank = sum(any(cell[:1].isspace() for cell in each[1:]) for each in whole)
    single = sum(any(a[:1] == "'" and a[-1:] != "'" and b[-1:] == "'" for a, b in pairwise(each)) for each in whole)
    zero = sum(any(INTEGER.fullmatch(a) and CENTS.fullmatch(b) for a, b in pairwise(each)) for each in whole)
    return max(blank, single) > few or (zero > 0 and _decimal(whole))


def _decimal(whole: list[list[str]]) -> bool:
    """Whether two columns may be the halves of a number: integers, and as many digits, two or more, in each record."""
    columns = list(zip(*whole, strict=True))
    return any(
        all(map(INTEGER.fullmatch, a)) and all(map(DIGITS.fullmatch, b)) and len(set(map(len, b))) == 1
        for a, b in pairwise(columns[1:])
    )


def _refuse_title(
    path: Path, first: Record, fields: list[str], extra: str, below: list[Record], width: int, delimiter: str
) -> None:
    """UserError for a first line that cannot be the header of what stands below it."""
    n_agree = sum(len(record.fields) == width for record in below)
    if extra or len(fields) == width or n_agree < 3 or n_agree < AGREEING * len(below):
        return
    plural = "" if len(fields) == 1 else "s"
    within = f"if values hold '{delimiter}', put them in quotes; " if 1 < len(fields) < width else ""
    raise UserError(
        f"the header has {len(fields)} field{plural}, and {n_agree} of the {len(below)} records below it have {width}",
        where=f"{path}, line {first.lines[0].number}",
        hint=f"{within}if it is a title, set the reader's `skip_lines` (`prepare.reader: {{kind: csv, skip_lines: 1}}`) to "
        "the number of lines above the header; if it lacks names, correct it or set `header: false` and `names`",
    )


def refuse_repeated(path: Path, columns: Sequence[str], line: int) -> None:
    """UserError where two columns have the same name."""
    seen: dict[str, int] = {}
    for position, name in enumerate(columns, start=1):
        if name in seen:
            raise UserError(
                f"the name '{name}' is already that of column {seen[name]}",
                where=f"{path}, line {line}, column {position}",
                hint="rename one of them",
            )
        seen[name] = position


def headless(columns: Sequence[str], records: Iterator[list[str]]) -> str:
    """Why a header looks like a record, "" if it does not: it has a number over numbers, or a value of its own column."""
    again = [0] * len(columns)
    numbers = [0] * len(columns)
    n = 0
    for fields in records:
        if len(fields) != len(columns):
            continue
        n += 1
        for at, (name, cell) in enumerate(zip(columns, fields, strict=True)):
            again[at] += cell.strip() == name.strip()
            numbers[at] += bool(NUMBER.fullmatch(cell.strip()))
    for at, name in enumerate(columns):
        if again[at] > 1 and name.strip():
            return f"'{name}' stands in {again[at]} records below"
        if n and NUMBER.fullmatch(name) and not YEAR.fullmatch(name) and numbers[at] > n / 2:
            return f"'{name}' is a number, as those below are"
    return ""


def newline_of(sample: Sequence[Line]) -> str:
    r"""How lines end, by the first of them that is told from its text: `\n`, `\r\n` or `\r`."""
    text = sample[0].text if sample else ""
    return next((ending for ending in ("\r\n", "\n", "\r") if text.endswith(ending)), "\n")
