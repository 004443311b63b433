"""The short verdict that a run ends with on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.facts import Figure
    from luthier.runs import Run

MARKS = {"passed": "✓", "failed": "✗", "not enough data": "?"}


def tables(runs: Sequence[Run]) -> None:
    """One after the other, for the tasks that a model learned together."""
    for done in runs:
        table(done)


def table(done: Run) -> None:
    """Scores beside their rivals, each check, the report's path and the next command."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from luthier.report import figure, number, repeats

    facts, console = done.facts, Console(highlight=False, markup=False, emoji=False)
    main, scored = facts.scores.main, facts.scores
    of = f" of {facts.name}" if facts.trained.tasks else ""
    scores = Table(title=f"{main} on the test split{of}", title_justify="left")
    slices = scored.systems["tuned"].slices
    unseen = "unseen" in slices and set(slices["unseen"]) == {"true", "false"}
    for heading in ["", *(["seen", "unseen"] if unseen else []), "all", "95 % interval", "n"]:
        scores.add_column(heading, justify="left" if not heading else "right")
    for name in scored.order:
        found = scored.systems[name].metrics[main]
        parts = [share(figure(facts, name, ("unseen", value))) for value in ("false", "true")] if unseen else []
        low_high = "–".join(f"{bound:.3f}" for bound in found.interval) if found.interval else "not enough data"
        scores.add_row(NAMES.get(name, name), *parts, share(found), low_high, str(found.n))
    console.print(scores)
    for row in repeats(facts.spread):
        console.print(f"{row['metric']} on {row['split']} over {row['of']}: {row['words']}", soft_wrap=True)
    if facts.verdicts:
        checks = Table(title="release checks", title_justify="left")
        for heading in ("", "check", "estimate", "n", ""):
            checks.add_column(heading)
        for verdict in facts.verdicts:
            estimate = number(verdict.estimate, verdict.unit)
            kind = "required" if verdict.required else "advisory"
            n = str(verdict.n)
            if verdict.entities and verdict.entities != verdict.n:
                n += f" ({verdict.entities} independent)"
            checks.add_row(f"{MARKS[verdict.outcome]} {verdict.outcome}", verdict.check, estimate, n, kind)
        console.print(checks)
        for verdict in facts.verdicts:
            if verdict.outcome != "passed" and verdict.note:
                console.print(f"{verdict.check}: {verdict.note}", soft_wrap=True)
    if (private := facts.trained.privacy) is not None:
        claim = f"epsilon {private.epsilon:.3g} at delta {private.delta:.2g}"
        console.print(f"private training: {claim} ({private.accountant}), for one {private.unit}", soft_wrap=True)
    if facts.forgotten is not None:
        for kept in facts.forgotten.metrics:
            figures = f"{share(kept.before)} before, {share(kept.after)} after (n {kept.before.n})"
            console.print(f"{kept.metric} of the former run {facts.forgotten.run}: {figures}", soft_wrap=True)
    reused = [role for role, artifact in done.artifacts.items() if artifact.reused and role != "base"]
    if len(reused) == len(done.artifacts) - 1:
        console.print("everything was served from the store; nothing had changed")
    where = facts.environment
    console.print(f"computed on {where.device} in {where.precision}, {where.machine}")
    opened = facts.test_openings
    console.print(f"the test split was opened for {opened} candidate{'s' if opened != 1 else ''} so far")
    word = (
        "RELEASED"
        if done.released
        else ("NOT RELEASED" if facts.verdicts else "no checks in the recipe, so no verdict")
    )
    console.print(Text(word, "bold"), f" {done.name}")
    console.print(f"report  {os.path.relpath(done.folder / 'report.html')}", soft_wrap=True)
    console.print(f"next    {facts.next}", soft_wrap=True)


NAMES = {"untuned": "untuned base", "tuned": "tuned"}


def share(figure: Figure | None) -> str:
    """A figure with three digits."""
    return "not measured" if figure is None or figure.estimate is None else f"{figure.estimate:.3f}"
