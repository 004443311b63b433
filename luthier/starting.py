"""Starting: a commented recipe written from a look at the user's table, with what was guessed and why."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from luthier.columns import NUMBER, WHOSE, Column, short
from luthier.durable import write_durably
from luthier.errors import Problems, UserError
from luthier.readers import Quarantined, Row
from luthier.reading import detect

TASKS = ("standardize", "classify", "generate")
LOOK = 2000  # rows looked at
ENCODERS = ("minilm", "mpnet")
PACKAGES = (*ENCODERS, "gemma-3-270m", "smollm2-135m", "qwen2.5-coder-1.5b")
CLEAN = ("clean", "cleaned", "canonical", "standard", "standardized", "normalized", "corrected", "fixed", "right")
MESSY = ("raw", "messy", "dirty", "original", "orig", "noisy", "wrong")
YEAR = re.compile(r"(?:19|20)\d\d")
ANSWER = re.compile(r"label|target|class|category|answer|outcome|sentiment|intent|topic", re.IGNORECASE)

Ask = Callable[[str, list[str], str], str]
Tell = Callable[[str], None]


def to_stderr(line: str) -> None:
    """A line for the person who started it; standard output is for results."""
    print(line, file=sys.stderr)


@dataclass
class Look:
    """What the first rows of a table show."""

    table: Path
    format: str  # kind of its reader
    rows: list[Row]
    columns: list[Column]

    @property
    def names(self) -> list[str]:
        """The columns' names, those of every row that was looked at."""
        return [column.name for column in self.columns]

    def column(self, name: str) -> Column:
        """One column."""
        return next(column for column in self.columns if column.name == name)


def write_recipe(
    table: Path,
    out: Path | None,
    task: str,
    column: str,
    target: str,
    base: str,
    ask: Ask | None,
    tell: Tell = to_stderr,
) -> Path:
    """Write the recipe and return its path; what was not given is asked of the person or, where nobody can be asked,
    guessed and told with the reason. UserError where there is nothing that anybody would have a model predict."""
    if task and task not in TASKS:
        raise UserError(f"no task called '{task}'", where="--task", hint=f"known: {', '.join(TASKS)}")
    if not table.is_file():
        raise UserError("no such file", where=str(table), hint="give the table with your data")
    written = out or table.with_suffix(".yaml")
    if written.exists():
        raise UserError("exists already and is not overwritten", where=str(written), hint="name another with --out")
    path = os.path.relpath(table.resolve(), written.resolve().parent)
    if path != path.encode("utf-8", "ignore").decode():
        raise UserError(
            "has a name that is no UTF-8, which no recipe can hold",
            where=path.encode("utf-8", "backslashreplace").decode(),
            hint="rename it",
        )
    look = looked(table, tell)
    for flag, name in (("--column", column), ("--target", target)):
        if name and name not in look.names:
            raise UserError(f"the table has no column '{name}'", where=flag, hint=f"it has {', '.join(look.names)}")
    if not (column or target):
        refuse_headless(look)
    guessing = Guessing(look, ask, tell)
    found = task or guessing.task(column, target)
    read: list[str] = []
    if found == "standardize":
        read, target = guessing.pair(column, target)
    elif found == "classify":
        target = target or guessing.label()
        read = [column] if column else guessing.inputs(target)
    elif not talks(look):
        read, target = [column or "prompt"], target or "completion"
        if missing := [name for name in (*read, target) if name not in look.names]:
            raise UserError(
                f"the table has no column '{missing[0]}'",
                where="--task generate",
                hint="it needs messages, or a prompt (--column) and a completion (--target); "
                f"it has {', '.join(look.names)}",
            )
    if target in read:
        raise UserError(f"'{target}' is both read and asked for", where="--column", hint="name two columns")
    base = base or guessing.base(found)
    split, steps = guessing.split(found, read, target)
    lines = head(table, found) + task_block(found, path, read, target, look)
    text = "\n".join(lines + base_block(base, written) + rest_block(found, base, split, steps)) + "\n"
    write_durably(written, text.encode())
    return written


