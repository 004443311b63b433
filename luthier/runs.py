"""Finished runs: find one, open it again, record it, apply its model to a table, export it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier import card, report, seams
from luthier.applying import Questions, answer, begun, write
from luthier.durable import check_writable, identity, sync_folder, sync_tree, unique_beside
from luthier.engines import Computing
from luthier.errors import Problems, UserError, typed
from luthier.facts import (
    BaseFacts,
    Cases,
    EncodedFacts,
    Environment,
    ForgottenFacts,
    Made,
    MeasuredFacts,
    MembershipFacts,
    PreparedFacts,
    Preview,
    RunFacts,
    Scores,
    SpreadFacts,
    TrainedFacts,
)
from luthier.form import Form
from luthier.model import Model, limit_answers, load_tokenizer
from luthier.readers import Table
from luthier.recipe import Recipe
from luthier.recipe_file import RecipeFile, loads
from luthier.seams import Prediction, Verdict
from luthier.stages.fetch import fetched
from luthier.store import TIMINGS, Artifact, Store, digest, disk_told, visible_files
from luthier.suitability import tried
from luthier.tables import FORMATS, refuse_existing, writable
from luthier.tasks import TABLE

SHOWN = 20  # quarantined rows on the report
GIVE_BASE = "put it back as it was, or name a folder that holds it with --base FOLDER"


@dataclass
class Run:
    """A finished run: its record and where its pages are."""

    name: str  # "<recipe name>-<hash>"
    folder: Path
    artifacts: dict[str, Artifact]
    facts: RunFacts
    together: tuple[Run, ...] = ()  # those of the other tasks that its model learned at once

    @property
    def released(self) -> bool:
        """Whether every required check of the gate passed."""
        return self.facts.released


def find(store: Store, name: str) -> dict[str, Any]:
    """The record of a run by its name, the beginning of it, its recipe's name (the newest run then), or `latest`."""
    records, unreadable = store.records()
    for problem in unreadable:
        store.listener.say(f"warning: {problem.sentence()}")
    exact = [entry for entry in records if entry["name"] == name]
    of_recipe = [entry for entry in records if entry["name"].rpartition("-")[0] == name][-1:]
    found = exact or of_recipe or [entry for entry in records if entry["name"].startswith(name)]
    if name == "latest" and records:
        found = [records[-1]]
    if not found:
        if not records:
            raise UserError(
                "no run is finished yet",
                where=str(store.root),
                hint="one that was interrupted goes on with `luthier run RECIPE`; or name another --store",
            )
        known = ", ".join(entry["name"] for entry in records[-5:])
        raise UserError(f"no run called '{name}' in {store.root}", hint=f"runs there: {known}; or name another --store")
    if len(found) > 1:
        names = ", ".join(entry["name"] for entry in found)
        raise UserError(f"'{name}' may be any of {names}", hint="write more of the name")
    if not {"contents", "base", "recipe_folder"} <= found[0].keys():
        raise UserError(
            "was recorded by an earlier version, which kept no hashes of what it used",
            where=found[0]["name"],
            hint="run its recipe again: what is finished is reused",
        )
    return found[0]


def reopen(store: Store, name: str) -> Run:
    """A run from its record, with its pages written again; neither table nor base need be there."""
    entry = find(store, name)
    opened, artifacts = reread(store, entry)
    return record(opened, store, artifacts, earlier=entry)


def reread(store: Store, entry: Mapping[str, Any]) -> tuple[RecipeFile, dict[str, Artifact]]:
    """The recipe of a recorded run, settled as it was, and its evidence as it was."""
    opened = recipe_of(store, entry)
    with of_this_version(entry["name"]):
        opened = opened.model_copy(update={"recipe": Recipe.model_validate(entry["recipe"])})
    base = entry["base"]
    known = Artifact(
        Path(base["place"]["path"]), entry["artifacts"]["base"], entry["contents"]["base"], base["manifest"]
    )
    return opened, {role: known if role == "base" else evidence(store, entry, role) for role in entry["artifacts"]}


