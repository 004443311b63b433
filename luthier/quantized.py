"""Weights in 4 bits: a base held in an eighth of its memory, frozen, as the library bitsandbytes keeps it (Dettmers et al.
2023, arXiv 2305.14314)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luthier.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

READ_DIRECTLY = ("out_proj", "conv1d", "dt_proj")  # Mamba's kernels read their weights themselves


def library() -> Any:
    """The module on which 4-bit weights are held; UserError without bitsandbytes."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            "4-bit bases need the library bitsandbytes",
            where="train.techniques quantized_base",
            hint="install it with: pip install 'luthier[qlora]'",
        ) from None
    from luthier import four_bits

    return four_bits


def quantize(bare: nn.Module, how: Mapping[str, Any], precision: str) -> str:
    """Put 4-bit modules in the place of the linear ones in a model's blocks; what that comes to, in words.

    `how`: `type` (nf4 or fp4) and `double` (whether the scales are quantized too). Embeddings, norms, routers, biases and
    all heads stay as they are.
    """
    import torch

    library()
    before, total = 0, memory(bare)
    for name, module in list(linear_modules(bare)):
        before += module.weight.nbytes
        parent, _, last = name.rpartition(".")
        setattr(bare.get_submodule(parent), last, four_bits(module, how, getattr(torch, precision)))
    if not before:
        raise UserError(
            f"a {type(bare).__name__} has no linear modules in its blocks that can be held in 4 bits",
            where="train.techniques quantized_base",
            hint="leave the technique out for this base",
        )
    bare.is_loaded_in_4bit = True  # by which peft knows
    left = memory(bare)
    return (
        f"{before / total:.0%} of the base's weights are held in 4 bits ({how['type']}): {left / 1e6:,.1f} MB in place of "
        f"{total / 1e6:,.1f} MB; the adapter belongs to these weights, and over the base in full it says something else"
    )


def four_bits(module: nn.Module, how: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """A linear module in 4 bits that computes in `dtype`, on the device where it was."""
    from bitsandbytes.nn.modules import Params4bit
    from transformers.pytorch_utils import Conv1D

    weight = module.weight.detach()
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight  # Conv1D keeps (in, out)
    new = library().FourBits(
        weight.shape[1],
        weight.shape[0],
        bias=module.bias is not None,
        compute_dtype=dtype,
        compress_statistics=how["double"],
        quant_type=how["type"],
        device="meta",
    )
    new.weight = Params4bit(weight, requires_grad=False, quant_type=how["type"], compress_statistics=how["double"]).to(
        weight.device
    )
    new.bias = module.bias
    return new


def dequantize(bare: nn.Module) -> None:
    """Put plain linear modules with the same weights in the place of a model's 4-bit ones."""
    from torch import nn

    four_bits = library()
    for name, module in [(name, each) for name, each in bare.named_modules() if isinstance(each, four_bits.FourBits)]:
        new = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        new.weight = nn.Parameter(four_bits.weight_of(module))
        new.bias = module.bias
        parent, _, last = name.rpartition(".")
        setattr(bare.get_submodule(parent), last, new)
    bare.is_loaded_in_4bit = False


def linear_modules(bare: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear modules of the blocks by name, without routers, what is read past its module, and what transformers itself
    keeps in float32, such as T5's `wo`."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    from luthier.model import block_of, blocks

    known = blocks(bare)
    mixes = any("mamba" in type(module).__name__.lower() for module in bare.modules())
    apart = {*(READ_DIRECTLY if mixes else ()), *(getattr(bare, "_keep_in_fp32_modules", None) or ())}
    apart |= {"gate", "router", "classifier"}
    for name, module in bare.named_modules():
        if type(module) in (Linear, Conv1D) and block_of(name, known) is not None and not apart & {*name.split(".")}:
            yield name, module


def is_quantized(parameter: torch.Tensor) -> bool:
    """Whether a parameter holds 4-bit weights, which never train."""
    return type(parameter).__name__ == "Params4bit"


def n_weights(parameters: Iterable[torch.Tensor]) -> int:
    """How many weights some parameters hold; in 4 bits there are two in each byte."""
    return sum(p.numel() * (2 if is_quantized(p) else 1) for p in parameters)


def memory(module: nn.Module) -> int:
    """Bytes of a module's weights, with the scales of those in 4 bits."""
    total = 0
    for parameter in module.parameters():
        total += parameter.nbytes
        if is_quantized(parameter):
            state = parameter.quant_state
            scales = [state.absmax, *((state.state2.absmax,) if state.nested else ())]
            total += sum(scale.nbytes for scale in scales)
    return total
