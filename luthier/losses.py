"""Losses at supervised positions alone: the output head is computed only where there is loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luthier.model import head_replaced, probing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import HeadKind, Model

CHUNK = 128  # rows of logits held at a time
Needs = Literal["losses", "logits", "hidden"]  # what a forward pass must leave for those who wrap the losses


@dataclass(slots=True)
class Outputs:
    """What one forward pass left. S supervised positions, V tokens or C classes, B examples."""

    losses: torch.Tensor | None = None  # (S,) nats, where the logits were never kept
    logits: torch.Tensor | None = None  # (S, V) at supervised positions, or (B, C) of a classification head
    wanted: torch.Tensor | None = None  # (S,) tokens that should have been written
    rows: torch.Tensor | None = None  # (S,) number of the example in the batch
    smoothing: float = 0.0  # label smoothing that these losses have, or that those of these logits shall have
    hidden: torch.Tensor | None = None  # (S, D) that the head reads, or (B, D), means over texts; where they are needed
    log_probs: torch.Tensor | None = None  # (B, 2) nats, of the two answers of each example that has two
    again: Callable[[Model, Needs], Outputs] | None = None  # the same examples by another model


def smoothing(model: Model) -> float:
    """Label smoothing of a forward pass: that of the recipe in training, none when validation is judged."""
    return model.label_smoothing if model.forward.training else 0.0


def at_positions(
    model: Model, positions_S: torch.Tensor, wanted_S: torch.Tensor, rows_S: torch.Tensor, needs: Needs, **inputs: Any
) -> Outputs:
    """Losses or logits of the tokens `wanted_S` at flat `positions_S` of (B*T,), the head computed there alone.

    The head costs vocabulary x hidden for each position, more than a third of a small model's work, and prompts carry
    no loss. Where the head is a frozen plain matrix and nobody needs logits, losses and their gradient are computed
    chunk by chunk and the logits are never kept; elsewhere the logits (S, V) are. Both go through the model's own
    forward, so that whatever wraps it runs.
    """

    head = model.bare.get_output_embeddings()
    kind = head_kind(model)
    if needs == "hidden":
        return with_hidden(model, positions_S, wanted_S, rows_S, **inputs)
    if kind == "whole":
        logits = model.forward(**inputs, use_cache=False).logits
        return Outputs(
            None, logits.reshape(-1, logits.shape[-1])[positions_S].float(), wanted_S, rows_S, smoothing(model)
        )
    if kind == "plain" and needs == "losses" and not head.weight.requires_grad:
        with head_replaced(head, lambda hidden_BTD: hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[positions_S]):
            hidden_SD = model.forward(**inputs, use_cache=False).logits
        spread = smoothing(model)
        return Outputs(chunked_cross_entropy(hidden_SD, head.weight, wanted_S, spread), None, wanted_S, rows_S, spread)
    with head_replaced(head, at(head, positions_S)):
        logits_SV = model.forward(**inputs, use_cache=False).logits[0].float()
    return Outputs(None, logits_SV, wanted_S, rows_S, smoothing(model))


def with_hidden(
    model: Model, positions_S: torch.Tensor, wanted_S: torch.Tensor, rows_S: torch.Tensor, **inputs: Any
) -> Outputs:
    """Logits as `at_positions` has them, with the hidden states (S, D) that the head reads."""
    head = model.bare.get_output_embeddings()
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    try:
        found = at_positions(model, positions_S, wanted_S, rows_S, "logits", **inputs)
    finally:
        hook.remove()
    hidden = seen[-1].reshape(-1, seen[-1].shape[-1])
    found.hidden = hidden[positions_S].float()
    return found


def token_losses(outputs: Outputs) -> torch.Tensor:
    """Cross-entropy (S,) in nats of the tokens that should have been written, smoothed as the outputs say, from
    whichever of the two was kept."""
    import torch

    if outputs.losses is not None:
        return outputs.losses
    return torch.nn.functional.cross_entropy(
        outputs.logits, outputs.wanted, reduction="none", label_smoothing=outputs.smoothing
    )


def at(head: nn.Module, positions_S: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What an output head computes at flat positions of hidden states (B, T, D) alone: (1, S, V)."""
    forward = head.forward
    return lambda hidden_BTD: forward(hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[positions_S][None])


