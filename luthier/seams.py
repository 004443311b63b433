"""The records that cross stages: Example, Prediction and Verdict with their Answers, read and written here alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from luthier.looks import looked_through, tidy

PARQUET_ABOVE = 50_000  # rows; smaller files stay JSON lines, which a person can read

LARGEST_WHOLE = 2.0**53  # above it not every whole number has a float of its own
WHOLE = re.compile(r"^(-?\d+)\.0$")

Split = str  # "train", "validation", "test"


def text_of(value: Any) -> str:
    """A cell as text: text as it is written, null empty, everything else as JSON writes it (true, 1, 1.0, [1, null])."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def name_of(value: Any) -> str:
    """What a cell, or a value in a recipe, names: a label, group, slice, split, id or key. Its text as it looks (`tidy`).

    The one place where this is decided. Blank and null name nothing: ""; the words NA, None, null and yes are names.
    What a name is of does not tell names apart: true is "true", and the numbers 1 and 1.0 are both "1". Text stays as it
    is written: "1.0" may be a version.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE:
        return str(int(value))
    return tidy(text_of(value))


def compared(name: str) -> str:
    """A name as it is compared with what a recipe asks for: 1.0 in a recipe means the text 1.0 and the numbers 1 and 1.0."""
    return WHOLE.sub(r"\1", name)


@dataclass(frozen=True, slots=True)
class Text:
    """Words, as they are written."""

    text: str
    kind: ClassVar[str] = "text"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Label:
    """One class out of the known ones."""

    label: str
    kind: ClassVar[str] = "label"

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True)
class Labels:
    """A set of classes; the order says nothing and is always sorted."""

    labels: tuple[str, ...]
    kind: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(sorted(set(self.labels))))

    def __str__(self) -> str:
        return ", ".join(self.labels)


@dataclass(frozen=True, slots=True)
class Number:
    """One figure."""

    number: float
    kind: ClassVar[str] = "number"

    def __str__(self) -> str:
        return f"{self.number:g}"


@dataclass(frozen=True, slots=True)
class Spans:
    """Parts of the input: (first character, character after the last, label)."""

    spans: tuple[tuple[int, int, str], ...]
    kind: ClassVar[str] = "spans"

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", tuple(sorted((int(a), int(b), str(name)) for a, b, name in self.spans)))

    def __str__(self) -> str:
        return ", ".join(f"{name} {start}-{end}" for start, end, name in self.spans)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ids of things, best first."""

    ranking: tuple[str, ...]
    kind: ClassVar[str] = "ranking"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranking", tuple(self.ranking))

    def __str__(self) -> str:
        return " > ".join(self.ranking)


@dataclass(frozen=True, slots=True)
class Preference:
    """Of two answers, the better and the worse."""

    chosen: str
    rejected: str
    kind: ClassVar[str] = "preference"

    def __str__(self) -> str:
        return self.chosen


Answer = Text | Label | Labels | Number | Spans | Ranking | Preference
# first field -> class: how JSON tells them apart
ANSWERS: dict[str, type[Answer]] = {
    fields(answer)[0].name: answer for answer in (Text, Label, Labels, Number, Spans, Ranking, Preference)
}


def answer_from(value: dict[str, Any]) -> Answer:
    """An Answer from its JSON form, such as `{"text": "1969-02-08"}` or `{"labels": ["a", "b"]}`."""
    kind = next((name for name in ANSWERS if name in value), None)
    if kind is None:
        raise ValueError(f"no kind of answer has the keys {', '.join(sorted(value)) or '(none)'}")
    return ANSWERS[kind](**value)


def answer_json(answer: Answer) -> dict[str, Any]:
    """The JSON form of an Answer."""
    return {item.name: getattr(answer, item.name) for item in fields(answer)}


def judged_by(answer: Answer | None) -> Answer | None:
    """What an answer is compared with: the target itself, of two answers the better one; nothing where none is known."""
    if isinstance(answer, Preference):
        return Text(answer.chosen) if answer.chosen else None
    return answer


def names_in(answer: Answer | None) -> tuple[str, ...]:
    """The classes that an answer names: what a classification head must know."""
    if isinstance(answer, Label):
        return (answer.label,)
    return answer.labels if isinstance(answer, Labels) else ()


