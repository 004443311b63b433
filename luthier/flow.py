"""What happens in a run, top to bottom: fetch, prepare, train, predict, score, measure, gate, report; and applying a run."""

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

from luthier import seams
from luthier.bases import Base
from luthier.errors import UserError
from luthier.recipe import Loaded, Recipe
from luthier.recipe import loads as load_recipe
from luthier.seams import Prediction, Verdict
from luthier.stages.baseline import Baseline, baseline
from luthier.stages.fetch import Fetch, fetch
from luthier.stages.gate import Gate, gate
from luthier.stages.measure import Measure, measure
from luthier.stages.predict import Predict, predict
from luthier.stages.prepare import Prepare, prepare
from luthier.stages.score import Score, score
from luthier.stages.train import Train, train
from luthier.store import Artifact, Listener, Store, digest, write_durably
from luthier.tables import FORMATS

SHARED_VARIABLE = "LUTHIER_HOME"


@dataclass
class Run:
    """A finished run: its record and where its pages are."""

    name: str  # "<recipe name>-<hash>"
    folder: Path
    artifacts: dict[str, Artifact]
    facts: dict[str, Any]

    @property
    def released(self) -> bool:
        """Whether every required check of the gate passed."""
        return bool(self.facts["released"])


def store_for(
    loaded: Loaded, listener: Listener | None = None, *, root: Path | None = None, fresh: bool = False
) -> Store:
    """The recipe's store: `.luthier` beside the recipe unless another folder is given."""
    return Store((root or loaded.folder / ".luthier").resolve(), listener, fresh=fresh)


def run(loaded: Loaded, store: Store) -> Run:
    """The whole chain; finished stages are taken from the store."""
    loaded = settled(loaded, store)
    recipe = loaded.recipe
    base = base_model(recipe.base, loaded, store)
    examples = prepared(loaded, store, base)
    model = trained(recipe, store, examples, base)
    tuned = predicted(recipe, store, examples, model, base)
    artifacts = {"base": base, "examples": examples, "model": model, "tuned": tuned}
    rivals = {}
    for rival in recipe.score.baselines:
        config = Baseline(
            baseline=rival, task=recipe.task, engine=recipe.predict.engine, max_length=recipe.prepare.max_length,
            seed=recipe.seed, device=recipe.device, precision=recipe.train.precision,
        )  # fmt: skip
        rivals[rival.kind] = store.do(baseline, config, examples=examples, base=base)
    classes = recipe.task.objective == "classify"
    scores = store.do(
        score, Score(metrics=recipe.metrics(), worst=recipe.score.worst, seed=recipe.seed, classes=classes),
        examples=examples, tuned=tuned, **rivals,
    )  # fmt: skip
    artifacts |= {f"baseline_{name}": artifact for name, artifact in rivals.items()} | {"scores": scores}
    evidence = dict(rivals)
    if recipe.score.latency_samples:
        config_measure = Measure(
            task=recipe.task, engine=recipe.predict.engine, samples=recipe.score.latency_samples,
            max_length=recipe.prepare.max_length, device=recipe.device, precision=recipe.train.precision,
        )  # fmt: skip
        artifacts["measure"] = evidence["measure"] = store.do(
            measure, config_measure, examples=examples, model=model, base=base
        )
    artifacts["gate"] = store.do(
        gate, Gate(checks=recipe.gate.checks, metrics=recipe.metrics(), seed=recipe.seed), tuned=tuned, **evidence
    )
    return record(loaded, store, artifacts)


def settled(loaded: Loaded, store: Store) -> Loaded:
    """The recipe with device and precision as they are on this machine: what `auto` becomes enters every key."""
    from luthier.model import device_for, precision_for

    recipe = loaded.recipe
    device = device_for(recipe.device)
    precision = precision_for(recipe.train.precision, device)
    chosen = " (auto)" if "auto" in (recipe.device, recipe.train.precision) else ""
    store.listener.say(f"computing on {device} in {precision}{chosen}")
    train = recipe.train.model_copy(update={"precision": precision})
    return loaded.model_copy(update={"recipe": recipe.model_copy(update={"device": device, "train": train})})


def base_model(choice: Base, loaded: Loaded, store: Store) -> Artifact:
    """The base: a folder of the user's as it is, or one fetched once into the store shared by all of a user's recipes."""
    if choice.outside:
        place = loaded.path(str(choice.locate()))
        if not place.is_dir():
            raise UserError(f"{place} is not a folder", where="base.path", hint="give a Hugging Face model folder")
        return store.take(place)
    home = Path(os.environ.get(SHARED_VARIABLE) or Path.home() / ".cache" / "luthier")
    shared = Store(home, store.listener)
    return shared.do(fetch, Fetch(base=choice, identity=choice.identity()))


