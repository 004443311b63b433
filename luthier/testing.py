"""Conformance: what every member of a family promises, for our own tests and for those who write plugins.

`conforms` looks at the class; `behaves` runs a configured member on a small case of its own and looks at what it does.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.baselines import Baseline, Setting
from luthier.bases import Base
from luthier.checks import Check, Evidence, Former
from luthier.choice import Choice, families, find, members
from luthier.encoding import Reading
from luthier.engines import Engine, Request, Session
from luthier.metrics import Metric
from luthier.objectives import Objective
from luthier.optimizers import Optimizer
from luthier.preparers import Preparer
from luthier.readers import Quarantined, Reader, Row, Table
from luthier.schedules import Schedule
from luthier.seams import ANSWERS, Dropped, Example, Prediction, Verdict, line, question
from luthier.searchers import Searcher, Tried
from luthier.space import Dimension
from luthier.splits import Split, Unit
from luthier.tasks import Task
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    from luthier.model import Model
    from luthier.store import Artifact


@dataclass
class Case:
    """What a member is tried on; each family reads what it needs."""

    tables: dict[str, Table] = field(default_factory=dict)  # tasks
    path: Path | None = None  # readers: a file in their format; engines: a model folder
    n_records: int = 0  # readers: how many records the file holds
    task: Task | None = None  # objectives, baselines
    examples: Sequence[Example] = ()  # with targets and splits; objectives, baselines, preparers
    predictions: Sequence[Prediction] = ()  # of `examples`; metrics, checks: right ones
    wrong: Sequence[Prediction] = ()  # metrics, checks: wrong ones of the same examples
    model: Callable[[], Model] | None = None  # a fresh tiny model; techniques, objectives
    inputs: Mapping[str, Artifact] | Callable[[Model], Mapping[str, Artifact]] = field(
        default_factory=dict
    )  # techniques
    session: Callable[[], Session] | None = None  # baselines: the untuned base
    metrics: Mapping[str, Metric] = field(default_factory=dict)  # checks
    measurements: Mapping[str, Any] = field(default_factory=dict)  # checks


def conforms(family: str, name: str) -> type[Choice]:
    """Check the class of one member and return it; AssertionError says which promise is broken."""
    assert name in members(family), f"{name} is not a member of {family}"
    member = find(family, name)
    assert issubclass(member, families()[family]), f"{name} does not derive from {families()[family].__name__}"
    assert member.kind == name, f"{member.__name__}.kind is '{member.kind}', not '{name}'"
    about = (inspect.getdoc(member) or "").strip()
    assert about, f"{name} has no docstring"
    assert about.split("\n")[0].endswith("."), f"the docstring of {name} begins with a sentence"
    module = inspect.getdoc(inspect.getmodule(member)) or ""
    assert module, f"the module of {name} has no docstring"
    for setting, settings in member.model_fields.items():
        assert settings.description, f"{name}.{setting} does not say what it is"
    schema = member.model_json_schema()
    assert schema["additionalProperties"] is False, f"{name} accepts keys that nothing reads"
    return member


def behaves(member: Choice, case: Case) -> None:
    """Run a member's verbs on its case; AssertionError says which promise is broken."""
    assert type(member).pick(member.model_dump(mode="json")) == member, f"{member.kind} is not what its settings say"
    FAMILY_BEHAVIOUR[member.family](member, case)


def base(member: Any, case: Case) -> None:
    """A base says what it is, and either lies somewhere or can be fetched."""
    assert isinstance(member, Base)
    json.dumps(member.identity())
    place = member.locate()
    assert place is None or (place / "config.json").exists(), f"{member.kind} lies nowhere"
    assert bool(member.outside) == (place is not None), "a folder of the user's is there already"


def reader(member: Any, case: Case) -> None:
    """Every record is read or put aside, in order, the same each time."""
    assert isinstance(member, Reader)
    assert case.path is not None
    found, again = (list(member.rows(case.path)) for _ in range(2))
    assert found == again, f"{member.kind} reads the same file differently"
    assert len(found) == case.n_records, f"{member.kind} met {len(found)} records of {case.n_records}"
    assert any(isinstance(record, Row) for record in found)
    assert all(record.line >= 1 and record.file == case.path.name for record in found)
    assert all(record.rule and record.reason for record in found if isinstance(record, Quarantined))
    assert {"format", "encoding"} <= member.describe(case.path).keys()


