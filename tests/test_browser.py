"""The report in a real browser: readable on a phone, and nothing of it comes from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import changed

from luthier import report
from luthier.facts import Confusion, RunFacts

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None and not os.environ.get("CI"), reason="chromium is not installed: apt-get install chromium"
    ),
]

FRAME = """<!doctype html><body style="margin:0"><iframe id="page" src="report.html" style="border:0;width:{width}px;height:800px"></iframe>
<pre id="found"></pre><script>
document.getElementById("page").onload = () => {{
  const page = document.getElementById("page").contentDocument;
  page.querySelectorAll("details").forEach(part => part.open = true);
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    room: page.documentElement.clientWidth,
    heading: page.querySelector("h1").innerText,
    pictures: page.querySelectorAll("svg").length,
    loaded: page.defaultView.performance.getEntriesByType("resource").length,
  }});
}};
</script></body>"""


@pytest.fixture
def crowded(suppliers: RunFacts) -> RunFacts:
    """A run with long names, many groups and a large confusion matrix."""
    long = "averylongnamewithoutanyplacetobreak" * 4
    figures = suppliers.scores.systems["tuned"].metrics
    labels = [f"{number} {long}" for number in range(50)]
    for path, value in {
        "base.name": long,
        "prepared.source.file": f"{long}.csv",
        "prepared.slices.country": dict.fromkeys(labels, 1),
        "scores.systems.tuned.slices.country": dict.fromkeys(labels, figures),
        "scores.confusion": Confusion(labels=labels, matrix=[[1] * 50] * 50),
        "verdicts.0.check": long,
        "verdicts.0.note": long,
        "next": long,
        "recipe": long,
    }.items():
        suppliers = changed(suppliers, path, value)
    return suppliers


def opened(folder: Path, width: int) -> dict[str, object]:
    assert BROWSER, "CI installs chromium"
    (folder / "frame.html").write_text(FRAME.format(width=width))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
        "--virtual-time-budget=4000",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [BROWSER, *flags, (folder / "frame.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found
    result: dict[str, object] = json.loads(found.group(1))
    return result


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("run", ["suppliers", "crowded", "letters"])
def test_the_report_fits_the_screen_and_loads_nothing(
    run: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    facts = request.getfixturevalue(run)
    (tmp_path / "report.html").write_text(report.page(facts), encoding="utf-8")
    found = opened(tmp_path, width)
    assert found["width"] == found["room"], "the page does not scroll sideways"
    assert found["heading"]
    assert int(str(found["pictures"])) >= 4
    assert found["loaded"] == 0
