"""Score: every metric for the model and each rival, over all rows and by slice, with intervals; no model is touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from luthier import seams
from luthier.choice import Settings
from luthier.metrics import Metric
from luthier.resample import estimate, label_set, totals
from luthier.seams import Example, Prediction
from luthier.store import Artifact, Out, stage

TUNED = "tuned"
CONFUSED = 50  # labels of the largest confusion matrix
GROUPS = 60  # values of a slice beyond which it is not broken down


class Score(Settings):
    """What is measured."""

    metrics: list[Metric]
    worst: int
    seed: int
    classes: bool
    """Whether outputs are labels, so that a confusion matrix makes sense."""


@stage(version=1)
def score(config: Score, out: Out, examples: Artifact, tuned: Artifact, **rivals: Artifact) -> dict[str, Any]:
    """File `scores.json` (figures) and `cases.json` (error patterns and worst cases, with row text)."""
    systems = {name: list(seams.read(a.path / "predictions", Prediction)) for name, a in rivals.items()}
    systems[TUNED] = list(seams.read(tuned.path / "predictions", Prediction))
    labels = label_set(*systems.values())
    scored = {
        name: {"metrics": figures(config, rows, labels), "slices": sliced(config, rows, labels)}
        for name, rows in systems.items()
    }
    best = systems[TUNED]
    scores = {
        "main": config.metrics[0].kind, "order": list(systems), "systems": scored,
        "confusion": confusion(best) if config.classes and len(label_set(best)) <= CONFUSED else None,
    }  # fmt: skip
    (out.folder / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False))
    inputs = {example.id: example for example in seams.read(examples.path / "test", Example)}
    cases = {"errors": patterns(best), "worst": worst(best, inputs, config.worst)}
    (out.folder / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False))
    return {
        "main": scores["main"], "order": scores["order"],
        "systems": {name: entry["metrics"] for name, entry in scored.items()},
    }  # fmt: skip


def figures(config: Score, predictions: Sequence[Prediction], labels: list[str]) -> dict[str, Any]:
    """Each metric with estimate, interval, n and details."""
    found = {}
    for metric in config.metrics:
        result = estimate(metric, predictions, labels, config.seed)
        details = metric.details(totals(metric, predictions, labels), labels)
        found[metric.kind] = {
            "estimate": None if result.estimate != result.estimate else result.estimate, "interval": result.interval,
            "n": result.n, "entities": result.entities, "unit": metric.unit, "details": details,
        }  # fmt: skip
    return found


def sliced(config: Score, predictions: Sequence[Prediction], labels: list[str]) -> dict[str, dict[str, Any]]:
    """The same figures for every value of every slice."""
    names = sorted({name for prediction in predictions for name in prediction.slices})
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        groups: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            groups.setdefault(prediction.slices.get(name, ""), []).append(prediction)
        if len(groups) <= GROUPS:
            found[name] = {value: figures(config, rows, labels) for value, rows in sorted(groups.items())}
    return found


def confusion(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Counts by truth (rows) and answer (columns)."""
    labels = label_set(predictions)
    place = {label: index for index, label in enumerate(labels)}
    matrix = [[0] * len(labels) for _ in labels]
    for prediction in predictions:
        matrix[place[str(prediction.target)]][place[prediction.output]] += 1
    return {"labels": labels, "matrix": matrix}


def patterns(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The commonest ways of being wrong."""
    wrong = [p for p in predictions if p.output != p.target]
    counts = Counter(f"{p.slices['column']}: {difference(p)}" if "column" in p.slices else difference(p) for p in wrong)
    return [{"pattern": pattern, "n": n} for pattern, n in counts.most_common(10)]


def difference(prediction: Prediction) -> str:
    """How an answer differs from the truth, in words."""
    got, wanted = prediction.output, str(prediction.target)
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


def worst(predictions: Sequence[Prediction], inputs: dict[str, Example], n: int) -> list[dict[str, Any]]:
    """Wrong answers that the model was surest of."""
    wrong = sorted((p for p in predictions if p.output != p.target), key=lambda p: (-p.confidence, p.id))[:n]
    return [
        {
            "id": p.id, "input": readable(inputs[p.id]), "target": p.target, "output": p.output,
            "confidence": p.confidence, "slices": p.slices,
        }
        for p in wrong
    ]  # fmt: skip


def readable(example: Example) -> str:
    """An input in one line."""
    if "fields" in example.input:
        fields = example.input["fields"]
        if "value" in fields and isinstance(fields.get("context"), dict):
            context = ", ".join(str(value) for value in fields["context"].values())
            return f"{fields['value']} ({', '.join(part for part in (fields['column'], context) if part)})"
        return "; ".join(f"{name}: {value}" for name, value in fields.items())
    if "messages" in example.input:
        return " / ".join(f"{m['role']}: {m['content']}" for m in example.input["messages"])
    return str(example.input["text"])
