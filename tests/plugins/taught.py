"""Taught: half of the loss is how far the answers are from those of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from luthier.losses import Needs, Outputs, per_example
from luthier.model import architecture_of, load, writing_head
from luthier.objectives import Objective
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch

    from luthier.batching import Encoded
    from luthier.model import Model
    from luthier.store import Artifact


class Learning(Running):
    """Asks the teacher about each micro-batch."""

    needs: ClassVar[Needs] = "logits"

    def __init__(self, teacher: Model, share: float) -> None:
        self.teacher, self.share = teacher, share

    def losses(self, batch: Sequence[Encoded], losses_B: torch.Tensor, outputs: Outputs) -> torch.Tensor:
        import torch

        with torch.no_grad():
            wanted_SV = Objective.pick("causal").outputs(self.teacher, batch, "logits").logits.softmax(-1)
        apart_S = -(wanted_SV * outputs.logits.log_softmax(-1)).sum(-1)
        taught_B = per_example(apart_S, outputs.rows, [example.weight for example in batch])
        return (1 - self.share) * losses_B + self.share * taught_B


class Taught(Technique):
    """Distillation in its plainest form."""

    running: ClassVar[type[Running]] = Learning
    inputs: ClassVar[tuple[str, ...]] = ("teacher",)

    teacher: str
    """Model folder of the teacher."""
    share: float = 0.5
    """Share of the loss that is the teacher's, 0..1."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        folder = inputs["teacher"].path
        teacher = load(folder, writing_head(architecture_of(folder)), device=model.device, precision=model.precision)
        return Learning(teacher, self.share)