def split(member: Any, case: Case) -> None:
    """Each unit gets one split, entities stay whole, and the order of asking does not matter."""
    assert isinstance(member, Split)
    columns = dict.fromkeys(member.needs(), "train")
    units = [
        Unit(
            f"{n}",
            f"entity {n // 2}",
            "ab"[n % 2],
            "",
            dict.fromkeys(columns, ("train", "test", "validation")[n // 2 % 3]),
        )
        for n in range(120)
    ]
    found = member.assign(units, 3)
    assert set(found) == {"train", "validation", "test"}, f"{member.kind} leaves a split empty"
    assert found == member.assign(units, 3), f"{member.kind} is not a function of ids and seed"
    for unit, of, other in zip(units, found, found[1:] + found[:1], strict=True):
        assert int(unit.id) % 2 or of == other, f"{member.kind} parts {unit.entity}"


def task(member: Any, case: Case) -> None:
    """Examples carry targets of the task's kind, are the same each time, and go to cells and back."""
    assert isinstance(member, Task)
    made, again = (list(member.examples(case.tables)) for _ in range(2))
    examples = [found for found in made if isinstance(found, Example)]
    assert examples, f"{member.kind} makes no example of its case"
    assert [line(e) for e in examples] == [line(e) for e in again if isinstance(e, Example)]
    assert len({example.id for example in examples}) == len(examples), f"{member.kind} gives an id twice"
    open_ones = [found for found in member.examples(case.tables, targets=False) if isinstance(found, Example)]
    assert all(example.target is None for example in open_ones), f"{member.kind} shows the answer when asked for it"
    form = member.form()
    for example in examples:
        assert example.target is not None
        assert example.target.kind == member.answers
        assert json.loads(json.dumps(example.json()))["id"] == example.id
        assert form.prompt(example) == member.prompt(example), f"the form of {member.kind} does not make the prompt"
        assert form.parse(form.completion(example.target), example) == example.target, "what is written is read back"
        assert "\n" not in member.readable(example)
        if member.about_cells:
            assert member.cell(example).column
        predicted = Prediction(example.id, member.kind, example.target, 0.5, slices=example.slices)
        cells = member.cells(example.row, [predicted])
        assert cells.keys() == member.cells(example.row, []).keys(), (
            "cells are the same columns with and without answers"
        )


def objective(member: Any, case: Case) -> None:
    """One loss for each example, that lowers by training, and answers of the task's kind."""
    import torch

    from luthier.model import autocast

    assert isinstance(member, Objective)
    assert case.model is not None
    assert case.task is not None
    model = case.model()
    reading = Reading(model.tokenizer, model.architecture, model.labels, 64)
    assert member.head(model.architecture, model.labels) == model.head
    encoded = member.encode(case.examples, case.task, reading)
    assert len(encoded) == len(case.examples)
    assert all(example.covers > 0 for example in encoded), f"{member.kind} supervises nothing"
    assert not [f for e, x in zip(encoded, case.examples, strict=True) for f in member.audit(e, x, case.task, reading)]
    assert all(member.pieces(example, model.tokenizer) for example in encoded)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    seen = []
    for _ in range(5):
        with autocast(model):
            losses_B = member.loss(member.outputs(model, encoded, "losses"), encoded)
            again_B = member.loss(member.outputs(model, encoded, "logits"), encoded)
        assert losses_B.shape == (len(encoded),)
        torch.testing.assert_close(losses_B, again_B, rtol=1e-3, atol=1e-3)
        losses_B.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(losses_B.detach().sum()))
    assert seen[-1] < seen[0], f"{member.kind} is not lowered by training"
    heavy = [replace(example, weight=2.0) for example in encoded]
    with torch.no_grad(), autocast(model):
        once, twice = (member.loss(member.outputs(model, batch, "losses"), batch) for batch in (encoded, heavy))
    torch.testing.assert_close(2 * once, twice)


def technique(member: Any, case: Case) -> None:
    """Something trains, the state is JSON and tensors and can be restored, and groups hold all that trains."""
    import torch

    assert isinstance(member, Technique)
    assert case.model is not None
    model = case.model()
    running = member.start(model, case.inputs(model) if callable(case.inputs) else case.inputs)
    assert isinstance(running, Running)
    assert type(running) is member.running or member.running is Running, f"{member.kind}.running is not what it starts"
    assert model.trainable(), f"{member.kind} leaves nothing to train"
    running.epoch(0, [])
    tensors, facts = running.state()
    json.dumps(facts)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    running.restore(tensors, facts)
    assert set(member.inputs) <= type(member).model_fields.keys()


def optimizer(member: Any, case: Case) -> None:
    """Steps against the gradient; what it remembers is all there is to it, and what it says of unread rows holds."""
    import torch

    assert isinstance(member, Optimizer)
    member.check("cpu")
    start_VD = torch.linspace(-1, 1, 8 * 1024).reshape(8, 1024)  # enough for those that quantize blocks

    def made(rows: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(rows.clone())
        return parameter, member.over([{"params": [parameter], "lr": 1e-2, "weight_decay": 0.0}])

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, n_read: int) -> None:
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[:n_read] = 2 * parameter.detach()[:n_read] + 0.1  # of the sum of squares and a slope
        optimizer.step()

    whole, stepping = made(start_VD)
    for _ in range(3):
        step(whole, stepping, 8)
    assert (whole**2).sum() < (start_VD**2).sum(), f"{member.kind} goes up"
    again, going_on = made(whole.detach())
    for key, value in stepping.state[whole].items():
        going_on.state[again][key] = value.clone() if isinstance(value, torch.Tensor) else value
    step(whole, stepping, 8)
    step(again, going_on, 8)
    assert torch.equal(whole, again), f"{member.kind} remembers more than its state"
    if member.unmoved:
        (table, of_table), (rows, of_rows) = made(start_VD), made(start_VD[:3])
        for _ in range(3):
            step(table, of_table, 3)
            step(rows, of_rows, 3)
        assert torch.equal(table[:3], rows), f"{member.kind} moves rows otherwise where others are left out"
        assert torch.equal(table[3:], start_VD[3:]), f"{member.kind} moves what has no gradient"


def schedule(member: Any, case: Case) -> None:
    """A share of the peak at each step, whatever was found on validation and however few steps there are."""
    assert isinstance(member, Schedule)
    for total in (1, 2, 3, 7, 100):
        for figures in ([], [1.0], [1.0] * 9):
            found = [member.factor(step, total, figures) for step in range(total)]
            assert all(0 <= share <= 1 for share in found), f"{member.kind} leaves 0 to 1 at {total} steps"
            assert found == [member.factor(step, total, figures) for step in range(total)]
    shares = [member.factor(step, 100, []) for step in range(100)]
    assert max(shares) > 0.99, f"{member.kind} never comes to its peak"
    assert member.rises == (shares[0] < max(shares)), f"{member.kind} rises and does not say so, or the reverse"
    waiting = [member.factor(50, 100, [1.0] * n) for n in range(9)]
    assert member.watches == (len(set(waiting)) > 1), f"{member.kind} watches and does not say so, or the reverse"


def engine(member: Any, case: Case) -> None:
    """One answer for each request, in order, whatever else is asked with it."""
    assert isinstance(member, Engine)
    assert case.path is not None
    session = member.open(case.path, None, device="cpu", precision="float32", max_length=64)
    requests = [Request(f"say {n} =>") for n in range(5)]
    told: list[tuple[int, int]] = []
    together = session.answer(requests, lambda done, total: told.append((done, total)))
    alone = [session.answer([request])[0] for request in requests]
    assert [said.text for said in together] == [said.text for said in alone]
    assert [said.confidence for said in together] == [
        round_to(said.confidence, other.confidence) for said, other in zip(together, alone, strict=True)
    ]
    assert told[-1] == (5, 5), f"{member.kind} does not tell how far it is"
    assert session.answer([]) == []


def round_to(value: float, other: float) -> float:
    """The value where the other is equal to five digits, else the other."""
    return value if abs(value - other) <= 1e-5 else other


def baseline(member: Any, case: Case) -> None:
    """It answers what it is asked, without seeing a target, the same each time."""
    assert isinstance(member, Baseline)
    assert case.task is not None
    assert case.session is not None
    setting = Setting(
        base=case.path or Path(),
        task=case.task,
        session=case.session,
        seed=1,
        device="cpu",
        precision="float32",
        max_length=64,
    )
    hidden = [replace(example, target=None) for example in case.examples]
    found, again = (list(member.predict(case.examples, hidden, setting)) for _ in range(2))
    assert found == again, f"{member.kind} answers differently the second time"
    assert [example.id for example, _ in found] == [example.id for example in case.examples]
    assert all(answered.output.kind == case.task.answers for _, answered in found)
    assert all(0 <= answered.confidence <= 1 for _, answered in found)


def metric(member: Any, case: Case) -> None:
    """It is additive, prefers right answers in its direction, computes many draws at once, and knows its limits."""
    import numpy as np

    from luthier.resample import totals, value

    assert isinstance(member, Metric)
    examples = {example.id: example for example in case.examples}
    assert member.judges <= {answer.kind for answer in ANSWERS.values()}
    right, wrong = (value(member, found, examples) for found in (case.predictions, case.wrong))
    assert right > wrong if member.higher_is_better else right < wrong, f"{member.kind} prefers wrong answers"
    both = [*case.predictions, *case.wrong]
    sums = totals(member, both, examples)
    draws = {name: np.array([float(total), 2 * float(total)]) for name, total in sums.items()}
    together = member.combine(draws)
    assert together.shape == (2,), f"combine of {member.kind} keeps the axes"
    assert float(together[0]) == float(member.combine(sums))
    assert all(isinstance(figure, float) for figure in member.details(sums).values())
    assert not any(member.wrong(p, examples[p.id]) for p in case.predictions), f"{member.kind} calls a target wrong"
    assert any(member.wrong(p, examples[p.id]) for p in case.wrong), f"{member.kind} finds no error"
    if member.mean_of:
        score, weight = (float(sums.get(name, 0.0)) for name in member.mean_of)
        assert np.isclose(float(member.combine(sums)), score / weight), f"{member.kind} is not the mean that it says"
        weights = [
            [member.per_example(p, examples[p.id]).get(member.mean_of[1]) for p in answers]
            for answers in (case.predictions, case.wrong)
        ]
        assert weights[0] == weights[1], f"{member.kind} weighs an example by its answer"
    lowest, highest = member.unseen({name: float(total) for name, total in sums.items()})
    assert len(lowest) == len(highest), f"{member.kind} has a limit without the other"
    for low, high in zip(lowest, highest, strict=True):
        more = [
            float(member.combine({n: np.asarray(sums.get(n, 0.0) + e.get(n, 0.0)) for n in {*sums, *e}}))
            for e in (low, high)
        ]
        assert more[0] <= float(together[0]) <= more[1], f"{member.kind} has limits within its values"


def check(member: Any, case: Case) -> None:
    """The same evidence gives the same verdict, whose parts say how it came about."""
    assert isinstance(member, Check)
    evidence = Evidence(
        candidate=list(case.predictions),
        baselines={"rival": list(case.wrong)},
        metrics=dict(case.metrics),
        examples={example.id: example for example in case.examples},
        measurements=dict(case.measurements),
        seed=1,
        artifacts={"candidate": "c", "rival": "r", "measure": "m", "former.before": "b", "former.after": "a"},
        former=Former(
            list(case.predictions), list(case.predictions), dict(case.metrics), {e.id: e for e in case.examples}
        ),
    )
    verdict = member.judge(evidence)
    assert isinstance(verdict, Verdict)
    assert verdict == member.judge(copy.deepcopy(evidence)), f"{member.kind} judges the same evidence differently"
    assert verdict.outcome == "passed", f"{member.kind} does not pass where all is right: {verdict.note}"
    assert verdict.check
    assert verdict.evidence
    assert verdict.required == member.required
    unasked = Former([], [], dict(case.metrics), {})
    nothing = replace(evidence, candidate=[], baselines={"rival": []}, measurements={}, former=unasked)
    assert member.judge(nothing).outcome == "not enough data", f"{member.kind} judges without evidence"


def preparer(member: Any, case: Case) -> None:
    """Every example is kept or dropped with a rule; test examples stay; the same each time."""
    assert isinstance(member, Preparer)
    found, again = (list(member.apply(copy.deepcopy(list(case.examples)))) for _ in range(2))
    kept = [each for each in found if isinstance(each, Example)]
    assert [line(each) for each in kept] == [line(each) for each in again if isinstance(each, Example)]
    dropped = [each for each in found if isinstance(each, Dropped)]
    assert all(each.rule for each in dropped)
    new = [each for each in kept if each.parent]
    assert len(kept) - len(new) + len(dropped) == len(case.examples), f"{member.kind} loses examples without a word"
    known = {example.id for example in case.examples}
    assert all(each.parent in known and each.split == "train" for each in new), "a new example names its parent"
    before, after = ({question(e) for e in each if e.split == "test"} for each in (case.examples, kept))
    assert member.changes_input or before == after, f"{member.kind} changes what is asked in the test"


def searcher(member: Any, case: Case) -> None:
    """What it proposes lies in the space, follows from the trials and the seed alone, and is asked for in any state."""
    assert isinstance(member, Searcher)
    space = {
        "rate": Dimension(low=0.5, high=2.0, step=0.5),
        "size": Dimension(low=1, high=4),
        "kind": Dimension(choices=["a", ["b"]]),
    }
    assert not member.unfit(space)
    tried: list[Tried] = []
    states: Sequence[Literal["complete", "pruned", "failed", "running"]] = ("complete", "pruned", "failed", "running")
    for n in range(12):
        found, again = (copy.deepcopy(member).next(copy.deepcopy(tried), space, 3, True) for _ in range(2))
        assert found == again, f"{member.kind} is not a function of trials and seed"
        assert found is not None
        assert list(found) == list(space), f"{member.kind} leaves a path out"
        assert all(found[path] in (each.values() or []) for path, each in space.items()), (
            f"{member.kind} leaves the space"
        )
        state = states[n % 4]
        tried.append(Tried(found, state, float(n) if state == "complete" else None, [(1, float(n))]))


FAMILY_BEHAVIOUR: dict[str, Callable[[Any, Case], None]] = {
    "bases": base,
    "readers": reader,
    "splits": split,
    "tasks": task,
    "objectives": objective,
    "techniques": technique,
    "optimizers": optimizer,
    "schedules": schedule,
    "engines": engine,
    "baselines": baseline,
    "metrics": metric,
    "checks": check,
    "preparers": preparer,
    "searchers": searcher,
}
