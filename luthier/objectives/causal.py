"""Causal: next-token loss on the answer alone, for decoders and encoder-decoders, with logits only where there is loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.batching import Encoded
from luthier.encoding import answer_ids, chat, prompt_ids, shortened
from luthier.model import packs, padded, token_losses
from luthier.objectives import Objective
from luthier.seams import Example

if TYPE_CHECKING:
    import torch

    from luthier.model import Loaded
    from luthier.tasks import Task


class Causal(Objective):
    """Write the answer and the end token."""

    def encode(
        self, example: Example, task: Task, tokenizer: Any, architecture: str, labels: Sequence[str], max_length: int
    ) -> Encoded:
        prompt = task.prompt(example)
        answer = example.answer()
        if isinstance(prompt, list):
            return chat(prompt, answer, tokenizer, max_length, example.weight)
        target = [] if answer is None else answer_ids(task.completion(answer), tokenizer)
        if architecture == "encoder-decoder":
            ids = tokenizer(prompt)["input_ids"]
            room = max(max_length - len(target), 1)
            return Encoded(ids=ids[:room], labels=target, cut_tokens=max(0, len(ids) - room), weight=example.weight)
        ids = prompt_ids(prompt, tokenizer)
        cut = max(0, len(ids) + len(target) - max_length)
        if cut and len(target) < max_length - 1:
            ids = shortened(ids, max_length - len(target))
        return Encoded(
            ids=ids + target,
            supervised=[False] * len(ids) + [True] * len(target),
            cut_tokens=cut,
            weight=example.weight,
        )

    def loss(self, loaded: Loaded, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
        import torch

        if loaded.architecture == "encoder-decoder":
            return seq2seq_loss(loaded, batch)
        inputs, starts = packed(batch, loaded) if packs(loaded) else in_rows(batch, loaded)
        flat, rows = [], []
        for row, (start, example) in enumerate(zip(starts, batch, strict=True)):
            places = [place for place, carries in enumerate(example.supervised) if carries and place > 0]
            flat += [start + place for place in places]
            rows += [row] * len(places)
        positions_S = torch.tensor(flat, device=loaded.device)
        wanted_S = inputs["input_ids"].reshape(-1)[positions_S]
        losses_S = token_losses(loaded, positions_S - 1, wanted_S, **inputs)  # the token before writes this one
        return per_example(losses_S, rows, batch, loaded.device), len(flat)


def in_rows(batch: Sequence[Encoded], loaded: Loaded) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Examples in rows (B, T), padded on the right, and where each begins in (B*T,)."""
    ids_BT, mask_BT = padded([example.ids for example in batch], loaded)
    return {"input_ids": ids_BT, "attention_mask": mask_BT}, [row * ids_BT.shape[1] for row in range(len(batch))]


def packed(batch: Sequence[Encoded], loaded: Loaded) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Examples end to end in one row (1, T) without padding, and where each begins; positions begin again at 0.

    transformers reads such positions as a mask that keeps the examples from seeing each other.
    """
    import torch

    ids_1T = torch.tensor([[token for example in batch for token in example.ids]], device=loaded.device)
    positions_1T = torch.tensor(
        [[place for example in batch for place in range(len(example.ids))]], device=loaded.device
    )
    lengths = [len(example.ids) for example in batch]
    return {"input_ids": ids_1T, "position_ids": positions_1T}, [sum(lengths[:n]) for n in range(len(batch))]


def seq2seq_loss(loaded: Loaded, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
    """Cross-entropy of what the decoder writes, at its real positions alone."""
    import torch

    ids_BT, mask_BT = padded([example.ids for example in batch], loaded)
    wanted_BT, wanted_mask_BT = padded([example.labels for example in batch], loaded)
    start = torch.full_like(wanted_BT[:, :1], loaded.model.config.decoder_start_token_id)
    positions_S = wanted_mask_BT.reshape(-1).nonzero()[:, 0]
    losses_S = token_losses(
        loaded, positions_S, wanted_BT.reshape(-1)[positions_S], input_ids=ids_BT, attention_mask=mask_BT,
        decoder_input_ids=torch.cat([start, wanted_BT[:, :-1]], dim=1),
    )  # fmt: skip
    rows = [row for row, example in enumerate(batch) for _ in example.labels]
    return per_example(losses_S, rows, batch, loaded.device), len(rows)


def per_example(losses_S: torch.Tensor, rows: list[int], batch: Sequence[Encoded], device: str) -> torch.Tensor:
    """Sum token losses within each example and apply its weight: (S,) -> (B,)."""
    import torch

    weights_B = torch.tensor([example.weight for example in batch], device=device)
    sums_B = torch.zeros(len(batch), device=device).index_add(0, torch.tensor(rows, device=device), losses_S)
    return sums_B * weights_B
