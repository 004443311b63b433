"""Starting: a commented recipe written from a look at the user's table, with what was guessed and why."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import wrap
from typing import Any

from luthier.advice import Advice, Situation, advised, memory, parameters_in
from luthier.bases.package import CATALOGUE
from luthier.columns import DATE, NUMBER, WHOSE, Column
from luthier.durable import check_writable, write_durably
from luthier.errors import Problems, UserError
from luthier.model import architecture_of
from luthier.readers import Quarantined, Reader, Row
from luthier.readers._layout import headless
from luthier.readers.csv import Csv
from luthier.reading import detect
from luthier.seams import Dropped, name_of
from luthier.tasks import Task
from luthier.tasks.generate import KEYS, PREFERENCE, is_talk, listed

TASKS = ("standardize", "classify", "generate")
FEWEST = 3  # different inputs, or rows of a label, that train, validation and test take
LOOK = 2000  # rows looked at
ENCODERS = ("minilm", "mpnet")
PACKAGES = (*ENCODERS, "gemma-3-270m", "smollm2-135m", "qwen2.5-coder-1.5b")
CLEAN = ("clean", "cleaned", "canonical", "standard", "standardized", "normalized", "corrected", "fixed", "right")
MESSY = ("raw", "messy", "dirty", "original", "orig", "noisy", "wrong")
PROMPTS = ("prompt", "instruction", "question", "query", "request", "input", "source")
COMPLETIONS = ("completion", "output", "response", "answer", "reply", "target")
FURTHER = ("input", "context")  # what stands beside an instruction or a question
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
    reader: Reader
    rows: list[Row]
    columns: list[Column]
    whole: bool  # whether these are all rows

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
        problem = "is a folder" if table.is_dir() else "no such file"
        raise UserError(problem, where=str(table), hint="give the table with your data")
    written = out or table.with_suffix(".yaml")
    if written.exists():
        raise UserError("exists already and is not overwritten", where=str(written), hint="name another with --out")
    check_writable(written.parent, "name another place with --out")
    path = os.path.relpath(table.resolve(), written.resolve().parent)
    if path != path.encode("utf-8", "ignore").decode():
        raise UserError(
            "has a name that is no UTF-8, which no recipe can hold",
            where=path.encode("utf-8", "backslashreplace").decode(),
            hint="rename it",
        )
    reader = detect(table)
    look = headless_look(table, reader, {column, target} - {""}, ask, tell) or looked(table, reader, tell)
    for flag, name in (("--column", column), ("--target", target)):
        if name and name not in look.names:
            doubt = reader.doubt(table, [name])
            hint = f"it has {', '.join(look.names)}" + (f"; {doubt}" if doubt else "")
            raise UserError(f"the table has no column '{name}'", where=flag, hint=hint)
    guessing = Guessing(look, ask, tell)
    found = task or guessing.task(column, target)
    settings = guessing.settings(found, column, target)
    rows = learned(look, found, settings, tell)
    base = base or guessing.base(found, settings)
    block = base_block(base, written)
    advice = advised(situation(found, settings, rows, base, not look.whole))
    tell(f"technique: {advice.technique} ({'; '.join(advice.reasons)})")
    split, steps = guessing.split(found, settings, rows)
    lines = head(table, found) + task_block(found, path, settings, look)
    text = "\n".join(lines + block + rest_block(look, found, base, split, steps, advice)) + "\n"
    written.parent.mkdir(parents=True, exist_ok=True)
    write_durably(written, text.encode())
    return written


def looked(table: Path, reader: Reader, tell: Tell) -> Look:
    """The first rows of a table, and how it is read."""
    records = list(islice(reader.rows(table), LOOK))
    rows = [record for record in records if isinstance(record, Row)]
    aside = [record for record in records if isinstance(record, Quarantined)]
    if not rows:
        first = f"; line {aside[0].line}: {aside[0].reason}" if aside else ""
        raise UserError(f"holds no rows{first}", where=str(table), hint="give a table with rows under its header")
    named = dict.fromkeys(name for row in rows for name in row.values)
    if not (names := [name for name in named if name]):
        raise UserError("has no column with a name", where=str(table), hint="give its rows named cells")
    described = reader.describe(table)
    how = f"{described['format']}, {described['encoding']}"
    how += f", delimiter {described['delimiter']!r}" if "delimiter" in described else ""
    if n := described.get("lines_above_the_header"):
        how += f", {n} line{'s' if n > 1 else ''} above the header left out"
    unread = f", {len(aside)} of them cannot be read (the first in line {aside[0].line})" if aside else ""
    first = "the first " if len(records) == LOOK else ""
    nameless = " and one without a name, which is not read" if "" in named else ""
    tell(
        f"{table.name}: {how}; columns {', '.join(names)}{nameless}; {first}{len(records):,} records looked at{unread}"
    )
    return Look(table, reader, rows, [Column.of(name, rows) for name in names], len(records) < LOOK)


def headless_look(table: Path, reader: Reader, given: set[str], ask: Ask | None, tell: Tell) -> Look | None:
    """A look at a table whose first line holds data, with names for its columns; None where the first line may hold names,
    as it does when what was given stands there."""
    if not isinstance(reader, Csv):
        return None
    plain = reader.model_copy(update={"header": False})
    records = list(islice(plain.rows(table), LOOK))
    rows = [record for record in records if isinstance(record, Row)]
    if not rows or rows[0] is not records[0]:  # a title, or a header of another width
        return None
    header = [*map(str, rows[0].values.values())]
    why = headless(header, ([*map(str, row.values.values())] for row in rows[1:]))
    if not why or (given and given <= {*header}):
        return None
    question = f"The first line looks like data ({why}). What is it?"
    if ask and ask(question, ["data", "names"], "data") == "names":
        return None
    names: list[str] = []
    for n, key in reversed([*enumerate(rows[0].values, start=1)]):  # of several labels the last is likeliest the answer
        name = offered(Column.of(key, rows), n)
        names.insert(0, name if name not in names else f"column_{n}")
    told: list[str] = []
    look = looked(table, reader.model_copy(update={"header": False, "names": names}), told.append)
    if not ask:
        tell(
            f"header: none (the first line looks like data: {why}; the columns are called {', '.join(names)} in the recipe, "
            "by what they hold; if the first line holds names, give two of them as --column and --target)"
        )
    tell(*told)
    return look


def offered(column: Column, n: int) -> str:
    """What to call the n-th column of a table without a header."""
    if not column.unpredicted():
        return "label"
    if column.mostly(DATE):
        return "date"
    if column.mostly(NUMBER):
        return "number"
    return "text" if column.is_text() and not column.unread() else f"column_{n}"


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
        names = self.look.names
        pair = paired(names, column, target)
        label = self.label_guess()
        asked = prompted(self.look, column, target)
        talk = "" if target else next((name for name in talks(self.look) if column in ("", name)), "")
        if asked and [name.lower() for name in (asked[0], asked[-1])] == ["prompt", "completion"]:
            guess, why = "generate", "there are columns prompt and completion"
        elif talk:
            guess, why = "generate", f"column '{talk}' holds conversations{in_form(self.look, talk)}"
            why += f"; not read: {', '.join(name for name in names if name != talk)}" if len(names) > 1 else ""
        elif {*PREFERENCE} <= {*names} and not target:
            raise preferences(self.look)
        elif pair:
            guess, why = "standardize", f"'{pair[1]}' is, by its name, the clean form of '{pair[0]}'"
        elif asked:
            guess, why = "generate", f"'{asked[-1]}' is, by its name, what is answered to '{asked[0]}'"
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

    def settings(self, task: str, column: str, target: str) -> dict[str, Any]:
        """The settings of the task that say which columns are read and which is asked for."""
        if task == "generate":
            return self.asked(column, target)
        if task == "standardize":
            read, target = self.pair(column, target)
            settings: dict[str, Any] = {"column": read[0], "target": target}
        else:
            target = target or self.label()
            read = [column] if column else self.inputs(target)
            settings = {"text": read[0]} if len(read) == 1 else {"columns": read}
            settings["label"] = target
        if target in read:
            raise both(target)
        return settings

    def asked(self, column: str, target: str) -> dict[str, Any]:
        """Columns of conversations, or of prompt and completion."""
        found = prompted(self.look, column, target)
        if found is None or {"prompt", "completion"} - {name.lower() for name in found}:
            talk = [column] if column and any(map(is_talk, self.look.column(column).cells)) else talks(self.look)
            if talk and not target and column in ("", talk[0]):
                return {"messages_column": talk[0]}
        prompt, *further, completion = found or (column, target)
        for what, name in (("prompt", prompt), ("completion", completion)):
            if not name and not self.ask:
                raise UserError(
                    f"the table has no column '{what}'",
                    where="--task generate",
                    hint="it needs messages, or a prompt (--column) and a completion (--target); "
                    f"it has {', '.join(self.look.names)}",
                )
        if self.ask:
            names = self.look.names
            prompt = prompt or self.ask("Which column shall the model read?", names, longest(self.look, names))
            completion = completion or self.ask("Which column holds the answers?", names, names[-1])
        if prompt == completion:
            raise both(prompt)
        if further:
            self.tell(f"input_column: {further[0]} (by its name, it belongs to '{prompt}'; it stands below it)")
        between = {"input_column": further[0]} if further else {}
        return {"prompt_column": prompt, **between, "completion_column": completion}

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
        further = [
            f"{quoted(a)}: {quoted(b)}" for a in names for b in names if a != b and a != messy and is_clean_form(a, b)
        ]
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

    def base(self, task: str, settings: dict[str, Any]) -> str:
        """A model that comes as a package."""
        guess, why = "gemma-3-270m", "a small model that writes"
        if task == "classify":
            guess, why = "minilm", "a small encoder, made to tell texts apart"
        elif any(map(is_talk, self.look.column(settings.get("messages_column") or columns_read(settings)[0]).cells)):
            guess, why = "smollm2-135m", "a small model with a chat template of its own"
        return self.settle("base", "Which base model?", list(PACKAGES), guess, f"{why}; it comes as a package")

    def split(self, task: str, settings: dict[str, Any], rows: list[Row]) -> tuple[str, str]:
        """The split and the steps of preparation, as a recipe writes them; UserError where the rows cannot be split."""
        read = columns_read(settings)
        n_different = (
            len({tuple(name_of(row.values.get(name)) for name in read) for row in rows}) if read else len(rows)
        )
        if n_different < FEWEST and len(read) < 2:
            raise self.too_few(f"{n_different} different inputs")
        labels = Counter(name_of(row.values.get(settings["label"])) for row in rows) if task == "classify" else {}
        if len(labels) == 1:
            raise self.too_few(f"the one label '{next(iter(labels))}'")
        if labels and max(labels.values()) < FEWEST:
            raise self.too_few(f"{len(labels)} different labels in {len(rows)} rows")
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
            why += f"; `grouped, by: {quoted(whose)}` keeps the rows of each together"
        if again and len(read) > 1 and task == "classify":
            steps = "[]"
            why += f"; {n_different} different inputs in {len(rows)} rows, so duplicates are kept"
        if not self.ask:
            self.tell(f"split: {kind.partition(',')[0]} ({why})")
            self.tell(
                "what is not right can be given by --task, --column, --target and --base, or changed in the recipe"
            )
        return kind, steps

    def too_few(self, what: str) -> UserError:
        """What is told of a table of which no part can be kept for the test."""
        return UserError(
            f"holds {what}, too few to train on one part and test on another",
            where=str(self.look.table),
            hint="give more rows, or name other columns with --column and --target",
        )


def columns_read(settings: dict[str, Any]) -> list[str]:
    """The columns that the settings of a task have it read, those of conversations aside."""
    named = [settings.get(key) for key in ("column", "text", "prompt_column", "input_column")]
    return [name for name in [*named, *settings.get("columns", [])] if name]


def learned(look: Look, task: str, settings: dict[str, Any], tell: Tell) -> list[Row]:
    """The rows looked at that make examples; says why others do not. UserError where none does."""
    chosen = Task.pick({"kind": task, "table": look.table.name, **settings})
    left_out: Counter[str] = Counter()
    first: dict[str, int] = {}
    rows = []
    for row in look.rows:
        for made in chosen.of_row(row, row):
            if not isinstance(made, Dropped):
                rows.append(row)
            else:
                left_out[made.rule] += 1
                first.setdefault(made.rule, made.line)
    why = ", ".join(f"{n:,} with {rule} (the first in line {first[rule]})" for rule, n in left_out.items())
    if not rows:
        raise UserError(
            f"no row makes an example; {why}",
            where=str(look.table),
            hint="name what is read by --column and the answers by --target",
        )
    if left_out:
        tell(f"rows: {len(rows):,} of {len(look.rows):,} make examples; left out: {why}")
    return rows


def talks(look: Look) -> list[str]:
    """The columns of conversations in a form that `generate` reads, `messages` first."""
    found = []
    for column in look.columns:
        filled = [cell for cell in column.cells if cell not in (None, "", [])]
        if filled and 2 * sum(map(is_talk, filled)) > len(filled) and column.name not in PREFERENCE:
            found.append(column.name)
    return sorted(found, key=lambda name: name != "messages")


def in_form(look: Look, name: str) -> str:
    """How a column of conversations writes them, where it is not with role and content."""
    said = next(listed(cell) for cell in look.column(name).cells if is_talk(cell))
    return " of from and value" if KEYS[0][0] not in said[0] else ""


def prompted(look: Look, column: str, target: str) -> tuple[str, ...] | None:
    """By their names and values: a prompt, what belongs to it if anything does, and what is answered.

    prompt and completion, or an instruction and its answer, are taken at their word. Other names must hold texts and
    answers that are no labels, and source and target texts alone.
    """
    known = {name.strip().lower(): name for name in look.names}
    asked = next((name for name in PROMPTS if name in known and column in ("", known[name])), "")
    answered = next((n for n in COMPLETIONS if n in known and n != asked and target in ("", known[n])), "")
    if not asked or not answered:
        return None
    read, answer = look.column(known[asked]), look.column(known[answered])
    if asked not in ("prompt", "instruction"):
        texts = [read, answer] if asked == "source" or answered == "target" else [read]
        if not answer.unpredicted() or len(answer.counts) < 2 or not all(one.is_text() for one in texts):
            return None
    further = []
    if asked in ("instruction", "question", "query"):
        further = [known[n] for n in FURTHER if n in known and look.column(known[n]).values][:1]
    return read.name, *further, answer.name


def preferences(look: Look) -> UserError:
    """What is told of a table of better and worse answers."""
    better = look.column(PREFERENCE[0])
    prompt = next((name for name in look.names if name.strip().lower() in PROMPTS), "")
    way = "--task generate --column chosen" if any(map(is_talk, better.cells)) else ""
    way = way or f"--task generate --column {shlex.quote(prompt or 'the prompt')} --target chosen"
    return UserError(
        "holds pairs of a chosen and a rejected answer, and no task here learns from what was rejected",
        where=str(look.table),
        hint=f"to learn the chosen answers alone, give {way}",
    )


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
    words = re.findall(r"[^\W_]+", name.lower())
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


def both(name: str) -> UserError:
    """What is told where a column is both input and answer."""
    return UserError(f"'{name}' is both read and asked for", where="--column", hint="name two columns")


def only_one_column(look: Look) -> UserError:
    """What is told of a table with answers and nothing to read, or the other way round."""
    return UserError("has one column only", where=str(look.table), hint="it needs one to read and one with the answers")


def quoted(text: str) -> str:
    """A name or path as YAML reads it back."""
    plain = re.fullmatch(r"(?:\.\.?/)*[^\W\d]\w*(?:[./-]\w+)*", text)
    if plain and text.lower() not in ("true", "false", "null"):
        return text
    written = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in written)  # YAML folds and forbids some of them


def head(table: Path, task: str) -> list[str]:
    """The recipe's first lines."""
    stem = "".join(c if (c.isascii() and c.isalnum()) or c in "._-" else "-" for c in table.stem).strip("-._")
    name = f"{stem[: 63 - len(task)]}-{task}" if stem else task
    return [
        "# A Luthier recipe. `luthier validate` checks it, `luthier run` runs it, `luthier schema` describes every key.",
        "version: 1",
        f"name: {quoted(name)}",
        "seed: 0  # everything random derives from it",
        "",
    ]


