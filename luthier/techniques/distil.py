"""Distil: a student learns from what a teacher says, not from the right answers alone (Hinton et al. 2015, arXiv
1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from luthier.errors import UserError
from luthier.losses import Needs, Outputs, per_example
from luthier.model import blocks
from luthier.teachers import TEACHER, opened
from luthier.techniques import Running, Technique

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.batching import Encoded
    from luthier.model import Model
    from luthier.store import Artifact

ON_THE_WHOLE = "an adapter stands on the whole base, of which `layers` keeps a part"
ADAPTERS = ("lora", "peft", "prompt_tuning", "prefix", "quantized_base")


class Learning(Running):
    """Asks the teacher about the examples of each micro-batch."""

    def __init__(self, settings: Distil, teacher: Model | None, columns: Sequence[int] = ()) -> None:
        self.settings, self.teacher = settings, teacher
        self.columns = list(columns)  # of the teacher's labels, in the student's order; empty where words are written
        self.needs: Needs = "losses" if teacher is None else "hidden" if settings.hidden else "logits"

    def losses(self, batch: Sequence[Encoded], losses_B: torch.Tensor, outputs: Outputs) -> torch.Tensor:
        if self.teacher is None:
            return losses_B
        import torch

        assert outputs.again is not None
        with torch.no_grad():
            said = outputs.again(self.teacher, self.needs)
        assert said.logits is not None
        assert outputs.logits is not None
        wanted = said.logits[:, self.columns] if self.columns else said.logits
        n_shared = min(
            wanted.shape[1], outputs.logits.shape[1]
        )  # tables of embeddings may be longer than the vocabulary
        weights = [example.weight for example in batch]
        apart = softened(wanted[:, :n_shared], outputs.logits[:, :n_shared], self.settings.temperature)
        found = (1 - self.settings.share) * losses_B + self.settings.share * summed(apart, outputs.rows, weights)
        if self.settings.hidden:
            assert said.hidden is not None
            assert outputs.hidden is not None
            turned = 1 - torch.nn.functional.cosine_similarity(said.hidden, outputs.hidden, dim=-1)
            found = found + self.settings.hidden * summed(turned, outputs.rows, weights)
        return found


class Distil(Technique):
    """Learn from a teacher's answers: their probabilities, their hidden states, or (`sequence`) the answers themselves.

    The teacher answers as in use, without dropout, and never changes. With `layers` the student is a part of its base.
    """

    running: ClassVar[type[Running]] = Learning
    inputs: ClassVar[tuple[str, ...]] = ("teacher", "teacher_base")
    folders: ClassVar[tuple[str, ...]] = ("teacher", "teacher_base")

    one_task: ClassVar[str] = "a teacher answers one task"
    excludes: ClassVar[dict[str, str]] = {"replay": "the teacher does not answer the former task"}

    teacher: str
    """Folder of the teacher: exported by Luthier, or of Hugging Face or peft. It reads the same tokens as the base (but for
    `sequence`), or has the same labels by name."""
    teacher_base: str = ""
    """Folder of the teacher's base, where the teacher is an adapter."""
    temperature: float = Field(2.0, gt=0)
    """By which logits are divided before they become probabilities; higher shows more of what is unlikely. The loss is
    multiplied by its square, so that its gradients keep their size."""
    share: float = Field(0.5, ge=0, le=1)
    """Share of the loss that is the teacher's, 0..1; the rest is that of the right answers."""
    hidden: float = Field(0.0, ge=0)
    """Weight of a further loss: 1 - cosine of the last hidden states of teacher and student (DistilBERT, Sanh et al. 2019,
    arXiv 1910.01108), which must be of one size. 0 leaves it out."""
    layers: list[int] = []
    """Numbers of the blocks of its base that the student keeps, from 0 and rising, such as [0, 2, 4]; empty keeps all."""
    sequence: bool = False
    """Whether the teacher's answers to the training rows become what is learned (Kim & Rush 2016, arXiv 1606.07947, by its
    likeliest answer): any teacher that answers the task will do, whatever tokens it reads."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Distil:
        plain = {name: type(self).model_fields[name].default for name in ("temperature", "share", "hidden")}
        if self.sequence and (idle := [name for name, value in plain.items() if getattr(self, name) != value]):
            raise ValueError(f"{idle[0]}: with `sequence` the teacher's answers are learned, not its probabilities")
        if self.layers != sorted({n for n in self.layers if n >= 0}):
            raise ValueError("layers: give rising numbers from 0, such as [0, 2, 4]")
        return self

    def excluded(self) -> Mapping[str, str]:
        return self.excludes | (dict.fromkeys(ADAPTERS, ON_THE_WHOLE) if self.layers else {})

    def learns_answers(self) -> bool:
        return self.sequence

    def start(self, model: Model, inputs: Mapping[str, Artifact]) -> Running:
        if self.layers:
            keep_blocks(model.bare, self.layers)
        if self.sequence or not (self.share or self.hidden):
            return Learning(self, None)
        base = inputs["teacher_base"].path if "teacher_base" in inputs else None
        teacher = opened(
            inputs["teacher"].path,
            base,
            writes=model.head.writes,
            device=model.device,
            precision=model.precision,
        )
        check_tokens(model, teacher)
        if self.hidden:
            check_states(model, teacher)
        return Learning(self, teacher, [] if model.head.writes else columns_of(model.labels, teacher.labels))


def softened(wanted: torch.Tensor, said: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(wanted / T) || softmax(said / T)) of each row, (S, V), (S, V) -> (S,) nats (Hinton et al., section 2)."""
    wanted_log, said_log = (wanted / temperature).log_softmax(-1), (said / temperature).log_softmax(-1)
    return temperature**2 * (wanted_log.exp() * (wanted_log - said_log)).sum(-1)


