"""Private: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), which bounds what the weights tell of any single training row."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.accounting import AccountantName, Spent, epsilon, noise_for
from luthier.batching import Encoded, Step, cut
from luthier.errors import UserError
from luthier.techniques import Plan, Running, Technique

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from luthier.facts import EncodedFacts
    from luthier.model import Model
    from luthier.row_gradients import Watched
    from luthier.store import Artifact

WHERE = "train.techniques private"
SHY = 1 - 1e-6  # rows are clipped to a hair less than `clip`, so that rounding leaves none above it
COMPARED = 4  # rows on which the quick way is compared with the exact one
TWICE = 2  # steps in which it is: in the first one, half of a new adapter has no gradient to compare
NOT_COVERED = [
    "the rows of validation and test, which choose when training stops and which weights are kept",
    "the names of the labels, how many rows there are, and how they were chosen and prepared",
    "the report with its examples, counts and errors, which shows rows as they are: it stays where they are",
    "other trainings on the same rows: the epsilons of all that are ever shown add up",
    "attacks on rounding in floating-point arithmetic and on the timing of the computation",
]


class Private(Technique):
    """Clip each row's gradient, add noise to their sum, and count what that tells of a row: (epsilon, delta).

    Combines with full, lora and freeze.
    """

    sampling: ClassVar[Literal["poisson"] | None] = "poisson"
    once: ClassVar[str] = "what a step came to would tell of its rows, and one that is taken again is not counted"
    layout: ClassVar[Literal["rows"] | None] = "rows"
    precision: ClassVar[Literal["float32"] | None] = "float32"  # rounding to bfloat16 would move other rows' gradients
    excludes: ClassVar[dict[str, str]] = {
        "replay": "replayed rows stand in the same steps and would be learned from without being counted",
    }

    clip: float = Field(1.0, gt=0)
    """Largest norm of one row's gradient, of its mean loss over its own supervised tokens; larger ones are scaled down."""
    noise: float | None = Field(None, gt=0)
    """Standard deviation of the noise on a step's summed gradient, in units of `clip`. Give it or `target_epsilon`."""
    target_epsilon: float | None = Field(None, gt=0)
    """The epsilon that all planned steps together may cost; the least noise for it is found."""
    delta: float | None = Field(None, gt=0, lt=1)
    """Probability, beyond epsilon, with which the bound may fail: less than 1/rows, and by default rows^-1.1."""
    accountant: AccountantName = "prv"
    """Which of the two upper bounds on epsilon is claimed: `prv` is tighter, `rdp` older. Both figures are given."""
    unit: Literal["entity", "example"] = "entity"
    """What is protected: all of an entity (the rows of one group of a grouped split, or one row of the table), of which
    training may then hold one example; or a single example, whoever else's it is."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Private:
        if (self.noise is None) == (self.target_epsilon is None):
            raise ValueError("give either noise or target_epsilon")
        return self

    def suits(self, encoded: EncodedFacts) -> None:
        if self.unit == "entity" and encoded.most_of_one_entity > 1:
            raise UserError(
                f"an entity has {encoded.most_of_one_entity} training examples, and the claim would be about one of them alone",
                where=f"{WHERE} unit",
                hint="keep one row for each, or write `unit: example` if one example is what you want to protect",
            )

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        if model.precision != "float32":
            raise UserError(
                "private bounds what each row adds in float32 alone",
                where="train.precision",
                hint="use float32",
            )
        for name, module in model.bare.named_modules():
            if "BatchNorm" in type(module).__name__:
                raise UserError(
                    f"the base mixes the rows of a batch in {name} ({type(module).__name__}), so no row's gradient is its own",
                    where="base",
                    hint="choose a base without batch normalisation",
                )
        return PrivateRunning(self, model)


class PrivateRunning(Running):
    """Draws the rows of each step, clips their gradients, adds noise, and counts."""

    tells_loss: ClassVar[bool] = False

    def __init__(self, settings: Private, model: Model) -> None:
        self.settings, self.model = settings, model
        self.seed = new_seed()  # kept in checkpoints alone, and gone with them
        self.taken = 0  # steps of which the noise was added
        self.drawn: int | None = None  # the step whose rows were drawn and are not yet in an update
        self.alone = ""  # why each row is computed by itself
        self.compared = [0, 0]  # parameters that trained, and steps in which the quick way was compared for them
        self.watched: Watched | None = None
        self.buffers: dict[str, torch.Tensor] = {}
        self.plan = Plan(1, 1, 1)
        self.rate = self.noise = self.delta = 0.0

    def expect(self, plan: Plan) -> None:
        """Rate, delta and noise, which follow from the rows and the steps."""
        if plan.weighted:
            raise UserError(
                "some examples weigh more or less than others, and a row's share in a step must not depend on it",
                where=WHERE,
                hint="give every example the weight 1",
            )
        self.plan = plan
        self.rate = min(1.0, plan.batch_size / plan.rows)
        self.delta = self.settings.delta if self.settings.delta is not None else min(0.5, plan.rows**-1.1)
        if self.delta >= 1 / plan.rows:
            raise UserError(
                f"delta {self.delta:g} is not below 1/{plan.rows}: a training that shows one row whole would satisfy it",
                where=f"{WHERE} delta",
                hint=f"use at most {0.1 / plan.rows:.1g}",
            )
        wanted, steps = self.settings.target_epsilon, plan.steps
        if wanted is not None:
            self.noise = noise_for(wanted, self.rate, steps, self.delta, self.settings.accountant)
        else:
            assert self.settings.noise is not None
            self.noise = self.settings.noise
            if self.cost(steps) is None:
                raise UserError(
                    f"noise {self.noise:g} over {steps} steps protects nobody: {self.settings.accountant} finds no epsilon",
                    where=f"{WHERE} noise",
                    hint="use 0.5 or more, or give target_epsilon",
                )

    def batches(self, step: int, planned: Step, lengths: Sequence[int], tokens_per_batch: int) -> Step:
        import torch

        self.drawn = step
        # where other rows fall in a batch must not decide a row's dropout for whoever knows the recipe's seed
        torch.manual_seed(int(draw(self.seed, step, "dropout").integers(2**62)))
        self.watch()
        chosen = draw(self.seed, step, "rows").random(len(lengths)) < self.rate
        rows = [int(row) for row in chosen.nonzero()[0]]
        # as long as the quick way is not shown for all that trains, a few rows to show it with, and single ones
        if self.alone or not self.is_shown:
            few = 0 if self.alone else COMPARED
            return [micro for micro in (rows[:few], *([row] for row in rows[few:])) if micro]
        return [micro for micro in cut(rows, lengths, tokens_per_batch) if micro]

    def divisor(self, batch: Sequence[Encoded], covered: float) -> Sequence[float] | float:
        """Its own supervised tokens and the *expected* batch: no other row changes what a row weighs."""
        return [max(1, example.covers) * self.expected for example in batch]

    @property
    def expected(self) -> float:
        """Rows that a step holds on average."""
        return self.rate * self.plan.rows

    def backward(self, losses_B: torch.Tensor) -> None:
        from luthier.row_gradients import MixesRows

        watched, rows_B = self.watched, losses_B * self.expected
        assert watched is not None and self.drawn is not None, "rows are drawn before their gradients are clipped"
        try:
            if len(rows_B) > 1 and not self.is_shown and not self.alone:
                n = len(watched.parameters)
                self.alone, self.compared = watched.agrees(rows_B), [n, 1 + self.compared[1] * (self.compared[0] == n)]
            self._clipped(watched, rows_B)
        except MixesRows:
            raise UserError(
                "what the base computes for one row depends on the other rows of a batch, so no row's gradient is its own",
                where="base",
                hint="choose another base",
            ) from None
        finally:
            watched.forget()

    def _clipped(self, watched: Watched, rows_B: torch.Tensor) -> None:
        """Add each row's gradient, scaled down to `clip`, to the gradients. One that is not finite ends the training."""
        from luthier.row_gradients import CannotSplit

        if len(rows_B) > 1 and not self.alone:
            try:
                norms_B = watched.norms(rows_B)
            except CannotSplit as why:
                self.alone = str(why)
            else:
                (rows_B * scales(norms_B, self.settings.clip).to(rows_B.dtype)).sum().backward()
                return
        add_each(rows_B, watched.parameters, self.settings.clip)

    def finish(self) -> None:
        """Noise on the sum of the clipped gradients, which the expected batch then divides."""
        import torch

        assert self.drawn is not None, "a step without rows that were drawn is not counted"
        self.unchanged()
        draws = draw(self.seed, self.drawn, "noise")
        deviation = self.noise * self.settings.clip
        for parameter in self.model.trainable().values():
            noise = torch.from_numpy(draws.standard_normal(tuple(parameter.shape), dtype="float32")).to(
                parameter.device
            )
            summed = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter.grad = (summed + noise * deviation) / self.expected
        assert self.watched is not None
        self.watched.on, self.drawn = False, None
        self.taken += 1

    @property
    def is_shown(self) -> bool:
        """Whether the quick way was compared for all that trains now: others may free more of it, and never hold it again."""
        assert self.watched is not None
        return self.compared == [len(self.watched.parameters), TWICE]

    def watch(self) -> None:
        """Watch what trains now."""
        from luthier.row_gradients import Watched

        parameters = list(self.model.trainable().values())
        known = self.watched.parameters if self.watched else []
        if self.watched is None or [id(p) for p in known] != [id(p) for p in parameters]:
            if self.watched is not None:
                self.watched.remove()
            self.watched = Watched(self.model.forward, parameters)
            self.buffers = {name: buffer.clone() for name, buffer in kept(self.model.forward)}
        self.watched.forget()
        self.watched.on = True

    def unchanged(self) -> None:
        """UserError where the base itself keeps something of the rows, such as running means, past clipping and noise."""
        import torch

        for name, buffer in kept(self.model.forward):
            if not torch.equal(buffer, self.buffers[name]):
                raise UserError(
                    f"the base keeps something of the rows in {name}, which is neither clipped nor counted",
                    where="base",
                    hint="choose another base",
                )

    def close(self) -> None:
        if self.watched is not None:
            self.watched.remove()
            self.watched = None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {
            **self.mechanism(),
            "taken": self.taken,
            "seed": self.seed,
            "alone": self.alone,
            "compared": self.compared,
            "spent": self.cost(self.taken, "rdp"),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        for name, value in self.mechanism().items():
            if facts[name] != value:
                raise UserError(
                    f"the checkpoint was made with {name} {facts[name]}, not {value}: its steps would be counted wrongly",
                    where=WHERE,
                    hint="train anew with --fresh",
                )
        self.taken, self.seed = facts["taken"], facts["seed"]
        self.alone, self.compared = facts["alone"], facts["compared"]

    def mechanism(self) -> dict[str, Any]:
        """What one step is, and how many are planned: all that epsilon depends on."""
        return {
            "noise": self.noise,
            "clip": self.settings.clip,
            "rate": self.rate,
            "delta": self.delta,
            "rows": self.plan.rows,
            "steps": self.plan.steps,
        }

    def cost(self, steps: int, accountant: AccountantName | None = None) -> float | None:
        """The epsilon of so many steps; None where the accountant finds none."""
        found = epsilon([Spent(self.noise, self.rate, steps)], self.delta, accountant or self.settings.accountant)
        return found if math.isfinite(found) else None

    def facts(self) -> dict[str, Any]:
        """The claim. It counts all planned steps, also where training stopped early: when to stop was decided by what
        came out, which a bound for a fixed number of steps does not allow to be taken off."""
        steps = max(self.plan.steps, self.taken)
        return {
            "privacy": {
                **self.mechanism(),
                "steps": steps,
                "epsilon": self.cost(steps),
                "accountant": self.settings.accountant,
                "epsilon_rdp": self.cost(steps, "rdp"),
                "epsilon_prv": self.cost(steps, "prv"),
                "steps_taken": self.taken,
                "epsilon_of_steps_taken": self.cost(self.taken),
                "unit": self.settings.unit,
                "one_by_one": self.alone,
                "not_covered": NOT_COVERED,
            }
        }


Private.running = PrivateRunning


def new_seed() -> str:
    """256 bits from the operating system."""
    return secrets.token_hex(32)


def draw(seed: str, step: int, what: str) -> np.random.Generator:
    """The randomness of one step for one purpose."""
    import numpy as np

    key = hashlib.blake2b(f"{seed}/{step}/{what}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def scales(norms_B: torch.Tensor, clip: float) -> torch.Tensor:
    """What gradients of these norms are multiplied by, so that none is longer than `clip`: (B,), at most 1."""
    return (clip * SHY / norms_B.clamp(min=1e-30)).clamp(max=1.0)


def add_each(rows_B: torch.Tensor, parameters: Sequence[nn.Parameter], clip: float) -> None:
    """Row by row: a gradient of its own, its norm, and what is left of it after clipping added to the gradients."""
    import torch

    from luthier.row_gradients import norm

    for number, row in enumerate(rows_B):
        if not row.requires_grad:
            continue
        found = torch.autograd.grad(row, parameters, retain_graph=number + 1 < len(rows_B), allow_unused=True)
        scale = float(scales(norm(found), clip))
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                clipped = gradient * scale
                parameter.grad = clipped if parameter.grad is None else parameter.grad.add_(clipped)


def kept(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The buffers that are saved with a model."""
    stored = module.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in stored]
