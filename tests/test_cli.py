"""The command line: cheap to start, honest in its exit codes, open to other packages."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def luthier(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "luthier.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
    )


def test_help_answers_in_under_a_second_of_processor_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert luthier("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_importing_luthier_and_loading_a_recipe_load_no_torch() -> None:
    code = (
        "import sys, luthier; luthier.load('recipes/demo.yaml'); assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "nothing.yaml"], 2, "error: nothing.yaml: no such recipe file"),
        (["run"], 2, "Missing argument"),
        (["frobnicate"], 2, "No such command"),
        (
            ["validate", "recipes/demo.yaml", "--set", "train.epoch=2"],
            2,
            "train.epoch: no key 'epoch'; did you mean 'epochs'?",
        ),
        (["list", "technique"], 2, "error: no family called 'technique'; did you mean 'techniques'?"),
        (["why", "latest", "--store", "/nonexistent"], 2, "error: /nonexistent: no such store"),
        (["init", "nothing.csv"], 2, "error: nothing.csv: no such file"),
        (["init", "examples/suppliers.csv", "--task", "paint"], 2, "error: --task: no task called 'paint'"),
        (["validate", "recipes/demo.yaml"], 0, "is a valid recipe"),
        (["--version"], 0, "luthier 0.1.0"),
    ],
)
def test_exit_codes_and_sentences(arguments: list[str], code: int, sentence: str) -> None:
    done = luthier(*arguments)
    assert sentence in done.stdout + done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_missing_data_file_is_found_by_validate(tmp_path: Path) -> None:
    done = luthier("validate", str(ROOT / "recipes" / "trec.yaml"), LUTHIER_DATA=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("error: recipe: there is no file nlp/trec/") == 2


@pytest.mark.slow
def test_init_writes_a_valid_commented_recipe_and_never_overwrites(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("id,name,name_clean\n" + "".join(f"{n},Firm {n} gmbh,Firm {n} GmbH\n" for n in range(30)))
    done = luthier("init", str(table), "--json")
    written = Path(json.loads(done.stdout)["recipe"])
    text = written.read_text()
    assert "kind: standardize" in text
    assert "column: name " in text
    assert "# the messy values" in text
    assert luthier("validate", str(written)).returncode == 0
    again = luthier("init", str(table))
    assert again.returncode == 2
    assert "exists already and is not overwritten" in again.stderr
    assert written.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("text,label", ["good,pos", "bad,neg"] * 30, ["kind: classify", "text: text", "label: label", "name: minilm"]),
        ("prompt,completion", [f"say {n},{n}" for n in range(30)], ["kind: generate", "name: gemma-3-270m"]),
    ],
)
def test_init_guesses_the_task(tmp_path: Path, header: str, rows: list[str], expected: list[str]) -> None:
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    assert luthier("init", str(tmp_path / "t.csv")).returncode == 0
    text = (tmp_path / "t.yaml").read_text()
    assert [part for part in expected if part not in text] == []
    assert luthier("validate", str(tmp_path / "t.yaml")).returncode == 0


def test_list_shows_every_family_with_files() -> None:
    found = json.loads(luthier("list", "--json").stdout)
    assert set(found) >= {
        "tasks",
        "bases",
        "readers",
        "splits",
        "techniques",
        "engines",
        "baselines",
        "metrics",
        "checks",
        "preparers",
        "objectives",
    }
    for members in found.values():
        for name, entry in members.items():
            assert Path(entry["file"]).stem == name
            assert entry["about"].endswith("."), f"{name} says what it is in a sentence"


PLUGIN = '''
"""Starts right: the share of answers whose first character is right."""

from typing import ClassVar

from luthier.metrics import Metric


class StartsRight(Metric):
    """The share of answers that begin as the truth does."""

    kind: ClassVar[str] = "starts_right"

    def per_example(self, prediction, example):
        return {"right": float(str(prediction.output)[:1] == str(prediction.target)[:1]), "n": 1.0}

    def combine(self, sums):
        return sums["right"] / sums["n"]
'''


@pytest.mark.slow
def test_a_metric_of_another_package_appears_in_list_schema_and_conformance(tmp_path: Path) -> None:
    (tmp_path / "starts_right.py").write_text(PLUGIN)
    info = tmp_path / "starts_right-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: starts-right\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[luthier.metrics]\nstarts_right = starts_right:StartsRight\n")
    variables = {"PYTHONPATH": str(tmp_path)}
    assert "starts_right" in json.loads(luthier("list", "metrics", "--json", **variables).stdout)["metrics"]
    assert '"starts_right"' in luthier("schema", **variables).stdout
    code = textwrap.dedent("""
        from luthier.testing import conforms
        conforms("metrics", "starts_right")
    """)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **variables}, cwd=ROOT)