@dataclass(slots=True)
class Example:
    """One thing to learn from or to answer."""

    id: str
    task: str
    input: dict[str, Any]  # exactly one of: text, pair, messages, fields
    target: Answer | None = None
    weight: float = 1.0
    entity: str = ""  # unit of splitting and of resampling
    slices: dict[str, str] = field(default_factory=dict)
    split: Split = ""
    origin: dict[str, Any] = field(default_factory=dict)  # file (name), row (1-based line), column
    parent: str = ""
    row: dict[str, Any] = field(default_factory=dict, compare=False)
    """Cells of the row that it was made of, to split, slice and name it by; never stored."""

    def json(self) -> dict[str, Any]:
        """As it stands on disk."""
        return {name: getattr(self, name) for name in _names(Example) if name != "row"} | {
            "target": answer_json(self.target) if self.target is not None else None
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> Example:
        """From its JSON form."""
        return cls(**values | {"target": answer_from(values["target"]) if values["target"] is not None else None})


def place(example: Example) -> str:
    """Where an example comes from, for a message: `file:line`."""
    return f"{example.origin.get('file', example.id)}:{example.origin.get('row', '')}".rstrip(":")


def question(example: Example) -> bytes:
    """A hash of the input: equal for the same question."""
    return _hash(example.input)


def alike(example: Example) -> bytes:
    """A hash of the input as it looks: equal for questions that differ in blanks, case or Unicode form alone."""
    return _hash(looked_through(example.input))


def lesson(example: Example) -> bytes:
    """A hash of input and target: equal for the same lesson."""
    return _hash([example.input, answer_json(example.target) if example.target is not None else None])


def _hash(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


@dataclass(slots=True)
class Dropped:
    """A row, cell or example that goes no further, and the rule that says why."""

    rule: str  # short, such as "no target" or "empty value"
    line: int
    column: str
    file: str = ""  # name of the file where that is not the table


@dataclass(slots=True)
class Answered:
    """What was answered to one example, by whomever."""

    output: Answer
    confidence: float = 1.0  # 0..1: class probability, or exp(mean token log-probability)
    candidates: list[tuple[Answer, float]] = field(default_factory=list)  # (output, score), best first
    cut: bool = False  # whether the engine's limit came before the answer's end


@dataclass(slots=True)
class Prediction:
    """What one model, or baseline, said of one example; made by `prediction` alone."""

    id: str
    task: str
    output: Answer
    confidence: float = 0.0  # 0..1
    candidates: list[tuple[Answer, float]] = field(default_factory=list)  # best first
    target: Answer | None = None
    slices: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0
    entity: str = ""
    cut: bool = False  # whether the engine's limit came before the answer's end

    def json(self) -> dict[str, Any]:
        """As it stands on disk."""
        return {name: getattr(self, name) for name in _names(Prediction)} | {
            "output": answer_json(self.output),
            "target": answer_json(self.target) if self.target is not None else None,
            "candidates": [[answer_json(answer), score] for answer, score in self.candidates],
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> Prediction:
        """From its JSON form."""
        found = cls(**values)
        found.output = answer_from(values["output"])
        found.target = answer_from(values["target"]) if values["target"] is not None else None
        found.candidates = [(answer_from(answer), score) for answer, score in values["candidates"]]
        return found


def prediction(example: Example, answered: Answered) -> Prediction:
    """The one place where an answer becomes a Prediction, for every engine and baseline, in training and in `apply`."""
    return Prediction(
        id=example.id,
        task=example.task,
        output=answered.output,
        confidence=round(answered.confidence, 6),
        candidates=[(answer, round(score, 6)) for answer, score in answered.candidates],
        target=judged_by(example.target),
        slices=dict(example.slices),
        weight=example.weight,
        entity=example.entity,
        cut=answered.cut,
    )


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
    entities: int = 0  # independent units among the n; 0 where there is no such thing

    @property
    def blocks(self) -> bool:
        """Whether this verdict stands against a release."""
        return self.required and self.outcome != "passed"

    def json(self) -> dict[str, Any]:
        """As it stands on disk."""
        return {name: getattr(self, name) for name in _names(Verdict)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Verdict:
        """From its JSON form."""
        return cls(**values | {"interval": tuple(values["interval"]) if values["interval"] else None})


Record = TypeVar("Record", Example, Prediction, Verdict)


def _names(record: type[Example] | type[Prediction] | type[Verdict]) -> list[str]:
    return [item.name for item in fields(record)]


def line(record: Example | Prediction | Verdict) -> str:
    """A record as one line of JSON."""
    return json.dumps(record.json(), ensure_ascii=False, sort_keys=True)


def write(stem: Path, records: Iterable[Example] | Iterable[Prediction] | Iterable[Verdict]) -> Path:
    """Write `stem.jsonl`, or `stem.parquet` above 50,000 rows; at most that many are ever held."""
    return write_lines(stem, (line(record) for record in records))


def write_lines(stem: Path, lines: Iterable[str]) -> Path:
    """The same from records that are lines of JSON already."""
    rows = iter(lines)
    head = list(islice(rows, PARQUET_ABOVE + 1))
    if len(head) <= PARQUET_ABOVE:
        path = stem.with_suffix(".jsonl")
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{text}\n" for text in head)
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = stem.with_suffix(".parquet")
    schema = pa.schema([("record", pa.string())])
    everything = chain(head, rows)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(everything, 10_000)):
            writer.write_table(pa.table({"record": batch}, schema=schema))
    return path


def read(stem: Path, record: type[Record]) -> Iterator[Record]:
    """Every record behind a stem, in the order written, one at a time."""
    for text in _lines(stem):
        yield record.of(json.loads(text))


def _lines(stem: Path) -> Iterator[str]:
    plain = stem.with_suffix(".jsonl")
    if plain.exists():
        with plain.open(encoding="utf-8") as file:
            yield from file
        return
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(stem.with_suffix(".parquet")).iter_batches(10_000, columns=["record"]):
        yield from batch.column(0).to_pylist()
