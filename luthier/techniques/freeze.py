"""Freeze: keep the embeddings, the first layers, or named parameters as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.errors import UserError
from luthier.model import block_of, blocks, numbered_parameters, plain_name
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    from torch import nn

    from luthier.model import Model
    from luthier.store import Artifact


class Freeze(Technique):
    """Take parameters out of training. Combines with full and lora, in any order."""

    layers: int = Field(0, ge=0)
    """The first so many transformer blocks are frozen."""
    embeddings: bool = True
    """Whether token and position embeddings are frozen, with the norms and projections that belong to them; an output
    head tied to them is frozen with them."""
    patterns: list[str] = []
    """Further parameters by name, with * and ?, such as `*.attention.*`."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        numbers = numbered_parameters(model.forward)
        inside = {id(parameter): name for name, parameter in model.bare.named_parameters()}
        # the names that they have in the base, whatever an adapter puts before them
        known = {name: inside.get(id(parameter), name) for name, parameter in model.named_parameters()}
        names = list(known.values())
        n = 1 + max((number for number in numbers.values() if number is not None), default=-1)
        if self.layers > n:
            raise UserError(
                f"layers is {self.layers}, but the base has {n}",
                where="train.techniques freeze",
                hint=f"use at most {n}",
            )
        tables = embeddings(model.forward) if self.embeddings else set()
        for pattern in self.patterns:
            if not any(matches(name, pattern) for name in (*names, *known)):
                raise UserError(
                    f"no parameter matches '{pattern}'",
                    where="train.techniques freeze",
                    hint=f"names look like {plain_name(names[0])}",
                )
        held = {id(parameter) for name, parameter in model.named_parameters() if name in tables}
        for name, _, weights in adapted_layers(model):
            if any(id(weight) in held for weight in weights):
                adapter = str(model.forward.active_peft_config.peft_type.value).lower()
                raise UserError(
                    f"{adapter} adapts {plain_name(name)}, which freeze shall hold",
                    where="train.techniques",
                    hint=f"take it out of {adapter}'s targets, or set embeddings to false here",
                )
        if (whole := trained_whole(model, held)) is not None:
            raise UserError(
                f"freeze shall hold {whole}, which modules_to_save trains whole",
                where="train.techniques",
                hint="take it out there, or set embeddings to false here",
            )
        for name, parameter in model.named_parameters():
            number = numbers.get(name)  # a further task's head is in no block
            if (
                (number is not None and number < self.layers)
                or name in tables
                or any(matches(each, pattern) for pattern in self.patterns for each in (name, known[name]))
            ):
                parameter.requires_grad_(False)
                held.add(id(parameter))
        for _, layer, weights in adapted_layers(model):
            if weights and all(id(weight) in held for weight in weights):  # nor does an adapter move what is frozen
                for name, parameter in layer.named_parameters():
                    if "base_layer" not in name.split("."):
                        parameter.requires_grad_(False)
        return Running()


def adapted_layers(model: Model) -> Iterator[tuple[str, nn.Module, list[nn.Parameter]]]:
    """The layers that an adapter stands beside, with the matrices that they had before."""
    if not model.adapted:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in model.forward.named_modules():
        if isinstance(layer, BaseTunerLayer):
            own = layer.get_base_layer().parameters(recurse=False)
            weights = list(own)
            yield name, layer, [weight for weight in weights if weight.ndim >= 2] or weights


def trained_whole(model: Model, held: set[int]) -> str | None:
    """A module of the base that an adapter's `modules_to_save` trains whole and whose weights are to be held."""
    if not model.adapted:
        return None
    from peft.utils import ModulesToSaveWrapper

    for name, module in model.bare.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            own = list(module.original_module.parameters())
            new = any(
                f"{plain_name(name)}.{part}" in model.drawn for part, _ in module.original_module.named_parameters()
            )
            copies = list(module.modules_to_save.parameters())
            if own and not new and all(id(each) in held for each in copies):
                return plain_name(name)
    return None


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter is meant, by its own name or by the one that it has inside an adapter."""
    return fnmatch.fnmatch(plain_name(name), pattern) or fnmatch.fnmatch(name, pattern)


def embeddings(module: nn.Module) -> set[str]:
    """Names of the parameters of embedding tables outside the blocks, whatever they are called, and of the norms and
    projections beside them, which are named after them; an output head is none of it."""
    from torch.nn import Embedding

    known, found = blocks(module), set()
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    for name, each in module.named_modules():
        if name.startswith("prompt_encoder."):
            continue  # virtual tokens and prefixes, which are no table of the base
        last = name.rpartition(".")[2].lower()
        is_table = isinstance(each, Embedding) or type(each).__name__.endswith("Embeddings")
        beside = "emb" in last or last == "project_in"  # OPT's
        if (is_table or beside) and each is not head and block_of(name, known) is None:
            found |= {f"{name}.{part}" for part, _ in each.named_parameters()}
    return found
