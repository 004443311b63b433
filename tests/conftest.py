"""What every test relies on: no model hub is asked, tokenizers start no threads; and runs whose pages are looked at."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.facts import Figure, Groups, LatencyFacts, MeasuredFacts, RunFacts, SystemScores
from luthier.seams import Verdict

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models: a second thread only waits, and two processes with two each stand still.
os.environ["OMP_NUM_THREADS"] = "1"

SUPPLIERS = """\
version: 1
name: suppliers
task: {kind: standardize, table: suppliers.csv, columns: {weight: weight_clean, unit: unit_clean}, context: [country]}
base: {kind: folder, path: llama}
prepare:
  split: {kind: grouped, by: owner, validation: 10, test: 60}
  slices: {country: country}
  hold_out: {country: [FI]}
encode: {max_length: 48}
train: {precision: float32, epochs: 1, learning_rate: 1e-2, batch_size: 2, stop: {metric: exact_match}}
predict: {engine: {kind: torch, max_new_tokens: 6}}
score: {metrics: [exact_match, edit_similarity], baselines: [identity, rules, majority]}
gate:
  checks:
    - {kind: better_than, baseline: identity}
    - {kind: floor, metric: exact_match, at_least: 1.0, where: {unseen: true}, confidence: estimate}
    - {kind: subgroup_floor, metric: exact_match, slice: country, at_least: 0.0, small_groups: block, confidence: estimate}
    - {kind: latency, at_most_ms: 60000, required: false}
"""

LETTERS = """\
version: 1
name: letters
task: {kind: classify, table: letters.csv, text: text, label: letter}
base: {kind: folder, path: bert}
prepare: {split: {kind: stratified, validation: 10, test: 30}}
encode: {max_length: 16}
train: {precision: float32, epochs: 1}
score: {metrics: [accuracy, f1], baselines: [majority], latency_samples: 0}
"""


@pytest.fixture
def quick_disk() -> Iterator[Path]:
    """A folder in memory where there is one: what makes and removes thousands of files need not wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def ran(text: str, folder: Path) -> RunFacts:
    """The facts of a run from beginning to end."""
    from luthier import flow
    from luthier.recipe_file import loads

    opened = loads(text, folder=folder)
    return flow.run(opened, flow.store_for(opened)).facts