def prepared(loaded: Loaded, store: Store, base: Artifact) -> Artifact:
    """The examples; every file that the recipe names enters by its bytes."""
    recipe = loaded.recipe
    files = {role: store.take(loaded.path(path)) for role, path in recipe.task.tables().items()}
    files |= {f"split_{name}": store.take(loaded.path(path)) for name, path in recipe.prepare.split.files().items()}
    return store.do(prepare, Prepare(task=recipe.task, prepare=recipe.prepare, seed=recipe.seed), base=base, **files)


def trained(recipe: Recipe, store: Store, examples: Artifact, base: Artifact) -> Artifact:
    """The model."""
    config = Train(
        task=recipe.task, train=recipe.train, engine=recipe.predict.engine, metrics=recipe.metrics(),
        max_length=recipe.prepare.max_length, seed=recipe.seed, device=recipe.device, base_name=base_name(recipe),
    )  # fmt: skip
    return store.do(train, config, examples=examples, base=base)


def predicted(recipe: Recipe, store: Store, examples: Artifact, model: Artifact, base: Artifact) -> Artifact:
    """The model's answers on the test split, whose opening is counted first."""
    store.open_test(examples.facts["test_split"], model.content)
    config = Predict(
        task=recipe.task, engine=recipe.predict.engine, split="test", max_length=recipe.prepare.max_length,
        device=recipe.device, precision=recipe.train.precision,
    )  # fmt: skip
    return store.do(predict, config, examples=examples, model=model, base=base)


def base_name(recipe: Recipe) -> str:
    """What to call the base in cards and adapters: its upstream name, never a path of this machine."""
    from luthier.bases.package import CATALOGUE

    settings = recipe.base.model_dump()
    if settings["kind"] == "package":
        return CATALOGUE[settings["name"]].upstream
    return str(settings.get("name") or Path(settings["path"]).name)


def record(loaded: Loaded, store: Store, artifacts: Mapping[str, Artifact]) -> Run:
    """Write the run's record, report and model card; the last word is `run.json`."""
    from luthier import card, report

    recipe = loaded.recipe
    name = f"{recipe.name}-{digest({role: a.content for role, a in artifacts.items()})[:6]}"
    folder = store.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = gather(loaded, store, artifacts, name)
    finished = Run(name, folder, dict(artifacts), facts)
    write_durably(folder / "report.html", report.page(facts).encode())
    release = folder / "model"
    shutil.rmtree(release, ignore_errors=True)
    shutil.copytree(artifacts["model"].path / "model", release)
    write_durably(release / "README.md", card.page(facts).encode())
    write_durably(folder / "recipe.yaml", loaded.text.encode())
    entry = {
        "name": name, "released": finished.released, "recipe_folder": str(loaded.folder),
        "recipe": recipe.model_dump(mode="json"), "artifacts": {role: a.id for role, a in artifacts.items()},
        "base": str(artifacts["base"].path),
    }  # fmt: skip
    write_durably(folder / "run.json", json.dumps(entry, indent=1, ensure_ascii=False).encode())
    return finished


