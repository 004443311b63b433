"""Fisher: how sharply the answers of a former task depend on each weight of the model that learned it."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from luthier import model as models
from luthier.choice import Settings
from luthier.form import Form
from luthier.recipe import FORMER
from luthier.store import Artifact, Out, stage
from luthier.techniques.ewc import FISHER, Ewc
from luthier.techniques.ewc import fisher as diagonal
from luthier.token_arrays import TokenArrays


class Fisher(Settings):
    """What decides it."""

    unkeyed: ClassVar[dict[str, Any]] = {"technique": {"strength"}}  # of the penalty, which a search may vary

    technique: Ewc
    seed: int
    device: str


@stage(version=1)
def fisher(
    config: Fisher, out: Out, encoded: Artifact, base: Artifact, earlier: Artifact | None = None
) -> dict[str, Any]:
    """File `fisher.safetensors`: parameter -> mean squared gradient; a classifier's head is called `heads.former`."""
    from safetensors.torch import load_file, save_file

    settings = config.technique
    form = Form.read(encoded.path)
    model = models.load(base.path, form.head(), device=config.device, precision="float32", seed=config.seed)
    form.settle(model)
    examples = TokenArrays(encoded.path / "train")
    n = min(settings.rows, len(examples))
    chosen = sorted(random.Random(f"fisher/{config.seed}").sample(range(len(examples)), n))
    starts = range(0, len(chosen), settings.batch)
    batches = ([examples[i] for i in chosen[at : at + settings.batch]] for at in starts)
    with out.timed("fisher"):
        found, n = diagonal(model, form.objective, batches, true=settings.fisher == "true", seed=config.seed)
    heads = {name for name, _ in models.own_parameters(model)}
    found = {f"heads.{FORMER}.{name}" if name in heads else name: t.cpu() for name, t in found.items()}
    if earlier is not None and settings.decay is not None:
        before = load_file(earlier.path / FISHER)
        kept = [name for name in found if name in before and before[name].shape == found[name].shape]
        found |= {name: found[name] + settings.decay * before[name] for name in kept if not name.startswith("heads.")}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out.folder / FISHER)
    total = sum(float(tensor.sum()) for tensor in found.values())
    return {"n": n, "batch": settings.batch, "kind": settings.fisher, "trace": total, "online": earlier is not None}
