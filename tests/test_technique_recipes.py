"""The example recipe of each technique runs, with a tiny model of each architecture in its base's place, or is refused."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny

from luthier import flow, runs
from luthier.choice import members
from luthier.errors import UserError
from luthier.recipe_file import DATA_VARIABLE, load
from luthier.runs import Run

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "techniques").glob("*.yaml"))
SHAPES = {"encoder": "bert", "decoder": "llama", "encoder-decoder": "t5"}
ROWS = 100  # of each table; the recipes' own splits are made smaller with it
QUICK = [
    "device=cpu",
    "train.precision=float32",
    "train.epochs=0.5",
    "train.batch_size=8",
    "train.evaluate_every=0.5",
    "predict.engine.max_new_tokens=4",
    "score.latency_samples=0",
    "score.baselines=[majority]",
    "gate.checks=[]",
    "encode.max_length=400",
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WRITES = "is an encoder, which cannot write text"
REFUSED: dict[tuple[str, str], str] = {}  # (recipe, architecture) -> why, where it is not that an encoder cannot write


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, examples cut short, and stand-ins for the public tables, in their own form."""
    root = tmp_path_factory.mktemp("techniques")
    for shape in SHAPES.values():
        tiny.build(root / shape, shape)
    (root / "examples").mkdir()
    for table in (ROOT / "examples").iterdir():
        if table.suffix in (".csv", ".jsonl"):
            with table.open(encoding="utf-8") as file:
                (root / "examples" / table.name).write_text("".join(islice(file, ROWS + 1)), encoding="utf-8")
    lines = [f"{n % 3} what is {n} {'abc'[n % 3] * 4} ?" for n in range(ROWS)]
    cells = [f"when does my card {n} {'abc'[n % 3] * 4} arrive,{('card', 'cash', 'fee')[n % 3]}" for n in range(ROWS)]
    for folder in ("trec", "sst2", "banking77"):
        (root / "data" / "nlp" / folder).mkdir(parents=True)
    for name, few in (("train", slice(0, 60)), ("dev", slice(60, 80)), ("test", slice(80, ROWS))):
        for folder in ("trec", "sst2"):
            text = "\n".join([*lines[few], ""])
            (root / "data" / "nlp" / folder / f"{name}.txt").write_text(text.replace("what", folder))
        (root / "data" / "nlp" / "banking77" / f"{name}.csv").write_text("\n".join(["text,category", *cells[few], ""]))
    return root


def run(place: Path, recipe: Path, shape: str, folder: Path, *changes: str) -> Run:
    """A recipe's run with a tiny base, shortened."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / recipe.name
    file.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    text = json.loads(json.dumps(load(file).recipe.model_dump(mode="json")))
    more = list(QUICK)
    if text["base"]["kind"] == "package":
        more.append(f"base={{kind: folder, path: {place / shape}}}")
    if text["task"]["table"].endswith("chats.jsonl"):
        more.append(f"task.chat_template={json.dumps(TEMPLATE)}")  # tiny bases have none of their own
    split = text["prepare"]["split"]
    if split["kind"] != "given":
        more += ["prepare.hold_out={}", "prepare.split.validation=0.2", "prepare.split.test=0.2"]
    opened = load(file, [*more, *changes])
    return flow.run(opened, flow.store_for(opened))


def test_every_technique_has_a_page_and_a_recipe_that_names_it() -> None:
    for kind in members("techniques"):
        assert (ROOT / "docs" / "techniques" / f"{kind}.md").is_file(), kind
        recipe = load(ROOT / "recipes" / "techniques" / f"{kind}.yaml").recipe
        assert kind in [technique.kind for technique in recipe.train.techniques]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
def test_the_recipe_of_a_technique_runs_or_is_refused_with_the_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path, architecture: str
) -> None:
    monkeypatch.setitem(os.environ, DATA_VARIABLE, str(place / "data"))
    shape = SHAPES[architecture]
    folder = place / "recipes" / f"of {architecture}"
    if "exported/trec" in recipe.read_text(encoding="utf-8") and not (folder / "exported" / "trec").exists():
        before = run(place, ROOT / "recipes" / "trec.yaml", shape, folder)  # as the recipe's first lines say
        store = flow.store_for(load(folder / "trec.yaml"))
        runs.export(store, before.name, "hf", "float32", folder / "exported" / "trec")
    writes = load(recipe).recipe.task.kind != "classify"
    why = REFUSED.get((recipe.stem, architecture), WRITES if writes and architecture == "encoder" else "")
    if why:
        with pytest.raises(UserError) as refused:
            run(place, recipe, shape, folder)
        assert why in str(refused.value)
        return
    done = run(place, recipe, shape, folder)
    losses = [entry["loss"] for entry in done.facts.history if entry.get("loss") is not None]
    assert all(loss == loss for loss in losses)
    assert done.facts.scores.systems["tuned"].metrics[done.facts.scores.main].n >= 20
    told: list[dict[str, Any]] = done.facts.trained.techniques
    assert recipe.stem in [block["kind"] for block in told]
