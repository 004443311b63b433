"""Every technique on real data, in cells that are run one by one, each once: accuracy, seconds, memory, parameters.

    LUTHIER_DATA=... python benchmarks/techniques.py --minutes 60     run what has not been run, for so long
    python benchmarks/techniques.py --page                            write docs/techniques/figures.md anew
    python benchmarks/techniques.py --list                            which cells there are, and which were run

A cell is a training in a process of its own. Its figures go to benchmarks/results/techniques.json, which is committed, so that the
same command goes on where it was stopped. Settings are chosen on validation rows: each technique gets the same number of
learning rates around a first one, and the best of them is then trained over three seeds, which alone read the test rows. The
first draw of everything comes before the second of anything.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "techniques.json"
WORK = Path(os.environ.get("LUTHIER_BENCHMARK", ROOT / ".luthier-benchmark"))
SEEDS = (0, 1, 2)
RATES = {"few": (1.0, 3.0, 0.33, 10.0), "all": (1.0, 3.0)}  # times the first learning rate, in the order of the trials
EPOCHS = {"few": 20, "all": 6}
Results = dict[str, dict[str, Any]]
Block = dict[str, Any]

LORA: Block = {"kind": "lora", "rank": 16}
TECHNIQUES: dict[str, tuple[list[Block], float]] = {  # blocks of the recipe, the first learning rate
    "full": ([{"kind": "full"}], 2e-4),
    "lora": ([LORA], 1e-3),
    "freeze": ([{"kind": "freeze", "layers": 3}], 3e-4),
    "gradual": ([{"kind": "gradual"}], 3e-4),
    "discriminative": ([{"kind": "discriminative"}], 3e-4),
    "prompt_tuning": ([{"kind": "prompt_tuning"}], 1e-2),
    "ia3": ([{"kind": "peft", "tuner": "ia3"}], 1e-2),
    "private": ([LORA, {"kind": "private", "target_epsilon": 8}], 1e-3),  # beside LoRA, as Yu et al. 2022 found it best
}
LARGER = {"few": 128, "all": 512}  # batches of `private`: noise is added once for each


@dataclass(frozen=True)
class Cell:
    """One training. `make` gives its recipe, or nothing while cells that it needs were not run."""

    name: str  # group/size/technique/what
    draw: int  # the lowest is run first
    tests: bool  # whether the test rows are read
    make: Callable[[Results], Block | None]


def cells() -> list[Cell]:
    """All of them, in the order in which they are run."""
    found = [*banking(), *forgetting(), *together(), *distilled(), *prompted()]
    return sorted(found, key=lambda cell: cell.draw)


def banking() -> list[Cell]:
    """Banking77 with MiniLM, by ten examples of each class and by all."""
    found = []
    for size in ("few", "all"):
        for name, (blocks, first) in TECHNIQUES.items():
            names = {rate: f"banking77/{size}/{name}/rate x{rate:g}" for rate in RATES[size]}
            for n, (rate, cell) in enumerate(names.items()):
                made = classifier(size, blocks, first * rate, 0)
                late = 40 if size == "all" and name != "full" else 2  # the whole model is what other cells begin with
                draw = 10 * n if size == "few" else 1 + n * late
                found.append(Cell(cell, draw, False, lambda results, made=made: made))
            for seed in SEEDS:
                chosen, cell = Chosen(names, first, size, blocks, seed), f"banking77/{size}/{name}/seed {seed}"
                draw = 16 if cell == FORMER else (31 if size == "few" else 45) + 20 * seed
                found.append(Cell(cell, draw, True, chosen))
    return found


@dataclass(frozen=True)
class Chosen:
    """The recipe with the best learning rate of the trials, once they were run."""

    trials: Mapping[float, str]
    first: float
    size: str
    blocks: list[Block]
    seed: int

    def __call__(self, results: Results) -> Block | None:
        if any(name not in results for name in self.trials.values()):
            return None
        best = max(self.trials, key=lambda rate: (results[self.trials[rate]].get("validation") or 0.0, -rate))
        return classifier(self.size, self.blocks, self.first * best, self.seed)


def classifier(size: str, blocks: list[Block], learning_rate: float, seed: int, **changes: Any) -> Block:
    """A recipe for banking77."""
    table = {"few": "banking-few.csv", "all": "banking-all.csv"}[size]
    train = training(EPOCHS[size], learning_rate, blocks) | {"evaluate_every": 4 if size == "few" else 1}
    if any(block["kind"] == "private" for block in blocks):
        train |= {"batch_size": LARGER[size]}
    return {
        "version": 1,
        "name": "banking77",
        "seed": seed,
        "task": {"kind": "classify", "table": table, "text": "text", "label": "category"},
        "base": {"kind": "package", "name": "minilm"},
        "prepare": {
            "split": {"kind": "given", "validation": "banking-validation.csv", "test": "banking-test.csv"},
            "steps": [{"kind": "dedup", "across": False}],  # the published test part, whole
        },
        "encode": {"max_length": 64},
        "train": train,
        "predict": {"engine": {"kind": "torch", "batch_size": 64}},
        "score": {"metrics": [{"kind": "accuracy"}], "baselines": [], "latency_samples": 0},
        **changes,
    }


def training(epochs: float, learning_rate: float, techniques: list[Block], metric: str = "accuracy") -> Block:
    """The block `train`; the best evaluation is kept, by the metric on validation."""
    return {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": 32,
        "tokens_per_batch": 2048,
        "checkpoint_steps": 1_000_000,
        "techniques": techniques,
        "stop": {"metric": metric, "patience": 100},
    }


def sentences(name: str, learning_rate: float, techniques: list[Block], seed: int, **changes: Any) -> Block:
    """A recipe for trec or sst2, or both."""
    parts = {
        "trec": {
            "task": {"kind": "classify", "table": "nlp/trec/train.txt", "text": "text", "label": "label"},
            "prepare": {
                "reader": {"kind": "lines", "columns": ["label", "text"]},
                "split": {"kind": "given", "test": "nlp/trec/test.txt", "validation_share": 0.1},
            },
        },
        "sst2": {
            "task": {"kind": "classify", "table": "nlp/sst2/train.txt", "text": "text", "label": "label"},
            "prepare": {
                "reader": {"kind": "lines", "columns": ["label", "text"]},
                "split": {"kind": "given", "validation": "nlp/sst2/dev.txt", "test": "nlp/sst2/test.txt"},
            },
        },
    }
    own: Block = {"tasks": parts} if name == "both" else parts[name]
    return (
        {**classifier("all", [], 1, seed), **own, "name": name, "train": training(4, learning_rate, techniques)}
        | ({} if name != "both" else {"task": None})
        | changes
    )


def forgetting() -> list[Cell]:
    """Trec after banking77: what is left of banking77."""
    ways: dict[str, list[list[Block]]] = {  # the first draw, then other strengths, chosen between on validation
        "plain": [[{"kind": "full"}]],
        "ewc": [[{"kind": "ewc", "strength": strength}] for strength in (1e4, 1e3, 1e5)],
        "replay": [[{"kind": "replay", "share": 0.1}]],
        "ewc+replay": [[{"kind": "ewc", "strength": 1e3}, {"kind": "replay", "share": 0.1}]],
    }
    found = []
    for way, choices in ways.items():
        for n, techniques in enumerate(choices):
            for seed in SEEDS:
                which = f" {techniques[0]['strength']:g}" if way == "ewc" else ""

                def make(results: Results, techniques: list[Block] = techniques, seed: int = seed) -> Block | None:
                    run = results.get(FORMER, {}).get("run")
                    if not run:
                        return None
                    base = {"kind": "folder", "path": f"exported/{run}"}
                    return sentences("trec", 1e-4, techniques, seed, base=base, former=run)

                found.append(
                    Cell(f"trec after banking77/{way}{which}/seed {seed}", 22 + 10 * n + 70 * seed, True, make)
                )
    return found


FORMER = "banking77/all/full/seed 0"


def together() -> list[Cell]:
    """Trec and sst2 in one model, and apart."""
    found = []
    for name in ("trec", "sst2", "both"):
        for seed in SEEDS:
            made = sentences(name, 1e-4, [{"kind": "full"}], seed)
            found.append(Cell(f"together/{name}/seed {seed}", 23 + 70 * seed, True, lambda results, made=made: made))
    return found


def distilled() -> list[Cell]:
    """Three of MiniLM's six layers, taught by all six or by the labels alone."""
    found = []
    for way, share, hidden in (
        ("labels alone", 0.0, 0.0),
        ("taught", 0.9, 0.0),
        ("taught, hidden states too", 0.9, 1.0),
    ):
        for seed in SEEDS:

            def make(results: Results, share: float = share, hidden: float = hidden, seed: int = seed) -> Block | None:
                run = results.get(FORMER, {}).get("run")
                if not run:
                    return None
                block: Block = {"kind": "distil", "teacher": f"exported/{run}", "layers": [1, 3, 5], "share": share}
                block |= {"hidden": hidden, "temperature": 2}
                return classifier("all", [block], 3e-4, seed)

            found.append(Cell(f"distil/{way}/seed {seed}", 24 + 70 * seed, True, make))
    return found


