"""Trying a base out before any training: on two tokens, on its shortest and longest examples, and on the longest question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from luthier.batching import Encoded
from luthier.errors import UserError, first_line
from luthier.generate import generate
from luthier.model import autocast, probing, scored
from luthier.objectives import Objective

if TYPE_CHECKING:
    from luthier.model import Model


def try_out(model: Model, objective: Objective, examples: Sequence[Encoded], n_asked: int, n_written: int) -> None:
    """UserError where the base's own code fails on what it will have to compute, which no configuration tells of all kinds.

    `examples` are of the training, as which they are computed; `n_asked` and `n_written` are the tokens of the longest
    question and the longest answer.
    """
    kind = type(model.bare).__name__
    if model.head.writes:
        attempt(
            lambda: generate(model, [probing(model, 2)], max_new_tokens=2, stop=set(model.ends)),
            f"{kind} cannot write answers here",
            lambda: "choose another base",
        )
    for example in examples:
        attempt(
            partial(training, model, objective, example),
            f"{kind} cannot be trained on a text of {len(example.ids)} tokens",
            lambda example=example: shorter(model, objective, example),  # type: ignore[misc]
        )
    if examples and n_asked:
        ids = list(examples[-1].ids)
        question = (ids * (n_asked // len(ids) + 1))[-n_asked:]  # ends as texts do
        attempt(
            lambda: asking(model, question, n_written),
            f"{kind} cannot read {n_asked} tokens" + (f" and write {n_written}" if model.head.writes else ""),
            lambda: "lower encode.max_length, or choose another base",
        )


def attempt(compute: Callable[[], object], what: str, hint: Callable[[], str]) -> None:
    """Compute something; UserError with the library's words where it fails."""
    try:
        compute()
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"{what} ({type(problem).__name__}: {first_line(problem)})", where="base", hint=hint()
        ) from problem


def training(model: Model, objective: Objective, example: Encoded) -> None:
    """The forward pass of a training step, which leaves nothing."""
    import torch

    model.forward.train()
    try:
        with torch.random.fork_rng(), torch.no_grad(), autocast(model):
            outputs = objective.outputs(model, [example], "losses")
            if not all(bool(part.isfinite().all()) for part in (outputs.losses, outputs.logits) if part is not None):
                raise ValueError("what it computes is not finite")
    finally:
        model.forward.eval()


def shorter(model: Model, objective: Objective, example: Encoded) -> str:
    """What to do where an example is too long: the most tokens of it that can be computed, found by halving."""
    fits, fails = 0, len(example.ids)
    while fails - fits > 1:
        n = (fits + fails) // 2
        try:
            training(model, objective, replace(example, ids=example.ids[-n:], supervised=example.supervised[-n:]))
            fits = n
        except Exception:
            fails = n
    return f"set encode.max_length to {fits}" if fits > 1 else "choose another base"


def asking(model: Model, question: list[int], n_written: int) -> None:
    """The forward pass behind the last token of the longest answer, without the logits."""
    import torch

    with torch.inference_mode(), autocast(model):
        if not model.head.writes:
            scored(model, [question])
            return
        answer = (question * (n_written // len(question) + 1))[:n_written]
        body = model.bare.base_model
        if model.architecture == "encoder-decoder":
            ids, written = (torch.tensor([part], device=model.device) for part in (question, answer))
            body(input_ids=ids, decoder_input_ids=written, use_cache=False)
        else:
            body(input_ids=torch.tensor([[*question, *answer]], device=model.device), use_cache=False)