def gather(loaded: Loaded, store: Store, artifacts: Mapping[str, Artifact], name: str) -> dict[str, Any]:
    """Everything the pages show, from manifests and artifact files alone."""
    recipe, examples, model = loaded.recipe, artifacts["examples"], artifacts["model"]
    scores = json.loads((artifacts["scores"].path / "scores.json").read_text())
    scores |= json.loads((artifacts["scores"].path / "cases.json").read_text())
    history = [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
    previews = [json.loads(line) for line in (examples.path / "previews.jsonl").read_text().splitlines()]
    quarantine = [json.loads(line) for line in _lines(examples.path / "quarantine.jsonl")[:20]]
    verdicts = [json.loads(json.dumps(asdict(v))) for v in seams.read(artifacts["gate"].path / "verdicts", Verdict)]
    base_facts = artifacts["base"].facts
    made = model.manifest["made_with"]
    return {
        "name": recipe.name, "run": name, "released": artifacts["gate"].facts["released"], "verdicts": verdicts,
        "openings": {"test": len(store.openings(examples.facts["test_split"]))},
        "task": recipe.task.model_dump(mode="json"),
        "base": {
            "name": base_name(recipe), "kind": recipe.base.kind, "parameters": model.facts["parameters"]["base"],
            "architecture": json.loads((model.path / "model" / "model.json").read_text())["architecture"],
            "license": base_facts.get("license", "not stated"), "notes": base_facts.get("notes", []),
        },
        "recipe": loaded.text, "next": next_command(loaded, store, name),
        "prepare": {**examples.facts, "previews": previews, "quarantine": quarantine},
        "train": {**model.facts, "history": history}, "scores": scores,
        "measure": artifacts["measure"].facts if "measure" in artifacts else {},
        "timings": {role: a.timings()["all"] for role, a in artifacts.items() if "all" in a.timings()},
        "lineage": [
            {
                "stage": a.manifest.get("stage", role), "artifact": a.id, "reused": a.reused,
                "inputs": {key: entry["id"] for key, entry in a.manifest.get("inputs", {}).items()},
                "versions": a.manifest.get("made_with", {}).get("packages", {}),
            }
            for role, a in artifacts.items()
        ],
        "environment": {
            "luthier": version("luthier"), "python": platform.python_version(), "torch": version("torch"),
            "machine": made["machine"]["processor"], "threads": made["machine"]["threads"],
            "device": model.facts["device"], "precision": model.facts["precision"],
        },
    }  # fmt: skip


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def next_command(loaded: Loaded, store: Store, name: str) -> str:
    """What the user types to use the model on new data."""
    table = loaded.path(next(iter(loaded.recipe.task.tables().values())))
    fresh = table.with_name(f"{table.stem}_new{table.suffix}")
    source = os.path.relpath(fresh if fresh.exists() else table)
    suffix = table.suffix if table.suffix in FORMATS else ".csv"
    where = Path(os.path.relpath(store.root))
    nearby = where.name == ".luthier" and where.parent.name != ".." and len(where.parts) <= 2
    return f"luthier apply {name} {source} cleaned{suffix}" + ("" if nearby else f" --store {where}")


def find_run(store: Store, name: str) -> dict[str, Any]:
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


def apply(store: Store, name: str, source: Path, target: Path) -> dict[str, Any]:
    """Write the table again with suggestions and confidences beside the originals; nothing of the user's is overwritten."""
    from luthier.model import load_trained
    from luthier.readers import Quarantined, Row
    from luthier.reading import detect
    from luthier.tables import writable, write_table
    from luthier.tasks import Dropped

    entry = find_run(store, name)
    recipe = Recipe.model_validate(entry["recipe"])
    if not source.is_file():
        raise UserError("no such file", where=str(source), hint="give the table to work on")
    writable(target)
    reader = recipe.prepare.reader if recipe.prepare.reader else detect(source)
    columns = reader.describe(source).get("columns")
    missing = [column for column in recipe.task.columns() if columns is not None and column not in columns]
    if missing:
        raise UserError(
            f"has no column '{missing[0]}', which the model reads",
            where=str(source),
            hint=f"it has {', '.join(columns or [])}",
        )
    read: list[Row] = []
    aside: list[Quarantined] = []
    for found in reader.rows(source):
        if isinstance(found, Quarantined):
            aside.append(found)
        else:
            read.append(found)
    wanted = [(row, [e for e in recipe.task.examples(row, None) if not isinstance(e, Dropped)]) for row in read]
    examples = [example for _, made in wanted for example in made]
    model = store.get(entry["artifacts"]["model"])
    loaded = load_trained(
        model.path / "model", Path(entry["base"]), device=recipe.device, precision=recipe.train.precision
    )
    predictions = recipe.predict.engine.predict(
        loaded, recipe.task, examples, recipe.prepare.max_length,
        lambda done, total: store.listener.progress("apply", done, total, {}),
    )  # fmt: skip
    answers = iter(predictions)
    table = [
        {**row.values, **beside(row.values, recipe.task.apply(row.values, [next(answers) for _ in made]))}
        for row, made in wanted
    ]
    write_table(target, table)
    result = {"rows": len(table), "quarantined": len(aside), "predictions": len(predictions), "written": str(target)}
    if aside:
        put = target.with_name(f"{target.name}.quarantine.jsonl")
        write_durably(put, "".join(json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in aside).encode())
        result["quarantine"] = str(put)
    return result


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

    entry = find_run(store, name)
    if target.exists():
        raise UserError("exists already and is not overwritten", where=str(target), hint="name another folder")
    from luthier import card

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
        loaded = models.load_trained(source, Path(entry["base"]), device="cpu", precision="float32")
        whole = models.merged(loaded).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        with models.quiet():
            whole.save_pretrained(str(partial))
            loaded.tokenizer.save_pretrained(str(partial))
        shutil.copyfile(source / "model.json", partial / "model.json")
    facts = reopen(store, entry["name"]).facts
    facts["train"]["adapter"] = adapted and form == "peft"
    write_durably(partial / "README.md", card.page(facts).encode())
    os.rename(partial, target)
    return target


def reopen(store: Store, name: str) -> Run:
    """A run from its record, with its pages written again."""
    entry = find_run(store, name)
    text = (store.runs / entry["name"] / "recipe.yaml").read_text(encoding="utf-8")
    loaded = load_recipe(text, folder=Path(entry["recipe_folder"]))
    artifacts = {}
    for role, artifact_id in entry["artifacts"].items():
        if role == "base":
            artifacts[role] = _base_of(entry, store)
        else:
            artifacts[role] = store.get(artifact_id)
    return record(loaded, store, artifacts)


def _base_of(entry: Mapping[str, Any], store: Store) -> Artifact:
    path = Path(entry["base"])
    if (path / "manifest.json").exists():
        return Store(path.parent.parent, store.listener).get(path.name)
    return store.take(path)


def predictions_of(artifact: Artifact) -> Iterator[Prediction]:
    """The predictions that an artifact holds."""
    return seams.read(artifact.path / "predictions", Prediction)