def looked(table: Path, tell: Tell) -> Look:
    """The first rows of a table, and how it is read."""
    reader = detect(table)
    records = list(islice(reader.rows(table), LOOK))
    rows = [record for record in records if isinstance(record, Row)]
    aside = [record for record in records if isinstance(record, Quarantined)]
    if not rows:
        first = f"; line {aside[0].line}: {aside[0].reason}" if aside else ""
        raise UserError(f"holds no rows{first}", where=str(table), hint="give a table with rows under its header")
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    described = reader.describe(table)
    how = f"{described['format']}, {described['encoding']}"
    how += f", delimiter {described['delimiter']!r}" if "delimiter" in described else ""
    unread = f", {len(aside)} of them cannot be read (the first in line {aside[0].line})" if aside else ""
    first = "the first " if len(records) == LOOK else ""
    tell(f"{table.name}: {how}; columns {', '.join(names)}; {first}{len(records):,} records looked at{unread}")
    return Look(table, reader.kind, rows, [Column.of(name, rows) for name in names])


def refuse_headless(look: Look) -> None:
    """UserError for a table whose first line holds data: a number over numbers, or a value of its own column."""
    for column in look.columns if look.format in ("csv", "tsv") else ():
        again = column.counts[column.name.strip()]
        number = NUMBER.fullmatch(column.name) and column.mostly(NUMBER) and not YEAR.fullmatch(column.name)
        if again > 1 or number:
            why = f"stands in {again} rows below" if again > 1 else "is a number, as those below are"
            raise UserError(
                f"the first line looks like data, not like names of columns: '{short(column.name)}' {why}",
                where=str(look.table),
                hint=f"put a line of {len(look.columns)} names above it, or, if these are names, give --column and --target",
            )


@dataclass
class Guessing:
    """What is asked of the person, or guessed from a look at the table and told."""

    look: Look
    ask: Ask | None
    tell: Tell

    def settle(self, what: str, question: str, choices: list[str], guess: str, why: str) -> str:
        """The person's answer, or the guess."""
        if self.ask:
            return self.ask(question, choices, guess)
        self.tell(f"{what}: {guess} ({why})")
        return guess

    def task(self, column: str, target: str) -> str:
        """What the columns' names and values are good for."""
        pair = paired(self.look.names, column, target)
        label = self.label_guess()
        if talk := talks(self.look):
            guess, why = "generate", f"column '{talk}' holds conversations"
        elif {"prompt", "completion"} <= set(self.look.names):
            guess, why = "generate", "there are columns prompt and completion"
        elif pair:
            guess, why = "standardize", f"'{pair[1]}' is, by its name, the clean form of '{pair[0]}'"
        elif target:
            few = not self.look.column(target).unpredicted()
            guess = "classify" if few else "standardize"
            why = f"'{target}' has {len(self.look.column(target).counts)} different values"
        elif label:
            guess, why = "classify", f"'{label[0]}' can be predicted as a label"
        elif self.ask:
            guess, why = "standardize", ""
        else:
            raise nothing_to_predict(self.look)
        return self.settle("task", "What shall the model do?", list(TASKS), guess, why)

    def label_guess(self) -> tuple[str, str] | None:
        """The column that is likeliest a label and why, if any can be one: by its name, else the last."""
        able = [column for column in self.look.columns if not column.unpredicted()]
        if not able:
            return None
        named = [column for column in able if ANSWER.search(column.name)]
        chosen = named[0] if named else able[-1]
        others = ", ".join(column.name for column in able if column is not chosen)
        n, n_different = len(chosen.values), len(chosen.counts)
        by = "its name says that it holds answers" if named else "the last of those that could be labels"
        return chosen.name, f"{by}; {n_different} different values in {n} rows" + (
            f"; others: {others}" if others else ""
        )

    def label(self) -> str:
        """The column with the label."""
        guess = self.label_guess()
        if guess is None and not self.ask:
            raise nothing_to_predict(self.look)
        name, why = guess or (self.look.names[-1], "")
        return self.settle("label", "Which column holds the answers?", self.look.names, name, why)

    def pair(self, column: str, target: str) -> tuple[list[str], str]:
        """The messy column and its canonical one."""
        found = paired(self.look.names, column, target)
        if found is None and not self.ask and not target:
            raise UserError(
                "no two columns look, by their names, like a value and its canonical form",
                where=str(self.look.table),
                hint=f"name them with --column and --target, out of: {', '.join(self.look.names)}",
            )
        names = self.look.names
        messy, clean = found or (column, target or names[-1])
        why = f"by their names, '{clean}' is the clean form of '{messy}'" if found else "it has the longest values"
        further = [f"{a}: {b}" for a in names for b in names if a != b and a != messy and is_clean_form(a, b)]
        if further and not target:
            why += f"; further pairs, which `columns` takes in place of `column` and `target`: {', '.join(further)}"
        if not target:
            target = self.settle("target", "Which column holds the answers?", names, clean, why)
        rest = [name for name in names if name != target]
        if not rest:
            raise only_one_column(self.look)
        if not column:
            guess = messy if messy in rest else longest(self.look, rest)
            column = self.settle("column", "Which column shall the model read?", rest, guess, why)
        return [column], target

    def inputs(self, target: str) -> list[str]:
        """What is read to tell the label: a column of text if there is one, else every column that may say something."""
        rest = [column for column in self.look.columns if column.name != target]
        if not rest:
            raise only_one_column(self.look)
        able = [column for column in rest if not column.unread()]
        if self.ask:
            guess = longest(self.look, [column.name for column in able or rest])
            return [self.ask("Which column shall the model read?", [column.name for column in rest], guess)]
        if not able:
            raise Problems(
                [
                    UserError("there is no column to read", where=str(self.look.table), hint="name one with --column"),
                    *(UserError(column.unread(), where=f"column '{column.name}'") for column in rest),
                ]
            )
        texts = [column for column in able if column.is_text()]
        passed = "".join(f"; '{column.name}' {column.unread()}" for column in rest if column not in able)
        if texts or len(able) == 1:
            chosen = longest(self.look, [column.name for column in texts or able])
            self.tell(f"text: {chosen} (it has the longest values{passed})")
            return [chosen]
        names = [column.name for column in able]
        self.tell(f"columns: {', '.join(names)} (no column holds text, so all are read that may say something{passed})")
        return names

    def base(self, task: str) -> str:
        """A model that comes as a package."""
        guess = "minilm" if task == "classify" else "gemma-3-270m"
        why = "a small encoder, made to tell texts apart" if task == "classify" else "a small model that writes"
        return self.settle("base", "Which base model?", list(PACKAGES), guess, f"{why}; it comes as a package")

    def split(self, task: str, read: list[str], target: str) -> tuple[str, str]:
        """The split and the steps of preparation, as a recipe writes them."""
        rows = self.look.rows
        n_different = len({tuple(str(row.values.get(name)) for name in read) for row in rows}) if read else len(rows)
        again = 2 * n_different <= len(rows)
        steps = "[dedup]"
        whose = next(
            (c.name for c in self.look.columns if WHOSE.fullmatch(c.name) and 2 * len(c.counts) <= len(c.values)), ""
        )
        if again and len(read) == 1:
            kind, why = (
                f"grouped, by: {quoted(read[0])}",
                f"{n_different} different inputs in {len(rows)} rows: equal ones stay together",
            )
        elif task == "classify":
            kind, why = "stratified", "each label has its share of train, validation and test"
        else:
            kind, why = "random", "rows that resemble each other were not looked for"
        if whose and whose not in read:
            why += f"; `grouped, by: {whose}` keeps the rows of each together"
        if again and len(read) > 1:
            steps = "[]"
            why += f"; {n_different} different inputs in {len(rows)} rows, so duplicates are kept"
        if not self.ask:
            self.tell(f"split: {kind.partition(',')[0]} ({why})")
            self.tell(
                "what is not right can be given by --task, --column, --target and --base, or changed in the recipe"
            )
        return kind, steps


