"""The short verdict on the terminal: the figures of the pages, and what they rest on."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier import report, summary
from luthier.facts import RunFacts
from luthier.runs import Run


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
