"""LoRA: small low-rank matrices beside frozen weights (Hu et al. 2021, arXiv 2106.09685), kept by the library peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.choice import unknown
from luthier.errors import UserError
from luthier.model import block_of, blocks, numbered_parameters, peft_task, probing
from luthier.quantized import is_quantized
from luthier.techniques import Running, Technique
from luthier.techniques._wrapping import CLASSIFIERS, head_parameters, newly_drawn, wrap

if TYPE_CHECKING:
    from torch import nn

    from luthier.model import Model
    from luthier.store import Artifact

PAST_THE_MODULE = ("out_proj", "conv1d", "dt_proj")  # Mamba's kernels read their weights themselves


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
    modules_to_save: list[str] = []
    """Modules that are trained whole, by name, and saved with the adapter, such as embed_tokens for new words; they get no
    adapter. A new classification head is one of them in any case."""

    def excluded(self) -> Mapping[str, str]:
        scaled = "with dora a weight is scaled too, of which ewc does not know"
        return self.excludes | ({"ewc": scaled} if self.dora else {})

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        from peft import LoraConfig

        saved = self.saved(model)
        modules, experts = self.chosen(model.bare, head_parameters(model), saved)
        if idle := idle_table(model, modules):
            raise UserError(
                f"'{idle}' only lends its weights to other tables, and is never computed with",
                where="train.techniques lora targets",
                hint="name the tables that are, such as embed_tokens",
            )
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.rank,
            target_modules=modules,
            target_parameters=experts or None,
            modules_to_save=[*saved, *newly_drawn(model)] or None,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type=peft_task(model),
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.bare.modules()),
        )
        whole = [name for name, _ in model.bare.named_modules() if within(name, saved)]
        left = left_alone(model.bare, {*modules, *whole, *(name.rpartition(".")[0] for name in experts)})
        if left:
            model.notes.append(left)
        wrap(model, config, "train.techniques lora", "name other targets, or use `kind: full`")
        return Running()

    def saved(self, model: Model) -> list[str]:
        """Full names of the modules that are trained whole; UserError for a name that finds none, or a frozen one."""
        where, found = "train.techniques lora modules_to_save", []
        names = [name for name, _ in model.bare.named_modules()]
        for target in self.modules_to_save:
            meant = [name for name in names if named(name, target)]
            trained = [w for name in meant for w in model.bare.get_submodule(name).parameters() if w.requires_grad]
            if not meant:
                last = sorted({part for name in names if not (part := name.rpartition(".")[2]).isdigit() and part})
                raise UserError(unknown("module of the base called", target, last), where=where)
            if not trained:
                raise UserError(
                    f"'{target}' has no weights that may train", where=where, hint="let freeze leave it, or take it out"
                )
            found += [name for name in meant if name.partition(".")[0] not in CLASSIFIERS]  # which peft adds itself
        return sorted({name for name in found if not within(name.rpartition(".")[0], found)})

    def chosen(
        self, bare: nn.Module, drawn: Sequence[str] = (), saved: Sequence[str] = ()
    ) -> tuple[list[str], list[str]]:
        """Full names of the modules that get an adapter, and of the stacked matrices of experts that do; UserError where
        there are none. Frozen ones are left out, and what was `drawn` anew or is `saved` is trained whole.

        peft adapts stacked matrices without dropout and not as DoRA does, so with these they get none.
        """
        stacked = [] if self.dora or self.dropout > 0 else expert_weights(bare)
        if isinstance(self.targets, list):
            new = {name.rpartition(".")[0] for name in drawn}
            if whole := next((t for t in self.targets if any(named(name, t) for name in new)), None):
                raise UserError(
                    f"'{whole}' is new to the base, so that lora trains it whole already",
                    where="train.techniques lora targets",
                    hint="take it out",
                )
            if whole := next((name for name in saved for t in self.targets if named(name, t) or named(t, name)), None):
                raise UserError(
                    f"'{whole}' is trained whole, and so gets no adapter",
                    where="train.techniques lora targets",
                    hint="take it out here or of modules_to_save",
                )
            found, experts = by_name(bare, self.targets, stacked)
        else:
            found = linear_modules(bare, attention=self.targets == "attention")
            experts = stacked if self.targets == "all-linear" else []
        if not found and not experts:
            linear = linear_modules(bare)
            raise UserError(
                f"a {type(bare).__name__} has no linear modules "
                + ("in its attention" if self.targets == "attention" else "to adapt"),
                where="train.techniques lora targets",
                hint="use `all-linear`, or `kind: full`" if linear else "use `kind: full` for this base",
            )
        weights = dict(bare.named_parameters())
        modules = [n for n in found if not is_frozen(bare.get_submodule(n)) and not within(n, saved)]
        experts = [name for name in experts if weights[name].requires_grad and not within(name, saved)]
        targets = self.targets if isinstance(self.targets, list) else []
        held = [target for target in targets if not any(matches(name, target) for name in (*modules, *experts))]
        if held or not (modules or experts):
            which = f"named '{held[0]}'" if held else "that lora would adapt"
            raise UserError(
                f"freeze holds every module {which}",
                where="train.techniques",
                hint=f"take {held[0]} out of lora's targets, or let freeze leave it" if held else "freeze less of it",
            )
        return modules, experts


def by_name(bare: nn.Module, targets: Sequence[str], stacked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Modules and stacked matrices that a recipe names; UserError for a name that finds none."""
    modules = [name for name, module in bare.named_modules() if not list(module.children())]
    known = {name.rpartition(".")[2] for name in (*linear_modules(bare), *stacked)}
    for target in targets:
        if any(matches(name, target) for name in (*modules, *stacked)):
            continue
        inside = any(named(name, target) for name, _ in bare.named_modules())
        raise UserError(
            f"'{target}' holds other modules and is none to adapt" if inside else f"the base has no module '{target}'",
            where="train.techniques lora targets",
            hint=f"its linear modules are {', '.join(sorted(known))}",
        )
    experts = [name for name in stacked if any(matches(name, target) for target in targets)]
    owners = {name.rpartition(".")[0] for name in experts}
    found = [name for name in modules if name not in owners and any(named(name, target) for target in targets)]
    return found, experts