def task_block(task: str, path: str, settings: dict[str, Any], look: Look) -> list[str]:
    """What the model shall do."""
    notes = {"column": "the messy values", "target": "their canonical form"} if task == "standardize" else {}
    notes |= {"input_column": "further text, which stands below the prompt and may be blank"}
    block = ["task:", f"  kind: {task}", f"  table: {quoted(path)}  # relative to this file"]
    if task == "generate":
        block += ["  # rows hold prompt and completion, or messages; loss is on the answers alone"]
    for key, value in settings.items():
        written = quoted(value) if isinstance(value, str) else f"[{', '.join(map(quoted, value))}]"
        block += [f"  {key}: {written}" + (f"  # {notes[key]}" if key in notes else "")]
    if task == "standardize":
        others = [quoted(name) for name in look.names if name not in settings.values()]
        block += [
            f"  context: []  # other columns the model may read, out of: {', '.join(others) or 'none'}",
            '  prompt: "{column} {context}: {value} =>"',
        ]
    return [*block, ""]


def base_block(base: str, written: Path) -> list[str]:
    """The model to start from."""
    if base in PACKAGES:
        return ["base: {kind: package, name: " + base + "}  # comes in a Python package, no network needed", ""]
    if not Path(base).is_dir():
        known = f"packages hold {', '.join(PACKAGES)}"
        raise UserError(
            "is neither a model folder nor a base that comes in a package", where=f"--base {base}", hint=known
        )
    path = os.path.relpath(Path(base).resolve(), written.resolve().parent)
    return ["base: {kind: folder, path: " + quoted(path) + "}", ""]


