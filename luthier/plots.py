"""Plots as inline SVG and pure functions of numbers: dots with intervals, lines, and the flow of rows.

Positions are percentages of the picture, so a plot fits a phone and a desk alike while text and strokes keep their size;
colours come from the classes that the page's style sheet knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

POINTS = 600  # drawn points of a line; more would be thinner than a pixel


class Span(NamedTuple):
    """The values between the left and the right end of an axis."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent of the way from low to high, held inside the picture."""
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)


class Dot(NamedTuple):
    """One estimate with its interval; `look` is a class of the style sheet."""

    estimate: float
    interval: tuple[float, float] | None
    look: str  # "tuned" is a disc, "rival" a diamond


def known(value: object) -> bool:
    """Whether a figure was measured: a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def span(values: Iterable[float], unit: str = "") -> Span:
    """From 0 to 1 for shares, else round numbers around the values."""
    found = [value for value in values if known(value)]
    if unit == "share" and all(0 <= value <= 1 for value in found):
        return Span(0.0, 1.0)
    if not found:
        return Span(0.0, 1.0)
    low, high = min(0.0, *found), max(0.0, *found)
    if low == high:
        return Span(0.0, 1.0)
    step = _step(high - low, 4)
    return Span(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def ticks(axis: Span, about: int = 4) -> list[float]:
    """Round numbers on an axis."""
    step = _step(axis.high - axis.low, about)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def dots(axis: Span, marks: Sequence[Dot], label: str) -> Markup:
    """One row of a dot-and-interval plot; `label` says in words what it shows."""
    grid = Markup("").join(_line(axis.at(tick), "grid") for tick in ticks(axis))
    shapes = Markup("")
    for mark in sorted(marks, key=lambda mark: mark.look == "tuned"):  # the model lies on top of its rival
        place = axis.at(mark.estimate)
        if mark.interval:
            low, high = (axis.at(bound) for bound in mark.interval)
            shapes += Markup('<line class="whisker {}" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(mark.look, low, high)
        if mark.look == "tuned":
            shapes += Markup('<circle class="dot tuned" cx="{}%" cy="50%" r="5.5"/>').format(place)
        else:
            diamond = '<svg x="{}%" y="50%" overflow="visible"><path class="dot {}" d="M0-5.5 5.5 0 0 5.5-5.5 0Z"/></svg>'
            shapes += Markup(diamond).format(place, mark.look)
    return Markup('<svg class="dots" role="img" aria-label="{}">{}{}</svg>').format(label, grid, shapes)


def scale(axis: Span) -> Markup:
    """The numbers under a dot-and-interval plot."""
    texts = Markup("").join(
        Markup('<text x="{}%" y="12" text-anchor="middle">{}</text>').format(axis.at(tick), short(tick)) for tick in ticks(axis)
    )
    return Markup('<svg class="scale" aria-hidden="true">{}</svg>').format(texts)


def lines(
    label: str, series: Sequence[tuple[str, Sequence[tuple[float, float | None]]]], best: tuple[float, str] | None = None
) -> Markup:
    """Lines over epochs: (look, [(epoch, value), ...]) each; a None breaks its line, `best` is marked at its epoch."""
    points = [point for _, part in series for point in part if point[1] is not None]
    if not points:
        return Markup("")
    across, up = span([x for x, _ in points]), span([y for _, y in points if y is not None])
    drawn = Markup("")
    for tick in ticks(up, 3):
        place = round(100 - up.at(tick), 2)
        drawn += Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(place)
        drawn += Markup('<text x="-8" y="{}%" dy="4" text-anchor="end">{}</text>').format(place, short(tick))
    for tick in ticks(across, 6):
        place = across.at(tick)
        drawn += Markup('<text x="{}%" y="100%" dy="18" text-anchor="{}">{}</text>').format(place, _anchor(place), short(tick))
    if best:
        place = across.at(best[0])
        drawn += _line(place, "best")
        drawn += Markup('<text class="best" x="{}%" y="-8" text-anchor="{}">{}</text>').format(place, _anchor(place), best[1])
    paths = Markup("").join(
        Markup('<polyline class="{}" points="{}"/>').format(look, " ".join(f"{across.at(x)},{round(100 - up.at(y), 2)}" for x, y in run))
        for look, part in series
        for run in _unbroken(thinned(part))
    )
    drawn += Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible">{}</svg>').format(paths)
    for look, part in series:
        if look == "measured" or len(part) == 1:
            drawn += Markup("").join(
                Markup('<circle class="dot {}" cx="{}%" cy="{}%" r="4"/>').format(look, across.at(x), round(100 - up.at(y), 2))
                for x, y in part
                if y is not None
            )
    return Markup('<svg class="lines" role="img" aria-label="{}">{}</svg>').format(label, drawn)


def flow(source: str, steps: Sequence[Mapping[str, Any]]) -> Markup:
    """Rows on their way down, as a band whose width is their number; what leaves branches off to the right."""
    if not steps:
        return Markup("")
    full, drawn = 140.0, Markup("")
    unit_total = float(steps[0]["in"]) or 1.0
    drawn += Markup('<text x="4" y="14" class="strong">{}</text>').format(source if len(source) <= 50 else source[:49] + "…")
    drawn += Markup('<text x="4" y="28" class="soft">{} in</text>').format(f"{steps[0]['in']:,}")
    y = 36.0
    for step in steps:
        if "made" in step:  # the unit changes from rows to examples, and the band is drawn to a new scale
            unit_total = float(step["made"]) or 1.0
            drawn += Markup('<text x="4" y="{}" class="soft">makes {} examples</text>').format(y + 13, f"{step['made']:,}")
            y += 20
        fates = list(step["fates"].items())
        height = max(46.0, 24.0 * len(fates) + 14)
        coming, staying = (full * count / unit_total for count in (step["in"], step["kept"]))
        band = f"M4 {y:.1f}H{4 + coming:.1f}C{4 + coming:.1f} {y + height / 2:.1f} {4 + staying:.1f} {y + height / 2:.1f} {4 + staying:.1f} {y + height:.1f}H4Z"
        drawn += Markup('<path class="band" d="{}"/>').format(band)
        for index, (fate, count) in enumerate(fates):
            place = y + 18 + 24 * index
            width = min(14.0, max(1.5, full * count / unit_total))
            start = 4 + (coming + staying) / 2
            drawn += Markup('<path class="fate" stroke-width="{}" d="{}"/>').format(
                round(width, 1), f"M{start:.1f} {y + 6:.1f}C{start + 30:.1f} {y + 6:.1f} 150 {place:.1f} 178 {place:.1f}"
            )
            drawn += Markup('<text x="186" y="{}"><tspan class="strong">{}</tspan> {}</text>').format(place + 4, f"{count:,}", fate)
        drawn += Markup('<text x="14" y="{}"><tspan class="strong">{}</tspan> {} kept</text>').format(
            round(y + height / 2 + 6, 1), step["step"], f"{step['kept']:,}"
        )
        y += height
    words = "; ".join(
        f"{step['step']}: {step['in']} in, {step['kept']} kept" + "".join(f", {n} {fate}" for fate, n in step["fates"].items())
        for step in steps
    )
    return Markup('<svg class="flow" viewBox="0 0 420 {}" role="img" aria-label="{}">{}</svg>').format(
        round(y + 4), f"Flow of rows from {source}. {words}", drawn
    )


def smoothed(values: Sequence[float | None], weight: float = 0.9) -> list[float | None]:
    """Exponential mean, corrected for its start (Kingma and Ba 2015, section 3); what is not known stays so."""
    mean, mass = 0.0, 0.0
    found: list[float | None] = []
    for value in values:
        if value is None:
            found.append(None)
            continue
        mean, mass = weight * mean + (1 - weight) * value, weight * mass + (1 - weight)
        found.append(mean / mass)
    return found


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most about `POINTS` of the points, evenly taken, the last one among them."""
    step = -(-len(points) // POINTS) or 1
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def short(value: float) -> str:
    """A tick's number: `0.25`, `1,000`, `5e-05`."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def _step(width: float, about: int) -> float:
    """The round number (1, 2, 2.5 or 5 times a power of ten) that cuts a width into about so many parts."""
    rough = width / about
    power = 10.0 ** math.floor(math.log10(rough))
    return min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / rough)))


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Stretches of a line without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if len(run) > 1]


def _line(place: float, look: str) -> Markup:
    return Markup('<line class="{0}" x1="{1}%" x2="{1}%" y1="0" y2="100%"/>').format(look, place)


def _anchor(place: float) -> str:
    return "start" if place < 8 else "end" if place > 92 else "middle"
