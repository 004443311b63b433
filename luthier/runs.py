"""Finished runs: find one, open it again, record it, apply its model to a table, export it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier import card, report, seams
from luthier.engines import Computing
from luthier.errors import UserError
from luthier.facts import (
    BaseFacts,
    Cases,
    EncodedFacts,
    Environment,
    Made,
    MeasuredFacts,
    PreparedFacts,
    Preview,
    RunFacts,
    Scores,
    TrainedFacts,
)
from luthier.form import Form
from luthier.model import limit_answers
from luthier.readers import Quarantined, Table
from luthier.recipe import Recipe
from luthier.recipe_file import RecipeFile, loads
from luthier.seams import Example, Prediction, Verdict
from luthier.store import Artifact, Store, digest, write_durably
from luthier.tables import FORMATS, writable, write_table
from luthier.tasks import TABLE

SHOWN = 20  # quarantined rows on the report


@dataclass
class Run:
    """A finished run: its record and where its pages are."""

    name: str  # "<recipe name>-<hash>"
    folder: Path
    artifacts: dict[str, Artifact]
    facts: RunFacts

    @property
    def released(self) -> bool:
        """Whether every required check of the gate passed."""
        return self.facts.released


def find(store: Store, name: str) -> dict[str, Any]:
    """The record of a run by its name, the beginning of it, its recipe's name (the newest run then), or `latest`."""
    records = sorted(store.runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    exact = [path for path in records if path.parent.name == name]
    of_recipe = [path for path in records if path.parent.name.rpartition("-")[0] == name][-1:]
    found = exact or of_recipe or [path for path in records if path.parent.name.startswith(name)]
    if name == "latest" and records:
        found = [records[-1]]
    if not found:
        known = ", ".join(path.parent.name for path in records[-5:]) or "none yet"
        raise UserError(f"no run called '{name}' in {store.root}", hint=f"runs there: {known}; or name another --store")
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise UserError(f"'{name}' may be any of {names}", hint="write more of the name")
    entry: dict[str, Any] = json.loads(found[0].read_text())
    return entry


def reopen(store: Store, name: str) -> Run:
    """A run from its record, with its pages written again."""
    entry = find(store, name)
    text = (store.runs / entry["name"] / "recipe.yaml").read_text(encoding="utf-8")
    opened = loads(text, folder=Path(entry["recipe_folder"]))
    opened = opened.model_copy(update={"recipe": Recipe.model_validate(entry["recipe"])})
    artifacts = {role: store.get(each) for role, each in entry["artifacts"].items() if role != "base"}
    return record(opened, store, {"base": base_of(entry, store), **artifacts})


def base_of(entry: Mapping[str, Any], store: Store) -> Artifact:
    """The base of a recorded run: fetched into the shared store, or a folder of the user's."""
    path = Path(entry["base"])
    if not Recipe.model_validate(entry["recipe"]).base.outside:
        return Store(path.parent.parent, store.listener).get(path.name)
    return store.take(path)


def record(opened: RecipeFile, store: Store, artifacts: Mapping[str, Artifact]) -> Run:
    """Write the run's record, report and model card; the last word is `run.json`."""
    recipe = opened.recipe
    name = f"{recipe.name}-{digest({role: a.content for role, a in artifacts.items()})[:6]}"
    folder = store.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = gathered(opened, store, artifacts, name)
    finished = Run(name, folder, dict(artifacts), facts)
    write_durably(folder / "report.html", report.page(facts).encode())
    release = folder / "model"
    shutil.rmtree(release, ignore_errors=True)
    shutil.copytree(artifacts["model"].path / "model", release)
    limit_answers(release, recipe.predict.engine.max_new_tokens)
    write_durably(release / "README.md", card.page(facts).encode())
    write_durably(folder / "recipe.yaml", opened.text.encode())
    entry = {
        "name": name,
        "released": finished.released,
        "recipe_folder": str(opened.folder),
        "recipe": recipe.model_dump(mode="json"),
        "artifacts": {role: a.id for role, a in artifacts.items()},
        "base": str(artifacts["base"].path),
    }
    write_durably(folder / "run.json", json.dumps(entry, indent=1, ensure_ascii=False).encode())
    return finished


def gathered(opened: RecipeFile, store: Store, artifacts: Mapping[str, Artifact], name: str) -> RunFacts:
    """Everything that the pages show, from manifests and artifact files alone."""
    recipe, examples, encoded, model = opened.recipe, artifacts["examples"], artifacts["encoded"], artifacts["model"]
    trained = TrainedFacts(**model.facts)
    scores = artifacts["scores"].path
    return RunFacts(
        name=recipe.name,
        run=name,
        released=artifacts["gate"].facts["released"],
        verdicts=list(seams.read(artifacts["gate"].path / "verdicts", Verdict)),
        test_openings=len(store.openings(examples.facts["test_split"])),
        task=recipe.task.model_dump(mode="json"),
        base=base_facts(recipe, artifacts["base"], trained),
        recipe=opened.text,
        next=next_command(opened, store, name),
        prepared=PreparedFacts(**examples.facts),
        encoded=EncodedFacts(**encoded.facts),
        previews=[Preview(**json.loads(line)) for line in _lines(encoded.path / "previews.jsonl")],
        quarantine=[json.loads(line) for line in _lines(examples.path / "quarantine.jsonl")[:SHOWN]],
        trained=trained,
        history=[json.loads(line) for line in _lines(model.path / "history.jsonl")],
        scores=Scores.model_validate_json((scores / "scores.json").read_text(encoding="utf-8")),
        cases=Cases.model_validate_json((scores / "cases.json").read_text(encoding="utf-8")),
        measured=MeasuredFacts(**artifacts["measure"].facts) if "measure" in artifacts else None,
        timings={activity(role, a): a.timings()["all"] for role, a in artifacts.items() if "all" in a.timings()},
        lineage=[made(role, artifact) for role, artifact in artifacts.items()],
        environment=environment(model, trained),
    )


def base_facts(recipe: Recipe, base: Artifact, trained: TrainedFacts) -> BaseFacts:
    """What is known of the model that was started from."""
    return BaseFacts(
        name=base_name(recipe),
        kind=recipe.base.kind,
        parameters=trained.base_parameters,
        architecture=trained.architecture,
        license=base.facts.get("license", "not stated"),
        notes=base.facts.get("notes", []),
    )


def base_name(recipe: Recipe) -> str:
    """What to call the base in cards and adapters: its upstream name, never a path of this machine."""
    from luthier.bases.package import CATALOGUE

    settings = recipe.base.model_dump()
    if settings["kind"] == "package":
        return CATALOGUE[settings["name"]].upstream
    return str(settings.get("name") or Path(settings["path"]).name)


def activity(role: str, artifact: Artifact) -> str:
    """What was done to make an artifact: its stage, with the rival's name where there are several."""
    stage = str(artifact.manifest.get("stage", role))
    return role.replace("_", " ") if stage == "baseline" else stage


def made(role: str, artifact: Artifact) -> Made:
    """One artifact and what it was made from."""
    return Made(
        stage=artifact.manifest.get("stage", role),
        artifact=artifact.id,
        reused=artifact.reused,
        inputs={key: entry["id"] for key, entry in artifact.manifest.get("inputs", {}).items()},
        versions=artifact.manifest.get("made_with", {}).get("packages", {}),
    )


def environment(model: Artifact, trained: TrainedFacts) -> Environment:
    """Where the figures come from."""
    machine = model.manifest["made_with"]["machine"]
    return Environment(
        luthier=version("luthier"),
        python=platform.python_version(),
        torch=version("torch"),
        machine=machine["processor"],
        threads=machine["threads"],
        device=trained.device,
        precision=trained.precision,
    )


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:  # not splitlines, which also parts at characters that JSON may hold
        return [line.rstrip("\n") for line in file]


def next_command(opened: RecipeFile, store: Store, name: str) -> str:
    """What the user types to use the model on new data."""
    table = opened.path(opened.recipe.task.paths()[TABLE])
    fresh = table.with_name(f"{table.stem}_new{table.suffix}")
    source = os.path.relpath(fresh if fresh.exists() else table)
    suffix = table.suffix if table.suffix in FORMATS else ".csv"
    where = Path(os.path.relpath(store.root))
    nearby = where.name == ".luthier" and where.parent.name != ".." and len(where.parts) <= 2
    return f"luthier apply {name} {source} cleaned{suffix}" + ("" if nearby else f" --store {where}")


def apply(store: Store, name: str, source: Path, target: Path) -> dict[str, Any]:
    """Write the table again with suggestions and confidences beside the originals; nothing of the user's is overwritten.

    What the model's form says is done as in training: its steps that change the input, its prompt, its lengths.
    """
    from luthier.answering import predictions
    from luthier.reading import detect

    entry = find(store, name)
    recipe = Recipe.model_validate(entry["recipe"])
    if not source.is_file():
        raise UserError("no such file", where=str(source), hint="give the table to work on")
    writable(target)
    aside: list[Quarantined] = []
    table = Table(source, recipe.prepare.reader or detect(source), aside.append)
    missing = [name for name in recipe.task.columns() if table.columns is not None and name not in table.columns]
    if missing:
        raise UserError(
            f"has no column '{missing[0]}', which the model reads",
            where=str(source),
            hint=f"it has {', '.join(table.columns or [])}",
        )
    model = store.get(entry["artifacts"]["model"])
    form = Form.read(model.path / "model")
    examples = asked(recipe, entry, table, form)
    computing = Computing(engine=recipe.predict.engine, device=recipe.device, precision=recipe.train.precision)
    session = computing.open(model.path / "model", Path(entry["base"]), form.max_length)
    tell = lambda done, total: store.listener.progress("apply", done, total, {})  # noqa: E731
    found: dict[int, list[Prediction]] = {}
    for example, answered in zip(
        examples, predictions(session, examples, form.task, form.objective, tell), strict=True
    ):
        found.setdefault(example.origin["row"], []).append(answered)
    rows = [
        {**row.values, **beside(row.values, recipe.task.cells(row.values, found.get(row.line, [])))} for row in table
    ]
    write_table(target, rows)
    result = {"rows": len(rows), "quarantined": len(aside), "predictions": len(examples), "written": str(target)}
    if aside:
        put = target.with_name(f"{target.name}.quarantine.jsonl")
        write_durably(put, "".join(json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in aside).encode())
        result["quarantine"] = str(put)
    return result


def asked(recipe: Recipe, entry: Mapping[str, Any], table: Table, form: Form) -> list[Example]:
    """The examples of a table to be answered, after the steps that change what the model reads."""
    from luthier.reading import detect

    opened = RecipeFile(recipe=recipe, folder=Path(entry["recipe_folder"]), text="")
    further = {role: path for role, path in recipe.task.paths().items() if role not in (TABLE, *recipe.task.row_by_row)}
    tables = {TABLE: table}
    for role, path in further.items():
        place = opened.path(path)
        tables[role] = Table(place, detect(place))
    examples = [made for made in recipe.task.examples(tables, targets=False) if isinstance(made, Example)]
    for step in form.steps:
        examples = [kept for kept in step.apply(examples) if isinstance(kept, Example)]
    return examples


def beside(values: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, Any]:
    """New cells under names that the table does not have yet."""
    renamed = {}
    for name, cell in cells.items():
        while name in values or name in renamed:
            name += "_"
        renamed[name] = cell
    return renamed


def export(store: Store, name: str, form: str, precision: str, target: Path) -> Path:
    """A release outside the store: `peft` (the adapter as it is) or `hf` (a whole folder, adapter merged), with its card."""
    import torch

    from luthier import model as models

    entry = find(store, name)
    if target.exists():
        raise UserError("exists already and is not overwritten", where=str(target), hint="name another folder")
    trained_model = store.get(entry["artifacts"]["model"])
    source = trained_model.path / "model"
    adapted = (source / "adapter_config.json").exists()
    if form == "peft" and not adapted:
        raise UserError("the run trained whole weights, so there is no adapter", where=name, hint="use --to hf")
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    if form == "peft" or (not adapted and precision == "float32"):
        shutil.copytree(source, partial)
    else:
        model = models.load_trained(source, Path(entry["base"]), device="cpu", precision="float32")
        whole = models.merged(model).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        with models.quiet():
            whole.save_pretrained(str(partial))
            model.tokenizer.save_pretrained(str(partial))
        shutil.copyfile(source / models.ABOUT, partial / models.ABOUT)
    limit_answers(partial, Recipe.model_validate(entry["recipe"]).predict.engine.max_new_tokens)
    facts = reopen(store, entry["name"]).facts
    trained = facts.trained.model_copy(update={"adapter": adapted and form == "peft"})
    write_durably(partial / "README.md", card.page(facts.model_copy(update={"trained": trained})).encode())
    os.rename(partial, target)
    return target


def predictions_of(artifact: Artifact) -> Iterator[Prediction]:
    """The predictions that an artifact holds."""
    return seams.read(artifact.path / "predictions", Prediction)
