"""Attack: what a model's losses tell of which rows it was trained on, beside models that were trained on half of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from luthier import membership, seams
from luthier import model as models
from luthier.batching import Encoded, cut
from luthier.choice import Settings
from luthier.encoding import Reading
from luthier.facts import MembershipFacts
from luthier.form import Form
from luthier.model import Model
from luthier.seams import Example
from luthier.store import Artifact, Out, stage

if TYPE_CHECKING:
    import numpy as np

TOKENS_AT_ONCE = 2048
CHUNK = 512  # examples encoded at once


class Attack(Settings):
    """How losses are computed."""

    device: str
    precision: str
    truncation: str


@stage(version=1)
def attack(
    config: Attack, out: Out, examples: Artifact, model: Artifact, base: Artifact, **others: Artifact
) -> dict[str, Any]:
    """Facts alone. Further inputs: `model_<n>` and `half_<n>`, references with the examples that each learned from."""
    import numpy as np

    split = {name: list(seams.read(examples.path / name, Example)) for name in ("train", "test")}
    rows = [*split["train"], *split["test"]]
    member_N = np.arange(len(rows)) < len(split["train"])
    with out.timed("attack"):
        losses_N, kept_N = losses(config, model, base, rows)
        scores_N = -losses_N
        halves = {role: each for role, each in others.items() if role.startswith("half_")}
        if halves:
            references, held = [], []
            for done, (role, half) in enumerate(halves.items()):
                own = {example.id for example in seams.read(half.path / "train", Example)}
                held.append([row.id in own for row in rows])
                references.append(losses(config, others[f"model_{role.removeprefix('half_')}"], base, rows)[0])
                out.progress(done + 1, len(halves))
            scores_N = membership.lira(losses_N, np.array(references), np.array(held))
    members, rest = scores_N[member_N & kept_N], scores_N[~member_N & kept_N]
    area, interval = membership.auc(members, rest)
    share = membership.found_at(members, rest)
    return MembershipFacts(
        attack="lira" if halves else "loss",
        references=len(halves),
        members=len(members),
        others=len(rest),
        auc=area,
        auc_interval=interval,
        found=share[0] if share else None,
        found_interval=share[1] if share else None,
        false_alarms=membership.FALSE_ALARMS,
    ).model_dump(mode="json")


def losses(config: Attack, trained: Artifact, base: Artifact, rows: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each row per supervised token (nats), and which rows can be learned from at all."""
    import numpy as np

    folder = trained.path / "model"
    standing_on = base.path if (folder / "adapter_config.json").exists() else None
    model = models.load_trained(folder, standing_on, device=config.device, precision=config.precision)
    form = Form.read(folder)
    form.settle(model)
    model.packed = False  # each row by itself, as it was trained under private
    encoded = list(in_tokens(form, model, rows))
    found = [0.0] * len(encoded)
    lengths = [example.length for example in encoded]
    for micro in cut(sorted(range(len(encoded)), key=lambda n: lengths[n]), lengths, TOKENS_AT_ONCE):
        for place, loss in zip(micro, of_batch(form, model, [encoded[n] for n in micro]), strict=True):
            found[place] = loss
    covers = [example.covers for example in encoded]
    usable = [
        bool(n) and not (config.truncation == "drop" and e.cut_tokens) for n, e in zip(covers, encoded, strict=True)
    ]
    return membership.mean_losses(found, covers), np.array(usable)


def in_tokens(form: Form, model: Model, rows: Sequence[Example]) -> list[Encoded]:
    """The rows as they are learned from, each with the weight 1."""
    like = next((prompt for row in rows if not isinstance(prompt := form.task.prompt(row), str)), ())
    reading = Reading(model.tokenizer, model.architecture, form.labels, form.max_length, form.control_tokens, like)
    found: list[Encoded] = []
    waiting = iter(rows)
    while chunk := list(islice(waiting, CHUNK)):
        found += form.objective.encode(chunk, form.task, reading)
    for each in found:
        each.weight = 1.0
    return found


def of_batch(form: Form, model: Model, batch: Sequence[Encoded]) -> list[float]:
    """Loss of each (nats, summed over its tokens)."""
    import torch

    with torch.inference_mode(), models.autocast(model):
        found: list[float] = form.objective.loss(form.objective.outputs(model, batch, "losses"), batch).tolist()
    return found
