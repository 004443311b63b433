"""The report of a run: one HTML page that stands alone, made from facts; what was not measured is said to be so."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from luthier import plots
from luthier.advice import after
from luthier.facts import Figure, MembershipFacts, RunFacts, Scores, Spread, SpreadFacts
from luthier.plots import known

if TYPE_CHECKING:
    from jinja2 import Environment

TUNED = "tuned"
NOT_MEASURED = "not measured"
TALLIED = 15  # values of a tally that are shown


def page(facts: RunFacts) -> str:
    """The whole page. Facts come from manifests and artifact files alone, so the same facts give the same bytes."""
    scores = facts.scores
    view = {
        "facts": facts,
        "main": scores.main,
        "verdict": verdict(facts),
        "tuned": figure(facts, TUNED),
        "rival": best_baseline(facts),
        "difference": difference(facts, figure(facts, TUNED), best_baseline(facts)),
        "direction": direction(facts),
        "metrics": list(scores.higher_is_better),
        "units": units(facts),
        "systems": system_rows(facts),
        "slices": slice_plots(facts),
        "curves": curves(facts),
        "evaluations": evaluations(facts),
        "repeats": repeats(facts.spread),
        "confusion": confusion(scores),
        "flow": plots.flow(marked(facts.prepared.source["file"]), facts.prepared.flow, facts.encoded.flow),
        "accounted": all(step.adds_up for step in facts.flow),
        "splits": shares(facts.prepared.splits),
        "leaks": leaks(facts),
        "told": told(facts),
        "next_steps": next_steps(facts),
        "privacy": privacy(facts),
        "attacked": attacked(facts.membership) if facts.membership else "",
        "tallies": [tally(name, counts) for name, counts in counted(facts)],
    }
    return encodable(templates(html=True).get_template("report.html").render(view))


@cache
def templates(*, html: bool) -> Environment:
    """The templates, with the filters that both pages use; text is escaped in HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("luthier", "web/templates"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "number": number,
        "spread": spread,
        "figure": shown,
        "count": count,
        "seconds": seconds,
        "visible": visible,
        "technique": technique,
        "setting": setting,
        "share_of": share_of,
        "plural": plural,
        "merged": merged,
    }
    return found


def units(facts: RunFacts) -> dict[str, str]:
    """The unit of each metric, and of the loss; what an objective tells of validation beside it are shares."""
    tuned = facts.scores.systems[TUNED].metrics
    told = {name: "share" for entry in facts.history for name in entry.get("validation", {})}
    return {**told, "loss": "nats", **{name: found.unit for name, found in tuned.items()}}


def next_steps(facts: RunFacts) -> list[str]:
    """What this run's own figures say about the next one."""
    trained, main = facts.trained, facts.scores.main
    metric = trained.best["metric"] if trained.best else "loss"
    spread = facts.spread.figures.get("validation", {}).get(main) if facts.spread else None
    gains = [
        v.interval for v in facts.verdicts if v.check.startswith((f"{main} above ", f"{main} below ")) and v.interval
    ]
    return after(
        facts.history,
        metric,
        higher_is_better=facts.scores.higher_is_better.get(metric, False),
        epochs=trained.epochs,
        techniques=[block["kind"] for block in trained.techniques],
        share_trained=trained.trainable_parameters / max(1, trained.parameters),
        deviation=spread.deviation if spread and metric == main else None,
        varies=(main, spread.deviation) if spread and spread.deviation is not None else None,
        gain=min(gains) if gains else None,
    )


def verdict(facts: RunFacts) -> dict[str, str]:
    """The answer on top: its tone, its word and one sentence why."""
    checks = facts.verdicts
    if not checks:
        why = "The recipe has no release checks, so nothing is signed off."
        return {"tone": "unsure", "word": "Not checked", "why": why}
    required = [check for check in checks if check.required]
    passed = sum(check.outcome == "passed" for check in required)
    why = f"{passed} of {plural(len(required), 'required check')} passed"
    for outcome, words in (("failed", "failed"), ("not enough data", "not enough data for")):
        names = [check.check for check in required if check.outcome == outcome]
        if names:
            why += f"; {words}: {', '.join(names)}"
    warnings = sum(check.outcome != "passed" and not check.required for check in checks)
    if warnings:
        why += f"; {plural(warnings, 'advisory check')} did not pass"
    if facts.released:
        return {"tone": "passed", "word": "Released", "why": f"{why}."}
    return {"tone": "failed", "word": "Not released", "why": f"{why}."}


