"""The page of a search: one HTML file that stands alone, made from facts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from luthier import plots
from luthier.facts import SearchFacts, TrialFacts
from luthier.report import encodable, templates
from luthier.space import short_names, shown

MARKED = 6  # values of a list that are written beside an axis


def page(facts: SearchFacts) -> str:
    """The whole page; the same facts give the same bytes."""
    names = short_names(list(facts.space))
    view = {
        "facts": facts,
        "names": names,
        "best": next((trial for trial in facts.trials if trial.number == facts.best), None),
        "ranked": ranked(facts),
        "counts": {
            state: sum(each.state == state for each in facts.trials) for state in ("complete", "pruned", "failed")
        },
        "seconds": sum(trial.seconds for trial in facts.trials),
        "history": history(facts),
        "parallel": parallel(facts, names),
        "importance": sorted((facts.importance or {}).items(), key=lambda item: -item[1]),
        "metrics": sorted({name for trial in facts.trials for name in trial.figures}),
        "shown": shown,
    }
    return encodable(templates(html=True).get_template("search.html").render(view))


def ranked(facts: SearchFacts) -> list[TrialFacts]:
    """Finished trials, the best first, then those pruned, the furthest first, then the others; equals by number."""
    sign = -1.0 if facts.higher_is_better else 1.0

    def place(trial: TrialFacts) -> tuple[Any, ...]:
        value = sign * trial.value if trial.value is not None else math.inf
        reached = trial.rungs[-1][0] if trial.rungs else 0
        return (
            {"complete": 0, "pruned": 1}.get(trial.state, 2),
            -reached * (trial.state == "pruned"),
            value,
            trial.number,
        )

    return sorted(facts.trials, key=place)


def history(facts: SearchFacts) -> str:
    """Every trial's value in the order of their numbers, with the best so far."""
    points = [(trial.number, trial.value, trial.state) for trial in facts.trials if trial.value is not None]
    best: list[tuple[int, float]] = []
    for number, value, state in points:
        better = not best or (value > best[-1][1] if facts.higher_is_better else value < best[-1][1])
        if state == "complete" and better:
            best.append((number, value))
    told = f"{facts.metric} of {len(points)} trials by number" + (f"; the best is {best[-1][1]:.4g}" if best else "")
    return plots.history(told, points, best, facts.unit)


def parallel(facts: SearchFacts, names: dict[str, str]) -> str:
    """Values of all trials with a figure, and what came out; the better the trial, the stronger its line."""
    trials = [trial for trial in ranked(facts)[::-1] if trial.value is not None]
    if not trials:
        return ""
    result = plots.near([trial.value for trial in trials if trial.value is not None], facts.unit)
    axes = [(names[path], marks(block)) for path, block in facts.space.items()]
    axes.append((facts.metric, [(result.at(tick) / 100, plots.short(tick)) for tick in plots.ticks(result, 3)]))
    paths = []
    for trial in trials:
        heights = [height(block, trial.params[path]) for path, block in facts.space.items()]
        look = "best" if trial.number == facts.best else trial.state
        paths.append(([*heights, result.at(trial.value or 0.0) / 100], look))
    told = f"{len(trials)} trials over {', '.join(names.values())} and {facts.metric}"
    return plots.parallel(told, axes, paths)


def height(block: dict[str, Any], value: Any) -> float:
    """Where a value lies on the axis of its path, from 0 to 1."""
    if block["choices"] is not None:
        n = len(block["choices"])
        return block["choices"].index(value) / (n - 1) if n > 1 else 0.5
    low, high = block["low"], block["high"]
    if block["log"]:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def marks(block: dict[str, Any]) -> list[tuple[float, str]]:
    """What is written beside the axis of a path."""
    values: Sequence[Any] = block["choices"] if block["choices"] is not None else [block["low"], block["high"]]
    every = -(-len(values) // MARKED)
    return [(height(block, value), brief(value)) for value in values[::every]]


def brief(value: Any) -> str:
    """A value short enough for an axis."""
    text = shown(value) if not isinstance(value, list | dict) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 18 else text[:17] + "…"
