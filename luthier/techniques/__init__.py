"""Techniques: settings say what is trained and how; `start` returns what lives while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.choice import Choice

if TYPE_CHECKING:
    import torch

    from luthier.batching import Encoded, Step
    from luthier.facts import EncodedFacts
    from luthier.losses import Needs, Outputs
    from luthier.model import Model
    from luthier.store import Artifact

    Ask = Callable[[Sequence[Encoded], Needs], Outputs]  # a forward pass over some examples

NEEDS: tuple[Needs, ...] = ("losses", "logits", "hidden")  # rising
MOMENTS_WITH_ONE_OWNER = ("groups", "losses", "batches", "divisor", "backward", "finish")


@dataclass(frozen=True)
class Plan:
    """What training will do."""

    rows: int  # examples to learn from
    batch_size: int  # of the effective batch
    steps: int  # optimizer steps
    weighted: bool = False  # whether some examples weigh more than others, or are of another task


UNCOUNTED = {  # moment of another technique -> why a technique that draws rows by chance refuses it
    "penalty": "a penalty reaches the weights past the clipping of each row, and nothing counts what it tells",
    "losses": "a loss that another technique makes may look at several rows, and each row's must be its own",
}


class Running:
    """A technique while it trains. The moments that it does not write itself do nothing.

    `expect`, `epoch`, `facts` and `close`: any number, in recipe order. `penalty`: summed. `groups`, `losses`, `batches`,
    `divisor`, `backward` and `finish`: one owner each.
    """

    needs: Needs = "losses"  # what a forward pass must leave for `losses`
    tells_loss: ClassVar[bool] = True  # whether the history may hold the training loss and what the steps covered

    def before(self, examples: Sequence[Encoded], ask: Ask) -> None:
        """Once, before the first step and never after a resumption: all that will be learned from, and how to ask the model,
        in which nothing has moved yet. What is found belongs in `state`."""

    def expect(self, plan: Plan) -> None:
        """Once, when all techniques have started and before anything is restored."""

    def epoch(self, n: int, history: Sequence[Mapping[str, Any]]) -> bool:
        """Before epoch `n` (from 0), with the evaluations so far; true when what trains has changed."""
        return False

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer: dicts with params, lr, name, and weight_decay where it is not the recipe's.

        Asked again after a change.
        """
        raise NotImplementedError

    def batches(self, step: int, planned: Step, lengths: Sequence[int], tokens_per_batch: int) -> Step:
        """The micro-batches of optimizer step `step` (from 0), in numbers of examples: those planned, or others."""
        return planned

    def losses(self, batch: Sequence[Encoded], losses_B: torch.Tensor, outputs: Outputs) -> torch.Tensor:
        """The objective's losses (B,), in nats and weighted, wrapped or replaced."""
        return losses_B

    def divisor(self, batch: Sequence[Encoded], covered: float) -> Sequence[float] | float:
        """What the losses of a micro-batch are divided by: the supervised tokens of the whole step, or one for each."""
        return covered

    def penalty(self) -> torch.Tensor | None:
        """A scalar added to the loss of an optimizer step, asked once for each, however it is cut; None adds nothing."""
        return None

    def backward(self, losses_B: torch.Tensor) -> None:
        """Turn per-example losses (B,), already divided by what the whole step covers, into gradients."""
        losses_B.sum().backward()

    def finish(self) -> None:
        """When all gradients of an optimizer step are there, before they are clipped and used."""

    def facts(self) -> dict[str, Any]:
        """What the manifest shall say of the training when it has ended, by the names of `TrainedFacts`."""
        return {}

    def close(self) -> None:
        """Take away what was put around the model for training alone."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a checkpoint must keep, as named tensors and as JSON; with `restore` it makes resuming exact."""
        return {}, {}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Take up `state` again."""


class Technique(Choice):
    """A way of training."""

    family: ClassVar[str] = "techniques"
    excludes: ClassVar[dict[str, str]] = {}  # kind of another technique -> why the two do not combine
    requires: ClassVar[dict[str, str]] = {}  # kind of another technique -> why this one does nothing without it
    recommended_learning_rate: ClassVar[float | None] = None
    one_task: ClassVar[str] = ""  # why it does not learn several tasks at once, where it does not
    learning_rate_factor: ClassVar[float] = 1.0  # by which what the others recommend is multiplied
    running: ClassVar[type[Running]] = Running  # what `start` returns; its overridden moments are those it owns
    folders: ClassVar[tuple[str, ...]] = ()  # of `inputs`, those that are model folders
    inputs: ClassVar[tuple[str, ...]] = ()  # settings that name a file or folder, which `start` gets as an artifact
    needs_former: ClassVar[bool] = False  # whether it is about the task of the run that `former` names
    layout: ClassVar[Literal["rows"] | None] = None  # "rows": examples must not be packed end to end
    once: ClassVar[str] = ""  # why none of its steps may be left out or taken again, where that is so
    starts_last: ClassVar[bool] = False  # whether it goes by what the others leave to train, wherever it is named
    sampling: ClassVar[Literal["poisson"] | None] = None  # "poisson": each row enters each step by a chance of its own
    precision: ClassVar[Literal["float32"] | None] = None  # what `auto` becomes; another one is refused

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.outside = cls.inputs

    @property
    def watches(self) -> bool:
        """Whether it needs figures on a validation split."""
        return False

    def excluded(self) -> Mapping[str, str]:
        """Kind of another technique -> why it does not combine with this one as it is set."""
        return self.excludes

    def misfit(self, objective: str) -> str:
        """Why it cannot learn by an objective, or nothing."""
        return ""

    def learns_answers(self) -> bool:
        """Whether the answers of its input `teacher` take the place of the targets of training."""
        return False

    def loads(self) -> dict[str, Any]:
        """How the base is held, as `model.load` takes it (`quantization`); empty: in full precision."""
        return {}

    def places_taken(self, written_apart: bool) -> tuple[int, int]:
        """Positions of the base that are taken before every text, and before an answer that a decoder writes apart from it."""
        return 0, 0

    def learning_rate(self) -> float | None:
        """The peak learning rate that it recommends with these settings, if it has an opinion."""
        return self.recommended_learning_rate

    def suits(self, encoded: EncodedFacts) -> None:
        """UserError where what is learned from does not suit it."""

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        """Change the model (freeze, wrap, add) and return what lives while it trains."""
        return self.running()


class Together(Running):
    """All running techniques of a recipe as one."""

    def __init__(self, running: Sequence[Running]) -> None:
        self.running = list(running)
        self.needs = max((each.needs for each in running), key=NEEDS.index, default="losses")
        self.tells_loss = all(each.tells_loss for each in running)  # type: ignore[misc]
        self._owners = {moment: self._owner(moment) for moment in MOMENTS_WITH_ONE_OWNER}

    def _owner(self, moment: str) -> Running | None:
        return next((each for each in self.running if owns(type(each), moment)), None)

    @property
    def groups_owner(self) -> Running | None:
        """Who divides the parameters into groups, if anybody does."""
        return self._owners["groups"]

    @property
    def samples(self) -> bool:
        """Whether somebody draws the rows of each step."""
        return self._owners["batches"] is not None

    @property
    def watches_parameters(self) -> bool:
        """Whether anybody may look at parameters by name or change which of them train."""
        return any(owns(type(each), moment) for each in self.running for moment in ("groups", "epoch", "penalty"))

    @property
    def looks_before(self) -> bool:
        """Whether anybody looks at the examples before the first step."""
        return any(owns(type(each), "before") for each in self.running)

    def before(self, examples: Sequence[Encoded], ask: Ask) -> None:
        for each in self.running:
            each.before(examples, ask)

    def epoch(self, n: int, history: Sequence[Mapping[str, Any]]) -> bool:
        changed = [each.epoch(n, history) for each in self.running]
        return any(changed)

    def expect(self, plan: Plan) -> None:
        for each in self.running:
            each.expect(plan)

    def batches(self, step: int, planned: Step, lengths: Sequence[int], tokens_per_batch: int) -> Step:
        owner = self._owners["batches"]
        return owner.batches(step, planned, lengths, tokens_per_batch) if owner else planned

    def divisor(self, batch: Sequence[Encoded], covered: float) -> Sequence[float] | float:
        owner = self._owners["divisor"]
        return owner.divisor(batch, covered) if owner else covered

    def losses(self, batch: Sequence[Encoded], losses_B: torch.Tensor, outputs: Outputs) -> torch.Tensor:
        owner = self._owners["losses"]
        return owner.losses(batch, losses_B, outputs) if owner else losses_B

    def penalty(self) -> torch.Tensor | None:
        found = [penalty for each in self.running if (penalty := each.penalty()) is not None]
        return sum(found[1:], found[0]) if found else None

    def backward(self, losses_B: torch.Tensor) -> None:
        owner = self._owners["backward"]
        if owner is not None:
            owner.backward(losses_B)
        else:
            super().backward(losses_B)

    def finish(self) -> None:
        if (owner := self._owners["finish"]) is not None:
            owner.finish()

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in self.running:
            found |= each.facts()
        return found

    def close(self) -> None:
        for each in self.running:
            each.close()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}
        for number, each in enumerate(self.running):
            own, facts[str(number)] = each.state()
            tensors |= {f"{number}/{name}": tensor for name, tensor in own.items()}
        return tensors, facts

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        for number, each in enumerate(self.running):
            own = {name.partition("/")[2]: t for name, t in tensors.items() if name.partition("/")[0] == str(number)}
            each.restore(own, facts[str(number)])


def owns(running: type[Running], moment: str) -> bool:
    """Whether a technique writes a moment itself."""
    return getattr(running, moment) is not getattr(Running, moment)


def conflicts(techniques: Sequence[Technique]) -> str:
    """Why a list of techniques cannot work together, or nothing."""
    kinds = [technique.kind for technique in techniques]
    for kind in kinds:
        if kinds.count(kind) > 1:
            return f"{kind} is named twice; once is enough"
    for technique in techniques:
        for other, reason in technique.excluded().items():
            if other in kinds:
                return f"{technique.kind} and {other} do not combine: {reason}"
        for other, reason in technique.requires.items():
            if other not in kinds:
                return f"{technique.kind} needs {other}: {reason}"
    for moment in MOMENTS_WITH_ONE_OWNER:
        owners = [technique.kind for technique in techniques if owns(technique.running, moment)]
        if len(owners) > 1:
            return f"{' and '.join(owners)} both decide `{moment}`; use one of them"
    for sampler in (technique for technique in techniques if technique.sampling):
        for moment, reason in UNCOUNTED.items():
            for each in techniques:
                if each is not sampler and owns(each.running, moment):
                    return f"{sampler.kind} and {each.kind} do not combine: {reason}"
    return ""


def learning_rate_for(techniques: Sequence[Technique]) -> float:
    """The peak learning rate recommended by the first technique that has an opinion, else 1e-5 (full fine-tuning), times
    the factors of those that need less.

    Full has no opinion, since nearly all that stands beside it knows better."""
    found = next((rate for each in techniques if (rate := each.learning_rate()) is not None), 1e-5)
    return math.prod([t.learning_rate_factor for t in techniques], start=found)


def misfits(techniques: Sequence[Technique], objective: str) -> Iterator[str]:
    """What is wrong with a list of techniques for what a task has them learn, as `[place]: why`."""
    for place, technique in enumerate(techniques):
        if problem := technique.misfit(objective):
            yield f"[{place}]: {problem}"