def figure(facts: RunFacts, system: str, group: tuple[str, str] | None = None, metric: str = "") -> Figure | None:
    """A system's figure for a metric (the main one unless named), of all rows or of a group (slice, value)."""
    found = facts.scores.systems.get(system)
    if found is None:
        return None
    figures = found.slices.get(group[0], {}).get(group[1], {}) if group else found.metrics
    return figures.get(metric or facts.scores.main)


def goodness(facts: RunFacts, found: Figure) -> float:
    """The main metric with its sign turned where lower is better: larger is always better."""
    assert found.estimate is not None
    return found.estimate if facts.scores.higher_is_better[facts.scores.main] else -found.estimate


def best_baseline(facts: RunFacts, group: tuple[str, str] | None = None) -> tuple[str, Figure] | None:
    """Name and figure of the rival with the best main metric, the first of equals; None where none was measured."""
    rivals = [(name, figure(facts, name, group)) for name in facts.scores.order if name != TUNED]
    measured = [(name, found) for name, found in rivals if found and known(found.estimate)]
    return max(measured, key=lambda rival: goodness(facts, rival[1]), default=None)


def comparison(facts: RunFacts, tuned: Figure | None, rival: tuple[str, Figure] | None) -> tuple[str, str]:
    """Who is better, as (tone, sentence); it is a win only where the two intervals do not overlap."""
    if not tuned or not known(tuned.estimate):
        return "unsure", f"{TUNED} {NOT_MEASURED}"
    if not rival:
        return "unsure", "no baseline measured"
    name, other = rival
    if tuned.estimate == other.estimate:
        return "unsure", f"level with {name} at {number(tuned.estimate, tuned.unit)}"
    (first, better), (_, worse) = sorted([(TUNED, tuned), (name, other)], key=lambda pair: -goodness(facts, pair[1]))
    values = f"{number(better.estimate, better.unit)} vs {number(worse.estimate, worse.unit)}"
    if why := doubt(better, worse):
        return "unsure", f"{first} ahead: {values}, {why}"
    return ("passed" if first == TUNED else "failed"), f"{first} wins: {values}"


def doubt(first: Figure, second: Figure) -> str:
    """Why a difference may be chance; nothing where the two intervals do not overlap."""
    if not first.interval or not second.interval:
        return "without intervals to tell"
    apart = first.interval[0] > second.interval[1] or second.interval[0] > first.interval[1]
    return "" if apart else "intervals overlap"


def difference(facts: RunFacts, tuned: Figure | None, rival: tuple[str, Figure] | None) -> tuple[str, str] | None:
    """How far the model is from its rival: the signed figure, and whether that is better, and surely so."""
    if not tuned or not rival or not known(tuned.estimate) or not known(rival[1].estimate):
        return None
    assert tuned.estimate is not None and rival[1].estimate is not None
    gap = tuned.estimate - rival[1].estimate
    text = number(gap, tuned.unit)
    if text == number(0.0, tuned.unit):
        return text, "level"
    word = "better" if goodness(facts, tuned) > goodness(facts, rival[1]) else "worse"
    why = doubt(tuned, rival[1])
    return f"+{text}" if gap > 0 else text, f"{word}, {why}" if why else word


def direction(facts: RunFacts) -> str:
    """A word of warning where a smaller main metric is the better one."""
    return "" if facts.scores.higher_is_better[facts.scores.main] else "lower is better"


def system_rows(facts: RunFacts) -> dict[str, Any]:
    """The main metric of every system as rows of a dot-and-interval plot."""
    found = {name: figure(facts, name) for name in facts.scores.order}
    axis = axis_of(list(found.values()))
    look = {name: TUNED if name == TUNED else "rival" for name in found}
    rows = [{"name": name, "figure": f, "plot": strip(axis, [(name, f, look[name])])} for name, f in found.items()]
    return {"rows": rows, "scale": plots.scale(axis)}