def recipe_of(store: Store, entry: Mapping[str, Any]) -> RecipeFile:
    """The recipe of a recorded run as it was written, in its folder as far as that is known to be."""
    file = store.runs / entry["name"] / "recipe.yaml"
    folders = places(store, entry["recipe_folder"])
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    try:
        return loads(file.read_text(encoding="utf-8"), folder=folder).alone(entry.get("part", ""))
    except Problems as problem:
        raise UserError(
            f"its recipe cannot be read by this version ({problem.problems[0].sentence()})",
            where=entry["name"],
            hint="correct your recipe and run it again",
        ) from None


@contextlib.contextmanager
def of_this_version(name: str) -> Iterator[None]:
    """UserError where what an earlier version recorded of a run has another shape. Around a recorded run alone: in a new
    one the same problems are bugs."""
    try:
        yield
    except (ValidationError, KeyError, TypeError, FileNotFoundError) as problem:
        raise UserError(
            "was recorded by an earlier version, whose facts have another shape",
            where=name,
            hint="run its recipe again: what is finished and still fits is reused",
        ) from problem


def evidence(store: Store, entry: Mapping[str, Any], role: str) -> Artifact:
    """An artifact of a recorded run, as the run had it; UserError where that is not there any more."""
    artifact = store.get(entry["artifacts"][role], entry["contents"][role])
    if artifact.content != entry["contents"][role]:
        raise UserError(
            f"the {role} of {entry['name']} has other bytes than the run had",
            where=str(artifact.path),
            hint=f"what the run said then stands in {store.runs / entry['name']}; run its recipe again",
        )
    return artifact


def place(path: Path, store: Store) -> dict[str, str]:
    """Where something lies: by itself, and as seen from the store, so that both can be moved together."""
    return {"path": str(path), "from_store": os.path.relpath(path, store.root)}


def places(store: Store, told: Mapping[str, str]) -> list[Path]:
    """Where what `place` told may lie now."""
    return [(store.root / told["from_store"]).resolve(), Path(told["path"])]


def base_for(store: Store, entry: Mapping[str, Any], given: Path | None) -> Path:
    """The folder of a run's base, wherever it lies now; UserError unless it has the bytes that were trained on.

    `given` is where the user says that it is. A base that is fetched is looked for in the shared store, and fetched.
    """
    recipe, recorded = recipe_of(store, entry), entry["base"]
    choice, content = recipe.recipe.base, entry["contents"]["base"]
    if given is None and not choice.outside:
        known = store.shared.artifacts / entry["artifacts"]["base"]
        base = store.shared.get(known.name, content) if known.exists() else fetched(choice, store)
        if base.content != content:
            raise UserError(
                "the base that is fetched here is not the one that the run was trained on",
                where=str(base.path),
                hint=GIVE_BASE,
            )
        return base.path
    written = recipe.folder / str(choice.locate() or "")
    looked = [given] if given is not None else [*places(store, recorded["place"]), written]
    there = list(dict.fromkeys(folder for folder in looked if folder.is_dir()))
    if not there:
        raise UserError(
            "the base that the run was trained on is not there any more", where=str(looked[-1]), hint=GIVE_BASE
        )
    problems = {folder: other_bytes(store, folder, recorded["manifest"]["files"]) for folder in there}
    found = next((folder for folder, problem in problems.items() if not problem), None)
    if found is None:
        raise UserError(
            f"{problems[there[0]]}, so this is not the base that the run was trained on",
            where=str(there[0]),
            hint=GIVE_BASE,
        )
    return found


def other_bytes(store: Store, folder: Path, recorded: Mapping[str, Any]) -> str:
    """How the files of a base differ from those that were recorded, or nothing."""
    wanted = {name: entry["sha256"] if isinstance(entry, dict) else entry for name, entry in recorded.items()}
    there = {file.relative_to(folder).as_posix(): file for file in visible_files(folder)}
    names = sorted(wanted.keys() - {TIMINGS})
    if missing := [name for name in names if name not in there]:
        return f"{missing[0]} is missing"
    if further := sorted(there.keys() - wanted.keys() - {TIMINGS}):
        return f"{further[0]} was not there"
    for name, sha256 in zip(names, store.hashes.of(there[name] for name in names), strict=True):
        if sha256 != wanted[name]:
            return f"{name} has other bytes"
    return ""


