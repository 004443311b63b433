"""Teach: a teacher answers the training rows, and its answers become what is learned (Kim & Rush 2016)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any, Literal

from luthier import hints, seams, teachers
from luthier.answering import predictions
from luthier.choice import Settings
from luthier.encoding import open_turn
from luthier.engines import Computing
from luthier.engines.torch import TorchSession
from luthier.errors import UserError
from luthier.facts import FlowStep, PreparedFacts
from luthier.form import Form
from luthier.model import ABOUT, hold_casts
from luthier.objectives import Objective
from luthier.seams import Example
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task

ANSWERED_AT_ONCE = 32


class Teach(Settings):
    """What decides the answers, beside the teacher."""

    task: Task
    """Its form alone; a teacher that Luthier wrote is asked as it was trained."""
    computing: Computing
    max_length: int
    control_tokens: Literal["text", "parse"]


@stage(version=1)
def teach(config: Teach, out: Out, examples: Artifact, teacher: Artifact, **beside: Artifact) -> dict[str, Any]:
    """The same files as prepare's, with the teacher's answers as the targets of `train`; what it did not end is left out.

    `beside`: `teacher_base` where the teacher is an adapter.
    """
    task, objective, max_length = config.task, Objective.pick(config.task.learned_by()), config.max_length
    written_here = (teacher.path / ABOUT).exists()
    base = beside["teacher_base"].path if beside else None
    model = teachers.opened(
        teacher.path,
        base,
        writes=objective.head("decoder", ()).writes,
        device=config.computing.device,
        precision=config.computing.precision,
    )
    if written_here:
        form = Form.read(teacher.path)
        task, objective, max_length = form.task, form.objective, form.max_length
        if task.answers != config.task.answers:
            raise UserError(
                f"the teacher answers with {task.answers}, and the task with {config.task.answers}",
                where=teachers.TEACHER,
                hint="choose a teacher of this task",
            )
    else:
        model.control_tokens = config.control_tokens
        if model.head.writes:
            open_turn(model.tokenizer, task.template_of_chats())
    prepared = PreparedFacts(**examples.facts)
    if unlike := sorted(set(model.labels) ^ set(prepared.label_names)):
        raise UserError(
            f"teacher and student have other labels, such as '{unlike[0]}'",
            where=teachers.TEACHER,
            hint="take a teacher of the same labels",
        )
    hold_casts(model)
    train = list(seams.read(examples.path / "train", Example))
    session = TorchSession(model, max_length, config.computing.engine.max_new_tokens, ANSWERED_AT_ONCE)
    with out.timed("teach"):
        said = predictions(session, train, task, objective, lambda done, total: out.progress(done, total))
    kept = [
        replace(example, target=found.output)
        for example, found in zip(train, said, strict=True)
        if not found.cut and str(found.output).strip()
    ]
    if not kept:
        raise UserError(
            "the teacher ends no answer", where=teachers.TEACHER, hint="raise predict.engine.max_new_tokens"
        )
    fates = {"an answer cut off": sum(p.cut for p in said)}
    fates["an empty answer"] = len(train) - len(kept) - fates["an answer cut off"]
    n_same = sum(str(found.output) == str(example.target) for example, found in zip(train, said, strict=True))
    out.say(f"the teacher answers {len(train):,} training rows, {n_same:,} of them as the table does")
    seams.write(out.folder / "train", kept)
    for split in ("validation", "test"):
        seams.write(out.folder / split, seams.read(examples.path / split, Example))
    for name in ("quarantine.jsonl", hints.FILE):
        if (examples.path / name).exists():
            shutil.copyfile(examples.path / name, out.folder / name)
    arrived = sum(prepared.splits.values())
    step = FlowStep(
        step="answers of the teacher",
        arrived=arrived,
        kept=arrived - len(train) + len(kept),
        fates={fate: n for fate, n in fates.items() if n},
    )
    splits = {**prepared.splits, "train": len(kept)}
    taught = prepared.model_copy(update={"flow": [*prepared.flow, step], "splits": splits})
    return taught.model_dump(mode="json")
