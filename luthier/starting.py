"""Starting: a commented recipe written from a look at the user's table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from luthier.errors import UserError
from luthier.readers import Row
from luthier.reading import detect

TASKS = ("standardize", "classify", "generate")
LOOK = 2000  # rows looked at
ENCODERS = ("minilm", "mpnet")

Ask = Callable[[str, list[str], str], str]


def write_recipe(
    table: Path, out: Path | None, task: str, column: str, target: str, base: str, ask: Ask | None
) -> Path:
    """Write the recipe and return its path; what was not given is guessed and, where there is a person, asked."""
    if task and task not in TASKS:
        raise UserError(f"no task called '{task}'", where="--task", hint=f"known: {', '.join(TASKS)}")
    if not table.is_file():
        raise UserError("no such file", where=str(table), hint="give the table with your data")
    written = out or table.with_suffix(".yaml")
    if written.exists():
        raise UserError("exists already and is not overwritten", where=str(written), hint="name another with --out")
    reader = detect(table)
    rows = [row for row in islice(reader.rows(table), LOOK) if isinstance(row, Row)]
    if not rows:
        raise UserError("holds no rows", where=str(table), hint="give a table with rows under its header")
    columns = list(rows[0].values)
    for flag, name in (("--column", column), ("--target", target)):
        if name and name not in columns:
            raise UserError(f"the table has no column '{name}'", where=flag, hint=f"it has {', '.join(columns)}")
    found = task or ask_or("What shall the model do?", list(TASKS), guess_task(columns, rows, target), ask)
    if found != "generate":
        guessed = guess_target(columns, rows, found)
        target = target or ask_or("Which column holds the answers?", columns, guessed, ask)
        rest = [name for name in columns if name != target]
        if not rest:
            raise UserError(
                "has one column only", where=str(table), hint="it needs one to read and one with the answers"
            )
        column = column or ask_or("Which column shall the model read?", rest, guess_column(rest, rows, target), ask)
    usual = "minilm" if found == "classify" else "gemma-3-270m"
    base = base or ask_or("Which base model?", ["minilm", "mpnet", "gemma-3-270m"], usual, ask)
    path = os.path.relpath(table.resolve(), written.resolve().parent)
    lines = head(table, found) + task_block(found, path, column, target, columns)
    text = "\n".join(lines + base_block(base, written) + rest_block(found, base, column, columns, rows)) + "\n"
    written.write_text(text, encoding="utf-8")
    return written


def ask_or(question: str, choices: list[str], guess: str, ask: Ask | None) -> str:
    """The person's answer, or the guess where nobody can be asked."""
    return ask(question, choices, guess) if ask else guess


def guess_task(columns: Sequence[str], rows: Sequence[Row], target: str) -> str:
    """Generate for prompts and conversations, standardize for `name` beside `name_clean`, classify for few answers."""
    if "messages" in columns or {"prompt", "completion"} <= set(columns):
        return "generate"
    if any(
        column != other and other.startswith(f"{column}_")
        for column in columns
        for other in columns
        if "clean" in other
    ):
        return "standardize"
    answers = distinct(rows, target or guess_target(columns, rows, "classify"))
    return "classify" if 1 < answers <= max(2, len(rows) // 10) else "standardize"


def guess_target(columns: Sequence[str], rows: Sequence[Row], task: str) -> str:
    """A column whose name says that it holds answers, else the one with fewest distinct values (classify) or the last."""
    named = [
        c for c in columns if any(word in c.lower() for word in ("label", "target", "clean", "class", "canonical"))
    ]
    if named:
        return named[0]
    return min(columns, key=lambda c: (distinct(rows, c) < 2, distinct(rows, c))) if task == "classify" else columns[-1]


def guess_column(columns: Sequence[str], rows: Sequence[Row], target: str) -> str:
    """The column that the target's name begins with, else the one with the longest values."""
    named = [column for column in columns if target.startswith(column)]
    return named[0] if named else max(columns, key=lambda c: sum(len(str(row.values.get(c, ""))) for row in rows))


def distinct(rows: Sequence[Row], column: str) -> int:
    """Number of distinct values."""
    return len({str(row.values.get(column)) for row in rows})


def quoted(text: str) -> str:
    """A name or path as YAML reads it back."""
    import json

    return (
        text if text and all(c.isalnum() or c in "_./-" for c in text) and not text[0].isdigit() else json.dumps(text)
    )


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


def task_block(task: str, path: str, column: str, target: str, columns: Sequence[str]) -> list[str]:
    """What the model shall do."""
    block = ["task:", f"  kind: {task}", f"  table: {quoted(path)}  # relative to this file"]
    if task == "standardize":
        others = [name for name in columns if name not in (column, target)]
        block += [
            f"  column: {quoted(column)}  # the messy values",
            f"  target: {quoted(target)}  # their canonical form",
            f"  context: []  # other columns the model may read, out of: {', '.join(others) or 'none'}",
            '  prompt: "{column} {context}: {value} =>"',
        ]
    elif task == "classify":
        block += [f"  text: {quoted(column)}", f"  label: {quoted(target)}"]
    else:
        block += ["  # rows hold prompt and completion, or messages; loss is on the answers alone"]
    return [*block, ""]


def base_block(base: str, written: Path) -> list[str]:
    """The model to start from."""
    if base in (*ENCODERS, "gemma-3-270m"):
        return ["base: {kind: package, name: " + base + "}  # comes in a Python package, no network needed", ""]
    path = os.path.relpath(Path(base).resolve(), written.resolve().parent)
    return ["base: {kind: folder, path: " + quoted(path) + "}", ""]


def rest_block(task: str, base: str, column: str, columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Preparation, training, scoring and the gate, with sensible settings."""
    rare = task == "classify" and min(Counter(str(r.values.get(column)) for r in rows).values(), default=0) == 0
    split = "stratified" if task == "classify" and not rare else "random"
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
        "  steps: [dedup]  # what is done with the examples, in this order",
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