def matches(name: str, target: str) -> bool:
    """Whether a module or a stacked matrix is what a recipe calls by its own name or, of the latter, by its module's."""
    return named(name, target) or (named(name.rpartition(".")[0], target) and "experts" in name.rpartition(".")[0])


def is_frozen(module: nn.Module) -> bool:
    """Whether a technique before this one took a module's weights out of training."""
    weight = getattr(module, "weight", None)
    return weight is not None and not weight.requires_grad and not is_quantized(weight)


def idle_table(model: Model, names: list[str]) -> str:
    """An embedding table that is never computed with, because others with its weights are; nothing where each is."""
    import torch
    from torch.nn import Embedding

    tables = {name: each for name in names if isinstance(each := model.bare.get_submodule(name), Embedding)}
    if not tables:
        return ""
    used: set[nn.Module] = set()
    hooks = [each.register_forward_pre_hook(lambda table, _: used.add(table)) for each in tables.values()]
    inputs = {"input_ids": torch.tensor([[*probing(model, 2), model.tokenizer.eos_token_id or 0]], device=model.device)}
    if model.architecture == "encoder-decoder" and model.head.writes:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        model.forward(**inputs)
    for hook in hooks:
        hook.remove()
    return next((name for name, table in tables.items() if table not in used), "")


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a name is that of one of these modules, or of something inside it."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def named(name: str, target: str) -> bool:
    """Whether a module's full name is, or ends with, what a recipe calls it."""
    return name == target or name.endswith(f".{target}")


def linear_modules(bare: nn.Module, attention: bool = False) -> list[str]:
    """Full names of the linear modules inside blocks; with `attention`, of those in it alone.

    Without routers, which choose experts, and what Mamba's own code computes with past the module.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    known, classes = blocks(bare), {name: type(module).__name__.lower() for name, module in bare.named_modules()}
    mixes = any("mamba" in f"{name} {kind}".lower() for name, kind in classes.items())
    past = PAST_THE_MODULE if mixes else ()
    found = []
    for name, module in bare.named_modules():
        number = block_of(name, known)
        parents = name.split(".")[:-1]
        above = [f"{part.lower()} {classes['.'.join(parents[: n + 1])]}" for n, part in enumerate(parents)]
        inside = not attention or any("attn" in each or "attention" in each for each in above)
        if not isinstance(module, Linear | Conv1D) or number is None or not inside:
            continue
        if not is_router(name, module, bare.config) and name.rpartition(".")[2] not in past:
            found.append(name)
    return found


def is_router(name: str, module: nn.Module, config: Any) -> bool:
    """Whether a linear module chooses experts: it has one output for each of them."""
    text = config.get_text_config()
    counts = [getattr(text, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts")]
    outputs = getattr(module, "out_features", getattr(module, "nf", None))
    return outputs in [n for n in counts if n] and name.rpartition(".")[2] in ("gate", "router", "classifier")


def expert_weights(bare: nn.Module) -> list[str]:
    """Full names of the stacked matrices (E, ., .) of experts in blocks."""
    numbers = numbered_parameters(bare)
    owners = dict(bare.named_modules())
    return [
        name
        for name, parameter in bare.named_parameters()
        if parameter.ndim == 3
        and "experts" in type(owners[name.rpartition(".")[0]]).__name__.lower()
        and numbers[name] is not None
    ]


def left_alone(bare: nn.Module, adapted: set[str]) -> str:
    """Which share of the matrices of the blocks gets no adapter, in words; nothing where all that may train get one."""
    from torch.nn import Embedding

    numbers, owners = numbered_parameters(bare), dict(bare.named_modules())
    sizes: dict[str, int] = {}
    for name, parameter in bare.named_parameters():
        table = isinstance(owners[name.rpartition(".")[0]], Embedding)  # such as T5's biases of relative positions
        if parameter.ndim >= 2 and not table and numbers[name] is not None and parameter.requires_grad:
            sizes[name] = parameter.numel()
    left = {name: size for name, size in sizes.items() if name.rpartition(".")[0] not in adapted}
    if not left:
        return ""
    kinds = sorted({".".join(part for part in name.split(".")[-3:] if not part.isdigit()) for name in left})
    share = sum(left.values()) / sum(sizes.values())
    return f"lora leaves {share:.1%} of the weights of the blocks as they are: {', '.join(kinds)}"
