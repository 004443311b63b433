"""Measure: the time of single requests on this machine, warmed up, one at a time."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from luthier import seams
from luthier.answering import predictions
from luthier.choice import Settings
from luthier.engines import Computing
from luthier.facts import LatencyFacts, MeasuredFacts
from luthier.form import Form
from luthier.seams import Example
from luthier.store import Artifact, Out, hardware, stage

WARM_UP = 3  # requests that are not counted


class Measure(Settings):
    """What is timed."""

    computing: Computing
    samples: int


@stage(version=4, by_machine=True)
def measure(config: Measure, out: Out, examples: Artifact, model: Artifact, base: Artifact) -> dict[str, Any]:
    """Fact `latency_ms`: every sample, for requests of the validation split (or of train)."""
    folder = model.path / "model"
    form = Form.read(folder)
    split = "validation" if examples.facts["splits"]["validation"] else "train"
    requests = list(islice(seams.read(examples.path / split, Example), config.samples))
    session = config.computing.open(folder, base.path, form.max_length)
    samples = []
    for number in range(-WARM_UP, config.samples):
        start = time.perf_counter()
        predictions(session, [requests[number % len(requests)]], form.task, form.objective)
        if number >= 0:
            samples.append(round(1000 * (time.perf_counter() - start), 3))
            out.progress(number + 1, config.samples)
    machine = hardware()
    latency = LatencyFacts(samples=samples)
    return MeasuredFacts(latency_ms=latency, machine=machine["processor"], threads=machine["threads"]).model_dump(
        mode="json"
    )
