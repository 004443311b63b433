"""Asking an open model about examples: for prediction, the evaluations of training, `apply` and the time of a request."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.engines import Request, Session, Tell, untold
from luthier.objectives import Objective
from luthier.seams import Example, Prediction, prediction
from luthier.tasks import Task


def predictions(
    session: Session, examples: Sequence[Example], task: Task, objective: Objective, tell: Tell = untold
) -> list[Prediction]:
    """One prediction for each example, in order. Tables repeat themselves: each distinct question is asked once."""
    requests = [Request(task.prompt(example)) for example in examples]
    distinct = {request.key(): request for request in requests}
    said = dict(zip(distinct, session.answer(list(distinct.values()), tell), strict=True))
    return [
        prediction(example, objective.decode(said[request.key()], example, task, session.labels))
        for example, request in zip(examples, requests, strict=True)
    ]