def asked_by_card(folder: Path, base: Path, asked: str | list[dict[str, str]]) -> dict[str, Any]:
    """What the Python of a folder's model card leaves, with the folder, the base and what is asked put in."""
    found = re.search(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert found is not None
    code = found[1].replace('folder = "."', f"folder = {str(folder)!r}")
    code = re.sub(r'from_pretrained\("[^"]*"', lambda _: f"from_pretrained({str(base)!r}", code)
    code, n = re.subn(r'"a (?:prompt|text)"|\[\{"role".*?\}\]', lambda _: repr(asked), code)
    assert n == 1
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.fixture(scope="session")
def suppliers(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A run with everything: slices, values held out, a quarantined row, checks of every outcome, latency.

    The tiny model learns that units are `kg` and not to write weights, which the rules do.
    """
    import tiny

    folder = tmp_path_factory.mktemp("suppliers")
    tiny.build(folder / "llama", "llama")
    draw = random.Random(0)
    with (folder / "suppliers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["owner", "country", "weight", "unit", "weight_clean", "unit_clean"])
        for n in range(120):
            weight, unit = draw.randint(1, 999), draw.choice(["kg", "KG", "kilo"])
            messy = draw.choice([f"{weight:05d}", f" {weight}", f"{weight}.0"])
            clean = weight if n % 40 else ""
            writer.writerow(
                [f"o{n // 2}", ["DE", "FR", "IT", "ES", "FI"][n // 2 % 5], messy, f"{unit} {n}", clean, "kg"]
            )
        writer.writerow(["too", "many"] * 5)
    return ran(SUPPLIERS, folder)


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A classification without checks, slices and latency."""
    import tiny

    folder = tmp_path_factory.mktemp("letters")
    tiny.build(folder / "bert", "bert")
    rows = [(f"{'ab'[n % 2]} {n}", "AB"[n % 2]) for n in range(100)]
    with (folder / "letters.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "letter"), *rows])
    return ran(LETTERS, folder)


@pytest.fixture
def unmeasured(letters: RunFacts) -> RunFacts:
    """The same, with nothing measured that may stay so."""
    nothing = SystemScores(metrics={metric: share(None, n=0, entities=0) for metric in ("accuracy", "f1")})
    scores = {"systems": {"majority": nothing, "tuned": nothing}, "confusion": None}
    return letters.model_copy(
        update={
            "scores": letters.scores.model_copy(update=scores),
            "cases": letters.cases.model_copy(update={"errors": [], "worst": []}),
            "trained": letters.trained.model_copy(update={"best": None, "final_loss": None}),
            "history": [],
            "previews": [],
            "timings": {},
            "lineage": [],
        }
    )


def share(
    estimate: float | None, interval: tuple[float, float] | None = None, n: int = 260, entities: int = 52
) -> Figure:
    """A figure of a share."""
    return Figure(estimate=estimate, interval=interval, n=n, entities=entities, unit="share")


def both(exact_match: Figure, edit_similarity: Figure | None = None) -> dict[str, Figure]:
    """The figures of a system, or of a group."""
    return {"exact_match": exact_match, "edit_similarity": edit_similarity or exact_match}


# What the report and the card make of figures is compared word for word, so these are written out.
IDENTITY = SystemScores(metrics=both(share(0.2, (0.1559, 0.2528)), share(0.7, (0.6417, 0.7525))))
RULES = SystemScores(
    metrics=both(share(0.7115, (0.6537, 0.7632)), share(0.8808, (0.8357, 0.9147))),
    slices={
        "column": {
            "unit": both(share(0.7222, (0.5911, 0.8238), 54, 27)),
            "weight": both(share(0.9811, (0.9006, 0.9967), 53, 27)),
        },
        "country": {
            "DE": both(share(0.6522, (0.5077, 0.7732), 46, 23)),
            "FI": both(share(0.7143, (0.3589, 0.9178), 7, 2)),
            "FR": both(share(0.6842, (0.5254, 0.8092), 38, 19)),
        },
        "unseen": {
            "false": both(share(0.725, (0.6593, 0.7822), 200, 40)),
            "true": both(share(0.7167, (0.5923, 0.8149), 60, 12)),
        },
    },
)
TUNED = SystemScores(
    metrics=both(share(0.9346, (0.8978, 0.9588)), share(0.9577, (0.9261, 0.9762))),
    slices={
        "column": {
            "unit": both(share(0.9815, (0.9023, 0.9967), 54, 27)),
            "weight": both(share(0.8113, (0.6864, 0.8941), 53, 27)),
        },
        "country": {
            "DE": both(share(0.9348, (0.8247, 0.9776), 46, 23)),
            "FI": both(share(1.0, (0.6457, 1.0), 7, 2)),
            "FR": both(share(0.9474, (0.827, 0.9854), 38, 19)),
        },
        "unseen": {
            "false": both(share(0.965, (0.9295, 0.9829), 200, 40)),
            "true": both(share(0.8333, (0.7197, 0.9069), 60, 12)),
        },
    },
)
GROUPS = {name: len(groups) for name, groups in TUNED.slices.items()}
VERDICTS = [
    Verdict(
        check="exact_match above rules by 0.05",
        outcome="passed",
        estimate=0.2231,
        interval=(0.1712, 0.2898),
        n=260,
        required=True,
        threshold=0.05,
        unit="share",
        evidence=["predict-77e1b2c3d4f5", "baseline-12c9ee01fa36"],
    ),
    Verdict(
        check="exact_match >= 0.9 where unseen=true",
        outcome="failed",
        estimate=0.8333,
        interval=(0.7197, 0.9069),
        n=60,
        required=True,
        threshold=0.9,
        unit="share",
        evidence=["predict-77e1b2c3d4f5"],
        entities=12,
    ),
    Verdict(
        check="exact_match >= 0.8 in every country",
        outcome="not enough data",
        estimate=None,
        interval=None,
        n=260,
        required=True,
        threshold=0.8,
        unit="share",
        evidence=["predict-77e1b2c3d4f5"],
        note="fewer than 10 entities: CH (9), SE (7), PT (6), FI (2)",
    ),
    Verdict(
        check="p95 latency <= 900 ms",
        outcome="passed",
        estimate=742.318,
        interval=(742.318, 811.4),
        n=100,
        required=False,
        threshold=900,
        unit="ms",
        evidence=["measure-c4d2f00a9b18"],
    ),
]


@pytest.fixture
def judged(suppliers: RunFacts) -> RunFacts:
    """The run of the suppliers with its figures, checks and latency written out."""
    scores = {
        "order": ["identity", "rules", "tuned"],
        "systems": {"identity": IDENTITY, "rules": RULES, "tuned": TUNED},
        "groups": {name: Groups(n=n, judged=n - (name == "country")) for name, n in GROUPS.items()},
    }
    latency = LatencyFacts(samples=[610.9] * 60 + [742.318] * 37 + [811.4] * 3)
    return suppliers.model_copy(
        update={
            "scores": suppliers.scores.model_copy(update=scores),
            "verdicts": VERDICTS,
            "measured": MeasuredFacts(latency_ms=latency, machine="AMD EPYC 7B13", threads=2),
        }
    )


def with_groups(facts: RunFacts, name: str, groups: Mapping[str, Mapping[str, Figure]], n: int = 0) -> RunFacts:
    """The facts with these groups of a slice, out of so many, or of as many as they are."""
    judged = sum(figures["exact_match"].entities >= facts.scores.fewest_entities for figures in groups.values())
    counts = Groups(n=n or len(groups), judged=judged)
    return changed(changed(facts, f"scores.systems.tuned.slices.{name}", groups), f"scores.groups.{name}", counts)


def changed(facts: Any, path: str, value: Any) -> Any:
    """The facts with another value at a path such as `scores.systems.tuned` or `verdicts.0.note`."""
    name, _, rest = path.partition(".")
    if isinstance(facts, list):
        place = int(name)
        return [*facts[:place], changed(facts[place], rest, value) if rest else value, *facts[place + 1 :]]
    if isinstance(facts, dict):
        return {**facts, name: changed(facts[name], rest, value) if rest else value}
    new = {name: changed(getattr(facts, name), rest, value) if rest else value}
    return dataclasses.replace(facts, **new) if isinstance(facts, Verdict) else facts.model_copy(update=new)