@dataclass
class GroupRow:
    """One group of a slice: the model beside the best rival of that very group."""

    value: str
    tuned: Figure | None
    rival: tuple[str, Figure] | None
    tone: str
    words: str
    plot: Markup | None = None


def slice_plots(facts: RunFacts) -> list[dict[str, Any]]:
    """For each slice, rows with the model beside the best rival of that very group: larger groups first, or the worst."""
    sliced = facts.scores.systems[TUNED].slices
    found = []
    for name, groups in sorted(sliced.items(), key=lambda item: (item[0] != "column", item[0] != "unseen", item[0])):
        rows = []
        for value in groups:
            tuned, rival = figure(facts, TUNED, (name, value)), best_baseline(facts, (name, value))
            rows.append(GroupRow(value, tuned, rival, *comparison(facts, tuned, rival)))
        axis = axis_of([row.tuned for row in rows] + [row.rival[1] for row in rows if row.rival])
        for row in rows:
            beside = [(row.rival[0], row.rival[1], "rival")] if row.rival else []
            row.plot = strip(axis, [(TUNED, row.tuned, TUNED), *beside])
        counted = left_out(facts, name)
        if not counted:
            rows.sort(key=lambda row: -row.tuned.n if row.tuned else 0)
        found.append({"name": name, "rows": rows, "scale": plots.scale(axis), "counted": counted})
    return found


def left_out(facts: RunFacts, name: str) -> str:
    """How many groups a slice has where the worst of them alone are shown; nothing where all are."""
    counts, shown = facts.scores.groups[name], len(facts.scores.systems[TUNED].slices[name])
    if shown == counts.n:
        return ""
    few, small = facts.scores.fewest_entities, counts.n - counts.judged
    if not counts.judged:
        return f"{counts.n:,} groups, of which none has the {few} independent examples to be judged by."
    judged = f"{small:,} have fewer than {few} independent examples and are not judged" if small else "all are judged"
    return f"The {shown} worst of {counts.n:,} groups; {judged}."


def axis_of(figures: Sequence[Figure | None]) -> plots.Span:
    """One axis for figures of the same metric, wide enough for their intervals."""
    measured = [f for f in figures if f and known(f.estimate)]
    ends = [value for f in measured for value in (f.estimate, *(f.interval or ())) if value is not None]
    return plots.span(ends, measured[0].unit if measured else "")


def strip(axis: plots.Span, marks: Sequence[tuple[str, Figure | None, str]]) -> Markup:
    """One row of a dot-and-interval plot with its words."""
    measured = [(name, f, look) for name, f, look in marks if f and known(f.estimate)]
    words = "; ".join(f"{name} {shown(f)}" for name, f, _ in measured) or NOT_MEASURED
    dots = [plots.Dot(f.estimate, f.interval, look) for _, f, look in measured if f.estimate is not None]
    return plots.dots(axis, dots, words)


def curves(facts: RunFacts) -> list[dict[str, Any]]:
    """Loss, validation metric and learning rate over epochs, each as far as it was recorded."""
    history, best = facts.history, facts.trained.best
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


def evaluations(facts: RunFacts) -> list[dict[str, Any]]:
    """Each evaluation on the validation split, with whether its weights were the best."""
    best = (facts.trained.best or {}).get("step")
    found = [entry for entry in facts.history if entry.get("validation")]
    return [{"best": e["step"] == best, **{key: e[key] for key in ("step", "epoch", "validation")}} for e in found]


def repeats(found: SpreadFacts | None) -> list[dict[str, Any]]:
    """The spread of each metric over repeated trainings, each repeat a mark on an axis of its own; the run's own model,
    the first of the seeds, is a disc."""
    if found is None:
        return []
    own = found.names[0] if found.kind == "seeds" else ""
    rows = []
    for split, figures in found.figures.items():
        for metric, spread in figures.items():
            measured = [(name, v) for name, v in zip(found.names, spread.values, strict=True) if v is not None]
            axis = plots.near([v for _, v in measured], spread.unit)
            dots = [plots.Dot(v, None, TUNED if name == own else "rival") for name, v in measured]
            words = "; ".join(f"{name} {number(v, spread.unit)}" for name, v in measured) or NOT_MEASURED
            plot = {"plot": plots.dots(axis, dots, words), "scale": plots.scale(axis)}
            of = f"{len(found.names)} {found.kind}"
            rows.append({"split": split, "metric": metric, "spread": spread, "of": of, "words": varied(spread), **plot})
    return rows


