"""Prompt tuning: vectors of virtual tokens before every text (Lester, Al-Rfou and Constant 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.errors import UserError
from luthier.fronts import table_of
from luthier.model import blocks, peft_task
from luthier.techniques import Running, Technique
from luthier.techniques._wrapping import ONE_ADAPTER, newly_drawn, place_front, wrap

if TYPE_CHECKING:
    from luthier.model import Model
    from luthier.store import Artifact

COMMON = (
    5000  # tokens of the vocabulary that are drawn from: the paper takes the most common ones, which mostly stand first
)


class PromptTuning(Technique):
    """Train the vectors of a few virtual tokens that stand before every text; the base stays as it is.

    An encoder-decoder reads them in its encoder. A new classification head is trained whole beside them.
    """

    excludes: ClassVar[dict[str, str]] = {
        "full": "prompt tuning trains vectors before a frozen base, full trains the base",
        "lora": ONE_ADAPTER,
        "ewc": "ewc holds weights of the base, and none of them moves",
    }
    # 0.3 with Adafactor in the paper, whose steps are scaled by the size of the vectors; 3e-2 with AdamW in peft's examples
    recommended_learning_rate: ClassVar[float | None] = 3e-2
    layout: ClassVar[Literal["rows"] | None] = "rows"

    tokens: int = Field(20, ge=1)
    """Virtual tokens; they count towards the most that the base reads."""
    init: Literal["text", "vocabulary"] = "vocabulary"
    """What they are at the start: the vectors of a text, or of ordinary tokens drawn by the seed."""
    text: str = ""
    """With `init: text`: what the task is, in words; it is repeated or cut to the number of virtual tokens."""

    @model_validator(mode="after")
    def _has_its_text(self) -> PromptTuning:
        if (self.init == "text") != bool(self.text):
            raise ValueError("`init: text` needs a `text`" if self.init == "text" else "`text` needs `init: text`")
        return self

    def places_taken(self, written_apart: bool) -> tuple[int, int]:
        return self.tokens, 0

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        import torch
        from peft import PromptTuningConfig

        where = "train.techniques prompt_tuning"
        table = table_of(model)
        chosen = self.first_tokens(model)
        config = PromptTuningConfig(
            task_type=peft_task(model),
            num_virtual_tokens=self.tokens,
            num_transformer_submodules=1,
            token_dim=table.embedding_dim,
            num_layers=max(1, len(blocks(model.bare))),  # peft asks for both and uses neither here
            num_attention_heads=1,
            modules_to_save=newly_drawn(model) or None,
        )
        with torch.no_grad():
            vectors = table(torch.tensor(chosen, device=table.weight.device)).float()
        wrap(model, config, where, "use lora")
        with torch.no_grad():
            model.forward.prompt_encoder["default"].embedding.weight.copy_(vectors)
        place_front(model, where)
        return Running()

    def first_tokens(self, model: Model) -> list[int]:
        """The tokens whose vectors the virtual ones begin with; of `text`, or drawn from torch's generator."""
        import torch

        if self.init == "text":
            read = model.tokenizer(self.text, add_special_tokens=False)["input_ids"]
            if not read:
                raise UserError(
                    "the tokenizer of the base reads nothing in `text`",
                    where="train.techniques prompt_tuning",
                    hint="write it in characters that the base knows, or use `init: vocabulary`",
                )
            if len(read) > self.tokens:
                model.notes.append(
                    f"prompt_tuning: of the {len(read)} tokens of its text the first {self.tokens} are taken"
                )
            return repeated(read, self.tokens)
        special = set(model.tokenizer.all_special_ids)
        size = min(len(model.tokenizer), table_of(model).num_embeddings)
        ordinary = [token for token in range(size) if token not in special][:COMMON]
        order = torch.randperm(len(ordinary)).tolist()
        return repeated([ordinary[place] for place in order], self.tokens)


def repeated(tokens: Sequence[int], n: int) -> list[int]:
    """The first n of tokens that begin again where they end."""
    return [tokens[place % len(tokens)] for place in range(n)]
