"""Quantized base: small adapters on a frozen base in 4 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.techniques import Technique


class QuantizedBase(Technique):
    """Hold the base in 4 bits while lora trains beside it: memory for larger bases, at some cost in time and exactness.

    The model answers over the same 4-bit base wherever it is opened. Needs the extra `qlora` (bitsandbytes).
    """

    requires: ClassVar[dict[str, str]] = {"lora": "weights in 4 bits cannot train, only matrices beside them"}
    excludes: ClassVar[dict[str, str]] = {
        "full": "weights in 4 bits cannot train",
        "freeze": "no weight in 4 bits trains anyway; lora's targets say which modules get an adapter",
    }

    type_: Literal["nf4", "fp4"] = Field("nf4", alias="type")
    """The 16 values that a weight may have: those of a normal distribution, or floats of 4 bits."""
    double: bool = True
    """Whether the scale of each block of 64 weights is quantized too, which saves 0.4 bits a weight."""

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    def loads(self) -> dict[str, Any]:
        return {"quantization": {"type": self.type_, "double": self.double}}
