"""The page of a range test: the loss over rising learning rates, what it suggests and how that was read off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from luthier import plots
from luthier.durable import write_durably
from luthier.facts import RangeFacts
from luthier.report import encodable, number, templates

PAGE, FIGURES = "page.html", "range.json"


def write(facts: RangeFacts, name: str, folder: Path) -> None:
    """Both files into a folder; the same facts give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / FIGURES, facts.model_dump_json(indent=1).encode())
    write_durably(folder / PAGE, page(facts, name).encode())


def page(facts: RangeFacts, name: str) -> str:
    """The whole page."""
    view = {"facts": facts, "name": name, "told": told(facts), "plot": curve(facts), "change": change(facts)}
    return encodable(templates(html=True).get_template("lr_find.html").render(view))


def curve(facts: RangeFacts) -> Markup:
    """The loss of single steps and their running mean over log10 of the rate."""
    x = [math.log10(rate) for rate in facts.rates]
    raw: list[tuple[float, float | None]] = list(zip(x, facts.losses, strict=True))
    smooth: list[tuple[float, float | None]] = list(zip(x, facts.smooth, strict=True))
    mark = (math.log10(facts.suggestion), f"suggested {written(facts.suggestion)}") if facts.suggestion else None
    ends = plots.Span(math.floor(x[0]), max(math.ceil(x[-1]), math.floor(x[0]) + 1))
    top = facts.start + max(facts.start - facts.least, 4 * facts.noise)  # what runs away would flatten the rest
    up = plots.near([min(y, top) for y in (*facts.losses, top)])
    words = f"Loss over learning rates from {written(facts.rates[0])} to {written(facts.rates[-1])}. {' '.join(told(facts))}"
    return plots.lines(words, [("raw", raw), ("smooth", smooth)], mark, across=ends, up=up, name_of=power)


def told(facts: RangeFacts) -> list[str]:
    """What the curve says, in sentences."""
    reached = written(facts.rates[-1])
    end = f"The loss ran away at {reached}, after {facts.taken} steps." if facts.ran_away else ""
    if facts.lowest is None or facts.steepest is None or facts.tenth is None:
        return [
            f"The loss did not fall: {number(facts.start, 'nats')} over the first steps, {number(facts.least, 'nats')} at its "
            f"lowest, with a standard error of {number(facts.noise)}. So no rate is suggested; take more steps, or begin lower.",
            *([end] if end else [f"It did not run away up to {reached} either; go higher."]),
        ]
    found = [
        f"The loss falls fastest at {written(facts.steepest)} and is lowest, {number(facts.least, 'nats')} after "
        f"{number(facts.start, 'nats')} at first, at {written(facts.lowest)}, a tenth of which is {written(facts.tenth)}.",
        f"The lower of the two is suggested: {facts.rule}.",
    ]
    return [*found, end or f"It did not run away up to {reached}, so a higher rate may do as well; go higher to see."]


def change(facts: RangeFacts) -> str:
    """What to add to the command that runs the recipe; nothing where nothing is suggested."""
    return f"--set train.learning_rate={written(facts.suggestion)}" if facts.suggestion else ""


def written(rate: float) -> str:
    """`2.1e-3`."""
    digits, power_of_ten = f"{rate:.1e}".split("e")
    return f"{digits}e{int(power_of_ten)}"


def power(exponent: float) -> str:
    """`1e-4`, on a tick."""
    return f"1e{int(exponent)}" if exponent == int(exponent) else ""


def summary(facts: RangeFacts, name: str, folder: Path) -> dict[str, Any]:
    """For programs."""
    return {
        "recipe": name,
        "suggestion": facts.suggestion,
        "rule": facts.rule,
        "set": change(facts),
        "steepest": facts.steepest,
        "lowest": facts.lowest,
        "ran_away": facts.ran_away,
        "page": str(folder / PAGE),
        "figures": str(folder / FIGURES),
    }
