"""Finished runs: used only with the bytes that they were made from, moved with their project, recorded whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import tiny
from crashing import crashes

from luthier import card, flow, runs, seams
from luthier.applying import told_of
from luthier.bases.hub import Hub
from luthier.cli import main
from luthier.engines import Request
from luthier.engines.torch import Torch
from luthier.errors import UserError
from luthier.facts import RunFacts
from luthier.model import quiet
from luthier.recipe_file import load
from luthier.runs import Run
from luthier.store import Artifact, Silent, Store, retired, seal

RECIPE = """\
version: 1
name: {name}
task: {task}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: random, validation: 5, test: 20}}}}
encode: {{max_length: 48}}
train: {{precision: float32, epochs: 1, techniques: [{technique}]}}
predict: {{engine: {{kind: torch, max_new_tokens: 4}}}}
score: {{latency_samples: 0}}
gate: {{checks: [{checks}]}}
"""
STANDARDIZE = "{kind: standardize, table: table.csv, column: messy, target: clean}"
CLASSIFY = "{kind: classify, table: table.csv, text: messy, label: kind}"
FLOOR = "{kind: floor, metric: exact_match, at_least: 1.0}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an adapter that was refused, and a whole classifier without checks, which ran first."""
    root = tmp_path_factory.mktemp("runs") / "project"
    for shape in ("llama", "bert"):
        tiny.build(root / shape, shape)
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("messy", "clean", "kind"), *((f"{n:04d} kg", n, "AB"[n % 2]) for n in range(60))])
    texts = {
        "whole": RECIPE.format(name="whole", task=CLASSIFY, base="bert", technique="full", checks=""),
        "adapter": RECIPE.format(
            name="adapter", task=STANDARDIZE, base="llama", technique="{kind: lora, rank: 2}", checks=FLOOR
        ),
    }
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
        ran(root, name)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy in another place: whatever is written in it that names the first place does not count."""
    return shutil.copytree(made, tmp_path / "elsewhere")


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def ran(root: Path, name: str, *changes: str) -> Run:
    opened = load(root / f"{name}.yaml", changes)
    return flow.run(opened, flow.store_for(opened))


def store_of(project: Path, listener: Silent | None = None) -> Store:
    return Store(project / ".luthier", listener)


def new_rows(folder: Path) -> Path:
    (folder / "new.csv").write_text("messy\n0007 kg\n0012 kg\n")
    return folder / "new.csv"


def spoil(file: Path) -> None:
    """Flip one bit in the middle and put the time back."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def use(project: Path, how: str, base: Path | None = None) -> None:
    if how == "apply":
        runs.apply(store_of(project), "adapter", new_rows(project), project / "out.csv", base)
    elif how == "export":
        runs.export(store_of(project), "adapter", "hf", "float32", project / "out", base)
    elif how == "run":
        ran(project, "adapter")


@pytest.mark.parametrize("how", ["apply", "export"])
def test_a_base_whose_weights_changed_is_refused(made: Path, project: Path, how: str) -> None:
    shutil.move(made, made.with_name("away"))  # else it would be found where it was
    try:
        use(project, how)
        shutil.rmtree(project / "out", ignore_errors=True)
        (project / "out.csv").unlink(missing_ok=True)
        good = shutil.copytree(project / "llama", project / "good")
        spoil(project / "llama" / "model.safetensors")
        sentence = r"elsewhere/llama: model\.safetensors has other bytes, so this is not the base .* --base FOLDER"
        with pytest.raises(UserError, match=sentence):
            use(project, how)
        with pytest.raises(UserError, match=sentence):
            use(project, how, base=project / "llama")
        use(project, how, base=good)
    finally:
        shutil.move(made.with_name("away"), made)


