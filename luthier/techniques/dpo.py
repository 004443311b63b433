"""DPO: learning from better and worse answers without a reward model (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.batching import cut
from luthier.errors import UserError
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch

    from luthier.batching import Encoded
    from luthier.losses import Outputs
    from luthier.model import Model
    from luthier.store import Artifact
    from luthier.techniques import Ask

TOKENS_AT_ONCE = 2048  # when the references are computed
KEY_BYTES = 16


class Preferring(Running):
    """Compares what the model says of two answers with what it said before training, the reference."""

    def __init__(self, model: Model, settings: Dpo) -> None:
        self.model, self.settings = model, settings
        self.reference: dict[bytes, tuple[float, float]] = {}  # example -> log-probabilities of its two answers, nats
        self.shift = 0.0  # nats, z0 of kto in this step
        self.shifts: list[float] = []  # of the examples of this step, from which that of the next one comes

    def before(self, examples: Sequence[Encoded], ask: Ask) -> None:
        """The references of all examples, in batches that depend on the examples alone."""
        import torch

        training, _ = self.model.forward.training, self.model.forward.eval()
        lengths = [example.length for example in examples]
        order = sorted(range(len(lengths)), key=lambda n: (lengths[n], n))
        with torch.no_grad():
            for numbers in filter(None, cut(order, lengths, TOKENS_AT_ONCE)):
                batch = [examples[n] for n in numbers]
                said = ask(batch, "losses").log_probs
                assert said is not None
                self.reference |= {key_of(e): (one, two) for e, (one, two) in zip(batch, said.tolist(), strict=True)}
        self.model.forward.train(training)

    def losses(self, batch: Sequence[Encoded], losses_B: torch.Tensor, outputs: Outputs) -> torch.Tensor:
        said_B2 = outputs.log_probs
        assert said_B2 is not None
        reference_B2 = said_B2.new_tensor([self.reference[key_of(example)] for example in batch])
        weights_B = said_B2.new_tensor([example.weight for example in batch])
        ratios_B2 = said_B2 - reference_B2
        settings = self.settings
        if settings.loss == "kto":
            self.shifts += ratios_B2[:, 1].detach().tolist()
            good_B = said_B2.new_tensor([example.numbers[2] for example in batch]) > 0
            return kto(ratios_B2[:, 0], good_B, self.shift, settings.beta, settings.bad_weight) * weights_B
        ahead_B = ratios_B2[:, 0] - ratios_B2[:, 1]
        if settings.loss == "ipo":
            return ipo(ahead_B, settings.beta) * weights_B
        return dpo(ahead_B, settings.beta, settings.label_smoothing) * weights_B

    def penalty(self) -> torch.Tensor | None:
        """Nothing is added; being asked once for each step is how a step is known to be over."""
        if self.shifts:
            self.shift = max(0.0, sum(self.shifts) / len(self.shifts))
            self.shifts = []
        return None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        import torch

        keys = torch.tensor([list(key) for key in self.reference], dtype=torch.uint8).reshape(-1, KEY_BYTES)
        values = torch.tensor(list(self.reference.values()), dtype=torch.float64).reshape(-1, 2)
        return {"keys": keys, "reference": values}, {"shift": self.shift}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        rows = zip(tensors["keys"].tolist(), tensors["reference"].tolist(), strict=True)
        self.reference = {bytes(key): (one, two) for key, (one, two) in rows}
        self.shift = facts["shift"]


class Dpo(Technique):
    """Make better answers more likely than worse ones, and stay near to what the model was.

    The reference is the model before the first step: what it says of each answer is computed once, and kept in checkpoints.
    """

    running: ClassVar[type[Running]] = Preferring
    excludes: ClassVar[dict[str, str]] = {"replay": "examples of a former task are no pairs of answers"}
    one_task: ClassVar[str] = "it compares answers to one task"
    learning_rate_factor: ClassVar[float] = 0.5  # 5e-6 in place of full's 1e-5

    loss: Literal["dpo", "ipo", "kto"] = "dpo"
    """`dpo` and `ipo` (Azar et al. 2023: a margin of 1/(2 beta) and no more) learn from pairs (task.rejected_column), `kto`
    (Ethayarajh et al. 2024) from single answers that are good or bad (task.good_column)."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to what it was, per nat; lower lets it go further."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs that may be the wrong way round, 0..0.5; for `dpo`."""
    bad_weight: float = Field(1.0, gt=0)
    """Weight of a bad answer where a good one weighs 1; for `kto`."""

    @model_validator(mode="after")
    def _of_its_loss(self) -> Dpo:
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(f"label_smoothing is for `loss: dpo`, not {self.loss}")
        if self.bad_weight != 1.0 and self.loss != "kto":
            raise ValueError(f"bad_weight is for `loss: kto`, not {self.loss}")
        return self

    def misfit(self, objective: str) -> str:
        wanted, named = ("vote", "good_column") if self.loss == "kto" else ("preference", "rejected_column")
        if objective == wanted:
            return ""
        kind = "single answers that are good or bad" if self.loss == "kto" else "pairs of a better and a worse answer"
        return f"dpo with `loss: {self.loss}` learns from {kind}: use task generate with {named}"

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        if not model.head.writes:
            raise UserError(
                "dpo compares answers that are written, and a classification head writes none",
                where="train.techniques dpo",
                hint="use a decoder or an encoder-decoder with task generate",
            )
        return Preferring(model, self)


def key_of(example: Encoded) -> bytes:
    """What tells an example from others: its tokens, where its first answer ends, and how that was judged."""
    import numpy as np

    parts = (
        np.asarray(example.ids, dtype=np.int64),
        np.asarray(example.targets, dtype=np.int64),
        np.asarray(example.numbers, dtype=np.float64),
    )
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(f"{len(part)}/".encode() + part.tobytes())
    return digest.digest()


def dpo(ahead_B: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """-log sigmoid(beta * ahead), (B,): equation 7 of the paper, smoothed as in Mitchell 2023 (conservative DPO).

    `ahead_B`: how much more the log-ratio to the reference is of the chosen answer than of the rejected one, nats.
    """
    from torch.nn.functional import logsigmoid

    scaled = beta * ahead_B
    return -(1 - label_smoothing) * logsigmoid(scaled) - label_smoothing * logsigmoid(-scaled)


def ipo(ahead_B: torch.Tensor, beta: float) -> torch.Tensor:
    """(ahead - 1/(2 beta))^2, (B,): equation 17 of Azar et al. 2023, arXiv 2310.12036, with beta for its tau."""
    return (ahead_B - 1 / (2 * beta)) ** 2


def kto(ratio_B: torch.Tensor, good_B: torch.Tensor, shift: float, beta: float, bad_weight: float) -> torch.Tensor:
    """1 - sigmoid(beta * (ratio - z0)) of good answers and 1 - sigmoid(beta * (z0 - ratio)) of bad ones, (B,): equation 8
    of Ethayarajh et al. 2024, arXiv 2402.01306.

    `ratio_B`: log-ratio to the reference, nats. `shift`: z0, how far the model has gone from the reference: the mean
    log-ratio of answers to other prompts, not below 0. Other than in the paper it is that of the whole step before, so
    that cutting a batch otherwise changes nothing; in the first step it is 0, as it is there.
    """
    import torch

    sign_B = torch.where(good_B, 1.0, -1.0)
    weight_B = torch.where(good_B, 1.0, bad_weight)
    return weight_B * (1 - torch.sigmoid(beta * sign_B * (ratio_B - shift)))
