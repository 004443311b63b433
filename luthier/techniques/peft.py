"""Peft: any other tuner of the library peft by its name, with its own settings."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from luthier.choice import unknown
from luthier.errors import UserError, first_line
from luthier.model import blocks, peft_task, quiet
from luthier.techniques import Running, Technique
from luthier.techniques._wrapping import ONE_ADAPTER, newly_drawn, wrap
from luthier.techniques.lora import by_name, is_frozen, linear_modules

if TYPE_CHECKING:
    from torch import nn

    from luthier.model import Model
    from luthier.store import Artifact

WHERE = "train.techniques peft"
# what a recipe says elsewhere, or what follows from the base
SETTLED = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "fan_in_fan_out",
}
BEFORE_TEXT = "stands before the text: use `kind: prompt_tuning` or `kind: prefix`"
REFUSED = {
    "lora": "is a technique of its own: `kind: lora`",
    "prompt_tuning": "is a technique of its own: `kind: prompt_tuning`",
    "prefix_tuning": "is a technique of its own: `kind: prefix`",
    "p_tuning": BEFORE_TEXT,
    "multitask_prompt_tuning": BEFORE_TEXT,
    "cpt": BEFORE_TEXT,
    "cartridge": BEFORE_TEXT,
    "xlora": "mixes adapters that were trained before, and trains none",
    "poly": "must be told the task of each row",
    "shadow": "runs a second model beside the blocks, with a loss of its own",
    "adalora": "moves its ranks about after each step, which only a loop of its own does",
}
# Settings of which the default of peft does not fit every base: name, and the most that fits matrices of (outputs, inputs)
Shapes = Sequence[tuple[int, int]]
FITTED: dict[str, tuple[str, Callable[[Shapes, int], int]]] = {
    "c3a": ("block_size", lambda shapes, most: divisor(shapes, most)),
    "road": ("group_size", lambda shapes, most: divisor(shapes, most)),
    "vblora": ("vector_length", lambda shapes, most: divisor(shapes, most)),
    "miss": ("r", lambda shapes, most: min(most, *(min(shape) for shape in shapes))),
    "psoft": ("r", lambda shapes, most: min(most, *(min(shape) for shape in shapes))),
    "shira": ("r", lambda shapes, most: min(most, *(n * m // (n + m) for n, m in shapes))),
    "fourierft": ("n_frequency", lambda shapes, most: min(most, *(n * m for n, m in shapes))),
    "waveft": ("n_frequency", lambda shapes, most: min(most, *(n * m for n, m in shapes))),
}
# Peak learning rates for AdamW from the papers; where none is named, lora's
LEARNING_RATES = {
    "ia3": 3e-3,  # Liu et al. 2022 (arXiv 2205.05638), section 3.3
    "vera": 4e-3,  # Kopiczko et al. 2024 (arXiv 2310.11454), instruction tuning
    "fourierft": 3e-3,  # Gao et al. 2024 (arXiv 2405.03003), instruction tuning
}
LIKE_LORA = 2e-4
# words for keys and values in the names of modules, alone or in one matrix with the queries
KEYS_AND_VALUES = re.compile(r"(^|_)(k|v|kv|key|value|key_value|qkv|c_attn)(_|$)|qkv", re.IGNORECASE)


class Peft(Technique):
    """Train with another tuner of peft, such as ia3, vera, oft or loha; which of them train is in docs/techniques/peft.md."""

    excludes: ClassVar[dict[str, str]] = {
        "full": "a tuner of peft trains little beside frozen weights, full trains the weights",
        "lora": ONE_ADAPTER,
        "prompt_tuning": ONE_ADAPTER,
        "prefix": ONE_ADAPTER,
        "ewc": "ewc knows what lora adds to a weight, and not what other tuners do to it",
    }

    tuner: str
    """Its name in peft, in small letters."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Its own settings, with the names, units and ranges that its config class in peft has. `target_modules` is found from
    the base when left out; a new classification head is trained whole in any case."""

    @model_validator(mode="after")
    def _fits_its_config(self) -> Peft:
        if self.tuner in REFUSED:
            raise ValueError(f"{self.tuner} {REFUSED[self.tuner]}")
        known = tuners()
        if self.tuner not in known:
            raise ValueError(unknown("tuner called", self.tuner, known.keys() - REFUSED.keys()))
        problems = misfits(known[self.tuner], self.settings)
        if not problems:
            try:
                with quiet():
                    self.config(known[self.tuner], {})
            except (ValueError, TypeError) as problem:
                problems = [f"settings: {first_line(problem)}"]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def learning_rate(self) -> float | None:
        return LEARNING_RATES.get(self.tuner, LIKE_LORA)

    def config(self, kind: type[Any], found: Mapping[str, Any]) -> Any:
        """The config of the tuner: what was `found` from the base, under what the recipe says."""
        fields = {each.name for each in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in {**found, **self.settings}.items() if name in fields})

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        kind = tuners()[self.tuner]
        found = {"task_type": peft_task(model), **self.found(model)}
        if any(type(module).__name__ == "Conv1D" for module in model.bare.modules()):
            found["fan_in_fan_out"] = True
        new = [*self.settings.get("modules_to_save", ()), *newly_drawn(model)]
        config = self.config(kind, found)
        if new:
            config.modules_to_save = new
        hint = "choose another tuner, or other settings for this one"
        wrap(model, config, WHERE, hint)
        if not any(".modules_to_save." not in name for name in model.trainable()):
            what = f"{self.tuner} finds nothing to train in a {type(model.bare).__name__}"
            raise UserError(what, where=WHERE, hint=hint)
        return Running()

    def found(self, model: Model) -> dict[str, Any]:
        """Which modules get the tuner, by their full names; those that `freeze` holds get none."""
        named = self.settings.get("target_modules")
        bare = model.bare
        if self.tuner == "ln_tuning":
            return {} if named else {"target_modules": [n for n in norms(bare) if not is_frozen(bare.get_submodule(n))]}
        if self.tuner == "adaption_prompt":  # the paper's length; all layers but two of 32
            n = len(set(blocks(bare).values()))
            return {"adapter_len": 10, "adapter_layers": max(1, n - 2)}
        if self.tuner == "trainable_tokens" or isinstance(named, str):
            return {}
        if named:
            by_name(bare, named, ())
            return {}
        linear = [name for name in linear_modules(bare) if not is_frozen(bare.get_submodule(name))]
        if not linear:
            raise UserError(
                "freeze holds every linear module that the tuner would adapt"
                if linear_modules(bare)
                else f"a {type(bare).__name__} has no linear modules to adapt",
                where=WHERE,
                hint="freeze less of it" if linear_modules(bare) else "use `kind: full` for this base",
            )
        if self.tuner in FITTED:
            name, fit = FITTED[self.tuner]
            default: Any = next(each.default for each in dataclasses.fields(tuners()[self.tuner]) if each.name == name)
            shapes = [shape_of(bare.get_submodule(each)) for each in linear]
            return {"target_modules": linear, name: fit(shapes, default)}
        if self.tuner != "ia3":
            return {"target_modules": linear}
        attention = set(linear_modules(bare, attention=True))
        targets, feedforward = ia3_modules(
            bare, [n for n in linear if n in attention], [n for n in linear if n not in attention]
        )
        return {"target_modules": targets, "feedforward_modules": feedforward}


def tuners() -> dict[str, type[Any]]:
    """The tuners of the installed peft: name -> config class."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def misfits(kind: type[Any], settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names and types of settings, a line each."""
    hints = get_type_hints(kind)
    known = {each.name for each in dataclasses.fields(kind) if each.init} - SETTLED
    problems = []
    for name, value in settings.items():
        if name in SETTLED:
            problems.append(f"settings.{name}: follows from the rest of the recipe and the base; leave it out")
        elif name not in known:
            problems.append(f"settings.{name}: {unknown('setting called', name, known)}")
        else:
            try:
                TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
            except ValidationError as problem:
                told = problem.errors()[0]["msg"]
                problems.append(f"settings.{name}: {told} (found {json.dumps(value)})")
    return problems


