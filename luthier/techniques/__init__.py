"""Techniques: what is trained and how, at five moments of the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.choice import Choice

if TYPE_CHECKING:
    import torch
    from torch import nn

MOMENTS_WITH_ONE_OWNER = ("groups", "backward")


class Technique(Choice):
    """A way of training. The moments that a technique does not write itself do nothing.

    `attach` and `epoch`: any number, in recipe order. `penalty`: summed. `groups` and `backward`: one owner.
    """

    family: ClassVar[str] = "techniques"
    excludes: ClassVar[dict[str, str]] = {}  # kind of another technique -> why the two do not combine
    recommended_learning_rate: ClassVar[float | None] = None

    def attach(self, model: nn.Module) -> nn.Module:
        """Change the model before training: freeze, wrap, add; returns the model to train."""
        return model

    def groups(self, model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer: dicts with params, lr, name."""
        raise NotImplementedError

    def epoch(self, model: nn.Module, n: int, history: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Before epoch `n` (from 0): new parameter groups, or None to go on with the old ones."""
        return None

    def penalty(self, model: nn.Module, batch: Any, outputs: Any) -> torch.Tensor | None:
        """A scalar added to the loss of an optimizer step, or None."""
        return None

    def backward(self, losses: torch.Tensor) -> None:
        """Turn per-example losses (B,) into gradients."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON; with `restore` it makes resuming exact."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up `state` again."""


def owns(technique: Technique, moment: str) -> bool:
    """Whether a technique writes a moment itself."""
    return getattr(type(technique), moment) is not getattr(Technique, moment)


def conflicts(techniques: Sequence[Technique]) -> str:
    """Why a list of techniques cannot work together, or nothing."""
    kinds = [technique.kind for technique in techniques]
    for kind in kinds:
        if kinds.count(kind) > 1:
            return f"{kind} is named twice; once is enough"
    for technique in techniques:
        for other, reason in technique.excludes.items():
            if other in kinds:
                return f"{technique.kind} and {other} do not combine: {reason}"
    for moment in MOMENTS_WITH_ONE_OWNER:
        owners = [technique.kind for technique in techniques if owns(technique, moment)]
        if len(owners) > 1:
            return f"{' and '.join(owners)} both decide `{moment}`; use one of them"
    return ""


def learning_rate_for(techniques: Sequence[Technique]) -> float:
    """The peak learning rate recommended by the first technique that has an opinion, else 1e-5 (full fine-tuning)."""
    return next((t.recommended_learning_rate for t in techniques if t.recommended_learning_rate is not None), 1e-5)
