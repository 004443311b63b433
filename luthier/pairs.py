"""Pairs: the right answer beside a model's own wrong one, for each training row that it gets wrong; what dpo learns from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from luthier import seams
from luthier.durable import check_writable, unique_beside
from luthier.engines import Computing
from luthier.errors import UserError
from luthier.form import Form
from luthier.runs import adapted, base_for, evidence, find, recipe_of, settled
from luthier.seams import Example, Prediction
from luthier.stages.predict import Predict, predict
from luthier.store import Store
from luthier.tables import refuse_existing


def write_pairs(store: Store, name: str, target: Path, base: Path | None = None) -> dict[str, Any]:
    """A table of JSON lines with `prompt`, `chosen`, `rejected` and `id`, to be learned from with
    `{kind: generate, completion_column: chosen, rejected_column: rejected}`.

    The run's model answers its own training rows, and no others. What its main metric calls right is left out, and so are
    answers that were cut off, which the model did not end, and empty ones. `base` is the base's folder, where it was moved.
    Returns how many of each there were.
    """
    entry = find(store, name)
    refuse_existing(target)
    check_writable(target.parent, "write the pairs somewhere else")
    recipe = settled(recipe_of(store, entry), store).recipe
    examples, model = (evidence(store, entry, role) for role in ("examples", "model"))
    form = Form.read(model.path / "model")
    if not form.head().writes:
        raise UserError(
            "gives labels, and pairs are of written answers", where=entry["name"], hint="use a run that writes"
        )
    place = base_for(store, entry, base) if adapted(model) else None
    computing = Computing(engine=recipe.predict.engine, device=recipe.device, precision=recipe.train.precision)
    standing_on = store.take(place) if place is not None else model
    answered = store.do(
        predict, Predict(split="train", computing=computing), examples=examples, model=model, base=standing_on
    )
    metric = recipe.metrics()[0]
    counts = dict.fromkeys(("right", "cut", "empty", "pairs"), 0)
    lines = []
    asked = seams.read(examples.path / "train", Example)
    for example, said in zip(asked, seams.read(answered.path / "predictions", Prediction), strict=True):
        fate = fate_of(said, metric.wrong(said, example))
        counts[fate] += 1
        if fate == "pairs":
            row = {"id": example.id, "prompt": form.task.prompt(example), "chosen": str(said.target)}
            lines.append(json.dumps({**row, "rejected": str(said.output)}, ensure_ascii=False) + "\n")
    partial = unique_beside(target)
    try:
        partial.write_text("".join(lines), encoding="utf-8")
        os.rename(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return {"written": str(target), "rows": sum(counts.values()), **counts}


def fate_of(said: Prediction, wrong: bool) -> str:
    """What becomes of an answer: `right`, `cut`, `empty` or, where it is wrong and whole, `pairs`."""
    if not wrong:
        return "right"
    if said.cut:
        return "cut"
    return "pairs" if str(said.output).strip() else "empty"