def talks(look: Look) -> str:
    """A column of conversations in the form that `generate` reads, or nothing."""
    for column in look.columns:
        first = next((cell for cell in column.cells if cell), None)
        if isinstance(first, list) and isinstance(first[0], dict) and {"role", "content"} <= first[0].keys():
            return column.name
    return ""


def paired(names: Sequence[str], column: str, target: str) -> tuple[str, str] | None:
    """A messy column and its clean one by their names, such as name and name_clean, street_raw and street, raw and clean."""
    for messy in [column] if column else names:
        for clean in [target] if target else names:
            if messy != clean and is_clean_form(messy, clean):
                return messy, clean
    return None


def is_clean_form(messy: str, clean: str) -> bool:
    """Whether one name says that its values are the other's, cleaned."""
    stem, mark = divided(messy, MESSY)
    whole, good = divided(clean, CLEAN)
    return stem == whole and (mark or good)


def divided(name: str, marks: Sequence[str]) -> tuple[str, bool]:
    """(name without a mark, whether it had one): `name_clean` -> (`name`, true); `clean` -> (``, true)."""
    words = re.split(r"[\W_]+", name.lower())
    kept = [word for word in words if word not in marks]
    return " ".join(kept), len(kept) < len(words)


def longest(look: Look, names: Sequence[str]) -> str:
    """Of some columns the one with the longest values."""
    return max(names, key=lambda name: look.column(name).characters)


