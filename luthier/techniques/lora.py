"""LoRA: small low-rank matrices beside frozen weights (Hu et al. 2021, arXiv 2106.09685), kept by the library peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.model import layer_of, purpose_of
from luthier.techniques import Technique

if TYPE_CHECKING:
    from torch import nn


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

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        frozen = sorted(
            {layer for name, p in model.named_parameters() if (layer := layer_of(name)) is not None and not p.requires_grad}
        )
        layers = sorted({layer for name, _ in model.named_parameters() if (layer := layer_of(name)) is not None})
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,  # type: ignore[arg-type]
            target_modules=attention_modules(model) if self.targets == "attention" else self.targets,
            lora_dropout=self.dropout, use_rslora=self.rslora, use_dora=self.dora, task_type=purpose_of(model),
            layers_to_transform=[layer for layer in layers if layer not in frozen] if frozen else None,
        )  # fmt: skip
        return get_peft_model(model, config)  # type: ignore[return-value, arg-type]


def attention_modules(model: nn.Module) -> list[str]:
    """Names of the linear projections inside attention blocks."""
    found = set()
    for name, module in model.named_modules():
        parts = name.split(".")
        if any("attn" in part.lower() or "attention" in part.lower() for part in parts[:-1]) and hasattr(module, "weight"):
            if getattr(module.weight, "ndim", 0) == 2:
                found.add(parts[-1])
    return sorted(found)
