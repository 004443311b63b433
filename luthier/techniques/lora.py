"""LoRA: small low-rank matrices beside frozen weights (Hu et al. 2021, arXiv 2106.09685), kept by the library peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.model import layer_of, peft_task, quiet
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    from torch import nn

    from luthier.model import Model
    from luthier.store import Artifact


class Lora(Technique):
    """Train W + alpha/rank * B A in place of W; the base stays as it is and the adapter is a few megabytes."""

    recommended_learning_rate: ClassVar[float | None] = 2e-4

    rank: int = Field(16, ge=1)
    """Rank of A and B."""
    alpha: float | None = Field(None, gt=0)
    """Scale; the update is multiplied by alpha/rank (or alpha/sqrt(rank) with rslora). By default 2 * rank."""
    targets: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Modules that get an adapter: all linear ones but the head, those of attention, or names."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before A, in training."""
    rslora: bool = False
    """Scale by alpha/sqrt(rank) (Kalajdzievski 2023), steadier at high ranks."""
    dora: bool = False
    """Learn magnitude and direction apart (Liu et al. 2024); slower, often better at low ranks."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        from peft import LoraConfig, get_peft_model

        frozen = {layer_of(name) for name, p in model.named_parameters() if not p.requires_grad}
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,
            target_modules=self.targets
            if isinstance(self.targets, list)
            else linear_modules(model.bare, self.targets == "attention", frozen),
            modules_to_save=newly_drawn(model) or None,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type=peft_task(model),
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.bare.modules()),
            layers_to_transform=unfrozen(model, frozen) if isinstance(self.targets, list) and frozen else None,
        )
        with quiet():
            model.forward = get_peft_model(model.bare, config)
        return Running()


def linear_modules(model: nn.Module, attention: bool, frozen: set[int | None]) -> list[str]:
    """Full names of the linear modules inside blocks that are not frozen; with `attention`, of those in it alone."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = []
    for name, module in model.named_modules():
        layer = layer_of(f"{name}.")
        parents = name.lower().split(".")[:-1]
        inside = not attention or any("attn" in part or "attention" in part for part in parents)
        if isinstance(module, Linear | Conv1D) and layer is not None and layer not in frozen and inside:
            found.append(name)
    return found


def unfrozen(model: Model, frozen: set[int | None]) -> list[int]:
    """Numbers of the blocks that are not frozen."""
    return sorted({n for name, _ in model.named_parameters() if (n := layer_of(name)) is not None and n not in frozen})


def newly_drawn(model: Model) -> list[str]:
    """Modules that the base did not hold: drawn anew, they are trained whole and travel with the adapter.

    The classifier itself is not named here, since peft knows it.
    """
    modules = {name.rpartition(".")[0] for name in model.drawn}
    return sorted(name for name in modules if name.rpartition(".")[2] not in ("classifier", "score"))
