"""The records that cross stages: Example, Prediction and Verdict, one schema each, read and written here alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

PARQUET_ABOVE = 50_000  # rows; smaller files stay JSON lines, which a person can read

Split = str  # "train", "validation", "test"


@dataclass(slots=True)
class Example:
    """One thing to learn from or to answer."""

    id: str
    task: str
    input: dict[str, Any]  # exactly one of: text, pair, messages, fields
    target: dict[str, Any] | None = None  # exactly one of: text, label
    weight: float = 1.0
    entity: str = ""  # unit of splitting and of resampling
    slices: dict[str, str] = field(default_factory=dict)
    split: Split = ""
    origin: dict[str, Any] = field(default_factory=dict)  # file (name), row (1-based line), column
    parent: str = ""

    def answer(self) -> str | None:
        """The target as the string that a prediction is compared with; None where nothing is known."""
        if self.target is None:
            return None
        return str(next(iter(self.target.values())))


@dataclass(slots=True)
class Prediction:
    """What one model, or baseline, said of one example."""

    id: str
    task: str
    output: str
    confidence: float = 0.0  # 0..1: class probability, or exp(mean token log-probability)
    candidates: list[tuple[str, float]] = field(default_factory=list)  # (output, score), best first
    target: str | None = None
    slices: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0
    entity: str = ""


@dataclass(slots=True)
class Verdict:
    """What one check of the gate found."""

    check: str  # a readable name: "floor exact_match >= 0.9 where unseen=false"
    outcome: str  # "passed", "failed", "not enough data"
    estimate: float | None
    interval: tuple[float, float] | None  # 95 % unless the check says otherwise
    n: int
    required: bool
    threshold: float
    unit: str = ""
    evidence: list[str] = field(default_factory=list)  # artifact ids
    note: str = ""

    @property
    def blocks(self) -> bool:
        """Whether this verdict stands against a release."""
        return self.required and self.outcome != "passed"


Record = TypeVar("Record", Example, Prediction, Verdict)


def write(stem: Path, records: Iterable[Record]) -> Path:
    """Write `stem.jsonl`, or `stem.parquet` above 50,000 rows; at most that many are ever held."""
    rows = iter(records)
    head = list(islice(rows, PARQUET_ABOVE + 1))
    if len(head) <= PARQUET_ABOVE:
        path = stem.with_suffix(".jsonl")
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for record in head:
                file.write(json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) + "\n")
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = stem.with_suffix(".parquet")
    schema = pa.schema([("id", pa.string()), ("record", pa.string())])
    everything = chain(head, rows)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(everything, 10_000)):
            lines = [json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) for record in batch]
            names = [str(getattr(record, "id", index)) for index, record in enumerate(batch)]
            writer.write_table(pa.table({"id": names, "record": lines}, schema=schema))
    return path


def read(stem: Path, record: type[Record]) -> Iterator[Record]:
    """Every record behind a stem, in the order written, one at a time."""
    known = {item.name for item in fields(record)}
    for line in _lines(stem):
        values = json.loads(line)
        yield record(**{name: value for name, value in values.items() if name in known})


def _lines(stem: Path) -> Iterator[str]:
    plain = stem.with_suffix(".jsonl")
    if plain.exists():
        with plain.open(encoding="utf-8") as file:
            yield from file
        return
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(stem.with_suffix(".parquet")).iter_batches(10_000, columns=["record"]):
        yield from batch.column(0).to_pylist()