def varied(spread: Spread) -> str:
    """`0.912, standard deviation 0.008, 0.901 to 0.920, n 3`."""
    if spread.mean is None:
        return NOT_MEASURED
    deviation = f", standard deviation {number(spread.deviation, spread.unit)}" if known(spread.deviation) else ""
    return (
        f"{number(spread.mean, spread.unit)}{deviation}, {number(spread.least, spread.unit)} to "
        f"{number(spread.most, spread.unit)}, n {spread.n}"
    )


def confusion(scores: Scores) -> dict[str, Any] | None:
    """The confusion matrix with each cell's share of its row, 0..1, for its shade."""
    given = scores.confusion
    if not given:
        return None
    rows = [
        {"label": label, "cells": [(n, round(n / (sum(row) or 1), 3)) for n in row]}
        for label, row in zip(given.labels, given.matrix, strict=True)
    ]
    return {"labels": given.labels, "rows": rows}


def leaks(facts: RunFacts) -> list[dict[str, Any]]:
    """Each leak count in words, with its tone."""
    prepared = facts.prepared
    moved = sum(step.fates.get("same input in a later split", 0) for step in prepared.flow)
    found = [
        (moved, "inputs that stood in two splits, or looked alike there, and were taken out of the earlier one", False),
        *((n, f"examples with {name}", True) for name, n in facts.encoded.counted.items()),
        (prepared.seen_in_training, "test inputs that also stand in training, or look like one that does", True),
        (prepared.conflicting, "training examples whose input has more than one answer", True),
    ]
    return [{"n": n, "words": words, "tone": "unsure" if n and warns else "passed"} for n, words, warns in found]


def told(facts: RunFacts) -> dict[str, list[str]]:
    """What was told while the run went, in sentences by the stage that found it; none where there is nothing to tell."""
    prepared, encoded = facts.prepared, facts.encoded
    found: dict[str, list[str]] = {"prepare": [], "encode": [], "train": list(facts.trained.notes), "predict": []}
    if prepared.untested_labels:
        n, examples = len(prepared.untested_labels), sum(prepared.untested_labels.values())
        stand = f"{plural(n, 'label')} ({plural(examples, 'training example')}) {'stands' if n == 1 else 'stand'}"
        found["prepare"].append(f"{stand} in no test example, so nothing is known of {'it' if n == 1 else 'them'}")
    if n := prepared.relabelled:
        found["prepare"].append(
            f"{plural(n, 'row')} {'writes its' if n == 1 else 'write their'} label otherwise than it is taken: with invisible "
            "characters, in another Unicode form, merged, or rare"
        )
    for names in prepared.alike_labels:
        found["prepare"].append(f"labels that may be one: {' and '.join(f'“{name}”' for name in names)}")
    if n := prepared.respelled_groups:
        found["prepare"].append(
            f"{plural(n, 'row')} {'writes its' if n == 1 else 'write their'} group otherwise than others of it (blanks, case, "
            "Unicode form); they were split as one"
        )
    if n := prepared.blank_groups:
        found["prepare"].append(
            f"{plural(n, 'row')} {'names' if n == 1 else 'name'} no group; each was split as a unit of its own"
        )
    if n := encoded.asked_cut:
        longer = f"{plural(n, 'test example')} {'is' if n == 1 else 'are'} longer than encode.max_length"
        found["encode"].append(f"{longer}; the model read {'it' if n == 1 else 'them'} cut")
    if n := facts.cut_answers:
        cut = f"{plural(n, 'test answer')} {'was' if n == 1 else 'were'} cut off at predict.engine.max_new_tokens"
        found["predict"].append(f"{cut}, before {'its' if n == 1 else 'their'} end")
    return found


