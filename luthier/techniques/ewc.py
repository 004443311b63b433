"""EWC: weights that a former task needs are held near what they were (Kirkpatrick et al. 2017, arXiv 1612.00796)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.errors import UserError
from luthier.model import autocast, plain_name
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch

    from luthier.batching import Encoded
    from luthier.losses import Outputs
    from luthier.model import Model
    from luthier.objectives import Objective
    from luthier.store import Artifact

FISHER = "fisher.safetensors"


class Held(Running):
    """Knows what the weights were, and how much each of them matters."""

    def __init__(self, model: Model, fisher: Mapping[str, torch.Tensor], strength: float) -> None:
        self.model, self.strength = model, strength
        self.fisher = {name: values.to(model.device) for name, values in fisher.items()}
        named = {plain_name(name): parameter for name, parameter in model.named_parameters()}
        self.anchors = {name: named[name].detach().clone() for name in self.fisher if name in named}

    def penalty(self) -> torch.Tensor | None:
        """strength / 2 of the sum of F (w - w*)^2 over all weights that move, those under adapters among them."""
        terms = [(self.fisher[name] * moved**2).sum() for name, moved in self.moved() if name in self.fisher]
        moving = [term for term in terms if term.requires_grad]  # of adapters that gradual still holds none is
        return 0.5 * self.strength * sum(moving[1:], moving[0]) if moving else None

    def moved(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name of each weight that may move and how far it has; of an adapted one, what the adapter adds to it."""
        for name, parameter in self.model.named_parameters():
            own = plain_name(name)
            if parameter.requires_grad and own in self.anchors:
                yield own, parameter - self.anchors[own]
        if self.model.adapted:
            from peft.tuners.lora import LoraLayer

            for name, layer in self.model.forward.named_modules():
                if isinstance(layer, LoraLayer) and hasattr(layer, "get_delta_weight"):
                    weight = getattr(layer, "parameter_name", "weight")  # stacked matrices of experts have other names
                    for adapter in layer.active_adapters:
                        if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
                            yield plain_name(f"{name}.{weight}"), layer.get_delta_weight(adapter)


class Ewc(Technique):
    """Hold each weight near what a former run made of it, by how much that run's answers depend on it.

    Adds strength/2 * F (w - w*)^2 to the loss: w* is the weight then, F its Fisher information. The run is named under
    `former`.
    """

    running: ClassVar[type[Running]] = Held
    needs_former: ClassVar[bool] = True

    strength: float = Field(1000.0, ge=0)
    """Nats for a squared distance of 1 of a weight with a Fisher of 1, halved; 0 holds nothing."""
    fisher: Literal["true", "empirical"] = "true"
    """Whose answers the squared gradients are of: drawn from the model's own distribution (`true`, the Fisher
    information), or those of the table (`empirical`)."""
    rows: int = Field(512, ge=1)
    """Training examples of the former task over which the Fisher is taken, a sample drawn once; of fewer, all."""
    batch: int = Field(1, ge=1)
    """Examples whose gradients are summed before they are squared. 1 is exact; more is faster, and with `true` the same in
    expectation, with `empirical` too large where gradients of examples agree."""
    decay: float | None = Field(None, gt=0, le=1)
    """Online EWC (Schwarz et al. 2018): the Fisher of the tasks before the former one, which that run was trained with, is
    multiplied by this and added. Left out, the former task alone counts."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        from safetensors.torch import load_file

        if "fisher" not in inputs:
            raise UserError("ewc keeps a former task", where="former", hint="name the run that learned it")
        return Held(model, load_file(inputs["fisher"].path / FISHER), self.strength)


def fisher(
    model: Model, objective: Objective, batches: Iterable[Sequence[Encoded]], *, true: bool, seed: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Diagonal of the Fisher information: for each trainable parameter the mean over examples of its squared gradient of
    the log-likelihood (nats); and how many examples that were.

    With `true`, answers are drawn from what the model says (a token at each supervised position, behind the tokens of
    the table), else they are the table's.
    """
    import torch

    model.forward.eval()
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.trainable().items()}
    n = 0
    draw = torch.Generator(device=model.device).manual_seed(seed)
    for batch in batches:
        with autocast(model):
            if true:
                likelihood = -drawn(objective.outputs(model, batch, "logits"), draw).sum()
            else:
                likelihood = -objective.loss(objective.outputs(model, batch, "losses"), batch).sum()
        likelihood.backward()
        for name, parameter in model.trainable().items():
            if parameter.grad is not None:
                sums[name] += parameter.grad**2
        model.forward.zero_grad(set_to_none=True)
        n += len(batch)
    return {name: total / max(n, 1) for name, total in sums.items()}, n


def drawn(outputs: Outputs, draw: torch.Generator) -> torch.Tensor:
    """Losses (nats) of answers that are drawn from the logits themselves."""
    import torch

    assert outputs.logits is not None
    logs = outputs.logits.float().log_softmax(-1)
    chosen = torch.multinomial(logs.detach().exp(), 1, generator=draw)
    return -logs.gather(-1, chosen)[:, 0]