def record(
    opened: RecipeFile, store: Store, artifacts: Mapping[str, Artifact], earlier: Mapping[str, Any] | None = None
) -> Run:
    """Write the run's record, report and model card, so that whoever looks sees them whole; `run.json` is the last word.

    `earlier` is the record of a run whose pages are written again: its name and the time when it finished stay.
    """
    recipe = opened.recipe
    contents = {role: artifact.content for role, artifact in artifacts.items()}
    name = earlier["name"] if earlier else f"{recipe.name}-{digest(contents)[:6]}"
    with of_this_version(name) if earlier else contextlib.nullcontext():
        facts = gathered(opened, store, artifacts, name)
    finished = Run(name, store.runs / name, dict(artifacts), facts)
    base = artifacts["base"]
    entry = {
        "name": name,
        "finished": earlier["finished"] if earlier else datetime.now(UTC).isoformat(timespec="microseconds"),
        "released": finished.released,
        "recipe_folder": earlier["recipe_folder"] if earlier else place(opened.folder, store),
        "recipe": recipe.model_dump(mode="json"),
        "part": opened.part,
        "artifacts": {role: artifact.id for role, artifact in artifacts.items()},
        "contents": contents,
        "base": earlier["base"] if earlier else {"place": place(base.path, store), "manifest": base.manifest},
    }
    pages = {
        "report.html": report.page(finished.facts),
        "model/README.md": card.page(finished.facts),
        "recipe.yaml": opened.text,
        "run.json": json.dumps(entry, indent=1, ensure_ascii=False),
    }
    publish(store, finished, pages, recipe.predict.engine.max_new_tokens)
    return finished


def publish(store: Store, run: Run, pages: Mapping[str, str], longest: int) -> None:
    """Put the pages, and the model where it is not there already, into the run's folder: each file at once or, the first
    time, all of them. `longest` is the longest answer in tokens, which the model's generation settings tell."""
    key, source = f"run-{run.name}", run.artifacts["model"].path / "model"
    with store.locked(key), disk_told(run.folder):
        stage = store.work / key
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "model").mkdir(parents=True)
        for file in differing(store, source, run.folder / "model"):
            (stage / "model" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, stage / "model" / file)
        limit_answers(stage / "model", longest)
        for name, text in pages.items():
            (stage / name).write_bytes(text.encode())
        sync_tree(stage)
        if run.folder.exists():
            staged = [file.relative_to(stage) for file in visible_files(stage)]
            for file in sorted(staged, key=lambda file: file.name == "run.json"):
                (run.folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / file, run.folder / file)
            sync_folder(run.folder)
        else:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            os.rename(stage, run.folder)
            sync_folder(run.folder.parent)
        shutil.rmtree(stage, ignore_errors=True)


def differing(store: Store, source: Path, copy: Path) -> list[Path]:
    """Files below a folder, relative to it, that a copy lacks or has with other bytes."""
    files = [file.relative_to(source) for file in visible_files(source)]
    there = [file for file in files if (copy / file).is_file()]
    pairs = zip(
        there, store.hashes.of(source / f for f in there), store.hashes.of(copy / f for f in there), strict=True
    )
    same = {file for file, one, other in pairs if one == other}
    return [file for file in files if file not in same]


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
        prepared=PreparedFacts(**artifacts.get("taught", examples).facts),
        encoded=EncodedFacts(**encoded.facts),
        previews=[Preview(**json.loads(line)) for line in _lines(encoded.path / "previews.jsonl")],
        quarantine=[json.loads(line) for line in _lines(examples.path / "quarantine.jsonl")[:SHOWN]],
        trained=trained,
        history=[json.loads(line) for line in _lines(model.path / "history.jsonl")],
        scores=Scores.model_validate_json((scores / "scores.json").read_text(encoding="utf-8")),
        cases=Cases.model_validate_json((scores / "cases.json").read_text(encoding="utf-8")),
        cut_answers=artifacts["tuned"].facts["cut"],
        measured=MeasuredFacts(**artifacts["measure"].facts) if "measure" in artifacts else None,
        forgotten=ForgottenFacts(**artifacts["forgotten"].facts) if "forgotten" in artifacts else None,
        spread=SpreadFacts(**artifacts["spread"].facts) if "spread" in artifacts else None,
        membership=MembershipFacts(**artifacts["attack"].facts) if "attack" in artifacts else None,
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
    """Where the figures come from: what the model was made with, whatever is installed by now."""
    made_with = model.manifest["made_with"]
    return Environment(
        luthier=made_with["packages"]["luthier"],
        python=made_with["python"],
        torch=made_with["packages"]["torch"],
        machine=made_with["machine"]["processor"],
        threads=made_with["machine"]["threads"],
        device=trained.device,
        precision=trained.precision,
    )


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:  # not splitlines, which also parts at characters that JSON may hold
        return [line.rstrip("\n") for line in file]


