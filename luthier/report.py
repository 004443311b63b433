"""The report of a run: one HTML page that stands alone, made from facts; what was not measured is said to be so."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier import plots
from luthier.plots import known

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TUNED = "tuned"
NOT_MEASURED = "not measured"
FEW = 20  # examples below which a group is marked as small
GROUPS = 15  # groups of a slice shown before the rest is folded away
ICONS = {"passed": "passed", "failed": "failed", "not enough data": "unsure"}
# What each count of `leaks` means, and whether anything but 0 is a warning.
LEAKS = {
    "exact_across_splits": ("inputs that stood in two splits and were taken out of the earlier one", False),
    "label_in_input": ("inputs that hold their own label", True),
    "test_inputs_seen_in_training": ("test inputs that also stand in training", True),
    "conflicting_answers_in_training": ("training examples whose input has more than one answer", True),
}

Figure = Mapping[str, Any]  # estimate, interval, n, entities, unit, details


def page(facts: Mapping[str, Any]) -> str:
    """The whole page. Facts come from manifests and artifact files alone, so the same facts give the same bytes."""
    scores = facts["scores"]
    prepare, train = facts["prepare"], facts["train"]
    view = {
        "facts": facts, "main": scores["main"], "verdict": verdict(facts), "tuned": figure(facts, TUNED),
        "rival": best_baseline(facts), "metrics": metrics(scores), "systems": system_rows(facts),
        "slices": slice_plots(facts), "curves": curves(train), "evaluations": evaluations(train),
        "confusion": confusion(scores), "flow": plots.flow(prepare["source"]["file"], prepare["flow"]),
        "accounted": all(step["in"] == step["kept"] + sum(step["fates"].values()) for step in prepare["flow"]),
        "splits": shares(prepare["splits"]), "leaks": leaks(prepare["leaks"]), "FEW": FEW, "GROUPS": GROUPS,
    }  # fmt: skip
    text = templates(html=True).get_template("report.html").render(view)
    return encodable(text)


def templates(*, html: bool) -> Environment:
    """The templates, with the filters that both pages use; text is escaped in HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("luthier", "web/templates"), autoescape=html, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters |= {
        "number": number, "spread": spread, "figure": shown, "count": count, "seconds": seconds, "visible": visible,
        "technique": technique, "setting": setting, "share_of": share_of, "plural": plural, "merged": merged,
    }  # fmt: skip
    return found


def metrics(scores: Mapping[str, Any]) -> list[str]:
    """Names of all metrics that some system has, in the order of the first one."""
    return list(dict.fromkeys(name for system in scores["systems"].values() for name in system["metrics"]))


def verdict(facts: Mapping[str, Any]) -> dict[str, str]:
    """The answer on top: its tone, its word and one sentence why."""
    checks = facts["verdicts"]
    if not checks:
        return {
            "tone": "unsure",
            "word": "Not checked",
            "why": "The recipe has no release checks, so nothing is signed off.",
        }
    required = [check for check in checks if check["required"]]
    passed = sum(check["outcome"] == "passed" for check in required)
    why = f"{passed} of {plural(len(required), 'required check')} passed"
    for outcome, words in (("failed", "failed"), ("not enough data", "not enough data for")):
        names = [check["check"] for check in required if check["outcome"] == outcome]
        if names:
            why += f"; {words}: {', '.join(names)}"
    warnings = sum(check["outcome"] != "passed" and not check["required"] for check in checks)
    if warnings:
        why += f"; {plural(warnings, 'advisory check')} did not pass"
    if facts["released"]:
        return {"tone": "passed", "word": "Released", "why": f"{why}."}
    return {"tone": "failed", "word": "Not released", "why": f"{why}."}


def figure(
    facts: Mapping[str, Any], system: str, group: tuple[str, str] | None = None, metric: str = ""
) -> Figure | None:
    """A system's figure for a metric (the main one unless named), of all rows or of a group (slice, value)."""
    scores = facts["scores"]
    entry: Any = scores["systems"].get(system, {})
    entry = entry.get("slices", {}).get(group[0], {}).get(group[1], {}) if group else entry.get("metrics", {})
    found: Figure | None = entry.get(metric or scores["main"])
    return found


def best_baseline(facts: Mapping[str, Any], group: tuple[str, str] | None = None) -> tuple[str, Figure] | None:
    """Name and figure of the rival with the highest main metric, the first of equals; None where none was measured."""
    rivals = [(name, figure(facts, name, group)) for name in facts["scores"]["order"] if name != TUNED]
    measured = [(name, found) for name, found in rivals if found and known(found["estimate"])]
    return max(measured, key=lambda rival: rival[1]["estimate"], default=None)


