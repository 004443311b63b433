"""Writes docs/techniques.md and its plot: what each technique is, what combines, and what was measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from luthier.choice import find, members

ROOT = Path(__file__).parents[1]
COMBINATIONS = ROOT / "tests" / "combinations.json"
ARCHITECTURES = ("encoder", "decoder", "encoder-decoder")
Results = Mapping[str, Mapping[str, Any]]
NOT_RUN = "not run yet"


def write(results: Results, names: Sequence[str]) -> None:
    """The page and its picture."""
    (ROOT / "docs" / "techniques.md").write_text(page(results, names), encoding="utf-8")
    (ROOT / "docs" / "techniques.svg").write_text(plot(results), encoding="utf-8")


def page(results: Results, names: Sequence[str]) -> str:
    """The whole page; the same results give the same bytes."""
    return "\n\n".join([TOP, listed(), combined(), measured(results, names)]) + "\n"


TOP = """# Techniques

Written by `make docs` from the code, from the test of combinations (`tests/test_combinations.py`) and from the figures in
`benchmarks/results/techniques.json`."""


def listed() -> str:
    """Each technique in one sentence."""
    lines = ["| technique | what it does |", "|---|---|"]
    for name in members("techniques"):
        about = (find("techniques", name).__doc__ or "").strip().split("\n\n")[0]
        lines.append(f"| [`{name}`](techniques/{name}.md) | {' '.join(about.split())} |")
    return "\n".join(lines)


def combined() -> str:
    """What becomes of each pair."""
    outcomes: dict[str, dict[str, str]] = json.loads(COMBINATIONS.read_text(encoding="utf-8"))
    lines = [
        "## What combines",
        "",
        "Each pair was trained on a tiny encoder with a head (E), decoder (D) and encoder-decoder (S), or refused before "
        "training. A pair that stands in no row trains on all three.",
        "",
        "| pair | E | D | S | why not |",
        "|---|---|---|---|---|",
    ]
    for pair, found in sorted(outcomes.items()):
        if all(found[kind] == "trains" for kind in ARCHITECTURES):
            continue
        marks = ["trains" if found[kind] == "trains" else "refused" for kind in ARCHITECTURES]
        reasons = dict.fromkeys(found[kind] for kind in ARCHITECTURES if found[kind] != "trains")
        lines.append(f"| {pair} | {' | '.join(marks)} | {'; '.join(reasons)} |")
    whole = [pair for pair, found in sorted(outcomes.items()) if all(each == "trains" for each in found.values())]
    return "\n".join([*lines, "", f"Trains on all three: {', '.join(whole)}."])


def measured(results: Results, names: Sequence[str]) -> str:
    """The figures, and what was not run."""
    missing = [name for name in names if name not in results]
    parts = [
        "## Measured on real data",
        "",
        "Accuracy on the test part (mean ± standard deviation over the seeds that were run, n test rows and the 95 % interval of "
        "the first seed), seconds of training, peak memory of the process and trained parameters. Settings were chosen on "
        "validation rows alone. Seconds are those of a machine that may have had other work.",
        "",
        machines(results),
        "",
        "![Accuracy on banking77 by technique](techniques.svg)",
        "",
    ]
    for size, title in (("few", "10 examples of each class"), ("all", "all rows but 10 of each class for validation")):
        parts += [f"### Banking77, MiniLM, {title}", "", *banking(results, names, size), ""]
    parts += ["### What is kept of banking77 when trec is learned after it", "", *kept(results, names), ""]
    parts += ["### Two tasks together and apart", "", *groups(results, names, "together/"), ""]
    parts += ["### Three of MiniLM's six layers", "", *groups(results, names, "distil/"), ""]
    parts += ["### A small decoder that writes the kind of a question", "", *groups(results, names, "smollm2/"), ""]
    parts += [f"### Not run yet: {len(missing)} of {len(names)} cells", ""]
    parts += [", ".join(f"`{name}`" for name in missing) + "." if missing else "None."]
    return "\n".join(parts)


def machines(results: Results) -> str:
    """Where the figures come from."""
    found = sorted({f"{each['machine']} ({each['threads']} threads, {each['precision']})" for each in results.values()})
    return f"Processors: {'; '.join(found) or NOT_RUN}."


def banking(results: Results, names: Sequence[str], size: str) -> list[str]:
    """One row for each technique."""
    lines = [
        "| technique | accuracy | n, interval | learning rate | trials | seconds | peak memory | trained parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for technique in techniques(names, size):
        trials = [n for n in names if n.startswith(f"banking77/{size}/{technique}/rate")]
        done = [results[n] for n in trials if n in results]
        finals = seeds(results, names, f"banking77/{size}/{technique}/seed")
        shown = finals or done[:1]
        if not shown:
            lines.append(f"| {technique} | {NOT_RUN} | | | 0 of {len(trials)} | | | |")
            continue
        first, fresh = shown[0], [each for each in (*done, *finals) if not each["reused"]]
        accuracy = (
            spread([f["test"]["estimate"] for f in finals]) if finals else f"validation {first['validation']:.3f}"
        )
        seconds = statistics.mean(each["seconds"] for each in fresh) if fresh else first["seconds"]
        lines.append(
            f"| {technique} | {accuracy} | {interval(finals)} | {first['learning_rate']:g} | {len(done)} of {len(trials)} "
            f"| {seconds:.0f} | {first['peak_bytes'] / 1e9:.2f} GB "
            f"| {first['trainable_parameters']:,} of {first['parameters']:,} |"
        )
    return lines


def techniques(names: Sequence[str], size: str) -> list[str]:
    """Those of the table, in order."""
    return list(dict.fromkeys(name.split("/")[2] for name in names if name.startswith(f"banking77/{size}/")))


def seeds(results: Results, names: Sequence[str], beginning: str) -> list[Mapping[str, Any]]:
    """The results of the seeds that were run."""
    return [results[name] for name in names if name.startswith(beginning) and name in results]


def spread(values: Sequence[float]) -> str:
    """`0.934 ± 0.002 (3 seeds)`."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation} ({len(values)} seed{'s' if len(values) != 1 else ''})"