def next_command(opened: RecipeFile, store: Store, name: str) -> str:
    """What the user types into a shell to use the model on new data."""
    written = opened.recipe.task.paths()[TABLE]
    table = opened.folder / written
    with contextlib.suppress(UserError):  # a table that is not there any more is named as it was
        table = opened.path(written, f"task.{TABLE}")
    fresh = table.with_name(f"{table.stem}_new{table.suffix}")
    source = os.path.relpath(fresh if fresh.exists() else table)
    suffix = table.suffix if table.suffix.lower() in FORMATS else ".csv"
    names = (f"cleaned{f'-{n}' if n > 1 else ''}{suffix}" for n in count(1))
    target = next(each for each in names if not os.path.lexists(each) and each != source)
    where = Path(os.path.relpath(store.root))
    nearby = where.name == ".luthier" and where.parent.name != ".." and len(where.parts) <= 2
    return f"luthier apply {name} {typed(source)} {target}" + ("" if nearby else f" --store {typed(str(where))}")


def verdict_in_words(entry: Mapping[str, Any]) -> str:
    """What whoever uses a run's model must know of its release checks; nothing where they passed."""
    if entry["released"]:
        return ""
    if not any(check.get("required", True) for check in entry["recipe"]["gate"]["checks"]):
        return f"no release check was required of {entry['name']}, so nothing says that its model may be used"
    return f"warning: {entry['name']} is NOT RELEASED: its required release checks did not all pass"


def apply(store: Store, name: str, source: Path, target: Path, base: Path | None = None) -> dict[str, Any]:
    """Write the table again with suggestions and confidences beside the originals; nothing of the user's is overwritten.

    What the model's form says is done as in training: its steps that change the input, its prompt, its lengths. The
    table is read in passes and never held; what was answered is on disk, so that the same call goes on after a crash.
    `base` is the folder of the base, where that was moved.
    """
    from luthier.reading import reader_for_more, said_of

    entry = find(store, name)
    if not source.is_file():
        problem = "is a folder" if source.is_dir() else "no such file"
        raise UserError(problem, where=str(source), hint="give the table to work on")
    writable(target)
    check_writable(target.parent, "write the table somewhere else")
    stat = identity(source.stat())
    warning = verdict_in_words(entry)
    if warning:
        store.listener.say(warning)
    opened = settled(recipe_of(store, entry), store)
    recipe, former = opened.recipe, ""
    with contextlib.suppress(UserError):  # what was learned from may be gone, and serves as a hint alone
        former = str(evidence(store, entry, "examples").facts["source"].get("encoding", ""))
    tables = {TABLE: Table(source, reader_for_more(source, recipe.prepare.reader, former)), **beside_tables(opened)}
    for each in tables.values():
        store.listener.say(said_of(each))
    table = tables[TABLE]
    if table.columns is not None and (why := recipe.task.unasked(table.columns)):
        raise UserError(why, where=str(source), hint=f"it has {', '.join(table.columns)}")
    model = evidence(store, entry, "model")
    form = Form.read(model.path / "model")
    computing = Computing(engine=recipe.predict.engine, device=recipe.device, precision=recipe.train.precision)
    standing_on = base_for(store, entry, base) if adapted(model) else None
    same = {
        "model": [model.content, entry["contents"]["base"]],
        "table": [store.take(each.path).content for each in tables.values()],
        "settings": [computing.model_dump(mode="json"), table.reader.model_dump(mode="json"), version("luthier")],
    }
    with begun(target, same, store.listener) as answers:
        tokenizer = load_tokenizer(model.path / "model") if form.conversations else None
        answers.plan(Questions(recipe.task, tables, form, tokenizer), source)
        session = computing.open(model.path / "model", standing_on, form.max_length)
        answer(answers, session, store.listener)
        result = write(answers, session, form, recipe.task, table, target, stat)
    longest = recipe.predict.engine.max_new_tokens
    about = {"max_new_tokens": longest, "released": entry["released"]}
    return {**result, **about, **({"warning": warning} if warning else {})}


