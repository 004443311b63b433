"""Wrapping a model with what peft trains beside it, and showing that peft by itself computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import UserError, first_line
from luthier.fronts import place_before
from luthier.model import own_parameters, plain_name, probing, quiet

if TYPE_CHECKING:
    import torch

    from luthier.model import Model

ONE_ADAPTER = "peft wraps a model with one of them"
CLASSIFIERS = ("classifier", "score")  # which peft trains and saves by itself


def newly_drawn(model: Model) -> list[str]:
    """Modules that are trained whole and travel with the adapter: those that the base did not hold and, beside further
    tasks, all of the head, since each task has its own.

    The classifier itself is not named here, since peft knows it.
    """
    modules = {name.rpartition(".")[0] for name in head_parameters(model)}
    return sorted(name for name in modules if name.partition(".")[0] not in CLASSIFIERS)


def head_parameters(model: Model) -> list[str]:
    """Names of the parameters that were drawn anew and, beside further tasks, of all that are the head's own."""
    own = [name for name, _ in own_parameters(model)] if model.others else []
    return [*model.drawn, *(name for name in own if name not in model.drawn)]


def wrap(model: Model, config: Any, where: str, hint: str) -> None:
    """Let peft change the model as its config says; what was frozen before stays so. UserError where peft cannot."""
    from peft import get_peft_model

    frozen = {name for name, parameter in model.bare.named_parameters() if not parameter.requires_grad}
    with quiet():
        try:
            model.forward = get_peft_model(model.bare, config)
        except (ValueError, TypeError, NotImplementedError, AttributeError, KeyError, RuntimeError) as problem:
            raise UserError(f"peft cannot adapt this base: {first_line(problem)}", where=where, hint=hint) from problem
    model.forward.train(model.bare.training)
    for name, parameter in model.bare.named_parameters():
        if plain_name(name) in frozen:  # such as a new head, of which peft trains a copy
            parameter.requires_grad_(False)
    model.head_kind = model.reads_padding = model.in_batches = None


def place_front(model: Model, where: str) -> None:
    """Put virtual tokens or a prefix before every text; UserError unless peft by itself computes the same of one text."""
    name, hint = type(model.bare).__name__, "use lora, or choose another base"
    text = [*probing(model, 6), *([end] if (end := model.tokenizer.eos_token_id) is not None else [])]
    by_peft = attempted(model, text, f"peft cannot do this with a {name}", where, hint)
    place_before(model)
    ours = attempted(model, model.fronted(text), f"a {name} cannot be computed so", where, hint)
    apart, size = float((by_peft - ours).abs().max()), float(ours.abs().max())
    if not apart <= 1e-3 * max(1.0, size):
        raise UserError(
            f"peft computes a {name} otherwise than training would: logits are {apart:.2g} apart",
            where=where,
            hint=hint,
        )


def attempted(model: Model, text: Sequence[int], what: str, where: str, hint: str) -> torch.Tensor:
    """Logits of one text in float32; UserError with the library's words where they cannot be computed."""
    import torch

    ids = torch.tensor([list(text)], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.architecture == "encoder-decoder" and model.head.writes:
        inputs["decoder_input_ids"] = torch.tensor([probing(model, 4)], device=model.device)
    training, _ = model.forward.training, model.forward.eval()
    try:
        with torch.no_grad():
            logits: torch.Tensor = model.forward(**inputs).logits
    except (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError, IndexError) as problem:
        told = f"{what} ({type(problem).__name__}: {first_line(problem)})"
        raise UserError(told, where=where, hint=hint) from problem
    model.forward.train(training)
    return logits.float()
