"""Make the conversations of the chat recipe: remarks about the columns of a table, and the rule that each one means.

The system message names a table and its columns, the user says in passing what holds of a column, and the assistant
answers with one rule as strict JSON. In a third of the conversations the user goes on: adds to the same column, takes
a number back, or asks the same of another column. Two tables are for the test alone. The pairs are the same conversations as
plain prompts, each with its last answer and a mistaken one, as dpo learns from them.

    python examples/make_chats.py [--seed 21] [--out examples]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rule = dict[str, Any]
UNSEEN = ("patients", "vehicles")  # tables that training never sees
N_SEEN, N_UNSEEN = 66, 36  # conversations about each table


@dataclass(frozen=True)
class Table:
    """A table of some team, its columns by what can be said of them."""

    name: str
    keys: tuple[str, ...]  # identify a row
    texts: tuple[str, ...]
    codes: dict[str, tuple[int, ...]]  # column -> lengths that it may have
    numbers: dict[str, tuple[int, int, int]]  # column -> lowest, highest, step
    words: dict[str, tuple[str, ...]]  # column -> what may stand in it
    dates: tuple[str, str]  # the first is never after the second

    def columns(self) -> list[str]:
        """All of them."""
        return [*self.keys, *self.texts, *self.codes, *self.numbers, *self.words, *self.dates]


TABLES = [
    Table(
        "orders",
        ("order_no",),
        ("customer", "ship_to"),
        {"currency": (3,)},
        {"quantity": (1, 500, 1), "unit_price": (0, 2000, 50), "discount": (0, 60, 5)},
        {"status": ("open", "paid", "shipped", "void")},
        ("ordered_on", "shipped_on"),
    ),
    Table(
        "suppliers",
        ("supplier_id",),
        ("company", "contact"),
        {"country": (2, 3), "vat_code": (9, 11)},
        {"lead_days": (1, 120, 1), "rating": (1, 10, 1)},
        {"tier": ("gold", "silver", "bronze")},
        ("signed_on", "expires_on"),
    ),
    Table(
        "products",
        ("sku",),
        ("title", "brand"),
        {"barcode": (8, 12, 13)},
        {"weight_g": (5, 9000, 5), "stock": (0, 800, 10), "margin": (0, 80, 5)},
        {"season": ("spring", "summer", "autumn", "winter")},
        ("launched_on", "retired_on"),
    ),
    Table(
        "employees",
        ("badge",),
        ("full_name", "office"),
        {"cost_center": (4, 6)},
        {"weekly_hours": (4, 48, 1), "grade": (1, 15, 1)},
        {"contract": ("permanent", "fixed", "intern")},
        ("hired_on", "left_on"),
    ),
    Table(
        "sensors",
        ("device_id",),
        ("site", "room"),
        {"firmware": (5, 7)},
        {"humidity": (0, 100, 5), "temp_c": (-40, 90, 5), "battery": (0, 100, 5)},
        {"state": ("on", "off", "fault")},
        ("installed_on", "checked_on"),
    ),
    Table(
        "invoices",
        ("invoice_no",),
        ("payer", "memo"),
        {"iban": (22, 27)},
        {"net": (0, 9000, 100), "tax_rate": (0, 27, 1), "days_due": (7, 90, 1)},
        {"channel": ("mail", "portal", "post")},
        ("issued_on", "paid_on"),
    ),
    Table(
        "students",
        ("matric_no",),
        ("surname", "faculty"),
        {"postcode": (4, 5)},
        {"credits": (0, 300, 5), "semester": (1, 14, 1)},
        {"mode": ("full", "part", "remote")},
        ("enrolled_on", "graduated_on"),
    ),
    Table(
        "parcels",
        ("tracking_no",),
        ("sender", "depot"),
        {"zip": (5, 6)},
        {"weight_kg": (1, 70, 1), "length_cm": (10, 200, 10), "attempts": (0, 5, 1)},
        {"service": ("express", "standard", "pickup")},
        ("sent_on", "delivered_on"),
    ),
    Table(
        "patients",
        ("patient_no",),
        ("ward", "doctor"),
        {"blood_code": (2, 3)},
        {"pulse": (30, 220, 5), "age": (0, 120, 1), "dose_mg": (5, 800, 5)},
        {"triage": ("red", "yellow", "green")},
        ("admitted_on", "released_on"),
    ),
    Table(
        "vehicles",
        ("plate",),
        ("model", "driver"),
        {"vin": (11, 17)},
        {"seats": (2, 60, 1), "mileage": (0, 9000, 100), "power_kw": (20, 400, 10)},
        {"fuel": ("diesel", "petrol", "electric")},
        ("registered_on", "scrapped_on"),
    ),
]

REQUIRED = [
    "{c} must not be empty.",
    "we always need {c}",
    "no row without {c}, please",
    "{c} is mandatory",
    "Blank {c} is an error.",
    "somebody left {c} out again, that must not happen",
]
UNIQUE = [
    "{c} must be unique.",
    "no two rows share the same {c}",
    "every {c} occurs only once",
    "I saw duplicates in {c}, they are wrong",
    "{c} may never repeat",
]
LEAST = [
    "{c} is at least {a}.",
    "nothing under {a} in {c}",
    "{c} cannot be lower than {a}",
    "the minimum for {c} is {a}",
    "{c}: {a} or more",
    "anything below {a} in {c} is a typo",
]
MOST = [
    "{c} is at most {b}.",
    "nothing over {b} in {c}",
    "{c} never exceeds {b}",
    "cap {c} at {b}",
    "{c}: {b} or less",
    "anything above {b} in {c} is a typo",
]
RANGE = [
    "{c} lies between {a} and {b}.",
    "{c} goes from {a} to {b}",
    "for {c} only {a} to {b} makes sense",
    "{c} is {a} at least and {b} at most",
    "keep {c} within {a} and {b}",
]
ONE_OF = [
    "{c} is one of {w}.",
    "only {w} are allowed in {c}",
    "{c} can be {w}, nothing else",
    "the values of {c} are {w}",
]
LENGTH = [
    "{c} has exactly {n} characters.",
    "{c} is always {n} characters long",
    "each {c} has {n} characters, no more, no less",
    "the length of {c} is {n}",
]
ORDER = [
    "{c} cannot be before {d}.",
    "{c} is never earlier than {d}",
    "no {c} ahead of {d}",
    "{d} comes first, {c} the same day or later",
]
LEAD = ["", "", "", "", "please note: ", "hi, ", "one more thing: ", "from the audit: ", "btw "]
AGAIN_REQUIRED = ["And it must not be empty.", "it is mandatory too", "also, never blank"]
AGAIN_LEAST = ["And at least {a}.", "it cannot be lower than {a} either", "also nothing under {a}"]
AGAIN_MOST = ["And at most {b}.", "it never exceeds {b} either", "also nothing over {b}"]
CORRECTION = ["Sorry, {v}, not {o}.", "I meant {v}", "make that {v} instead of {o}", "no, {v}"]
SAME_FOR = ["Same for {c}.", "the same goes for {c}", "{c} as well", "and {c} too"]

Said = tuple[str, Rule]


def spoken(column: str, draw: random.Random) -> str:
    """A column as people write it: its name, in quotes, or with blanks."""
    return draw.choice([column, column, f"'{column}'", column.replace("_", " "), column.replace("_", " ").upper()])


def number_in(limits: tuple[int, int, int], draw: random.Random) -> int:
    """A number that is plausible for a column."""
    low, high, step = limits
    return draw.randrange(low, high + 1, step)


def required(table: Table, draw: random.Random) -> Said:
    """A column is never empty."""
    column = draw.choice([*table.texts, *table.codes, *table.words, table.dates[0]])
    return draw.choice(REQUIRED).format(c=spoken(column, draw)), {"column": column, "required": True}


def unique(table: Table, draw: random.Random) -> Said:
    """A column identifies its row."""
    column = draw.choice([*table.keys, *table.keys, *table.codes, *table.texts])
    return draw.choice(UNIQUE).format(c=spoken(column, draw)), {"column": column, "unique": True}


def least(table: Table, draw: random.Random) -> Said:
    """A number has a lower bound."""
    column = draw.choice(list(table.numbers))
    bound = number_in(table.numbers[column], draw)
    return draw.choice(LEAST).format(c=spoken(column, draw), a=bound), {"column": column, "min": bound}


def most(table: Table, draw: random.Random) -> Said:
    """A number has an upper bound."""
    column = draw.choice(list(table.numbers))
    bound = number_in(table.numbers[column], draw)
    return draw.choice(MOST).format(c=spoken(column, draw), b=bound), {"column": column, "max": bound}


def within(table: Table, draw: random.Random) -> Said:
    """A number has both bounds."""
    column = draw.choice(list(table.numbers))
    low, high = sorted(draw.sample(range(*table.numbers[column]), 2))
    text = draw.choice(RANGE).format(c=spoken(column, draw), a=low, b=high)
    return text, {"column": column, "min": low, "max": high}


def one_of(table: Table, draw: random.Random) -> Said:
    """A column holds a few words."""
    column, known = draw.choice(list(table.words.items()))
    words = draw.sample(known, draw.randint(2, min(3, len(known))))
    listed = f"{', '.join(words[:-1])} {draw.choice(['and', 'or'])} {words[-1]}"
    text = draw.choice(ONE_OF).format(c=spoken(column, draw), w=listed)
    return text, {"column": column, "one_of": words}


def length(table: Table, draw: random.Random) -> Said:
    """A code has so many characters."""
    column, lengths = draw.choice(list(table.codes.items()))
    n = draw.choice(lengths)
    return draw.choice(LENGTH).format(c=spoken(column, draw), n=n), {"column": column, "length": n}


def order(table: Table, draw: random.Random) -> Said:
    """One date is not before another."""
    first, second = table.dates
    text = draw.choice(ORDER).format(c=spoken(second, draw), d=spoken(first, draw))
    return text, {"column": second, "not_before": first}


KINDS: list[Callable[[Table, random.Random], Said]] = [required, unique, least, most, within, one_of, length, order]


def follow_up(table: Table, rule: Rule, draw: random.Random) -> Said | None:
    """What a user says next, and the rule that it means; None where nothing comes to mind."""
    column = rule["column"]
    bound = next((key for key in ("min", "max") if key in rule), "")
    choices: list[Said] = []
    if "required" not in rule and column not in table.numbers:
        choices.append((draw.choice(AGAIN_REQUIRED), {"column": column, "required": True}))
    if column in table.numbers and len(rule) == 2 and bound:
        low, high, step = table.numbers[column]
        said = rule[bound]
        if bound == "min" and said + step <= high:
            more = number_in((said + step, high, step), draw)
            choices.append((draw.choice(AGAIN_MOST).format(b=more), {"column": column, "max": more}))
        if bound == "max" and said - step >= low:
            less = number_in((low, said - step, step), draw)
            choices.append((draw.choice(AGAIN_LEAST).format(a=less), {"column": column, "min": less}))
        other = number_in((low, high, step), draw)
        if other != said:
            choices.append((draw.choice(CORRECTION).format(v=other, o=said), {"column": column, bound: other}))
    if "required" in rule or "unique" in rule:
        key = "required" if "required" in rule else "unique"
        another = draw.choice([each for each in (*table.keys, *table.texts, *table.codes) if each != column])
        choices.append((draw.choice(SAME_FOR).format(c=spoken(another, draw)), {"column": another, key: True}))
    return draw.choice(choices) if choices else None


def conversation(table: Table, kind: int, more: bool, draw: random.Random) -> list[dict[str, str]]:
    """System, user, assistant; and a second exchange where there is more to say."""
    text, rule = KINDS[kind](table, draw)
    said = [(draw.choice(LEAD) + text, rule)]
    if more and (next_ := follow_up(table, rule, draw)):
        said.append(next_)
    asked = {column for _, meant in said for column in (meant["column"], meant.get("not_before")) if column}
    others = [column for column in table.columns() if column not in asked]
    shown = [*sorted(asked), *draw.sample(others, 5 - len(asked))]  # as a view of the table has them
    draw.shuffle(shown)
    messages = [
        {
            "role": "system",
            "content": f"You turn remarks on the table {table.name} ({', '.join(shown)}) into JSON rules.",
        }
    ]
    for remark, meant in said:
        messages.append({"role": "user", "content": remark})
        messages.append({"role": "assistant", "content": json.dumps(meant, separators=(",", ":"))})
    return messages


def conversations(seed: int) -> list[dict[str, Any]]:
    """The rows: no remark is made twice of one table."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    made: set[tuple[str, ...]] = set()
    planned = [(table, n) for table in TABLES for n in range(N_UNSEEN if table.name in UNSEEN else N_SEEN)]
    draw.shuffle(planned)
    while planned:
        table, number = planned[-1]
        messages = conversation(table, number % len(KINDS), number % 3 == 0, draw)
        remarks = (table.name, *(each["content"] for each in messages if each["role"] == "user"))
        if remarks in made:
            continue
        made.add(remarks)
        planned.pop()
        rule = json.loads(messages[-1]["content"])
        rows.append(
            {
                "id": f"R{len(rows) + 1:03d}",
                "table": table.name,
                "rule": "range" if {"min", "max"} <= rule.keys() else list(rule)[1],
                "turns": "two" if len(messages) > 3 else "one",
                "messages": messages,
            }
        )
    return rows


