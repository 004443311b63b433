"""Measure: the time of single requests on this machine, warmed up, one at a time."""

from __future__ import annotations

import time
from typing import Any

from luthier import seams
from luthier.choice import Settings
from luthier.engines import Engine
from luthier.model import load_trained
from luthier.seams import Example
from luthier.store import Artifact, Out, hardware, stage
from luthier.tasks import Task

WARM_UP = 3  # requests that are not counted


class Measure(Settings):
    """What is timed."""

    task: Task
    engine: Engine
    samples: int
    max_length: int
    device: str
    precision: str


@stage(version=1, by_machine=True)
def measure(config: Measure, out: Out, examples: Artifact, model: Artifact, base: Artifact) -> dict[str, Any]:
    """Facts `latency_ms`: every sample and its quantiles, for requests of the validation split (or of train)."""
    split = "validation" if examples.facts["splits"]["validation"] else "train"
    requests = list(seams.read(examples.path / split, Example))[: config.samples]
    loaded = load_trained(model.path / "model", base.path, device=config.device, precision=config.precision)
    samples = []
    for number in range(-WARM_UP, config.samples):
        start = time.perf_counter()
        config.engine.predict(loaded, config.task, [requests[number % len(requests)]], config.max_length)
        if number >= 0:
            samples.append(round(1000 * (time.perf_counter() - start), 3))
            out.progress(number + 1, config.samples)
    ordered = sorted(samples)
    return {
        "latency_ms": {
            "samples": samples, "n": len(samples), "p50": ordered[len(ordered) // 2],
            "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        },
        "machine": hardware()["processor"], "threads": hardware()["threads"],
    }  # fmt: skip
