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

        parameters = {name: p for name, p in model.named_parameters() if layer_of(name) is not None}
        frozen = {layer_of(name) for name, p in parameters.items() if not p.requires_grad}
        free = sorted(layer for name in parameters if (layer := layer_of(name)) is not None and layer not in frozen)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,
            target_modules=self.targets
            if isinstance(self.targets, list)
            else linear_modules(model.bare, self.targets == "attention"),
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type=peft_task(model),
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.bare.modules()),
            layers_to_transform=sorted(set(free)) if frozen else None,
        )
        with quiet():
            model.forward = get_peft_model(model.bare, config)
        return Running()


def linear_modules(model: nn.Module, attention: bool) -> list[str]:
    """Names of the linear modules inside transformer blocks; with `attention`, of those inside its attention alone."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = set()
    for name, module in model.named_modules():
        parents, _, leaf = name.rpartition(".")
        inside = not attention or any("attn" in part or "attention" in part for part in parents.lower().split("."))
        if isinstance(module, Linear | Conv1D) and layer_of(f"{name}.") is not None and inside:
            found.add(leaf)
    return sorted(found)
