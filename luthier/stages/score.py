"""Score: every metric for the model and each rival, over all rows and by slice, with intervals; no model is touched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier import seams
from luthier.choice import Settings
from luthier.facts import Cases, Confusion, ErrorPattern, Figure, Figures, Groups, Scores, SystemScores, WorstCase
from luthier.metrics import Metric
from luthier.resample import entities, estimate, totals, value
from luthier.seams import Example, Label, Prediction
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task

TUNED = "tuned"
CONFUSED = 50  # labels of the largest confusion matrix
GROUPS = 20  # values of a slice that are all scored; of more, the worst
WORST = 10  # groups of a slice with more


class Score(Settings):
    """What is measured."""

    task: Task
    """Its form alone, to show examples by."""
    metrics: list[Metric]
    split: Literal["train", "validation", "test"]
    worst: int
    seed: int


@stage(version=3)
def score(config: Score, out: Out, examples: Artifact, tuned: Artifact, **rivals: Artifact) -> dict[str, Any]:
    """File `scores.json` (figures) and `cases.json` (error patterns and worst cases, with row text)."""
    asked = {example.id: example for example in seams.read(examples.path / config.split, Example)}
    systems = {name: list(seams.read(a.path / "predictions", Prediction)) for name, a in rivals.items()}
    systems[TUNED] = best = list(seams.read(tuned.path / "predictions", Prediction))
    main = config.metrics[0]
    shown, groups = {}, {}
    for name in sorted({name for prediction in best for name in prediction.slices}):
        shown[name], groups[name] = chosen(main, grouped(best, name), asked)
    scores = Scores(
        main=main.kind,
        order=list(systems),
        higher_is_better={metric.kind: metric.higher_is_better for metric in config.metrics},
        fewest_entities=main.fewest_entities,
        groups=groups,
        systems={name: scored(config, rows, shown, asked) for name, rows in systems.items()},
        confusion=confusion(best),
    )
    (out.folder / "scores.json").write_text(scores.model_dump_json(indent=1), encoding="utf-8")
    errors = [prediction for prediction in best if main.wrong(prediction, asked[prediction.id])]
    cases = Cases(errors=patterns(errors), worst=worst(errors, asked, config))
    (out.folder / "cases.json").write_text(cases.model_dump_json(indent=1), encoding="utf-8")
    return scores.model_dump(mode="json", include={"main", "order"}) | {
        "systems": {name: system.model_dump(mode="json")["metrics"] for name, system in scores.systems.items()}
    }


def scored(
    config: Score, predictions: Sequence[Prediction], shown: Mapping[str, Sequence[str]], asked: Mapping[str, Example]
) -> SystemScores:
    """The figures of all rows, and of the groups shown of each slice, as far as they were answered."""
    slices = {}
    for name, groups in shown.items():
        parts = grouped(predictions, name)
        slices[name] = {group: figures(config, parts[group], asked) for group in groups if group in parts}
    return SystemScores(metrics=figures(config, predictions, asked), slices=slices)


def figures(config: Score, predictions: Sequence[Prediction], asked: Mapping[str, Example]) -> Figures:
    """Each metric with estimate, interval, n and details."""
    found = {}
    for metric in config.metrics:
        result = estimate(metric, predictions, asked, config.seed)
        found[metric.kind] = Figure(
            estimate=None if result.estimate != result.estimate else result.estimate,
            interval=result.interval,
            n=result.n,
            entities=result.entities,
            unit=metric.unit,
            details=metric.details(totals(metric, predictions, asked)),
        )
    return found


def grouped(predictions: Sequence[Prediction], name: str) -> dict[str, list[Prediction]]:
    """Predictions by their value of a slice, values in order."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.slices.get(name, ""), []).append(prediction)
    return dict(sorted(groups.items()))


def chosen(
    metric: Metric, groups: Mapping[str, Sequence[Prediction]], asked: Mapping[str, Example]
) -> tuple[list[str], Groups]:
    """The groups to score, and how many there are: all of a few; of many the worst of those that can be judged."""
    large = {name: rows for name, rows in groups.items() if entities(rows) >= metric.fewest_entities}
    counts = Groups(n=len(groups), judged=len(large))
    if len(groups) <= GROUPS:
        return list(groups), counts
    values = {name: value(metric, rows, asked) for name, rows in large.items()}
    sign = 1 if metric.higher_is_better else -1
    defined = [name for name in values if not math.isnan(values[name])]
    return sorted(defined, key=lambda name: (sign * values[name], name))[:WORST], counts


def confusion(predictions: Sequence[Prediction]) -> Confusion | None:
    """Counts by truth (rows) and answer (columns), where answers are labels and not too many."""
    pairs = [(str(p.target), str(p.output)) for p in predictions if isinstance(p.output, Label)]
    labels = sorted({label for pair in pairs for label in pair})
    if not pairs or len(labels) > CONFUSED:
        return None
    place = {label: index for index, label in enumerate(labels)}
    matrix = [[0] * len(labels) for _ in labels]
    for target, output in pairs:
        matrix[place[target]][place[output]] += 1
    return Confusion(labels=labels, matrix=matrix)


def patterns(errors: Sequence[Prediction]) -> list[ErrorPattern]:
    """The commonest ways of being wrong."""
    found = ((prediction.slices.get("column"), difference(prediction)) for prediction in errors)
    counts = Counter(f"{column}: {words}" if column is not None else words for column, words in found)
    return [ErrorPattern(pattern=pattern, n=n) for pattern, n in counts.most_common(10)]


def difference(prediction: Prediction) -> str:
    """How an answer differs from the truth, in words."""
    got, wanted = str(prediction.output), str(prediction.target)
    if prediction.output.kind != "text":
        return f"another {prediction.output.kind.removesuffix('s')}"
    if not got:
        return "nothing was written"
    if got.casefold() == wanted.casefold():
        return "upper and lower case differ"
    if "".join(got.split()) == "".join(wanted.split()):
        return "spaces differ"
    if sorted(got) == sorted(wanted):
        return "characters in another order"
    letters = ["".join(c for c in text if c.isalpha()) for text in (got, wanted)]
    digits = ["".join(c for c in text if c.isdigit()) for text in (got, wanted)]
    if letters[0] == letters[1] and digits[0] != digits[1]:
        return "digits differ" if len(digits[0]) == len(digits[1]) else "number of digits differs"
    if digits[0] == digits[1] and letters[0] != letters[1]:
        return "letters differ"
    if digits[0] == digits[1] and letters[0] == letters[1]:
        return "punctuation differs"
    return "letters and digits differ"


def worst(errors: Sequence[Prediction], asked: Mapping[str, Example], config: Score) -> list[WorstCase]:
    """Wrong answers that the model was surest of."""
    return [
        WorstCase(
            id=p.id,
            input=config.task.readable(asked[p.id]),
            target=str(p.target),
            output=str(p.output),
            confidence=p.confidence,
            slices=p.slices,
        )
        for p in sorted(errors, key=lambda p: (-p.confidence, p.id))[: config.worst]
    ]
