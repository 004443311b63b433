"""Hint: other sources answer every example, and what they say is shown to the model; how often they are right is counted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from luthier import seams
from luthier.baselines import Baseline
from luthier.choice import Settings
from luthier.facts import Figure, HintFacts, PreparedFacts
from luthier.hints import fitted, hinted, out_of_fold, write
from luthier.metrics import Metric
from luthier.resample import estimate
from luthier.seams import Answered, Example, Text, prediction
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task

FOLDS = 5  # parts of the training split, of which each is hinted by sources that learned from the others


class Hint(Settings):
    """What decides the hints."""

    sources: list[Baseline]
    task: Task
    """Its form alone."""
    seed: int


@stage(version=1)
def hint(config: Hint, out: Out, examples: Artifact) -> dict[str, Any]:
    """The same files as prepare's, with hints in the input of each Example, and `hints.json`: the sources as they learned
    from the whole training split, which is how they answer later."""
    task, sources, seed = config.task, config.sources, config.seed
    train = list(seams.read(examples.path / "train", Example))
    with out.timed("hint"):
        learned = fitted(sources, train, task)
        shown = {"train": list(out_of_fold(train, sources, task, FOLDS, seed))}
        for split in ("validation", "test"):
            shown[split] = list(hinted(seams.read(examples.path / split, Example), learned, task))
    for split, found in shown.items():
        seams.write(out.folder / split, found)
    write(out.folder, learned)
    shutil.copyfile(examples.path / "quarantine.jsonl", out.folder / "quarantine.jsonl")
    hints = [
        HintFacts(
            source=name,
            in_folds=right(shown["train"], name, task, seed),
            on_validation=right(shown["validation"], name, task, seed),
        )
        for name in task.hints_of(shown["train"][0])
    ]
    for each in hints:
        on = each.on_validation
        out.say(
            f"hints of {each.source}: right in {each.in_folds.estimate:.3f} of {each.in_folds.n:,} training examples (out of "
            f"fold)" + (f" and {on.estimate:.3f} of {on.n:,} of validation" if on.estimate is not None else "")
        )
    return PreparedFacts(**examples.facts | {"hints": hints}).model_dump(mode="json")


def right(examples: Sequence[Example], source: str, task: Task, seed: int) -> Figure:
    """How often the hints of a source are the target, as `exact_match` has it, with its interval by entity."""
    metric = Metric.pick("exact_match")
    said = [prediction(e, Answered(Text(task.hints_of(e)[source]))) for e in examples if e.target is not None]
    found = estimate(metric, said, {example.id: example for example in examples}, seed)
    value = found.estimate if found.n else None
    return Figure(estimate=value, interval=found.interval, n=found.n, entities=found.entities, unit=metric.unit)
