"""Classify: cross-entropy of one label per example through a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.batching import Encoded
from luthier.model import padded
from luthier.objectives import Objective
from luthier.seams import Example

if TYPE_CHECKING:
    import torch

    from luthier.model import Loaded
    from luthier.tasks import Task


class Classify(Objective):
    """One label out of the known ones."""

    def encode(
        self, example: Example, task: Task, tokenizer: Any, architecture: str, labels: Sequence[str], max_length: int
    ) -> Encoded:
        text = str(task.prompt(example))
        ids = tokenizer(text)["input_ids"]
        cut = max(0, len(ids) - max_length)
        if cut:
            ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        answer = example.answer()
        label = labels.index(answer) if answer in labels else -1
        return Encoded(ids=ids, label=label, cut_tokens=cut, weight=example.weight)

    def loss(self, loaded: Loaded, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
        import torch

        ids, mask = padded([example.ids for example in batch], loaded)
        wanted = torch.tensor([example.label for example in batch], device=loaded.device)
        weights = torch.tensor([example.weight for example in batch], device=loaded.device)
        logits = loaded.model(input_ids=ids, attention_mask=mask).logits.float()
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="none") * weights, len(batch)
