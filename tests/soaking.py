"""The table of docs/reliability.md: what was tried how often, with which outcome, on which commit and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

SOAK = bool(os.environ.get("LUTHIER_SOAK"))
RESULTS = Path(__file__).parent / "reliability.json"
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
HEAD = """\
# What was tried, and how often

This page is written by `make soak`; `make test` does the same with few trials. No failure in n trials shows that at most
3/n of them fail, with 95 % confidence. A line keeps the result of the last time that its test was run in full.

| id | what | trials | failures | at most | further figures | commit | date | machine |
|---|---|---|---|---|---|---|---|---|
"""


def trials(sampled: int, full: int) -> int:
    """How often something is tried here."""
    return full if SOAK else sampled


def record(key: str, what: str, n: int, failures: int, figures: str = "") -> None:
    """Keep a result of `make soak`, and write the page anew; nothing in `make test`."""
    if not SOAK:
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found[f"{key} {what}"] = {
        "id": key,
        "what": what,
        "n": n,
        "failures": failures,
        "figures": figures,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")


def page(found: dict[str, dict[str, object]]) -> str:
    """The page of these results."""
    return HEAD + "".join(line(found[name]) for name in sorted(found))


def line(entry: dict[str, object]) -> str:
    """One result."""
    n, failures = int(str(entry["n"])), int(str(entry["failures"]))
    most = f"{300 / n:.2g} %" if n > 3 and not failures else ""
    cells = [entry["id"], entry["what"], f"{n:,}", failures, most, entry["figures"], entry["commit"], entry["date"]]
    return "| " + " | ".join(str(cell) for cell in [*cells, entry["machine"]]) + " |\n"


def commit() -> str:
    """The short hash of what was tried, with a plus where code differs from it."""
    here = Path(__file__).parent
    told = [
        subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False).stdout.strip()
        for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "../luthier", "*.py"))
    ]
    return told[0] + ("+" if told[1] else "")