def nothing_to_predict(look: Look) -> Problems:
    """What is told where no column is worth predicting: each one and why it was passed over."""
    return Problems(
        [
            UserError(
                "no column looks like something that a model should predict",
                where=str(look.table),
                hint="name the one with the answers by --target, and what is read by --column",
            ),
            *(UserError(column.unpredicted(), where=f"column '{column.name}'") for column in look.columns),
        ]
    )


def only_one_column(look: Look) -> UserError:
    """What is told of a table with answers and nothing to read, or the other way round."""
    return UserError("has one column only", where=str(look.table), hint="it needs one to read and one with the answers")


def quoted(text: str) -> str:
    """A name or path as YAML reads it back."""
    plain = re.fullmatch(r"(?:\.\.?/)*[^\W\d]\w*(?:[./-]\w+)*", text)
    return text if plain and text.lower() not in ("true", "false", "null") else json.dumps(text, ensure_ascii=False)


def head(table: Path, task: str) -> list[str]:
    """The recipe's first lines."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in f"{table.stem}-{task}").strip("-._") or task
    return [
        "# A Luthier recipe. `luthier validate` checks it, `luthier run` runs it, `luthier schema` describes every key.",
        "version: 1",
        f"name: {quoted(name)}",
        "seed: 0  # everything random derives from it",
        "",
    ]


def task_block(task: str, path: str, read: list[str], target: str, look: Look) -> list[str]:
    """What the model shall do."""
    block = ["task:", f"  kind: {task}", f"  table: {quoted(path)}  # relative to this file"]
    if task == "standardize":
        others = [quoted(name) for name in look.names if name not in (*read, target)]
        block += [
            f"  column: {quoted(read[0])}  # the messy values",
            f"  target: {quoted(target)}  # their canonical form",
            f"  context: []  # other columns the model may read, out of: {', '.join(others) or 'none'}",
            '  prompt: "{column} {context}: {value} =>"',
        ]
    elif task == "classify":
        inputs = f"text: {quoted(read[0])}" if len(read) == 1 else f"columns: [{', '.join(map(quoted, read))}]"
        block += [f"  {inputs}", f"  label: {quoted(target)}"]
    else:
        block += ["  # rows hold prompt and completion, or messages; loss is on the answers alone"]
        keys = (
            {"messages_column": talks(look)} if talks(look) else {"prompt_column": read[0], "completion_column": target}
        )
        block += [f"  {key}: {quoted(name)}" for key, name in keys.items()]
    return [*block, ""]


def base_block(base: str, written: Path) -> list[str]:
    """The model to start from."""
    if base in PACKAGES:
        return ["base: {kind: package, name: " + base + "}  # comes in a Python package, no network needed", ""]
    path = os.path.relpath(Path(base).resolve(), written.resolve().parent)
    return ["base: {kind: folder, path: " + quoted(path) + "}", ""]


def rest_block(task: str, base: str, split: str, steps: str) -> list[str]:
    """Preparation, training, scoring and the gate, with sensible settings."""
    encoder = base in ENCODERS
    metric, baselines = {
        "standardize": ("exact_match", "[identity, rules, untuned]"),
        "classify": ("accuracy", "[majority, tfidf, untuned]"),
        "generate": ("edit_similarity", "[untuned]"),
    }[task]
    technique = "full" if encoder else "lora, rank: 16"
    metrics = "[accuracy, f1]" if task == "classify" else f"[{metric}]"
    return [
        "prepare:",
        f"  split: {{kind: {split}, validation: 0.1, test: 0.2}}  # grouped, by: a column keeps related rows together",
        "  slices: {}  # groups for the report, such as {country: country}",
        f"  steps: {steps}  # what is done with the examples, in this order",
        "",
        "encode:",
        "  max_length: 128  # tokens of prompt and answer",
        "",
        "train:",
        f"  epochs: {6 if encoder else 3}",
        f"  learning_rate: {'5.0e-5' if encoder else '1.0e-3'}",
        "  batch_size: 16",
        f"  techniques: [{{kind: {technique}}}]",
        f"  stop: {{metric: {metric}, patience: 2}}  # on the validation split",
        "",
        "score:",
        f"  metrics: {metrics}",
        f"  baselines: {baselines}  # every result stands beside these",
        "",
        "gate:  # what must hold before the model is released",
        "  checks:",
        f"    - {{kind: better_than, baseline: untuned, metric: {metric}, by: 0.0}}",
        f"    - {{kind: floor, metric: {metric}, at_least: 0.8}}",
    ]
