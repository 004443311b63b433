"""The command line: cheap to start, honest in its exit codes, open to other packages."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import typer

from luthier import cli
from luthier.errors import UserError

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
        (["schema", "--json"], 0, '"title": "Luthier recipe"'),
    ],
)
def test_exit_codes_and_sentences(arguments: list[str], code: int, sentence: str) -> None:
    done = luthier(*arguments)
    assert sentence in done.stdout + done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["gc", "verify", "report", "why", "apply", "export"])
def test_a_folder_that_is_no_store_is_refused_by_every_command(command: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "results").mkdir(parents=True)
    (tmp_path / "artifacts" / "results" / "mine.csv").write_text("mine")
    arguments = {"apply": ["latest", "in.csv", "out.csv"], "export": ["latest", "out"]}.get(command, [])
    done = luthier(command, *arguments, "--store", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}: is no store of Luthier; ")
    (tmp_path / ".luthier").mkdir()
    (tmp_path / ".luthier" / "luthier-store.txt").touch()
    done = luthier(command, *arguments, "--store", str(tmp_path))
    assert done.stderr == f"error: {tmp_path}: is no store of Luthier; did you mean {tmp_path}/.luthier?\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".luthier",
        "artifacts",
        "luthier-store.txt",
        "mine.csv",
        "results",
    ]


TABLE = "id,name,name_clean\n" + "".join(f"{n},Firm {n} gmbh,Firm {n} GmbH\n" for n in range(30))


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "/proc/x", "/proc/x/y"])
@pytest.mark.parametrize("command", ["init", "run"])
def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path, command: str, place: str) -> None:
    """What is below a file, and the system's own folder, can be written by nobody, the owner of all included."""
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "file").write_text("mine")
    recipe = ROOT / "recipes" / "demo.yaml"
    arguments = {
        "init": ["init", "t.csv", "--task", "standardize", "--out", f"{place}/d.yaml"],
        "run": ["run", str(recipe), "--store", place],
    }[command]
    done = luthier(*arguments, cwd=tmp_path, PYTHONPATH=str(ROOT))
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{place}: cannot be written (" in told
    assert ("; name another place with --out" if command == "init" else "; name a folder that you may write in") in told
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "t.csv"]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    done = luthier("run", str(ROOT / "recipes" / "demo.yaml"), "--store", "t.csv", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert f"error: {tmp_path}/t.csv: is no folder, and a store is one; name a folder for it" in done.stderr
    assert done.returncode == 2


def test_init_makes_the_folder_of_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    done = luthier("init", "t.csv", "--out", "new/folder/d.yaml", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0
    assert luthier("validate", str(tmp_path / "new" / "folder" / "d.yaml")).returncode == 0


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (
            OSError(errno.EROFS, "x", "/s/l.lock"),
            2,
            "error: /s/l.lock: cannot be read or written (Read-only file system); see",
        ),
        (
            OSError(errno.EACCES, "x", "/s/f"),
            2,
            "error: /s/f: cannot be read or written (Permission denied); see who may",
        ),
        (OSError(errno.EPERM, "x", "/s/f"), 2, "error: /s/f: cannot be read or written (Operation not permitted); see"),
        (OSError(errno.ENOTDIR, "x", "/s/f"), 2, "error: /s/f: cannot be read or written (Not a directory); see"),
        (OSError(errno.ENOSPC, "x", "/s/f"), 4, "error: the disk is full"),
        ("sqlite", 2, "error: cannot be read or written (unable to open database file); see"),
    ],
)
def test_what_the_system_refuses_in_any_command_is_told_in_a_sentence(
    problem: OSError | str,
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended_by(problem, tmp_path, monkeypatch) == code
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize("problem", [OSError(errno.ENOENT, "x", "/s/f"), OSError(errno.EBADF, "x"), "bug in sqlite"])
def test_what_is_a_bug_stays_one(problem: OSError | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((OSError, sqlite3.OperationalError)):
        ended_by(problem, tmp_path, monkeypatch)


def ended_by(problem: OSError | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command in which something goes wrong."""

    def fails(*_: object, **__: object) -> None:
        if isinstance(problem, OSError):
            raise problem
        with contextlib.closing(sqlite3.connect("/proc/x/y" if problem == "sqlite" else ":memory:")) as database:
            database.execute("SELECT nothing FROM nowhere")

    (tmp_path / "luthier-store.txt").touch()
    monkeypatch.setattr("luthier.store.Store.verify", fails)
    monkeypatch.setattr(sys, "argv", ["luthier", "verify", "--store", str(tmp_path)])
    monkeypatch.setattr(cli, "_keep_libraries_quiet", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_folder_where_a_file_is_meant_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").touch()
    for arguments, sentence in (
        (["init", "."], "error: .: is a folder; give the table with your data"),
        (["run", "."], "error: .: is a folder, not a recipe; in that folder: demo.yaml"),
        (["validate", "."], "error: .: is a folder, not a recipe; in that folder: demo.yaml"),
    ):
        done = luthier(*arguments, cwd=tmp_path, PYTHONPATH=str(ROOT))
        assert (done.returncode, done.stderr.strip()) == (2, sentence)


def test_a_store_without_a_finished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "luthier-store.txt").touch()
    for name in ("latest", "demo"):
        done = luthier("report", name, "--store", str(tmp_path))
        assert done.returncode == 2
        assert done.stderr == (
            f"error: {tmp_path}: no run is finished yet; one that was interrupted goes on with `luthier run RECIPE`; "
            "or name another --store\n"
        )


def test_every_file_that_a_recipe_names_and_that_is_missing_is_told_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "version: 1\nname: r\n"
        "task: {kind: standardize, table: a/t.csv, target_table: a/u.csv, column: x, target: y, target_key: k}\n"
        "base: {kind: folder, path: models/x}\n"
        "prepare: {split: {kind: given, validation: a/v.csv, test: a/w.csv}}\n"
    )
    done = luthier("validate", str(tmp_path / "r.yaml"))
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        f"error: {key}: there is no file a/{name}.csv in {tmp_path}"
        for key, name in (
            ("task.table", "t"),
            ("task.target_table", "u"),
            ("prepare.split.validation", "v"),
            ("prepare.split.test", "w"),
        )
    ]
    for name in "tuvw":
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{name}.csv").write_text("k,x,y\n")
    done = luthier("run", str(tmp_path / "r.yaml"))
    assert f"error: base.path: there is no folder models/x in {tmp_path}; correct the path\n" in done.stderr


@pytest.mark.parametrize("run", ["latest", "mine-1", "theirs-1"])
def test_the_store_of_this_folder_goes_before_those_of_the_folders_below(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in ((".", "mine-1"), ("my data", "mine-1"), ("z", "theirs-1")):
        folder = tmp_path / place / ".luthier"
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "luthier-store.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert cli._store(None, run).root == tmp_path / ("z" if run == "theirs-1" else ".") / ".luthier"
    shutil.rmtree(tmp_path / ".luthier")
    if run == "latest":
        with pytest.raises(
            UserError, match=r"several stores here: my data/\.luthier, z/\.luthier; name one with --store"
        ):
            cli._store(None, run)


def test_gc_says_which_store_it_cleaned_what_it_removed_and_what_it_kept(tmp_path: Path) -> None:
    for folder in (
        f"artifacts/train-{'0' * 20}",
        f"artifacts/encode-{'1' * 20}",
        f"artifacts/encode-{'2' * 20}",
        f"work/train-{'3' * 20}/checkpoints",
        f"work/train-{'4' * 20}/checkpoints",
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.json").write_bytes(bytes(300_000))
    weeks_ago = time.time() - 10**7
    os.utime(tmp_path / "work" / f"train-{'4' * 20}" / "checkpoints" / "manifest.json", (weeks_ago, weeks_ago))
    two_hours_ago = time.time() - 7300
    os.utime(tmp_path / "work" / f"train-{'3' * 20}" / "checkpoints" / "manifest.json", (two_hours_ago, two_hours_ago))
    kept = (
        "kept the unfinished train (0.3 MB, from 2 hours ago), which the same command goes on with; "
        "`luthier gc --all` removes it"
    )
    assert luthier("gc", "--store", str(tmp_path)).stdout.splitlines() == [
        f"{tmp_path}: removed 4 folders (2 encode, 1 train, 1 unfinished train), 1.2 MB",
        kept,
    ]
    assert luthier("gc", "--store", str(tmp_path)).stdout.splitlines() == [f"{tmp_path}: removed nothing", kept]
    told = json.loads(luthier("gc", "--store", str(tmp_path), "--json").stdout)
    assert (told["store"], told["removed"], told["kept"][0]["bytes"]) == (str(tmp_path), 0, 300_000)
    assert luthier("gc", "--all", "--store", str(tmp_path)).stdout.splitlines() == [
        f"{tmp_path}: removed 1 folder (1 unfinished train), 0.3 MB"
    ]


def test_a_missing_data_file_is_found_by_validate(tmp_path: Path) -> None:
    done = luthier("validate", str(ROOT / "recipes" / "trec.yaml"), LUTHIER_DATA=str(tmp_path))
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert [line.partition(" nlp/trec/")[0] for line in told] == [
        "error: task.table: there is no file",
        "error: prepare.split.test: there is no file",
    ]


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
        (
            "text,label",
            [f"good {n},pos\nbad {n},neg" for n in range(30)],
            ["kind: classify", "text: text", "label: label", "name: minilm"],
        ),
        ("prompt,completion", [f"say {n},{n}" for n in range(30)], ["kind: generate", "name: gemma-3-270m"]),
    ],
)
def test_init_guesses_the_task(tmp_path: Path, header: str, rows: list[str], expected: list[str]) -> None:
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    assert luthier("init", str(tmp_path / "t.csv")).returncode == 0
    text = (tmp_path / "t.yaml").read_text()
    assert [part for part in expected if part not in text] == []
    assert luthier("validate", str(tmp_path / "t.yaml")).returncode == 0


INTERRUPTIBLE = {
    "run": (["run", "recipes/demo.yaml"], "luthier.flow.run", "goes on from the last checkpoint"),
    "lr-find": (["lr-find", "recipes/demo.yaml"], "luthier.flow.lr_find", "nothing half-made is left"),
    "apply": (
        ["apply", "x", "a.csv", "b.csv"],
        "luthier.runs.apply",
        "what was answered is kept up to the last block of questions, and the same command",
    ),
    "export": (["export", "x", "out"], "luthier.runs.export", "nothing half-made is left"),
    "fetch": (["fetch", "minilm"], "luthier.store.Store.do", "nothing half-made is left"),
    "report": (["report", "x"], "luthier.runs.reopen", "the pages are whole"),
    "why": (["why", "x"], "luthier.runs.find", "nothing half-made is left"),
    "verify": (["verify"], "luthier.store.Store.verify", "nothing half-made is left"),
    "gc": (["gc"], "luthier.store.Store.gc", "what is left is whole"),
    "init": (["init", "examples/suppliers.csv"], "luthier.starting.write_recipe", "nothing half-made is left"),
    "validate": (["validate", "recipes/demo.yaml"], "luthier.recipe_file.load", "nothing half-made is left"),
}


@pytest.mark.parametrize("command", INTERRUPTIBLE)
def test_every_command_that_is_interrupted_says_what_is_left_and_ends_with_130(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, busy, sentence = INTERRUPTIBLE[command]
    stored = [] if command in ("run", "lr-find", "init", "validate", "fetch") else ["--store", str(tmp_path)]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "luthier-store.txt").touch()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(busy, interrupted)
    monkeypatch.setattr(sys, "argv", ["luthier", *arguments, *stored])
    monkeypatch.setattr(cli, "_keep_libraries_quiet", lambda: None)  # it would last beyond this test
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    told = capsys.readouterr().err
    assert told.startswith("interrupted; ")
    assert sentence in told


def test_a_question_that_is_interrupted_ends_with_130_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(*_: object, **__: object) -> str:
        raise typer.Abort

    monkeypatch.setattr(typer, "prompt", abort)
    with pytest.raises(KeyboardInterrupt):
        cli._ask("Which?", ["a"], "a")


NOISY = """
import logging, sys, warnings
from luthier import cli, flow

def noisy(opened, store):
    store.listener.say("told by Luthier")
    warnings.warn("warned by a library")
    warnings.warn("soon gone", FutureWarning)
    logging.getLogger("some.library").warning("logged by a library")
    from transformers.utils import logging as of_transformers
    of_transformers.get_logger("transformers.some").warning("logged by transformers")
    from huggingface_hub.utils import logging as of_the_hub
    of_the_hub.get_logger("huggingface_hub.some").warning("logged by the hub")
    raise KeyboardInterrupt

flow.run = noisy
sys.argv = ["luthier", "run", "recipes/demo.yaml"]
cli.main()
"""


@pytest.mark.parametrize("asked", [False, True])
def test_what_libraries_warn_of_reaches_the_screen_only_where_it_is_asked_for(asked: bool) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    if asked:
        variables |= {"PYTHONWARNINGS": "default", "TRANSFORMERS_VERBOSITY": "warning"}
    done = subprocess.run(
        [sys.executable, "-c", NOISY], capture_output=True, text=True, cwd=ROOT, env=variables, check=False
    )
    assert done.returncode == 130
    assert "told by Luthier" in done.stderr
    assert "interrupted; what was finished is kept" in done.stderr
    for text in ("warned by a library", "soon gone", "logged by transformers"):
        assert (text in done.stderr) == asked
    for text in ("logged by a library", "logged by the hub"):
        assert text not in done.stderr


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


def test_the_command_that_init_prints_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    rows = "".join(f"The lamp number {n} came on day {n * 7 % 31},{'AB'[n % 2]}\n" for n in range(60))
    (tmp_path / "my notes [final].csv").write_text(f"text,label\n{rows}")
    done = luthier("init", "my notes [final].csv", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines()[-1] == "next: luthier run 'my notes [final].yaml'"


def test_a_name_that_begins_with_a_dash_is_no_option_in_a_printed_command(tmp_path: Path) -> None:
    (tmp_path / "-v.csv").write_text("text,label\n" + "".join(f"number {n} came,{'AB'[n % 2]}\n" for n in range(60)))
    done = luthier("init", "--", "-v.csv", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines()[-1] == "next: luthier run ./-v.yaml"


def test_a_name_that_is_no_text_ends_in_a_sentence(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff[red].csv")
    for arguments in (["init", name], ["validate", name], ["apply", "latest", name, "out.csv"]):
        done = luthier(*arguments, cwd=tmp_path, PYTHONPATH=str(ROOT))
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


MARKUP = "[bold]a[/bold] [/x] :smile: [link=y]"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_that_is_told_is_markup_or_an_emoji(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    screen = cli.Screen()
    screen.say(MARKUP)
    screen.progress(MARKUP, 1, 2, {MARKUP: MARKUP})
    screen.bar.refresh()
    screen.progress(MARKUP, 2, 2, {MARKUP: MARKUP})
    screen.close()
    told = capsys.readouterr().err
    assert screen.console.is_terminal is terminal
    assert told.count(MARKUP) >= 4


def test_a_message_of_the_command_line_is_no_markup() -> None:
    assert "'[red]frob[/red]'" in luthier("[red]frob[/red]").stderr