def norms(bare: nn.Module) -> list[str]:
    """Full names of the norms that have weights."""
    return [
        name
        for name, module in bare.named_modules()
        if type(module).__name__.lower().endswith("norm") and getattr(module, "weight", None) is not None
    ]


def ia3_modules(bare: nn.Module, attention: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """What IA3 scales: keys and values of the attention, and what goes into the second matrix of a feed-forward part.

    (all modules, those of the feed-forward part, whose inputs are scaled)
    """
    keys_values = [name for name in attention if KEYS_AND_VALUES.search(name.rpartition(".")[2])]
    narrowing = [name for name in others if narrows(bare.get_submodule(name))]
    return [*(keys_values or attention), *narrowing], narrowing


def narrows(module: nn.Module) -> bool:
    """Whether a linear module has fewer outputs than inputs."""
    outputs, inputs = shape_of(module)
    return outputs < inputs


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear module; GPT-2's keep their matrix the other way round."""
    n, m = module.weight.shape
    return (m, n) if type(module).__name__ == "Conv1D" else (n, m)


def divisor(shapes: Shapes, most: int) -> int:
    """The largest number up to `most` that divides every size."""
    common = math.gcd(*(size for shape in shapes for size in shape))
    return next(n for n in range(min(most, common), 0, -1) if common % n == 0)