def comparison(tuned: Figure | None, rival: tuple[str, Figure] | None) -> tuple[str, str]:
    """Who is better, as (tone, sentence); it is a win only where the two intervals do not overlap."""
    if not tuned or not known(tuned["estimate"]):
        return "unsure", f"{TUNED} {NOT_MEASURED}"
    if not rival:
        return "unsure", "no baseline measured"
    name, other = rival
    mine, theirs = tuned["estimate"], other["estimate"]
    if mine == theirs:
        return "unsure", f"level with {name} at {number(mine, tuned['unit'])}"
    (first, high), (_, low) = sorted([(TUNED, tuned), (name, other)], key=lambda pair: -pair[1]["estimate"])
    values = f"{number(high['estimate'], high['unit'])} vs {number(low['estimate'], low['unit'])}"
    if not high["interval"] or not low["interval"]:
        return "unsure", f"{first} ahead: {values}, without intervals to tell"
    if high["interval"][0] <= low["interval"][1]:
        return "unsure", f"{first} ahead: {values}, intervals overlap"
    return ("passed" if first == TUNED else "failed"), f"{first} wins: {values}"


def system_rows(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The main metric of every system as rows of a dot-and-interval plot."""
    found = {name: figure(facts, name) for name in facts["scores"]["order"]}
    axis = axis_of(list(found.values()))
    look = {name: TUNED if name == TUNED else "rival" for name in found}
    rows = [{"name": name, "figure": f, "plot": strip(axis, [(name, f, look[name])])} for name, f in found.items()]
    return {"rows": rows, "scale": plots.scale(axis)}


def slice_plots(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each slice, rows with the model beside the best rival of that very group, larger groups first."""
    sliced = facts["scores"]["systems"].get(TUNED, {}).get("slices", {})
    found = []
    for name, groups in sorted(sliced.items(), key=lambda item: (item[0] != "column", item[0] != "unseen", item[0])):
        rows = []
        for value in groups:
            tuned, rival = figure(facts, TUNED, (name, value)), best_baseline(facts, (name, value))
            tone, words = comparison(tuned, rival)
            rows.append({"value": value, "tuned": tuned, "rival": rival, "tone": tone, "words": words})
        axis = axis_of([row["tuned"] for row in rows] + [row["rival"][1] for row in rows if row["rival"]])
        for row in rows:
            beside = [(row["rival"][0], row["rival"][1], "rival")] if row["rival"] else []
            row["plot"] = strip(axis, [(TUNED, row["tuned"], TUNED), *beside])
        rows.sort(key=lambda row: -(row["tuned"] or {"n": 0})["n"])
        found.append({"name": name, "rows": rows, "scale": plots.scale(axis)})
    return found


def axis_of(figures: Sequence[Figure | None]) -> plots.Span:
    """One axis for figures of the same metric, wide enough for their intervals."""
    measured = [f for f in figures if f and known(f["estimate"])]
    ends = [value for f in measured for value in (f["estimate"], *(f["interval"] or ()))]
    return plots.span(ends, measured[0]["unit"] if measured else "")


def strip(axis: plots.Span, marks: Sequence[tuple[str, Figure | None, str]]) -> Markup:
    """One row of a dot-and-interval plot with its words."""
    measured = [(name, f, look) for name, f, look in marks if f and known(f["estimate"])]
    words = "; ".join(f"{name} {shown(f)}" for name, f, _ in measured) or NOT_MEASURED
    return plots.dots(axis, [plots.Dot(f["estimate"], f["interval"], look) for _, f, look in measured], words)


def curves(train: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Loss, validation metric and learning rate over epochs, each as far as it was recorded."""
    history, best = train.get("history") or [], train.get("best")
    steps = [entry for entry in history if "loss" in entry]
    raw = [(entry["epoch"], entry["loss"] if known(entry["loss"]) else None) for entry in steps]
    smooth = list(zip([x for x, _ in raw], plots.smoothed([y for _, y in raw]), strict=True))
    metric = best["metric"] if best else "loss"
    checked = [(e["epoch"], e["validation"][metric]) for e in history if known(e.get("validation", {}).get(metric))]
    rate = [(e["epoch"], e["learning_rate"]) for e in steps if known(e.get("learning_rate"))]
    mark = (best["epoch"], f"best: step {best['step']}") if best else None
    drawn = [
        ("Training loss", "nats", [("raw", raw), ("smooth", smooth)], mark),
        (f"Validation {metric}", "after each evaluation", [("measured", checked)], mark),
        ("Learning rate", "at each step", [("thin", rate)], None),
    ]
    found = []
    for title, unit, series, where in drawn:
        values = [(x, y) for x, y in series[-1][1] if y is not None]
        if values:
            label = f"{title} over epochs: from {plots.short(values[0][1])} to {plots.short(values[-1][1])}"
            label += f"; {where[1]} of epoch {plots.short(where[0])}" if where else ""
            found.append({"title": title, "unit": unit, "plot": plots.lines(label, series, where)})
    return found


def evaluations(train: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each evaluation on the validation split, with whether its weights were the best."""
    best = (train.get("best") or {}).get("step")
    found = [entry for entry in train.get("history") or [] if entry.get("validation")]
    return [{"best": e["step"] == best, **{key: e[key] for key in ("step", "epoch", "validation")}} for e in found]


def confusion(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """The confusion matrix with each cell's share of its row, 0..1, for its shade."""
    given = scores.get("confusion")
    if not given:
        return None
    rows = [
        {"label": label, "cells": [(n, round(n / (sum(row) or 1), 3)) for n in row]}
        for label, row in zip(given["labels"], given["matrix"], strict=True)
    ]
    return {"labels": given["labels"], "rows": rows}


def leaks(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each leak count in words, with its tone."""
    found = []
    for name, n in counts.items():
        words, warns = LEAKS.get(name, (name.replace("_", " "), True))
        found.append({"n": n, "words": words, "tone": "unsure" if n and warns else "passed"})
    return found


def shares(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """(name, count, percent of all)."""
    total = sum(counts.values()) or 1
    return [(name, n, round(100 * n / total, 2)) for name, n in counts.items()]


def number(value: object, unit: str = "") -> str:
    """A figure with three decimals for shares, three significant digits else, and its unit."""
    if not known(value):
        return NOT_MEASURED
    assert isinstance(value, int | float)
    if unit == "share":
        return f"{value:.3f}"
    text = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def spread(interval: Sequence[float] | None, unit: str = "") -> str:
    """`0.921 to 0.978`, `698 to 811 ms`; nothing where there is no interval."""
    return f"{number(interval[0], unit).removesuffix(f' {unit}')} to {number(interval[1], unit)}" if interval else ""


def shown(found: Figure | None) -> str:
    """`0.950 (0.921 to 0.978, n 260)`."""
    if not found or not known(found["estimate"]):
        return NOT_MEASURED
    bounds = spread(found["interval"], found["unit"]) or "no interval"
    return f"{number(found['estimate'], found['unit'])} ({bounds}, n {found['n']:,})"


def count(value: object) -> str:
    """`17,000`."""
    return f"{value:,}" if known(value) else NOT_MEASURED


def share_of(part: object, whole: object) -> str:
    """`31 %`."""
    return f"{100 * part / whole:.3g} %" if known(part) and known(whole) and whole else NOT_MEASURED  # type: ignore[operator]


def seconds(value: object) -> str:
    """`1.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if not known(value):
        return NOT_MEASURED
    assert isinstance(value, int | float)
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, left = divmod(round(value), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(n: int, noun: str) -> str:
    """`1 time`, `2 times`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def technique(block: Mapping[str, Any]) -> str:
    """`lora (rank 16, targets all-linear)`; what is unset is left out."""
    settings = ", ".join(
        f"{name} {setting(value)}" for name, value in block.items() if name != "kind" and value is not None
    )
    return f"{block['kind']} ({settings})" if settings else str(block["kind"])


def setting(value: object) -> str:
    """A setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} → {setting(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(setting(part) for part in value)
    return str(value)


def merged(pieces: Sequence[Sequence[Any]]) -> list[tuple[str, bool]]:
    """Neighbouring pieces of the same kind as one."""
    found: list[tuple[str, bool]] = []
    for text, supervised in pieces:
        if found and found[-1][1] == supervised:
            text = found.pop()[0] + text
        found.append((text, supervised))
    return found


def visible(text: object) -> list[tuple[str, str]]:
    """Text in parts ("" or "mark", part): spaces at the ends or in a row, and what has no shape, become marks."""
    whole = "" if text is None else str(text)
    found: list[tuple[str, str]] = []
    for kind, part in _marked(whole):
        if found and found[-1][0] == kind:
            part = found.pop()[1] + part
        found.append((kind, part))
    return found


def _marked(text: str) -> Iterator[tuple[str, str]]:
    inner = len(text) - len(text.lstrip(" ")), len(text.rstrip(" "))
    for place, character in enumerate(text):
        if character == " ":
            doubled = " " in (text[place - 1 : place], text[place + 1 : place + 2])
            yield ("mark", "·") if doubled or not inner[0] <= place < inner[1] else ("", " ")
        elif character in "\n\t":
            yield "mark", "↵\n" if character == "\n" else "⇥\t"
        elif unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"):
            yield "mark", f"[U+{ord(character):04X}]"
        else:
            yield "", character


def encodable(text: str) -> str:
    """The text with lone surrogates, which broken JSON can hold and UTF-8 cannot, written as their codes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
