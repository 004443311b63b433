"""Prepare: a table becomes examples with splits; every row's fate is counted and every supervised token can be seen."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from luthier import seams
from luthier.batching import Encoded
from luthier.checks import slice_value
from luthier.choice import Settings, unknown
from luthier.errors import Problems, UserError
from luthier.model import architecture_of, load_tokenizer
from luthier.objectives import Objective
from luthier.readers import Quarantined, Row
from luthier.reading import detect
from luthier.recipe import Prepare as PrepareSettings
from luthier.seams import Example
from luthier.splits import Unit
from luthier.store import Artifact, Out, stage, write_durably
from luthier.tasks import Dropped, Task

SPLITS = ("train", "validation", "test")
PREVIEWS = 8  # examples shown with their supervised tokens
SHOWN = 20  # quarantined rows shown in the report
GIVEAWAY = 0.5  # share of inputs that hold their own label above which training would learn nothing


class Prepare(Settings):
    """What decides the examples."""

    task: Task
    prepare: PrepareSettings
    seed: int


@dataclass(slots=True)
class Card:
    """What is remembered of one example while its text lies on disk."""

    unit: Unit
    asked: bytes  # hash of the input
    answered: bytes  # hash of input and target
    held_out: bool
    split: str = ""
    slices: dict[str, str] = field(default_factory=dict)


@stage(version=1)
def prepare(config: Prepare, out: Out, **inputs: Artifact) -> dict[str, Any]:
    """Files `train`, `validation` and `test` of Examples, `quarantine.jsonl` and `previews.jsonl`.

    Inputs: `base` (its tokenizer), `table`, and further tables by role; files of a given split as `split_<name>`.
    """
    settings, task = config.prepare, config.task
    files = {"": inputs["table"].path}
    files |= {role.removeprefix("split_"): a.path for role, a in inputs.items() if role.startswith("split_")}
    draft = out.checkpoints / "examples.jsonl"
    flow = Flow()
    source: dict[str, Any] = {}
    quarantined: list[Quarantined] = []
    cards: list[Card] = []
    wanted = sorted(
        {*settings.split.needs(), *settings.slices.values(), *settings.hold_out, settings.split.entity_column()} - {""}
    )
    with out.timed("read"), draft.open("w", encoding="utf-8", newline="\n") as file:
        for name, path in files.items():
            reader = settings.reader or detect(path)
            described = reader.describe(path)
            source = source or {"file": path.name, **described}
            out.say(f"reading {path.name} as {in_words(described)}")
            aligned = inputs["target_table"].path if "target_table" in inputs and not name else None
            check_columns(described.get("columns"), task, wanted, path, has_targets=aligned is None)
            for row, truth in rows(path, reader, aligned, flow, quarantined):
                for made in task.examples(row, truth):
                    flow.examples += 1
                    if isinstance(made, Dropped):
                        flow.dropped[made.rule] += 1
                        continue
                    if settings.id_column:
                        made.id = (
                            f"{row.values[settings.id_column]}{made.id[made.id.find(':') :] if ':' in made.id else ''}"
                        )
                    elif name:
                        made.id = f"{name}/{made.id}"
                    cards.append(card(made, row, settings, wanted, name or path.name, path.name))
                    file.write(json.dumps(asdict(made), ensure_ascii=False) + "\n")
    write_durably(
        out.folder / "quarantine.jsonl",
        "".join(json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in quarantined).encode(),
    )
    check_quarantine(flow, quarantined, settings, source)
    check_ids(cards, settings)
    if not cards:
        raise UserError("no row of the table makes an example", where=source["file"], hint=fates_in_words(flow.dropped))
    assign(cards, config)
    gone = deduplicate(cards, settings)
    check_labels(cards, task)
    labels = sorted({c.unit.label for c in cards if c.split == "train"}) if task.objective == "classify" else []
    check_unknown_labels(cards, labels)
    architecture = architecture_of(inputs["base"].path)
    tokenizer = load_tokenizer(inputs["base"].path)
    if template := task.model_dump().get("chat_template"):
        tokenizer.chat_template = template
    objective = Objective.pick(task.objective)
    audit = Audit()
    counts = {}
    with out.timed("encode"), (out.folder / "previews.jsonl").open("w", encoding="utf-8") as previews:
        for split in SPLITS:
            chosen = (e for e in drafted(draft, cards, split))
            encoded = audit.each(chosen, objective, task, tokenizer, architecture, labels, settings, split, previews)
            stem = out.folder / split
            seams.write(stem, encoded)
            counts[split] = audit.kept[split]
    audit.judge(source["file"], settings)
    for split in ("train", "test"):
        if not counts[split]:
            raise UserError(f"the {split} split is empty", where="prepare.split", hint="give it more rows")
    return {
        "source": source, "files": [path.name for path in files.values()],
        "flow": flow.steps(gone, audit.dropped, len(cards)), "splits": counts,
        "n_quarantined": len(quarantined), "labels": dict(Counter(c.unit.label for c in cards if c.split and labels)),
        "label_names": labels, "slices": slice_counts(cards),
        "leaks": {
            "exact_across_splits": gone["same input in a later split"], "label_in_input": audit.giveaways,
            "test_inputs_seen_in_training": seen_in_training(cards),
            "conflicting_answers_in_training": conflicting(cards),
        },
        "supervision": audit.facts(), "test_split": fingerprint(cards, "test"),
    }  # fmt: skip


@dataclass
class Flow:
    """Counts of every step; in = kept + each fate, exact."""

    read: int = 0
    rows: int = 0
    examples: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def steps(self, gone: Counter[str], too_long: int, n: int) -> list[dict[str, Any]]:
        """The flow picture's steps."""
        kept = n - gone.total()
        found: list[dict[str, Any]] = [
            {"step": "read", "in": self.read, "kept": self.rows, "fates": {"quarantined": self.read - self.rows}},
            {"step": "examples", "made": self.examples, "in": self.examples, "kept": n, "fates": dict(self.dropped)},
            {"step": "deduplicate", "in": n, "kept": kept, "fates": dict(gone)},
            {"step": "fit in max_length", "in": kept, "kept": kept - too_long, "fates": {"too long": too_long}},
        ]
        for step in found:
            fates = {name: count for name, count in step["fates"].items() if count}
            if step["in"] != step["kept"] + sum(fates.values()):
                raise AssertionError(f"rows were lost in step {step}")
            step["fates"] = fates
        return found