def interval(finals: Sequence[Mapping[str, Any]]) -> str:
    """`3,080, 0.92-0.94`."""
    if not finals:
        return ""
    test = finals[0]["test"]
    return (
        f"{test['n']:,}, {test['interval'][0]:.3f}-{test['interval'][1]:.3f}" if test["interval"] else f"{test['n']:,}"
    )


def kept(results: Results, names: Sequence[str]) -> list[str]:
    """What is left of the former task."""
    lines = ["| way | trec | banking77 before | after | lost |", "|---|---|---|---|---|"]
    for way in ways(names, "trec after banking77/"):
        found = seeds(results, names, f"trec after banking77/{way}/seed")
        if not found:
            lines.append(f"| {way} | {NOT_RUN} | | | |")
            continue
        before, after = ([each["forgotten"][when]["estimate"] for each in found] for when in ("before", "after"))
        lost = [was - now for was, now in zip(before, after, strict=True)]
        accuracy = spread([each["test"]["estimate"] for each in found])
        lines.append(f"| {way} | {accuracy} | {before[0]:.3f} | {spread(after)} | {spread(lost)} |")
    return lines


def ways(names: Sequence[str], beginning: str) -> list[str]:
    """The second parts of the names of a group."""
    return list(dict.fromkeys(name.split("/")[1] for name in names if name.startswith(beginning)))


def groups(results: Results, names: Sequence[str], beginning: str) -> list[str]:
    """One row for each way and task."""
    lines = ["| way | test | n, interval | seconds | trained parameters |", "|---|---|---|---|---|"]
    for way in ways(names, beginning):
        found = seeds(results, names, f"{beginning}{way}/seed")
        if not found:
            lines.append(f"| {way} | {NOT_RUN} | | | |")
            continue
        for task in found[0]["tests"]:
            tests = [{"test": each["tests"][task]} for each in found]
            accuracy = spread([each["test"]["estimate"] for each in tests])
            about = (
                f"| {found[0]['seconds']:.0f} | {found[0]['trainable_parameters']:,} of {found[0]['parameters']:,} |"
            )
            lines.append(
                f"| {way}{f' ({task})' if len(found[0]['tests']) > 1 else ''} | {accuracy} | {interval(tests)} {about}"
            )
    return lines


def plot(results: Results) -> str:
    """Accuracy of each technique with its interval, at ten examples of a class (hollow) and at all (filled)."""
    found = []
    for name in sorted({n.split("/")[2] for n in results if n.startswith("banking77/")}):
        row = {}
        for size in ("few", "all"):
            finals = [results[n] for n in sorted(results) if n.startswith(f"banking77/{size}/{name}/seed")]
            tests = [each["test"] for each in finals if each["test"]["interval"]]
            if tests:
                mean = statistics.mean(test["estimate"] for test in tests)
                row[size] = (mean, tests[0]["interval"][0], tests[0]["interval"][1])
        if row:
            found.append((name, row))
    high = 30 + 26 * max(len(found), 1)
    at = lambda value: 150 + 480 * value  # noqa: E731
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {high + 30}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="660" height="{high + 30}" fill="#fff"/>',
    ]
    for tick in range(0, 11, 2):
        x = at(tick / 10)
        lines.append(
            f'<path d="M{x} 12V{high}" stroke="#ddd"/><text x="{x}" y="{high + 18}" text-anchor="middle">{tick / 10:g}</text>'
        )
    for n, (name, row) in enumerate(found):
        y = 30 + 26 * n
        lines.append(f'<text x="140" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for size, fill in (("few", "#fff"), ("all", "#1f5f8b")):
            if size in row:
                mean, low, up = row[size]
                lines.append(f'<path d="M{at(low):.1f} {y}H{at(up):.1f}" stroke="#1f5f8b" stroke-width="2"/>')
                lines.append(
                    f'<circle cx="{at(mean):.1f}" cy="{y}" r="5" fill="{fill}" stroke="#1f5f8b" stroke-width="2"/>'
                )
    if not found:
        lines.append(f'<text x="150" y="34">{NOT_RUN}</text>')
    return "\n".join([*lines, "</svg>", ""])
