"""The documents say what is true: blocks run, reference pages are those of the code."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soaking

from luthier.recipe import schema
from luthier.recipe_file import loads

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_recipes_in_the_readme_are_valid_and_short() -> None:
    found = blocks("yaml")
    assert found
    for text in found:
        loads(text, folder=ROOT)
        assert len(text.splitlines()) <= 20


def test_python_in_the_readme_runs() -> None:
    found = blocks("python")
    assert found
    for code in found:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_command_that_the_readme_names_exists() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "luthier.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(re.findall(r"`?luthier ([a-z-]+)", " ".join(re.findall(r"`[^`]+`", README) + blocks("")))):
        assert f" {command} " in text, command


def test_files_that_the_documents_link_to_are_there() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_reference_is_that_of_the_code() -> None:
    written = json.loads((ROOT / "docs" / "reference" / "recipe.schema.json").read_text())
    assert written == json.loads(json.dumps(schema())), "run `make docs`"


def test_the_way_of_a_row_names_functions_that_are_there_each_once() -> None:
    text = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    way = text[text.index("## The way of a row") : text.index("## Training")]
    names = re.findall(r"\b[a-z_]+(?:\.[a-z_]+)*\.(?:[A-Z]\w+\.)?[a-z_]+\b", way[way.index("```") : way.rindex("```")])
    functions = [
        name for name in names if not name.startswith(("prepare.steps", "suppliers.", "report.html", "model.json"))
    ]
    assert len(functions) == len(set(functions)) >= 25
    for name in functions:
        found: object = importlib.import_module("luthier")
        path = "luthier"
        for part in name.split("."):
            path = f"{path}.{part}"
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(path)
            found = getattr(found, part)
        assert callable(found), name


@pytest.mark.slow
def test_the_page_of_the_command_line_is_that_of_the_code() -> None:
    command = [sys.executable, "-m", "typer", "luthier.cli", "utils", "docs", "--name", "luthier"]
    done = subprocess.run(
        [*command, "--title", "The command line"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.rstrip() == (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8").rstrip(), (
        "run `make docs`"
    )


def test_no_code_asks_the_formatter_to_look_away() -> None:
    mark = "fmt: " + "skip"
    files = [file for part in ("luthier", "tests", "benchmarks", "examples") for file in (ROOT / part).rglob("*.py")]
    assert [file.name for file in files if mark in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_to_do(word: str) -> None:
    for file in [*sorted((ROOT / "luthier").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]:
        assert word not in file.read_text(encoding="utf-8"), file


def test_the_page_of_techniques_is_that_of_the_code_the_tests_and_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import techniques
    import techniques_page

    results, names = techniques.read(), [cell.name for cell in techniques.cells()]
    assert set(results) <= set(names), "a figure of a cell that there is not"
    assert (ROOT / "docs" / "techniques.md").read_text(encoding="utf-8") == techniques_page.page(results, names), (
        "run `make docs`"
    )
    assert (ROOT / "docs" / "techniques.svg").read_text(encoding="utf-8") == techniques_page.plot(results)


def test_the_page_of_what_was_tried_holds_the_results_and_nothing_else() -> None:
    found = json.loads(soaking.RESULTS.read_text(encoding="utf-8"))
    assert soaking.PAGE.read_text(encoding="utf-8") == soaking.page(found)
