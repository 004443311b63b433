"""Gate: the release checklist over stored evidence; the same evidence always gives the same verdicts."""

from __future__ import annotations

from typing import Any

from luthier import seams
from luthier.checks import Check, Evidence, Former
from luthier.choice import Settings
from luthier.metrics import Metric
from luthier.seams import Example, Prediction
from luthier.store import Artifact, Out, stage


class Gate(Settings):
    """The checklist."""

    checks: list[Check]
    metrics: list[Metric]
    former_metrics: list[Metric] = []
    """Of the former run, where there is one."""
    seed: int


@stage(version=4)
def gate(config: Gate, out: Out, examples: Artifact, tuned: Artifact, **others: Artifact) -> dict[str, Any]:
    """File `verdicts`. Inputs beside examples and `tuned`: `measure`, each baseline by its name, and of a former task
    `former.examples`, `former.before` and `former.after`."""
    former = {role.removeprefix("former."): each for role, each in others.items() if role.startswith("former.")}
    rivals = {name: each for name, each in others.items() if name != "measure" and not name.startswith("former.")}
    evidence = Evidence(
        candidate=list(seams.read(tuned.path / "predictions", Prediction)),
        baselines={name: list(seams.read(a.path / "predictions", Prediction)) for name, a in rivals.items()},
        metrics={metric.kind: metric for metric in config.metrics},
        examples={example.id: example for example in seams.read(examples.path / "test", Example)},
        measurements=others["measure"].facts if "measure" in others else {},
        seed=config.seed,
        artifacts={"candidate": tuned.id, **{name: artifact.id for name, artifact in others.items()}},
        former=Former(
            before=list(seams.read(former["before"].path / "predictions", Prediction)),
            after=list(seams.read(former["after"].path / "predictions", Prediction)),
            metrics={metric.kind: metric for metric in config.former_metrics},
            examples={example.id: example for example in seams.read(former["examples"].path / "test", Example)},
        )
        if former
        else None,
    )
    verdicts = [check.judge(evidence) for check in config.checks]
    seams.write(out.folder / "verdicts", verdicts)
    required = [verdict for verdict in verdicts if verdict.required]
    return {
        "released": bool(required) and not any(verdict.blocks for verdict in verdicts),
        "required": len(required),
        "passed": sum(v.outcome == "passed" for v in required),
    }