def in_words(described: dict[str, Any]) -> str:
    """What a reader found: 'csv, utf-8 (every byte is valid utf-8), delimiter ";"'."""
    facts = {key: value for key, value in described.items() if key != "columns"}
    found_by = facts.pop("encoding_found_by", "")
    first = f"{facts.pop('format')}, {facts.pop('encoding')}" + (f" ({found_by})" if found_by else "")
    return ", ".join([first, *(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())])


def rows(
    path: Path, reader: Any, aligned: Path | None, flow: Flow, quarantined: list[Quarantined]
) -> Iterator[tuple[Row, Row]]:
    """Rows that could be read, each with the row that holds its targets: itself, or the same one of the aligned table."""
    if aligned is None:
        for record in reader.rows(path):
            flow.read += 1
            if isinstance(record, Quarantined):
                quarantined.append(record)
                continue
            flow.rows += 1
            yield record, record
        return
    for record, truth in zip_longest(reader.rows(path), detect(aligned).rows(aligned)):
        if record is None or truth is None:
            longer = path.name if truth is None else aligned.name
            raise UserError(
                f"{longer} has more rows than its partner, so rows cannot be paired", where="task.target_table",
                hint=f"give {aligned.name} one row for each row of {path.name}, in the same order",
            )  # fmt: skip
        flow.read += 1
        if isinstance(record, Quarantined):
            quarantined.append(record)
            continue
        if isinstance(truth, Quarantined):
            quarantined.append(truth)
            continue
        flow.rows += 1
        yield record, truth


