"""The short verdict on the terminal: the figures of the pages, and what they rest on."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LETTERS, changed

from luthier import report, summary
from luthier.facts import RunFacts
from luthier.recipe_file import loads
from luthier.runs import Run, next_command
from luthier.store import Store


def test_checks_stand_with_the_figures_of_the_report_and_what_is_independent(
    judged: RunFacts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    summary.table(Run(judged.run, Path("runs"), {}, judged))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    checks = [row for row in rows if len(row) == 5 and row[1] in {check.check for check in judged.verdicts}]
    assert [row[3] for row in checks] == ["260", "60 (12 independent)", "260", "100"]
    assert [row[2] for row in checks] == [report.number(check.estimate, check.unit) for check in judged.verdicts]
    assert judged.measured is not None
    assert checks[-1][2] == report.number(judged.measured.latency_ms.quantile(0.95), "ms")


@pytest.mark.parametrize("table", ["my notes [final].csv", "it's [bold]$HOME[/bold]; *.csv", "-v.csv", "a.csv"])
def test_the_printed_command_can_be_pasted_into_a_shell(
    table: str, judged: RunFacts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = loads(LETTERS.replace("letters.csv", json.dumps(table)), folder=tmp_path)
    facts = changed(judged, "next", next_command(opened, Store(tmp_path / ".luthier"), "letters-0a"))
    summary.table(Run(judged.run, Path("[red]"), {}, facts))
    out = capsys.readouterr().out
    told = next(line for line in out.splitlines() if line.startswith("next"))
    printed = "import sys; print(sys.argv[1:], end='')"
    shell = (
        f'luthier() {{ {shlex.quote(sys.executable)} -c {shlex.quote(printed)} "$@"; }}; {told.removeprefix("next")}'
    )
    got = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    source = f"./{table}" if table.startswith("-") else table
    assert got == str(["apply", "letters-0a", source, "cleaned.csv"])
    assert "report  [red]/report.html" in out


@pytest.mark.parametrize(
    ("table", "there", "suggested"),
    [
        ("t.csv", [], "cleaned.csv"),
        ("t.TSV", [], "cleaned.TSV"),
        ("t.json", [], "cleaned.json"),
        ("t.txt", [], "cleaned.csv"),
        ("cleaned.csv", [], "cleaned-2.csv"),
        ("t.csv", ["cleaned.csv", "cleaned-2.csv"], "cleaned-3.csv"),
    ],
)
def test_the_table_that_the_printed_command_writes_is_not_there_yet(
    table: str, there: list[str], suggested: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        (tmp_path / name).touch()
    opened = loads(LETTERS.replace("letters.csv", table), folder=tmp_path)
    command = next_command(opened, Store(tmp_path / ".luthier"), "letters-0a")
    assert command == f"luthier apply letters-0a {table} {suggested}"


def test_names_of_the_users_are_no_markup_in_the_verdict(
    judged: RunFacts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    odd = "[bold]a[/bold] [/x] :smile:"
    verdicts = [changed(judged.verdicts[0], "check", odd), *judged.verdicts[1:]]
    summary.table(Run(odd, Path("runs"), {}, changed(judged, "verdicts", verdicts)))
    assert capsys.readouterr().out.count(odd) == 2