def situation(task: str, settings: dict[str, Any], rows: list[Row], base: str, more: bool) -> Situation:
    """What is known for an advice; of a large table the rows that were looked at."""
    classes = len({name_of(row.values.get(settings["label"])) for row in rows}) if task == "classify" else 0
    shipped = CATALOGUE.get(base)
    parameters = shipped.parameters if shipped else parameters_in(Path(base))
    encoder = base in ENCODERS or (shipped is None and architecture_of(Path(base)) == "encoder")
    return Situation(round(0.7 * len(rows)), classes, parameters, memory(), encoder, more)


def rest_block(look: Look, task: str, base: str, split: str, steps: str, advice: Advice) -> list[str]:
    """Preparation, training, scoring and the gate, with sensible settings."""
    whole = advice.technique == "full"
    metric, baselines = {
        "standardize": ("exact_match", "[identity, rules, untuned]"),
        "classify": ("accuracy", "[majority, tfidf, untuned]"),
        "generate": ("edit_similarity", "[untuned]"),
    }[task]
    rivals = [*{"standardize": ["rules"], "classify": ["tfidf"]}.get(task, []), "untuned"]
    blocks = {"full": "[{kind: full}]", "quantized_base": "[quantized_base, {kind: lora, rank: 16}]"}
    techniques = blocks.get(advice.technique, "[{kind: lora, rank: 16}]")
    metrics = "[accuracy, f1]" if task == "classify" else f"[{metric}]"
    reader = look.reader.model_dump()
    named = f"{{kind: {look.reader.kind}, header: false, names: [{', '.join(map(quoted, look.names))}]}}"
    return [
        "prepare:",
        *(
            [f"  reader: {named}  # the first line looks like data; call the columns as you like"]
            if not reader.get("header", True)
            else []
        ),
        f"  split: {{kind: {split}, validation: 0.1, test: 0.2}}  # grouped, by: a column keeps related rows together",
        "  slices: {}  # groups for the report, such as {country: country}",
        f"  steps: {steps}  # what is done with the examples, in this order",
        "",
        "encode:",
        "  max_length: 128  # tokens of prompt and answer",
        "",
        "train:",
        f"  epochs: {6 if whole else 3}",
        f"  learning_rate: {'5.0e-5' if whole else '1.0e-3'}",
        "  batch_size: 16",
        *(f"  # {line}" for reason in advice.reasons for line in wrap(reason, 112)),
        f"  techniques: {techniques}",
        f"  stop: {{metric: {metric}, patience: 2}}  # on the validation split",
        "",
        "score:",
        f"  metrics: {metrics}",
        f"  baselines: {baselines}  # every result stands beside these",
        "",
        "gate:  # what must hold before the model is released",
        "  checks:",
        *(f"    - {{kind: better_than, baseline: {rival}, metric: {metric}}}" for rival in rivals),
        f"    - {{kind: floor, metric: {metric}, at_least: 0.8}}",
    ]