def check_columns(
    columns: list[str] | None, task: Task, wanted: Sequence[str], path: Path, *, has_targets: bool
) -> None:
    """Every column that the recipe names must be there; all that are missing are told at once."""
    if columns is None:
        return
    named = [*task.columns(), *wanted, *(task.targets() if has_targets else [])]
    problems = [
        UserError(unknown("column", name, columns), where=str(path))
        for name in dict.fromkeys(named)
        if name not in columns
    ]
    both = sorted(set(task.columns()) & set(task.targets())) if has_targets else []
    problems += [
        UserError(f"column '{name}' is both read and asked for", where="task", hint="leave the answer out of the input")
        for name in both
    ]
    if problems:
        raise Problems(problems)


def card(example: Example, row: Row, settings: PrepareSettings, wanted: Sequence[str], source: str, file: str) -> Card:
    """What is remembered of an example; its entity and slices are filled in."""
    columns = {name: str(row.values.get(name, "")) for name in wanted}
    entity = settings.split.entity_column()
    example.entity = columns[entity] if entity else f"{source}:{row.line}"
    held_out = any(columns[name] in values for name, values in settings.hold_out.items())
    slices = {name: columns[column] for name, column in settings.slices.items()}
    if settings.hold_out:
        slices["unseen"] = slice_value(held_out)
    example.slices |= slices
    asked = json.dumps(example.input, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    answered = asked + json.dumps(example.target, sort_keys=True).encode()
    unit = Unit(example.id, example.entity, example.answer() or "", file, columns)
    return Card(
        unit,
        hashlib.sha256(asked).digest()[:12],
        hashlib.sha256(answered).digest()[:12],
        held_out,
        slices=example.slices,
    )


def check_quarantine(
    flow: Flow, quarantined: list[Quarantined], settings: PrepareSettings, source: dict[str, Any]
) -> None:
    """Stop when too many records could not be read, naming the first ones."""
    if flow.read == 0:
        raise UserError("holds no records", where=source["file"], hint="give a file with rows under its header")
    if len(quarantined) <= settings.quarantine_limit * flow.read:
        return
    first = "; ".join(f"line {q.line}: {q.reason}" for q in quarantined[:3])
    raise UserError(
        f"{len(quarantined)} of {flow.read} records cannot be read (limit {settings.quarantine_limit:.1%}): {first}",
        where=source["file"], hint="correct them, or raise prepare.quarantine_limit",
    )  # fmt: skip


def check_ids(cards: Sequence[Card], settings: PrepareSettings) -> None:
    """Ids are unique."""
    seen: set[str] = set()
    for entry in cards:
        if entry.unit.id in seen:
            raise UserError(
                f"the id '{entry.unit.id}' occurs twice", where=f"prepare.id_column '{settings.id_column}'",
                hint="make the ids unique, or leave id_column out: line numbers then serve",
            )  # fmt: skip
        seen.add(entry.unit.id)


def assign(cards: Sequence[Card], config: Prepare) -> None:
    """Give each example its split; what is held out goes to test without the split seeing it."""
    settings = config.prepare
    for entity in {c.unit.entity for c in cards if c.held_out}:
        for entry in cards:
            if entry.unit.entity == entity and not entry.held_out:
                raise UserError(
                    f"'{entity}' has rows that are held out and rows that are not", where="prepare.hold_out",
                    hint="hold out whole units of the split",
                )  # fmt: skip
    missing = [
        f"{column}: {value}" for column, values in settings.hold_out.items() for value in values
        if not any(c.unit.columns[column] == value for c in cards)
    ]  # fmt: skip
    if missing:
        raise UserError(f"no row has {missing[0]}", where="prepare.hold_out", hint="check the spelling of the value")
    free = [c for c in cards if not c.held_out]
    for entry, split in zip(free, settings.split.assign([c.unit for c in free], config.seed), strict=True):
        entry.split = split
    for entry in cards:
        if entry.held_out:
            entry.split = "test"


def deduplicate(cards: Sequence[Card], settings: PrepareSettings) -> Counter[str]:
    """Drop exact duplicates from training and leaks from earlier splits; test rows are never dropped."""
    gone: Counter[str] = Counter()
    later = {"test": {c.asked for c in cards if c.split == "test"}}
    later["validation"] = {c.asked for c in cards if c.split == "validation" and c.asked not in later["test"]}
    seen: set[bytes] = set()
    for entry in cards:
        if settings.deduplicate.across and (
            (entry.split == "train" and (entry.asked in later["test"] or entry.asked in later["validation"]))
            or (entry.split == "validation" and entry.asked in later["test"])
        ):
            entry.split = ""
            gone["same input in a later split"] += 1
        elif settings.deduplicate.within and entry.split == "train":
            if entry.answered in seen:
                entry.split = ""
                gone["duplicate in training"] += 1
            seen.add(entry.answered)
    return gone


def check_labels(cards: Sequence[Card], task: Task) -> None:
    """Training needs something to tell apart."""
    labels = {c.unit.label for c in cards if c.split == "train"}
    if task.objective == "classify" and len(labels) == 1:
        raise UserError(
            f"all training rows have the one label '{labels.pop()}'", where="task.label",
            hint="classification needs at least two labels; check the column",
        )  # fmt: skip


def check_unknown_labels(cards: Sequence[Card], labels: Sequence[str]) -> None:
    """Every label of validation and test must be learnable."""
    if not labels:
        return
    strangers = sorted({c.unit.label for c in cards if c.split and c.unit.label not in labels})
    if strangers:
        raise UserError(
            f"label '{strangers[0]}' occurs in validation or test but never in training", where="prepare.split",
            hint="use `kind: stratified`, or merge labels that are this rare",
        )  # fmt: skip


def drafted(draft: Path, cards: Sequence[Card], split: str) -> Iterator[Example]:
    """The examples of one split, from disk."""
    with draft.open(encoding="utf-8") as file:
        for line, entry in zip(file, cards, strict=True):
            if entry.split == split:
                example = Example(**json.loads(line))
                example.split = split
                yield example


class Audit:
    """The supervision audit: what carries loss, what was cut, what must not happen."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.tokens = self.supervised = self.truncated = self.cut_tokens = self.dropped = self.giveaways = self.n = 0
        self.problems: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.longest = 0

    def each(
        self, examples: Iterable[Example], objective: Objective, task: Task, tokenizer: Any, architecture: str,
        labels: Sequence[str], settings: PrepareSettings, split: str, previews: Any,
    ) -> Iterator[Example]:  # fmt: skip
        """Pass examples through, looking at each; those that do not fit are cut, dropped or refused."""
        for example in examples:
            encoded = objective.encode(example, task, tokenizer, architecture, labels, settings.max_length)
            if encoded.cut_tokens and settings.truncation == "drop":
                self.dropped += 1
                continue
            self.kept[split] += 1
            self.look(example, encoded, task, tokenizer)
            if split == "train" and self.kept[split] <= PREVIEWS:
                previews.write(
                    json.dumps({"id": example.id, "pieces": pieces(encoded, tokenizer)}, ensure_ascii=False) + "\n"
                )
            yield example

    def look(self, example: Example, encoded: Encoded, task: Task, tokenizer: Any) -> None:
        """Count one example and note what is wrong with its supervision."""
        self.n += 1
        self.tokens += encoded.length
        self.supervised += encoded.n_supervised
        self.longest = max(self.longest, encoded.length + encoded.cut_tokens)
        self.truncated += encoded.cut_tokens > 0
        self.cut_tokens += encoded.cut_tokens
        label = example.answer() or ""
        if task.objective == "classify":
            self.giveaways += bool(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", str(task.prompt(example))))
            return
        supervised = encoded.labels or [
            t for t, carries in zip(encoded.ids, encoded.supervised, strict=True) if carries
        ]
        if not supervised:
            self.note("no supervised token", example)
        elif encoded.cut_tokens and label and len(supervised) >= len(encoded.ids) - 1:
            self.note("an answer that does not fit", example)
        elif tokenizer.eos_token_id not in supervised and not isinstance(task.prompt(example), list):
            self.note("an answer without end token", example)

    def note(self, problem: str, example: Example) -> None:
        """Remember a problem and the first row that has it."""
        self.problems[problem] += 1
        self.first.setdefault(problem, f"{example.origin['file']}:{example.origin['row']}")

    def judge(self, file: str, settings: PrepareSettings) -> None:
        """Refuse supervision that would train the wrong thing."""
        found = [
            UserError(
                f"{count} of {self.n} examples have {problem}",
                where=self.first[problem],
                hint="raise prepare.max_length",
            )
            for problem, count in self.problems.items()
        ]
        if self.truncated and settings.truncation == "error":
            found.append(
                UserError(
                    f"{self.truncated} examples are longer than {settings.max_length} tokens (the longest has {self.longest})",
                    where="prepare.max_length", hint="raise it, or set prepare.truncation to cut_input or drop",
                )
            )  # fmt: skip
        if self.giveaways > GIVEAWAY * self.n and self.n >= 20:
            found.append(
                UserError(
                    f"the label stands in the input of {self.giveaways} of {self.n} rows", where=file,
                    hint="the model would only copy it; leave that column or text out of the input",
                )
            )  # fmt: skip
        if found:
            raise Problems(found)

    def facts(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return {
            "examples": self.n, "tokens": self.tokens, "supervised_tokens": self.supervised, "truncated": self.truncated,
            "cut_tokens": self.cut_tokens, "longest": self.longest,
        }  # fmt: skip


def pieces(encoded: Encoded, tokenizer: Any) -> list[tuple[str, bool]]:
    """Tokens as text, each with whether it carries loss; what an encoder-decoder writes stands after what it reads."""
    ids = [*encoded.ids, *encoded.labels]
    carries = ([*encoded.supervised] or [False] * len(encoded.ids)) + [True] * len(encoded.labels)
    return [(tokenizer.decode([token]), loss) for token, loss in zip(ids, carries, strict=True)]


def slice_counts(cards: Sequence[Card]) -> dict[str, dict[str, int]]:
    """Examples per value of each slice."""
    found: dict[str, Counter[str]] = {}
    for entry in cards:
        for name, value in entry.slices.items():
            found.setdefault(name, Counter())[value] += bool(entry.split)
    return {name: dict(sorted(counts.items())) for name, counts in sorted(found.items())}


def seen_in_training(cards: Sequence[Card]) -> int:
    """Test examples whose very input stands in training."""
    training = {c.asked for c in cards if c.split == "train"}
    return sum(c.split == "test" and c.asked in training for c in cards)


def conflicting(cards: Sequence[Card]) -> int:
    """Training examples whose input occurs there with more than one answer."""
    answers: dict[bytes, set[bytes]] = {}
    for entry in cards:
        if entry.split == "train":
            answers.setdefault(entry.asked, set()).add(entry.answered)
    return sum(c.split == "train" and len(answers[c.asked]) > 1 for c in cards)


def fingerprint(cards: Sequence[Card], split: str) -> str:
    """What a split holds, as a hash: openings are counted against it."""
    return hashlib.sha256(b"".join(sorted(c.answered for c in cards if c.split == split))).hexdigest()[:20]


def fates_in_words(dropped: Counter[str]) -> str:
    """`240 with no target, 3 with empty value`."""
    return ", ".join(f"{count} with {rule}" for rule, count in dropped.items()) or "the file has no rows"