def prompted() -> list[Cell]:
    """Six classes of questions written by a small decoder: prompt tuning beside LoRA, and preferences after LoRA."""
    found = []
    for name, block, rate in (
        ("prompt_tuning", {"kind": "prompt_tuning", "tokens": 20}, 3e-2),
        ("lora", {"kind": "lora", "rank": 8}, 5e-4),
    ):
        for seed in SEEDS:
            made = writer([block], rate, seed)
            found.append(Cell(f"smollm2/{name}/seed {seed}", 25 + 70 * seed, True, lambda results, made=made: made))
    for seed in SEEDS:

        def preferred(results: Results, seed: int = seed) -> Block | None:
            run = results.get("smollm2/lora/seed 0", {}).get("run")
            if not run:
                return None
            task = {"kind": "generate", "table": f"pairs-{run}.jsonl", "rejected_column": "rejected"}
            task |= {"prompt_column": "prompt", "completion_column": "chosen"}
            base = {"kind": "folder", "path": f"exported/{run}"}
            split = {"kind": "given", "validation": "trec-validation-pairs.jsonl", "test": "trec-test-pairs.jsonl"}
            made = writer([{"kind": "dpo"}, {"kind": "lora", "rank": 8}], 1e-4, seed)
            return made | {"task": task, "base": base, "prepare": {"split": split, "steps": []}, "name": "preferred"}

        found.append(Cell(f"smollm2/dpo after lora/seed {seed}", 26 + 70 * seed, True, preferred))
    return found


