"""Prefix tuning: keys and values in every layer before the text (Li and Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.errors import UserError, first_line
from luthier.fronts import takes_cache
from luthier.model import peft_task, probing
from luthier.techniques import Running, Technique
from luthier.techniques._wrapping import ONE_ADAPTER, newly_drawn, place_front, wrap

if TYPE_CHECKING:
    from luthier.model import Model
    from luthier.store import Artifact

WHERE = "train.techniques prefix"


class Prefix(Technique):
    """Train keys and values that the attention of every layer finds before the text; the base stays as it is.

    An encoder-decoder has them in its decoder. A new classification head is trained whole beside them.
    """

    excludes: ClassVar[dict[str, str]] = {
        "full": "a prefix is trained before a frozen base, full trains the base",
        "lora": ONE_ADAPTER,
        "prompt_tuning": ONE_ADAPTER,
        "ewc": "ewc holds weights of the base, and none of them moves",
    }
    # peft's examples; the paper's 5e-5 belongs to its projection and to batches of 5 to 10
    recommended_learning_rate: ClassVar[float | None] = 1e-2
    layout: ClassVar[Literal["rows"] | None] = "rows"

    tokens: int = Field(20, ge=1)
    """Places of the prefix; they count towards the most that the base reads."""
    projection: int | None = Field(None, ge=1)
    """Width of a two-layer network that makes the prefix of smaller vectors while training (the paper's
    reparametrisation, steadier and slower); it is left out of what is saved. By default there is none."""

    def places_taken(self, written_apart: bool) -> tuple[int, int]:
        return (0, self.tokens) if written_apart else (self.tokens, 0)

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        from peft import PrefixTuningConfig

        layers, heads, width = attention_shape(model)
        config = PrefixTuningConfig(
            task_type=peft_task(model),
            num_virtual_tokens=self.tokens,
            num_layers=layers,
            num_attention_heads=heads,
            token_dim=heads * width,
            prefix_projection=self.projection is not None,
            encoder_hidden_size=self.projection,
            modules_to_save=newly_drawn(model) or None,
        )
        wrap(model, config, WHERE, "use lora")
        place_front(model, WHERE)
        return Running()


def attention_shape(model: Model) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and numbers of each, as a forward pass leaves them in a cache.

    UserError where a base has no such cache, or one of unlike layers, which peft's prefix does not fit.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    ids = torch.tensor([probing(model, 2)], device=model.device)
    own = DynamicCache()
    inputs = {"input_ids": ids, "past_key_values": own}
    if model.architecture == "encoder-decoder":
        inputs |= {"decoder_input_ids": ids, "past_key_values": EncoderDecoderCache(own, DynamicCache())}
    name, hint = type(model.bare).__name__, "use prompt_tuning or lora"
    try:
        with torch.no_grad():
            takes_cache(model)(**inputs)
    except (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError, IndexError) as problem:
        why = f"{type(problem).__name__}: {first_line(problem)}"
        raise UserError(f"a {name} takes no keys and values ({why})", where=WHERE, hint=hint) from problem
    shapes = [(each.keys.shape[1::2], each.values.shape[1::2]) for each in own.layers if each.is_initialized]
    if not shapes:
        raise UserError(f"a {name} keeps no keys and values, so that it has no prefix", where=WHERE, hint=hint)
    if len({each for pair in shapes for each in pair}) > 1:
        raise UserError(
            f"the keys and values of a {name} differ in shape, and peft makes a prefix of one shape",
            where=WHERE,
            hint=hint,
        )
    heads, width = shapes[0][0]
    return len(shapes), heads, width