def summed(each: torch.Tensor, rows: torch.Tensor | None, weights: Sequence[float]) -> torch.Tensor:
    """Sums over the tokens of each example (B,), with its weight; of labels there is one for each example."""
    return each * each.new_tensor(weights) if rows is None else per_example(each, rows, weights)


def columns_of(labels: Sequence[str], teachers: Sequence[str]) -> list[int]:
    """Where the student's labels stand among the teacher's; UserError unless both have the same."""
    if unlike := sorted(set(labels) ^ set(teachers)):
        owner = "student" if unlike[0] in labels else "teacher"
        raise UserError(
            f"teacher and student have other labels: '{unlike[0]}' is the {owner}'s alone",
            where=TEACHER,
            hint="take a teacher of the same labels, or learn from its answers with sequence: true",
        )
    return [list(teachers).index(label) for label in labels]


def check_tokens(model: Model, teacher: Model) -> None:
    """UserError unless both read the same tokens."""
    if model.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise UserError(
            "the teacher reads other tokens than the base, so that what it says of them means something else",
            where=TEACHER,
            hint="take a teacher with the tokenizer of the base, or learn from its answers with sequence: true",
        )


def check_states(model: Model, teacher: Model) -> None:
    """UserError where hidden states cannot be compared."""
    from luthier.model import reads_padding

    sizes = [int(each.bare.config.get_text_config().hidden_size) for each in (teacher, model)]
    problem = ""
    if sizes[0] != sizes[1]:
        problem = f"the hidden states of the teacher have {sizes[0]} numbers, those of the student {sizes[1]}"
    elif model.head.writes and any(each.bare.get_output_embeddings() is None for each in (teacher, model)):
        problem = "what the output head reads is not shown"
    elif not model.head.writes and any(map(reads_padding, (teacher, model))):
        problem = "texts are computed one by one where padding is read"
    if problem:
        raise UserError(
            f"{problem}, so they cannot be compared", where="train.techniques distil.hidden", hint="leave it 0"
        )


def keep_blocks(bare: nn.Module, kept: Sequence[int]) -> None:
    """Leave a model these blocks of each of its stacks, numbered anew, and let its configuration say so.

    UserError where the folder that is saved would not be read as this model.
    """
    import torch
    from torch.nn import ModuleList

    where = "train.techniques distil.layers"
    names = {name.rpartition(".")[0] for name in blocks(bare)}
    stacks = {name: stack for name in sorted(names) if isinstance(stack := bare.get_submodule(name), ModuleList)}
    n = min(map(len, stacks.values()), default=0)
    if kept[-1] >= n:
        raise UserError(
            f"there is no block {kept[-1]} in the base, which has {n}", where=where, hint=f"use 0 to {n - 1}"
        )
    for name, stack in stacks.items():
        parent, _, last = name.rpartition(".")
        left = ModuleList([stack[number] for number in kept])
        setattr(bare.get_submodule(parent), last, left)
        for number, block in enumerate(left):
            for module in block.modules():
                if isinstance(getattr(module, "layer_idx", None), int):  # its place in the cache
                    module.layer_idx = number
    for config in {id(c): c for c in (bare.config, bare.config.get_text_config())}.values():
        shorten(config, kept, n)
    with torch.device("meta"):
        again = type(bare)(bare.config)
    found = {name: weight.shape for name, weight in bare.state_dict().items()}
    if {name: weight.shape for name, weight in again.state_dict().items()} != found:
        raise UserError(
            f"a {type(bare).__name__} of the blocks {', '.join(map(str, kept))} alone could not be read again",
            where=where,
            hint="keep block 0, which may hold what all blocks use" if kept[0] else "keep all blocks of this base",
        )


def shorten(config: Any, kept: Sequence[int], n: int) -> None:
    """Let a configuration say which of `n` blocks are left: their number, and what it lists of each."""
    for name, value in config.to_dict().items():
        if name in (
            "num_hidden_layers",
            "num_layers",
            "num_decoder_layers",
            "encoder_layers",
            "decoder_layers",
            "n_layer",
            "n_layers",
        ):
            if value == n:
                setattr(config, name, len(kept))
        elif (
            name in ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers")
            and isinstance(value, list)
            and len(value) == n
        ):
            setattr(config, name, [value[number] for number in kept])