def writer(techniques: list[Block], learning_rate: float, seed: int) -> Block:
    """A recipe for questions with their kind in words."""
    split = {"kind": "given", "validation": "trec-validation.jsonl", "test": "trec-test.jsonl"}
    train = training(3, learning_rate, techniques, "exact_match") | {"batch_size": 16, "tokens_per_batch": 1024}
    return {
        "version": 1,
        "name": "kinds",
        "seed": seed,
        "task": {"kind": "generate", "table": "trec-train.jsonl"},
        "base": {"kind": "package", "name": "smollm2-135m"},
        "prepare": {"split": split, "steps": []},
        "encode": {"max_length": 96},
        "train": train,
        "predict": {"engine": {"kind": "torch", "batch_size": 64, "max_new_tokens": 6}},
        "score": {"metrics": [{"kind": "exact_match"}], "baselines": [], "latency_samples": 0},
    }


KINDS = dict(
    zip("012345", ("description", "entity", "abbreviation", "person", "place", "number"), strict=True)
)  # the six classes of nlp/trec in its order


def make_tables() -> None:
    """The parts of the data that are used, drawn once from a fixed seed, beside the store."""
    data = Path(os.environ["LUTHIER_DATA"]) / "nlp"
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "nlp").unlink(missing_ok=True)
    (WORK / "nlp").symlink_to(data)
    if (WORK / "banking-test.csv").exists():
        return
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    draw, of_label = random.Random(77), {}
    for row in rows:
        of_label.setdefault(row["category"], []).append(row)
    few, validation, rest = [], [], []
    for label in sorted(of_label):
        draw.shuffle(of_label[label])
        few += of_label[label][:10]
        validation += of_label[label][10:20]
        rest += of_label[label][20:]
    for name, part in (("few", few), ("validation", validation), ("all", [*few, *rest])):
        with (WORK / f"banking-{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writing = csv.DictWriter(file, ["text", "category"])
            writing.writeheader()
            writing.writerows(part)
    questions: dict[str, list[tuple[str, str]]] = {}
    for part in ("train", "test"):
        lines = (data / "trec" / f"{part}.txt").read_text(encoding="cp1252").split("\n")
        questions[part] = [tuple(line.split(" ", 1)) for line in lines if line]  # type: ignore[misc]
    draw.shuffle(questions["train"])
    parts = {"train": questions["train"][:600], "validation": questions["train"][600:800], "test": questions["test"]}
    for name, pairs in parts.items():
        for suffix, key in (("", "completion"), ("-pairs", "chosen")):
            with (WORK / f"trec-{name}{suffix}.jsonl").open("w", encoding="utf-8") as file:
                for label, text in pairs:
                    wrong = next(kind for kind in KINDS.values() if kind != KINDS[label])
                    record = {"prompt": f"Question: {text}\nIts answer is a", key: f" {KINDS[label]}"}
                    file.write(json.dumps(record | ({"rejected": f" {wrong}"} if suffix else {})) + "\n")
    (WORK / "banking-test.csv").write_bytes((data / "banking77" / "test.csv").read_bytes())


def run_cell(cell: Cell, results: Results) -> Block:
    """One cell in this process: its figures."""
    from luthier import flow, recipe_file
    from luthier.facts import TrainedFacts

    made = cell.make(results)
    assert made is not None
    text = json.dumps({key: value for key, value in made.items() if value is not None}, indent=1)
    opened = recipe_file.loads(text, folder=WORK)
    store = flow.store_for(opened)
    prerequisites(made, store)
    found: Block = {"learning_rate": made["train"]["learning_rate"], "techniques": made["train"]["techniques"]}
    if cell.tests:
        done = flow.run(opened, store)
        model = done.artifacts["model"]
        scores = {each.facts.name: each.facts.scores for each in (done, *done.together)}
        figures = {name: s.systems["tuned"].metrics[s.main].model_dump(mode="json") for name, s in scores.items()}
        found |= {"run": done.name, "test": next(iter(figures.values())), "tests": figures}
        if done.facts.forgotten:
            found["forgotten"] = done.facts.forgotten.metrics[0].model_dump(mode="json")
    else:
        opened = flow.settled(opened, store)
        base = flow.base_model(opened.recipe.base, opened, store)
        model = flow.trained(opened, store, flow.ready(opened, store, base).encoded, base)
    trained = TrainedFacts(**model.facts)
    return found | {
        "validation": trained.best["value"] if trained.best else None,
        "seconds": round(model.timings().get("fit", 0.0), 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "reused": model.reused,
        "trainable_parameters": trained.trainable_parameters,
        "parameters": trained.parameters,
        "precision": trained.precision,
        "machine": model.manifest["made_with"]["machine"]["processor"],
        "threads": model.manifest["made_with"]["machine"]["threads"],
    }


def prerequisites(made: Block, store: Any) -> None:
    """What a recipe builds on: an exported run, and pairs of right answers with a model's own wrong ones."""
    from luthier import runs

    named = [made["base"].get("path", ""), *(block.get("teacher", "") for block in made["train"]["techniques"])]
    for path in filter(None, named):
        if not (WORK / path).exists():
            (WORK / path).parent.mkdir(exist_ok=True)
            runs.export(store, Path(path).name, "hf", "float32", WORK / path)
    table = made.get("task", {}) and made["task"].get("table", "")
    if table and table.startswith("pairs-") and not (WORK / table).exists():
        name = table.removeprefix("pairs-").removesuffix(".jsonl")
        command = [
            sys.executable,
            "-m",
            "luthier.cli",
            "pairs",
            name,
            "--out",
            str(WORK / table),
            "--store",
            str(store.root),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)


def read() -> Results:
    """What was run."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write(results: Results) -> None:
    """At once, so that nothing is half written."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    new = RESULTS.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(new, RESULTS)


def main() -> None:
    """Run cells, or say what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--only", default="", help="beginning of the names of the cells to run")
    parser.add_argument("--cell", default="", help="run this one in this process and print its figures")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    results, everything = read(), cells()
    if options.cell:
        print(json.dumps(run_cell(next(cell for cell in everything if cell.name == options.cell), results)))
        return
    if options.list:
        for cell in everything:
            print("done " if cell.name in results else "     ", cell.name)
        return
    if options.page:
        import techniques_page

        techniques_page.write(results, [cell.name for cell in everything])
        return
    if not os.environ.get("LUTHIER_DATA"):
        print("skipped: set LUTHIER_DATA to the folder that holds the data")
        return
    if not options.minutes:
        print("skipped: say for how long with --minutes")
        return
    make_tables()
    end = time.monotonic() + 60 * options.minutes
    failed: set[str] = set()
    while time.monotonic() < end:
        results = read()
        waiting = [c for c in everything if c.name not in results and c.name not in failed]
        waiting = [cell for cell in waiting if cell.name.startswith(options.only)]
        cell = next((cell for cell in waiting if cell.make(results) is not None), None)
        if cell is None:
            break
        command = [sys.executable, __file__, "--cell", cell.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.add(cell.name)
            print(f"FAILED {cell.name}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        write(read() | {cell.name: found})
        figure = found.get("test", {}).get("estimate", found["validation"])
        print(f"{cell.name}: {figure:.3f} in {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
