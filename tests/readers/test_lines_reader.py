"""Lines: columns cut at a separator, faulty lines put aside, and files that are no text in the encoding that was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.errors import UserError
from luthier.readers import Quarantined, Reader, Row
from luthier.readers.csv import Csv
from luthier.readers.lines import Lines

LINES = Lines(columns=["label", "text"])


def written(folder: Path, content: bytes) -> Path:
    path = folder / "words.txt"
    path.write_bytes(content)
    return path


def test_the_last_column_takes_the_rest_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, b"DESC What is it ?\r\n\r\nNUM How many ?\n")
    assert list(LINES.rows(path)) == [
        Row("words.txt", 1, {"label": "DESC", "text": "What is it ?"}),
        Row("words.txt", 3, {"label": "NUM", "text": "How many ?"}),
    ]
    tabbed = written(tmp_path, b"a b\tc d\n")
    assert list(Lines(columns=["x", "y"], separator="\t").rows(tabbed)) == [
        Row("words.txt", 1, {"x": "a b", "y": "c d"})
    ]


def test_short_and_undecodable_lines_are_put_aside_with_their_number(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"DESC é {n}\n" for n in range(20)).encode() + b"NUM\nNUM \xff\n")
    found = list(LINES.rows(path))
    assert [(f.line, f.rule, f.reason) for f in found if isinstance(f, Quarantined)] == [
        (21, "ragged", "1 columns where 2 were named"),
        (22, "encoding", "character 5 cannot be decoded"),
    ]
    assert len(found) == 22


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        list(LINES.rows(written(tmp_path, b"\n\n")))


@pytest.mark.parametrize("reader", [Lines(columns=["a"], encoding="utf-16"), Csv(encoding="utf-16")])
def test_a_file_that_is_not_in_the_given_encoding_is_refused_with_its_name(tmp_path: Path, reader: Reader) -> None:
    path = written(tmp_path, b"a,b\n1,2\n")
    with pytest.raises(UserError) as error:
        list(reader.rows(path))
    assert str(path) in str(error.value)
    assert "is no utf-16 text" in str(error.value)
    assert "leave the reader's encoding at auto" in str(error.value)


def test_an_unknown_encoding_fails_at_load() -> None:
    with pytest.raises(ValidationError, match="no text encoding called 'utf9'"):
        Lines(columns=["a"], encoding="utf9")


def test_each_line_tells_the_blank_lines_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, b"a b\n\n\nc d\nragged\n\ne f\n")
    assert [(each.line, each.blank_before) for each in LINES.rows(path)] == [(1, 0), (4, 2), (5, 0), (7, 1)]