def head_kind(model: Model) -> HeadKind:
    """How the output head may be computed, shown once on three tokens: capped, scaled or shifted logits are not plain."""
    import torch

    head = model.bare.get_output_embeddings()
    if model.head_kind is None or model.head_shown is not head:  # a technique may have wrapped it since
        model.head_shown = head
        inputs = {"input_ids": torch.tensor([probing(model, 3)], device=model.device)}
        if model.architecture == "encoder-decoder":
            inputs["decoder_input_ids"] = inputs["input_ids"]
        training, _ = model.forward.training, model.forward.eval()
        with torch.no_grad():
            logits = model.forward(**inputs, use_cache=False).logits

            def found(forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor | None:
                try:
                    with head_replaced(head, forward):
                        return model.forward(**inputs, use_cache=False).logits
                except (RuntimeError, ValueError, IndexError):
                    return None  # what is done with the logits does not fit others

            def alike(these: torch.Tensor | None, those: torch.Tensor) -> bool:
                return (
                    these is not None
                    and these.shape == those.shape
                    and torch.allclose(these.float(), those.float(), 1e-4, 1e-5)
                )

            model.head_kind = "whole"
            last_two = torch.tensor([1, 2], device=model.device)
            if head is not None and alike(found(at(head, last_two)), logits[:, 1:]):
                model.head_kind = "selected"
                if type(head) is torch.nn.Linear and head.bias is None:
                    hidden = found(lambda hidden: hidden)
                    if hidden is not None and hidden.shape[-1] == head.in_features and alike(head(hidden), logits):
                        model.head_kind = "plain"
        model.forward.train(training)
    return model.head_kind


def per_example(losses_S: torch.Tensor, rows_S: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Sum token losses within each example and apply its weight: (S,) -> (B,)."""
    import torch

    sums_B = torch.zeros(len(weights), device=losses_S.device).index_add(0, rows_S, losses_S)
    return sums_B * torch.tensor(weights, device=losses_S.device, dtype=sums_B.dtype)


def chunked_cross_entropy(
    hidden_SD: torch.Tensor, weight_VD: torch.Tensor, wanted_S: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy (S,) of `hidden @ weight.T` against `wanted`, 128 rows of logits at a time.

    Each chunk's gradient with respect to the hidden states, (softmax - target) @ weight, is computed while its logits
    are at hand, so memory is 128 x V whatever S is. The weights get no gradient: they must be frozen. The target is one
    hot, of which `smoothing` takes a share and spreads it over all V tokens.
    """
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
            losses = torch.empty(len(hidden), device=hidden.device)
            wants_gradient = ctx.needs_input_grad[0]
            gradients = torch.empty_like(hidden) if wants_gradient else None
            kind = hidden.dtype
            matrix = weight_VD.to(kind)
            for start in range(0, len(hidden), CHUNK):
                rows = slice(start, min(start + CHUNK, len(hidden)))
                # (V, rows): a tall result is a third faster than a wide one on CPUs
                exact_VS = (matrix @ hidden[rows].T).float()  # in float32 no copy: all below is done in place
                target = wanted_S[None, rows]
                wanted_logits = exact_VS.gather(0, target)
                if smoothing:
                    wanted_logits = (1 - smoothing) * wanted_logits + smoothing * exact_VS.mean(dim=0, keepdim=True)
                highest = exact_VS.amax(dim=0, keepdim=True)
                shares_VS = exact_VS.sub_(highest).exp_()
                total = shares_VS.sum(dim=0, keepdim=True)
                losses[rows] = (total.log() + highest - wanted_logits)[0]
                if gradients is not None:
                    shares_VS.div_(total).scatter_add_(0, target, torch.full_like(total, smoothing - 1.0))
                    if smoothing:
                        shares_VS.sub_(smoothing / len(shares_VS))
                    gradients[rows] = shares_VS.to(kind).T @ matrix
            if gradients is not None:
                ctx.save_for_backward(gradients)
            return losses

        @staticmethod
        def backward(ctx: Any, *upstream: torch.Tensor) -> torch.Tensor:
            (gradients,) = ctx.saved_tensors
            return gradients * upstream[0][:, None].to(gradients.dtype)

    with torch.autocast(hidden_SD.device.type, enabled=False):
        return ChunkedCrossEntropy.apply(hidden_SD)