def test_a_base_that_is_gone_is_told_with_what_to_do(made: Path, project: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: the base that the run was trained on is not there any more; put it"):
        use(project, "apply", base=project / "nowhere")
    (project / "bert" / "more.json").write_text("{}")
    with pytest.raises(UserError, match=r"bert: .* so this is not the base that the run was trained on"):
        use(project, "apply", base=project / "bert")


@pytest.mark.parametrize("how", ["apply", "export", "run"])
def test_a_model_whose_weights_changed_is_refused(project: Path, how: str) -> None:
    entry = runs.find(store_of(project), "adapter")
    spoil(project / ".luthier" / "artifacts" / entry["artifacts"]["model"] / "model" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is cut short or changed.*; remove the folder"):
        use(project, how)


def test_a_run_keeps_its_evidence_when_that_is_made_anew_with_other_bytes(project: Path) -> None:
    store = store_of(project)
    before, said = runs.find(store, "adapter"), runs.reopen(store, "adapter").facts
    # as --fresh leaves it where training does not give the same bytes twice
    model = store.artifacts / before["artifacts"]["model"]
    opened = load(project / "adapter.yaml", ["train.learning_rate=0.1"])
    other = flow.run(opened, flow.store_for(opened)).artifacts["model"]
    model.rename(store.artifacts / retired(model.name, before["contents"]["model"]))
    shutil.copytree(other.path, model)
    again = runs.reopen(store, before["name"])
    assert again.artifacts["model"].content == before["contents"]["model"] != other.content
    assert (again.name, again.facts.trained, again.facts.history) == (before["name"], said.trained, said.history)
    runs.apply(store, before["name"], new_rows(project), project / "out.csv")
    store.gc()
    runs.reopen(store, before["name"])
    shutil.rmtree(again.artifacts["model"].path)
    with pytest.raises(UserError, match=r"the model of adapter-\w+ has other bytes than the run had"):
        runs.evidence(store, before, "model")


def test_whole_weights_need_no_base(made: Path, project: Path) -> None:
    for place in (made, project):
        shutil.move(place / "bert", place / "gone")
    try:
        result = runs.apply(store_of(project), "whole", new_rows(project), project / "out.csv")
        assert result["predictions"] == 2
        runs.export(store_of(project), "whole", "hf", "bfloat16", project / "out")
    finally:
        shutil.move(made / "gone", made / "bert")


def test_a_report_needs_neither_table_nor_base_and_does_not_become_the_latest(project: Path) -> None:
    store = store_of(project)
    before = runs.find(store, "latest")
    assert before["name"].startswith("adapter-")
    (project / "table.csv").unlink()
    shutil.rmtree(project / "bert")
    old = runs.find(store, "whole")
    page = (store.runs / old["name"] / "report.html").read_text()
    again = runs.reopen(store, "whole")
    assert runs.find(store, "whole") == old
    assert runs.find(store, "latest") == before
    assert again.facts.base.parameters > 0
    written = (store.runs / old["name"] / "report.html").read_text()
    assert written.count("\n") == page.count("\n")


def test_a_run_that_is_run_again_is_the_latest(project: Path) -> None:
    assert runs.find(store_of(project), "latest")["name"] != ran(project, "whole").name
    assert runs.find(store_of(project), "latest")["name"] == runs.find(store_of(project), "whole")["name"]


def test_a_report_says_what_the_figures_were_made_with(project: Path) -> None:
    store = store_of(project)
    entry = runs.find(store, "whole")
    folder = store.artifacts / entry["artifacts"]["model"]
    told = json.loads((folder / "manifest.json").read_text())
    told["made_with"]["packages"]["torch"] = "2.99.0"
    seal(folder, told, {})
    assert runs.reopen(store, "whole").facts.environment.torch == "2.99.0"


def test_a_record_that_is_damaged_does_not_hide_the_others(project: Path) -> None:
    heard = Heard()
    store = store_of(project, heard)
    name = runs.find(store, "adapter")["name"]
    (store.runs / name / "run.json").write_text("{")
    assert runs.find(store, "latest")["name"].startswith("whole-")
    assert len(heard.lines) == 1
    assert "run.json: cannot be read" in heard.lines[0]


def recorded_before(project: Path, how: str) -> None:
    """The run of the adapter as an earlier version would have left it."""
    store = store_of(project)
    entry = runs.find(store, "adapter")
    record = store.runs / entry["name"] / "run.json"
    lacking = {"model": "notes", "examples": "test_split", "gate": "released"}
    role = {"verdicts": "gate", "cases": "scores"}.get(how, how)
    if role in (*lacking, "scores"):
        folder = store.artifacts / entry["artifacts"][role]
        manifest = json.loads((folder / "manifest.json").read_text())
        if how in lacking:
            del manifest["facts"][lacking[how]]
        elif how == "cases":
            (folder / "cases.json").unlink()
        else:
            (folder / "verdicts.jsonl").write_text('{"check": "exact_match", "passed": true}\n')
        seal(folder, manifest, {})
        entry["contents"][role] = json.loads((folder / "manifest.json").read_text())["content"]
    elif how == "encoded":
        del entry["artifacts"]["encoded"]
    elif how == "record":
        del entry["recipe_folder"]
    elif how == "settings":
        entry["recipe"]["prepare"]["max_length"] = 48
    else:
        recipe = record.with_name("recipe.yaml")
        recipe.write_text(recipe.read_text().replace("test: 20}}", "test: 20}, max_length: 48}"))
    record.write_text(json.dumps(entry))


@pytest.mark.parametrize(
    "how", ["model", "examples", "gate", "verdicts", "cases", "encoded", "record", "settings", "recipe"]
)
def test_a_run_of_an_earlier_version_is_told_in_one_sentence(
    project: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_before(project, how)
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["luthier", "report", "adapter"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert told.startswith("error: adapter-")
    assert ("earlier version" if how != "recipe" else "is now encode.max_length") in told
    assert "again" in told


def stub(root: Path) -> tuple[Store, Run]:
    """A run of which only what is published counts."""
    store = Store(root)
    folder = store.artifacts / "train-1"
    model = Artifact(folder, "train-1", "")
    return store, Run("r-1", store.runs / "r-1", {"model": model}, None)  # type: ignore[arg-type]


def pages(version: int) -> dict[str, str]:
    record = json.dumps({"name": "r-1", "artifacts": {"model": "train-1"}, "version": version})
    return {"report.html": f"page {version}", "model/README.md": f"card {version}", "run.json": record}


def assert_whole(root: Path, versions: tuple[int, ...]) -> int:
    """Every file of the published run is there and of one of the versions; returns that of its record."""
    folder = root / "runs" / "r-1"
    assert (folder / "report.html").read_text() in [f"page {n}" for n in versions]
    assert (folder / "model" / "README.md").read_text() in [f"card {n}" for n in versions]
    assert (folder / "model" / "weights").read_bytes() == b"weights"
    assert (folder / "model" / "sub" / "more").read_bytes() == b"more"
    return int(json.loads((folder / "run.json").read_text())["version"])


def test_whenever_recording_is_cut_short_the_run_is_whole_or_not_there(quick_disk: Path) -> None:
    model = quick_disk / "made" / "artifacts" / "train-1" / "model"
    (model / "sub").mkdir(parents=True)
    (model / "weights").write_bytes(b"weights")
    (model / "sub" / "more").write_bytes(b"more")

    def publish(version: int, root: Path) -> None:
        store, run = stub(root)
        runs.publish(store, run, pages(version), longest=6)

    n = 0
    for once in crashes(quick_disk / "made", quick_disk / "once", lambda root: publish(1, root)):
        n += 1
        if list(once.glob("runs/*")):
            assert assert_whole(once, (1,)) == 1
        for twice in crashes(once, quick_disk / "twice", lambda root: publish(2, root)):
            if list(twice.glob("runs/*")):
                assert_whole(twice, (1, 2))
    publish(1, quick_disk / "made")
    for once in crashes(quick_disk / "made", quick_disk / "once", lambda root: publish(2, root)):
        assert_whole(once, (1, 2))
    (quick_disk / "made" / "runs" / "r-1" / "model" / "weights").write_bytes(b"weighty")  # harmed, and put right
    publish(3, quick_disk / "made")
    assert assert_whole(quick_disk / "made", (3,)) == 3
    assert n > 5


def test_two_that_finish_the_same_run_at_once_leave_it_whole(tmp_path: Path) -> None:
    model = tmp_path / "artifacts" / "train-1" / "model"
    (model / "sub").mkdir(parents=True)
    (model / "weights").write_bytes(b"weights")
    (model / "sub" / "more").write_bytes(b"more")
    failed: list[BaseException] = []

    def publish(version: int) -> None:
        try:
            store, run = stub(tmp_path)
            runs.publish(store, run, pages(version), longest=6)
        except BaseException as problem:
            failed.append(problem)

    threads = [threading.Thread(target=publish, args=(version,)) for version in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    version = assert_whole(tmp_path, (1, 2, 3, 4))
    assert (tmp_path / "runs" / "r-1" / "report.html").read_text() == f"page {version}"


def test_a_model_that_was_refused_is_applied_with_a_warning_and_what_it_did_not_finish_is_told(project: Path) -> None:
    heard = Heard()
    result = runs.apply(store_of(project, heard), "adapter", new_rows(project), project / "out.csv")
    assert result["released"] is False
    assert (result["cut_predictions"], result["max_new_tokens"]) == (2, 4)
    assert "2 of 2 answers were cut off at predict.engine.max_new_tokens (4)" in told_of(result)
    assert heard.lines[0] == result["warning"]
    assert "is NOT RELEASED: its required release checks did not all pass" in result["warning"]
    unchecked = runs.apply(store_of(project), "whole", project / "new.csv", project / "out2.csv")
    assert "no release check was required of whole-" in unchecked["warning"]


def test_applying_says_how_the_table_was_read_as_a_run_does(project: Path) -> None:
    text = "Report of May\n;messy;clean\n" + "".join(f"{n};{n:04d} München;{n}\n" for n in range(60))
    (project / "new.csv").write_bytes(text.encode("cp1252"))
    heard, of_run = Heard(), Heard()
    runs.apply(store_of(project, heard), "adapter", project / "new.csv", project / "out.csv")
    flow.run(load(project / "adapter.yaml", ("task.table=new.csv",)), store_of(project, of_run))
    said, in_run = ([line for line in each.lines if line.startswith("reading ")] for each in (heard, of_run))
    assert said == in_run
    assert [line[: line.index("(")] for line in said] == ["reading new.csv as csv, cp1252 "]


def test_an_export_touches_nothing_of_the_users_and_leaves_nothing_half_made(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(project)
    for name in ("out.part", "out.new"):
        (project / name).mkdir()
        (project / name / "mine").write_text("mine")
    (project / "taken").symlink_to("nowhere")
    with pytest.raises(UserError, match="taken: exists already and is not overwritten"):
        runs.export(store, "adapter", "peft", "float32", project / "taken")
    before = sorted(project.iterdir())

    def interrupted(facts: RunFacts) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(card, "page", interrupted)
        runs.export(store, "adapter", "hf", "float32", project / "out")
    assert sorted(project.iterdir()) == before
    runs.export(store, "adapter", "peft", "float32", project / "out")
    assert (project / "out.part" / "mine").read_text() == "mine"
    assert (project / "out" / "README.md").exists()
    assert (project / "out").stat().st_mode & 0o777 == (project / "out.part").stat().st_mode & 0o777


def test_a_base_of_the_shared_store_is_fetched_again_where_it_is_missing_and_must_be_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = tmp_path / "hub" / "models--team--tiny"
    shutil.copytree(project / "llama", hub / "snapshots" / commit)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commit)
    store = store_of(project)
    base = flow.base_model(Hub(name="team/tiny"), None, store)  # type: ignore[arg-type]
    entry = runs.find(store, "adapter")
    written = store.runs / entry["name"] / "recipe.yaml"
    written.write_text(written.read_text().replace("{kind: folder, path: llama}", "{kind: hub, name: team/tiny}"))
    entry["artifacts"]["base"], entry["contents"]["base"] = base.id, base.content
    entry["base"] = {"place": runs.place(base.path, store), "manifest": base.manifest}
    assert runs.base_for(store, entry, None) == base.path
    assert runs.base_for(store, entry, project / "llama") == project / "llama", "the same files in a plain folder"
    shutil.rmtree(tmp_path / "home")
    assert runs.base_for(store_of(project), entry, None) == base.path
    assert base.path.exists(), "fetched again"
    spoil(base.path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is cut short or changed"):
        runs.base_for(store_of(project), entry, None)
    shutil.rmtree(tmp_path / "home")
    spoil(hub / "snapshots" / commit / "model.safetensors")
    with pytest.raises(UserError, match="the base that is fetched here is not the one that the run was trained on"):
        runs.base_for(store_of(project), entry, None)


BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # where str.splitlines parts


def test_every_file_of_lines_keeps_values_whole(made: Path, tmp_path: Path) -> None:
    """From the table through examples, previews, history, predictions, cases and quarantine to the report."""
    rows = [{"messy": f"{n}{BREAKS}x", "clean": f"{BREAKS}{n}", "kind": f"k{BREAKS}"} for n in range(60)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows] + [f'{{"messy": "{BREAKS}", "messy": 1}}']
    (tmp_path / "table.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = RECIPE.format(
        name="lines", task=STANDARDIZE, base=made / "llama", technique="{kind: lora, rank: 2}", checks=FLOOR
    )
    text = text.replace("table.csv", "table.jsonl").replace("max_length: 48", "max_length: 200")
    text = text.replace("prepare: {", "prepare: {quarantine_limit: 0.1, slices: {kind: kind}, ")
    (tmp_path / "lines.yaml").write_text(text)
    done = ran(tmp_path, "lines")
    facts, store = done.facts, store_of(tmp_path)
    assert facts.quarantine[0]["line"] == 61
    assert len(facts.history) >= facts.trained.steps > 0
    preview = "".join(piece for piece, _ in facts.previews[0].pieces)
    assert BREAKS[3:] in preview  # the tokens of the tiny model are bytes, so wider characters are in pieces
    assert [p.target for p in runs.predictions_of(done.artifacts["tuned"])] == [
        e.target for e in seams.read(done.artifacts["examples"].path / "test", seams.Example)
    ]
    assert facts.scores.systems["tuned"].slices.keys() == {"column", "kind"}
    assert all(case.target.startswith(BREAKS) for case in facts.cases.worst)
    assert store.openings(facts.prepared.test_split)
    assert runs.reopen(store, "lines").facts.cases == facts.cases
    result = runs.apply(store, "lines", tmp_path / "table.jsonl", tmp_path / "out.jsonl")
    out = (tmp_path / "out.jsonl").read_bytes().decode().split("\n")[:-1]
    assert [json.loads(line)["messy"] for line in out] == [row["messy"] for row in rows]
    assert json.loads(Path(result["quarantine"]).read_bytes())["line"] == 61


PROMPTS = ["a", "bb 12", "x" * 30, "0007 kg", "y" * 7, "the same", "z" * 19, "0012 kg => and more", "b", "cc"]


@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "t5", "whole"])
def test_what_is_said_to_a_prompt_depends_on_no_other(made: Path, tmp_path: Path, shape: str) -> None:
    """By decoders, an encoder-decoder and an encoder, in float32."""
    folder = tmp_path / shape
    if shape == "whole":
        store = store_of(made)
        folder = store.get(runs.find(store, shape)["artifacts"]["model"]).path / "model"
    else:
        tiny.build(folder, shape)
    with quiet():
        session = Torch(max_new_tokens=12, batch_size=4).open(
            folder, None, device="cpu", precision="float32", max_length=48
        )
    together = session.answer([Request(prompt) for prompt in PROMPTS])
    for prompt, among in zip(PROMPTS, together, strict=True):
        (alone,) = session.answer([Request(prompt)])
        assert alone.text == among.text
        assert alone.confidence == pytest.approx(among.confidence, abs=1e-4)
        assert list(alone.scores) == pytest.approx(list(among.scores), abs=1e-4)


@pytest.mark.parametrize("name", ["adapter", "whole"])
def test_a_rows_answer_depends_on_no_other_row(project: Path, name: str) -> None:
    """By a decoder and by an encoder, in float32."""

    def answers(rows: list[str], target: str) -> list[list[str]]:
        (project / "rows.csv").write_text("messy\n" + "".join(f"{row}\n" for row in rows))
        runs.apply(store_of(project), name, project / "rows.csv", project / target)
        with (project / target).open(newline="") as file:
            return [row[1:] for row in csv.reader(file)][1:]

    together = answers(PROMPTS, "together.csv")
    for n, row in enumerate(PROMPTS[:4]):
        ((said, sure),) = answers([row], f"{n}.csv")
        assert said == together[n][0]
        assert float(sure) == pytest.approx(float(together[n][1]), abs=1.1e-3)  # told in three digits


def test_a_table_without_what_the_model_reads_is_told_and_nothing_is_written(made: Path, tmp_path: Path) -> None:
    asks = [{"prompt": f"Double of {n}?", "completion": str(2 * n)} for n in range(40)]
    (tmp_path / "asks.jsonl").write_text("\n".join(map(json.dumps, asks)))
    text = RECIPE.format(
        name="asks", task="{kind: generate, table: asks.jsonl}", base=made / "llama", technique="full", checks=""
    )
    (tmp_path / "asks.yaml").write_text(text)
    ran(tmp_path, "asks")
    (tmp_path / "new.csv").write_text("question\nDouble of 0?\n")
    before = sorted(tmp_path.iterdir())
    sentence = "new.csv: has no column 'prompt' or 'messages', of which the model reads one; it has question"
    with pytest.raises(UserError, match=sentence):
        runs.apply(store_of(tmp_path), "asks", tmp_path / "new.csv", tmp_path / "out.csv")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("n_ragged", "code"), [(0, 0), (1, 3), (2, 3)])
def test_apply_leaves_with_3_where_rows_could_not_be_read(
    project: Path, n_ragged: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "new.csv").write_text("messy\n" + "0007 kg\n" * 100 + "0012, kg\n" * n_ragged)
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["luthier", "apply", "whole", "new.csv", "out.csv"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    assert (project / "out.csv").read_text().count("\n") == 101


@pytest.mark.parametrize("place", ["file", "/proc"])
def test_a_place_where_nothing_can_be_written_is_told_before_any_work(project: Path, place: str) -> None:
    (project / "file").write_text("mine")
    told: list[str] = []
    listener = Heard()
    for do in (
        lambda target: runs.apply(store_of(project, listener), "adapter", new_rows(project), target / "out.csv"),
        lambda target: runs.export(store_of(project, listener), "adapter", "peft", "float32", target / "x" / "out"),
    ):
        with pytest.raises(
            UserError, match=r"cannot be written \(.*\); write the (table|model) somewhere else"
        ) as error:
            do(project / place)
        told.append(error.value.where)
    assert told == [str(project / place), str(project / place / "x")]
    assert listener.lines == []


def test_a_folder_is_no_table_to_apply_a_model_to(project: Path) -> None:
    with pytest.raises(UserError, match="llama: is a folder; give the table to work on"):
        runs.apply(store_of(project), "adapter", project / "llama", project / "out.csv")