def privacy(facts: RunFacts) -> dict[str, str]:
    """What a private training guarantees and what that follows from, in words; nothing of another training."""
    claim = facts.trained.privacy
    if claim is None:
        return {}
    most = facts.encoded.most_of_one_entity
    unit = "all of one entity, which training holds one example of"
    if claim.unit == "example":
        unit = (
            f"one training example; an entity has up to {most:,}, and is less protected"
            if most > 1
            else "one training example"
        )
    found = {
        "Epsilon": f"{number(claim.epsilon)} at delta {claim.delta:.2g} (accountant {claim.accountant})",
        "By both accountants": f"prv {number(claim.epsilon_prv)}, rdp {number(claim.epsilon_rdp)}",
        "Protected": f"{unit}; data sets with and without it give nearly the same weights",
        "Steps": f"{claim.steps:,}, each with every one of {claim.rows:,} rows by a chance of {claim.rate:.3g}",
        "Noise": f"{number(claim.noise)} times the largest norm of a row's gradient, which is {number(claim.clip)}",
    }
    if claim.steps_taken < claim.steps:
        found["Stopped early"] = (
            f"after {plural(claim.steps_taken, 'step')}, which alone would come to epsilon {number(claim.epsilon_of_steps_taken)}; "
            "all that were planned are counted, since when to stop was decided by what came out"
        )
    return found | {"Not covered": "; ".join(claim.not_covered)}


def attacked(found: MembershipFacts) -> str:
    """What an attack on the model found out, in a sentence."""
    how = f"beside {plural(found.references, 'reference model')}" if found.references else "by the loss alone"
    area = f"AUC {number(found.auc, 'share')} ({spread(found.auc_interval, 'share')}), where 0.5 is a blind guess"
    share = f"fewer than are needed to count {found.false_alarms:.0%} false alarms"
    if found.found is not None:
        share = (
            f"at {found.false_alarms:.0%} false alarms it finds {number(found.found, 'share')} "
            f"({spread(found.found_interval, 'share')}) of them"
        )
    rows = f"{found.members:,} rows that the model learned from and {found.others:,} of the test split"
    return f"Membership inference {how}: {area}, over {rows}; {share}."


@dataclass
class Tally:
    """Examples by value: of few values all, of many the largest and what the rest holds together."""

    name: str
    rows: dict[str, int]
    n_more: int  # further values
    examples: int  # of these


def counted(facts: RunFacts) -> list[tuple[str, dict[str, int]]]:
    """The examples of each value of each slice, and of each label."""
    prepared = facts.prepared
    return [(name, counts) for name, counts in [*prepared.slices.items(), ("labels", prepared.labels)] if counts]


def tally(name: str, counts: Mapping[str, int]) -> Tally:
    """Counts for a reader, who is not served by ten thousand rows."""
    if len(counts) <= TALLIED:
        return Tally(name, dict(counts), 0, 0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[TALLIED:]
    return Tally(name, dict(ordered[:TALLIED]), len(rest), sum(n for _, n in rest))


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
        return f"{value:z.3f}"
    text = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:z.3g}"
    return f"{text} {unit}".rstrip()


def spread(interval: Sequence[float] | None, unit: str = "") -> str:
    """`0.921 to 0.978`, `698 to 811 ms`; nothing where there is no interval."""
    return f"{number(interval[0], unit).removesuffix(f' {unit}')} to {number(interval[1], unit)}" if interval else ""


def shown(found: Figure | None) -> str:
    """`0.950 (0.921 to 0.978, n 260)`."""
    if not found or not known(found.estimate):
        return NOT_MEASURED
    bounds = spread(found.interval, found.unit) or "no interval"
    return f"{number(found.estimate, found.unit)} ({bounds}, n {found.n:,})"


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
    found: list[tuple[str, str]] = []
    for kind, part in _marked(str(text)):
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


def marked(text: object) -> str:
    """The same in plain text."""
    return "".join(part for _, part in visible(text))


def encodable(text: str) -> str:
    """The text with lone surrogates, which broken JSON can hold and UTF-8 cannot, written as their codes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