def settled(opened: RecipeFile, store: Store) -> RecipeFile:
    """The recipe with device and precision as they are on this machine: what `auto` becomes enters every key."""
    from luthier.model import device_for, precision_for

    recipe = opened.recipe
    device = device_for(recipe.device)
    needed = next((technique.precision for technique in recipe.train.techniques if technique.precision), None)
    precision = needed or precision_for(recipe.train.precision, device)
    recipe.train.optimizer.check(device)
    chosen = " (auto)" if "auto" in (recipe.device, recipe.train.precision) else ""
    store.listener.say(f"computing on {device} in {precision}{chosen}")
    train_settings = recipe.train.model_copy(update={"precision": precision})
    return opened.model_copy(update={"recipe": recipe.model_copy(update={"device": device, "train": train_settings})})


def beside_tables(opened: RecipeFile) -> dict[str, Table]:
    """The tables that a task reads beside the one with the rows, by role."""
    from luthier.reading import detect

    task = opened.recipe.task
    found = {}
    for role, path in task.paths().items():
        if role not in (TABLE, *task.row_by_row):
            place = opened.path(path, f"task.{role}")
            found[role] = Table(place, detect(place))
    return found


def adapted(model: Artifact) -> bool:
    """Whether the model is an adapter, which needs its base."""
    return (model.path / "model" / "adapter_config.json").exists()


def export(store: Store, name: str, form: str, precision: str, target: Path, base: Path | None = None) -> Path:
    """A release outside the store: `peft` (the adapter as it is) or `hf` (a whole folder, adapter merged), with its card.

    `base` is the folder of the base, where that was moved.
    """
    import torch

    from luthier import model as models

    entry = find(store, name)
    refuse_existing(target)
    check_writable(target.parent, "write the model somewhere else")
    opened, artifacts = reread(store, entry)
    trained, source = artifacts["model"], artifacts["model"].path / "model"
    if form == "peft" and not adapted(trained):
        raise UserError("the run trained whole weights, so there is no adapter", where=name, hint="use --to hf")
    if form == "hf" and adapted(trained):
        models.refuse_merging(json.loads((source / "adapter_config.json").read_text(encoding="utf-8")))
    if warning := verdict_in_words(entry):
        store.listener.say(warning)
    partial = unique_beside(target)
    try:
        if form == "peft" or (not adapted(trained) and precision == "float32"):
            shutil.copytree(source, partial)
        else:
            standing_on = base_for(store, entry, base) if adapted(trained) else None
            model = models.load_trained(source, standing_on, device="cpu", precision="float32", dequantized=True)
            if model.quantization:
                store.listener.say(
                    written_out(model, models.load_trained(source, standing_on, device="cpu", precision="float32"))
                )
            whole = models.merged(model).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
            partial.mkdir(parents=True)
            with models.quiet():
                whole.save_pretrained(str(partial))
                model.tokenizer.save_pretrained(str(partial))
            shutil.copyfile(source / models.ABOUT, partial / models.ABOUT)
        limit_answers(partial, opened.recipe.predict.engine.max_new_tokens)
        with of_this_version(entry["name"]):
            facts = gathered(opened, store, artifacts, entry["name"])
        about = facts.trained.model_copy(update={"adapter": adapted(trained) and form == "peft"})
        (partial / "README.md").write_bytes(card.page(facts.model_copy(update={"trained": about})).encode())
        sync_tree(partial)
        refuse_existing(target)
        os.rename(partial, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def written_out(whole: Model, held: Model) -> str:
    """How the logits of a model whose 4-bit base is written out in full differ from those of the one that was scored."""
    said, scored = (tried(model).float() for model in (whole, held))
    apart, size = float((said - scored).abs().max()), float(scored.abs().max())
    return (
        f"the base was held in 4 bits while it was trained on: the folder has these very weights written out in full; on two "
        f"tokens its logits differ by {apart:.2g} at most (the largest is {size:.2g})"
    )


def predictions_of(artifact: Artifact) -> Iterator[Prediction]:
    """The predictions that an artifact holds."""
    return seams.read(artifact.path / "predictions", Prediction)