def mistaken(rule: Rule, shown: list[str], draw: random.Random) -> Rule:
    """A rule that is not the one that was meant: another column, bound, number or word, or a part left out."""
    choices: list[Rule] = [rule | {"column": draw.choice([name for name in shown if name != rule["column"]])}]
    bound = next((key for key in ("min", "max") if key in rule), "")
    if {"min", "max"} <= rule.keys():
        choices.append({"column": rule["column"], bound: rule[bound]})
    elif bound:
        choices.append({"column": rule["column"], {"min": "max", "max": "min"}[bound]: rule[bound]})
    if "one_of" in rule:
        choices.append(rule | {"one_of": rule["one_of"][:-1]})
    if "length" in rule:
        choices.append({"column": rule["column"], "max": rule["length"]})
    if "not_before" in rule:
        choices.append({"column": rule["not_before"], "not_before": rule["column"]})
    if "required" in rule or "unique" in rule:
        choices.append({"column": rule["column"], "unique" if "required" in rule else "required": True})
    return draw.choice(choices)


def pairs(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows, each with its last answer and a mistaken one."""
    draw = random.Random(f"pairs/{seed}")
    found = []
    for row in rows:
        *asked, answer = row["messages"]
        shown = asked[0]["content"].partition("(")[2].partition(")")[0].split(", ")
        wrong = json.dumps(mistaken(json.loads(answer["content"]), shown, draw), separators=(",", ":"))
        told = {name: row[name] for name in ("id", "table", "rule", "turns")}
        text = "\n".join(message["content"] for message in asked)
        found.append({**told, "prompt": text, "chosen": answer["content"], "rejected": wrong})
    return found


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    rows = conversations(options.seed)
    for name, made in (("chats.jsonl", rows), ("pairs.jsonl", pairs(rows, options.seed))):
        path = options.out / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
        print(f"wrote {path}: {len(made)} conversations")


if __name__ == "__main__":
    main()
