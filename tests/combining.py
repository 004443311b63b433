"""What becomes of each pair of techniques on a tiny model of each architecture: it trains, or is refused with a reason.

python tests/combining.py        writes tests/combinations.json anew, of which docs/techniques.md is made
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import tiny

from luthier import flow, runs
from luthier.choice import members
from luthier.errors import Problems, UserError
from luthier.recipe_file import RecipeFile, loads
from luthier.store import Store

TABLE = Path(__file__).parent / "combinations.json"
ARCHITECTURES = {"encoder": "bert", "decoder": "llama", "encoder-decoder": "t5"}
SETTINGS: dict[str, dict[str, Any]] = {
    "discriminative": {},
    "distil": {"teacher": "teacher-{shape}", "share": 0.5},
    "dpo": {},
    "ewc": {"strength": 10.0, "rows": 4},
    "freeze": {"layers": 0},
    "full": {},
    "gradual": {},
    "lora": {"rank": 2},
    "peft": {"tuner": "ia3"},
    "prefix": {"tokens": 2},
    "private": {"noise": 1.0, "delta": 0.01},
    "prompt_tuning": {"tokens": 2},
    "quantized_base": {},
    "replay": {"share": 0.5},
}
ROWS = 20


def pairs() -> list[tuple[str, str]]:
    """Every two techniques, by name."""
    return list(combinations(sorted(members("techniques")), 2))


def build(folder: Path) -> None:
    """Tables, and for each architecture a model that was trained once: the base, and a teacher."""
    labelled = "".join(f"no {n} {'abc'[n % 3] * 3},{'xyz'[n % 3]}\n" for n in range(ROWS))
    (folder / "rows.csv").write_text(f"text,label\n{labelled}")
    lines = [
        {"prompt": f"{n} {'abc'[n % 3]} =", "completion": "xyz"[n % 3], "worse": "yzx"[n % 3]} for n in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for architecture, shape in ARCHITECTURES.items():
        tiny.build(folder / shape, shape)
        for name in ("former", "teacher"):
            opened = loads(json.dumps(recipe(architecture, [], f"{name}-{shape}", base=shape)), folder=folder)
            store = flow.store_for(opened)
            runs.export(store, flow.run(opened, store).name, "hf", "float32", folder / f"{name}-{shape}")


def recipe(architecture: str, kinds: list[str], name: str, base: str = "") -> dict[str, Any]:
    """A training of a few steps."""
    shape = ARCHITECTURES[architecture]
    task: dict[str, Any] = {"kind": "classify", "table": "rows.csv", "text": "text", "label": "label"}
    if architecture != "encoder":
        task = {"kind": "generate", "table": "rows.jsonl"} | ({"rejected_column": "worse"} if "dpo" in kinds else {})
    blocks = [{"kind": kind, **SETTINGS[kind]} for kind in kinds]
    for block in blocks:
        if "teacher" in block:
            block["teacher"] = block["teacher"].format(shape=shape)
    former = {"former": f"former-{shape}"} if {"ewc", "replay"} & {*kinds} else {}
    return {
        "version": 1,
        "name": name,
        "seed": 1,
        "device": "cpu",
        "task": task,
        "base": {"kind": "folder", "path": base or f"former-{shape}"},
        **former,
        "prepare": {"split": {"kind": "random", "validation": 4, "test": 4}},
        "encode": {"max_length": 32},
        "train": {
            "epochs": 1,
            "learning_rate": 1e-2,
            "batch_size": 4,
            "precision": "float32",
            **({"techniques": blocks} if blocks else {}),
        },
        "predict": {"engine": {"kind": "torch", "max_new_tokens": 4}},
        "score": {"latency_samples": 0, "baselines": []},
    }


def outcome(folder: Path, architecture: str, kinds: tuple[str, ...]) -> str:
    """`trains`, or the reason why it is refused; AssertionError where it neither trains nor is refused."""
    try:
        opened = loads(json.dumps(recipe(architecture, list(kinds), "pair")), folder=folder)
        return trained(opened)
    except Problems as problems:
        return reason(problems.problems[0], folder)
    except UserError as problem:
        return reason(problem, folder)


def trained(opened: RecipeFile) -> str:
    """A training as `luthier run` does it, up to the model: finite losses, and something moved."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "store")
        opened = flow.settled(opened, store)
        base = flow.base_model(opened.recipe.base, opened, store)
        former = flow.former_run(opened, flow.store_for(opened), base) if opened.recipe.former else None
        model = flow.trained(opened, store, flow.ready(opened, store, base).encoded, base, former=former)
        history = [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
        norms = [entry["grad_norm"] for entry in history if "grad_norm" in entry]
        assert norms, "no step was taken"
        assert all(map(math.isfinite, norms)), "a gradient is not finite"
        assert max(norms) > 0, "nothing has a gradient"
    return "trains"


def reason(problem: UserError, folder: Path) -> str:
    """The sentence, without the place of this machine."""
    return problem.what.replace(f"{folder}/", "").replace(str(folder), "")


def main() -> None:
    """Try every pair and write the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build(folder)
        found = {}
        for pair in pairs():
            found["+".join(pair)] = {kind: outcome(folder, kind, pair) for kind in ARCHITECTURES}
            print("+".join(pair), found["+".join(pair)], file=sys.stderr, flush=True)
    TABLE.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
