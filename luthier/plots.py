"""Plots as inline SVG and pure functions of numbers: dots with intervals, lines, trials, and the flow of rows.

Positions are percentages of the picture, so a plot fits a phone and a desk alike while text and strokes keep their
size; colours come from the classes that the page's style sheet knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from luthier.facts import FlowStep

POINTS = 600  # drawn points of a line; more would be thinner than a pixel
BAND = 180.0  # width of the flow's band where nothing has left it, in the picture's units


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


def near(values: Iterable[float], unit: str = "") -> Span:
    """Round numbers around the values, however far from 0 these are; shares stay between 0 and 1."""
    found = [value for value in values if known(value)]
    if not found:
        return Span(0.0, 1.0)
    low, high = min(found), max(found)
    room = 0.1 * (high - low) or 0.05 * abs(low) or 0.5
    step = _step(high - low + 2 * room, 4)
    ends = Span(math.floor((low - room) / step) * step, math.ceil((high + room) / step) * step)
    if unit == "share" and low >= 0 and high <= 1:
        ends = Span(max(0.0, ends.low), min(1.0, ends.high))
    return ends


def ticks(axis: Span, about: int = 4) -> list[float]:
    """Round numbers on an axis."""
    step = _step(axis.high - axis.low, about)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def dots(axis: Span, marks: Sequence[Dot], label: str) -> Markup:
    """One row of a dot-and-interval plot; `label` says in words what it shows."""
    grid = Markup("").join(_line(axis.at(tick), "grid") for tick in ticks(axis))
    shapes = Markup("")
    for mark in marks:
        place, y = axis.at(mark.estimate), 50 if len(marks) == 1 else 34 if mark.look == "tuned" else 70
        if mark.interval:
            low, high = (axis.at(bound) for bound in mark.interval)
            whisker = Markup('<line class="whisker {0}" x1="{1}%" x2="{2}%" y1="{3}%" y2="{3}%"/>')
            shapes += whisker.format(mark.look, low, high, y)
        if mark.look == "tuned":
            shapes += Markup('<circle class="dot tuned" cx="{}%" cy="{}%" r="5.5"/>').format(place, y)
        else:
            diamond = Markup(
                '<svg x="{}%" y="{}%" overflow="visible"><path class="dot {}" d="M0-5 5 0 0 5-5 0Z"/></svg>'
            )
            shapes += diamond.format(place, y, mark.look)
    return Markup('<svg class="dots" role="img" aria-label="{}">{}{}</svg>').format(label, grid, shapes)


def scale(axis: Span) -> Markup:
    """The numbers under a dot-and-interval plot."""
    texts = Markup("").join(
        Markup('<text x="{}%" y="12" text-anchor="middle">{}</text>').format(axis.at(tick), short(tick))
        for tick in ticks(axis)
    )
    return Markup('<svg class="scale" aria-hidden="true">{}</svg>').format(texts)


def lines(
    label: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float | None]]]],
    best: tuple[float, str] | None = None,
    *,
    across: Span | None = None,
    up: Span | None = None,
    name_of: Callable[[float], str] | None = None,
) -> Markup:
    """Lines over epochs: (look, [(epoch, value), ...]) each; a None breaks its line, `best` is marked at its epoch.

    Over anything else: `across` is the axis from left to right, `name_of` writes its ticks. What lies beyond `up`, the axis
    of the values, is drawn at its edge.
    """
    points = [point for _, part in series for point in part if point[1] is not None]
    if not points:
        return Markup("")
    across = across or span([x for x, _ in points] + ([best[0]] if best else []))
    up = up or span([y for _, y in points if y is not None])
    drawn = Markup("")
    for tick in ticks(up, 3):
        place = round(100 - up.at(tick), 2)
        drawn += Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(place)
        drawn += Markup('<text x="-8" y="{}%" dy="4" text-anchor="end">{}</text>').format(place, short(tick))
    for tick in ticks(across, 4):
        place = across.at(tick)
        drawn += Markup('<text x="{}%" y="100%" dy="18" text-anchor="{}">{}</text>').format(
            place, _anchor(place), (name_of or short)(tick)
        )
    if best:
        place = across.at(best[0])
        drawn += _line(place, "best")
        drawn += Markup('<text class="best" x="{}%" y="-8" text-anchor="{}">{}</text>').format(
            place, _anchor(place), best[1]
        )
    paths = Markup("").join(
        Markup('<polyline class="{}" points="{}"/>').format(
            look, " ".join(f"{across.at(x)},{round(100 - up.at(y), 2)}" for x, y in run)
        )
        for look, part in series
        for run in _unbroken(thinned(part))
    )
    drawn += Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible">{}</svg>').format(paths)
    for look, part in series:
        if look == "measured" or len(part) == 1:
            drawn += Markup("").join(
                Markup('<circle class="dot {}" cx="{}%" cy="{}%" r="4"/>').format(
                    look, across.at(x), round(100 - up.at(y), 2)
                )
                for x, y in part
                if y is not None
            )
    return Markup('<svg class="lines" role="img" aria-label="{}">{}</svg>').format(label, drawn)


def history(
    label: str, points: Sequence[tuple[int, float, str]], best: Sequence[tuple[int, float]], unit: str = ""
) -> Markup:
    """Values by number of trial, each a dot of its look, and the best so far as a line of steps."""
    if not points:
        return Markup("")
    last = max(1, *(number for number, _, _ in points))
    across, up = Span(0.0, float(last)), near([value for _, value, _ in points], unit)
    drawn = Markup("")
    for tick in ticks(up, 3):
        place = round(100 - up.at(tick), 2)
        drawn += Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(place)
        drawn += Markup('<text x="-8" y="{}%" dy="4" text-anchor="end">{}</text>').format(place, short(tick))
    for tick in ticks(across, min(last, 6)):
        if tick == round(tick):
            place = across.at(tick)
            drawn += Markup('<text x="{}%" y="100%" dy="18" text-anchor="{}">{}</text>').format(
                place, _anchor(place), short(tick)
            )
    corners: list[tuple[float, float]] = []
    for number, value in [*best, *([(last, best[-1][1])] if best else [])]:
        if corners:
            corners.append((float(number), corners[-1][1]))
        corners.append((float(number), value))
    steps = " ".join(f"{across.at(x)},{round(100 - up.at(y), 2)}" for x, y in corners)
    drawn += Markup(
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible"><polyline class="measured" points="{}"/></svg>'
    ).format(steps)
    drawn += Markup("").join(
        Markup('<circle class="dot {}" cx="{}%" cy="{}%" r="4.5"/>').format(
            look, across.at(number), round(100 - up.at(value), 2)
        )
        for number, value, look in points
    )
    return Markup('<svg class="lines" role="img" aria-label="{}">{}</svg>').format(label, drawn)


def parallel(
    label: str, axes: Sequence[tuple[str, Sequence[tuple[float, str]]]], paths: Sequence[tuple[Sequence[float], str]]
) -> Markup:
    """Trials as lines over one upright axis for each thing that was varied and one for what came out.

    Axes are (name, [(height, text), ...]) and paths (heights on the axes, look); heights go from 0 at the foot to 1.
    """
    if len(axes) < 2:
        return Markup("")
    at = [round(100 * n / (len(axes) - 1), 2) for n in range(len(axes))]
    lines_drawn = Markup("").join(
        Markup('<polyline class="{}" points="{}"/>').format(
            look, " ".join(f"{x},{round(100 - 100 * y, 2)}" for x, y in zip(at, heights, strict=True))
        )
        for heights, look in paths
    )
    drawn = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible">{}</svg>').format(
        lines_drawn
    )
    for x, (name, marks) in zip(at, axes, strict=True):
        side = "start" if x < 50 else "end"
        drawn += Markup('<line class="axis" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(x)
        drawn += Markup('<text class="strong" x="{}%" y="-12" text-anchor="{}">{}</text>').format(x, _anchor(x), name)
        for height, text in marks:
            drawn += Markup('<text x="{}%" dx="{}" y="{}%" dy="4" text-anchor="{}">{}</text>').format(
                x, 6 if side == "start" else -6, round(100 - 100 * height, 2), side, text
            )
    return Markup('<svg class="lines parallel" role="img" aria-label="{}">{}</svg>').format(label, drawn)


def flow(source: str, steps: Sequence[FlowStep], learned: FlowStep | None = None) -> Markup:
    """Rows on their way down, as a band whose width is their number; what leaves branches off to the right.

    `learned` is the step of those examples alone that are learned from; the test takes no part in it.
    """
    if not steps:
        return Markup("")
    whole_way = [*steps, learned] if learned else list(steps)
    title = source if len(source) <= 50 else source[:49] + "…"
    drawn = Markup('<text x="4" y="14" class="strong">{}</text>').format(title)
    drawn += Markup('<text x="4" y="32" class="soft">{} rows</text>').format(f"{steps[0].arrived:,}")
    y, whole = 40.0, steps[0].arrived
    for step in whole_way:
        if step.made is not None:  # from rows to examples, or from all of them to some: drawn to a new scale
            whole = step.made
            caption = f"{whole:,} examples" + (" of train and validation" if step is learned else "")
            drawn += Markup('<text x="4" y="{}" class="soft">{}</text>').format(y + 17, caption)
            y += 25
        height = max(52.0, 24.0 * len(step.fates) + 12)
        drawn += _step_of_flow(step, BAND / (whole or 1), y, height)
        y += height
    words = "; ".join(
        f"{step.step}: {step.arrived} in, {step.kept} kept" + "".join(f", {n} {fate}" for fate, n in step.fates.items())
        for step in whole_way
    )
    return Markup('<svg class="flow" viewBox="0 0 430 {}" role="img" aria-label="{}">{}</svg>').format(
        round(y + 4), f"Flow of rows from {source}. {words}", drawn
    )


def _step_of_flow(step: FlowStep, unit: float, y: float, height: float) -> Markup:
    """One stretch of the band, `unit` wide per row, with what branches off."""
    come, stay, middle, end = 4 + unit * step.arrived, 4 + unit * step.kept, y + height / 2, y + height
    band = f"M4 {y:.1f}H{come:.1f}C{come:.1f} {middle:.1f} {stay:.1f} {middle:.1f} {stay:.1f} {end:.1f}H4Z"
    drawn = Markup('<path class="band" d="{}"/>').format(band)
    for index, (fate, n) in enumerate(step.fates.items()):
        start, place = y + 6 + 3 * index, y + 20 + 24 * index
        path = f"M{(come + stay) / 2:.1f} {start:.1f}C205 {start:.1f} 195 {place:.1f} 222 {place:.1f}"
        width = round(min(14.0, max(1.5, unit * n)), 1)
        drawn += Markup('<path class="fate" stroke-width="{}" d="{}"/>').format(width, path)
        drawn += Markup('<text x="230" y="{}"><tspan class="strong">{}</tspan> {}</text>').format(
            place + 4, f"{n:,}", fate
        )
    drawn += Markup('<text x="16" y="{}" class="strong">{}</text>').format(round(middle - 2, 1), step.step)
    return drawn + Markup('<text x="16" y="{}" class="soft">{} kept</text>').format(
        round(middle + 14, 1), f"{step.kept:,}"
    )


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Mean over a window of a twentieth of the curve around each point; what is not known stays so."""
    reach = len(values) // 40
    found: list[float | None] = []
    for place, value in enumerate(values):
        near = [v for v in values[max(0, place - reach) : place + reach + 1] if v is not None]
        found.append(None if value is None else sum(near) / len(near))
    return found


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most about `POINTS` of the points, evenly taken, the last one among them."""
    step = -(-len(points) // POINTS) or 1
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def short(value: float) -> str:
    """A tick's number: `0.25`, `0.0075`, `1,000`, `5e-5`."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:,.3f}".rstrip("0").rstrip(".")


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
