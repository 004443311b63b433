"""Advice: full, LoRA or less, from the size of data and model, the machine's memory and a run's curves; each sentence with
the figures that it rests on."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES_TRAINED = 16  # of a parameter that trains with AdamW: weight 4, gradient 4, two moments 8 (float32)
BYTES_FROZEN = 4
ROOM = 0.7  # share of the machine's memory that weights and optimizer may take; activations need the rest
LORA_SHARE = 0.02  # of the parameters that an adapter of rank 16 trains in the bases that come in packages: 1 to 4 %
FEW_PER_CLASS = 16  # rows per class below which few-shot methods are compared (SetFit, arXiv 2209.11055, uses 8 and 64)
FEW = 500  # rows below which a decoder is better adapted than trained whole: our rule of thumb
PROMPTS_FROM = 1_000_000_000  # parameters from which prompt tuning comes near full tuning (arXiv 2104.08691, figure 1)
CLEAR = 0.01  # share of a figure by which it must have moved, where no spread is known: our rule of thumb
GB = 1e9


@dataclass(frozen=True)
class Situation:
    """What is known before any training."""

    examples: int  # to learn from
    classes: int  # 0 where the model writes
    parameters: int  # of the base; 0 where that is not known
    memory: int  # bytes of the machine
    encoder: bool
    more: bool = False  # whether there are more examples, which were not looked at

    @property
    def counted(self) -> str:
        """`1,400 examples`, or `1,400 examples or more`."""
        return f"{self.examples:,} examples" + (" or more" if self.more else "")


@dataclass(frozen=True)
class Advice:
    """A technique and the sentences why."""

    technique: str  # full, lora, freeze or quantized_base
    reasons: list[str]


def memory_of(trained: float, frozen: float) -> float:
    """Bytes of weights, gradients and AdamW's moments in float32: 16 for each parameter that trains, 4 for each other (the
    arithmetic of Rajbhandari et al. 2020, section 3.1, without its half precision). Activations come on top."""
    return BYTES_TRAINED * trained + BYTES_FROZEN * frozen


def advised(known: Situation) -> Advice:
    """What to begin with. Memory decides first, then the size of the data."""
    reasons = []
    if known.parameters:
        full, adapter = memory_of(known.parameters, 0), memory_of(LORA_SHARE * known.parameters, known.parameters)
        needs = (
            f"{known.parameters / 1e6:,.0f} M parameters take {full / GB:.1f} GB to train whole (16 bytes each) and about "
            f"{adapter / GB:.1f} GB with LoRA (4 bytes each, 16 for the 2 % that train), before activations; this machine has "
            f"{known.memory / GB:.1f} GB"
        )
        reasons.append(needs)
        if adapter > ROOM * known.memory:
            return Advice("quantized_base", [*reasons, "LoRA on a base in 4 bits, or a smaller base, is what fits"])
        if full > ROOM * known.memory:
            return Advice("lora", [*reasons, f"training it whole would take more than {ROOM:.0%} of that"])
    if known.classes:
        each = known.examples / known.classes
        said = f"{known.counted} of {known.classes} classes are {each:,.1f} for each"
        if each < FEW_PER_CLASS:
            few = f"{said}, fewer than {FEW_PER_CLASS}: compare freeze and lora with full, and repeat over seeds"
            return Advice("full" if known.encoder else "lora", [*reasons, few])
        if known.encoder:
            return Advice("full", [*reasons, f"{said}: enough to train a small encoder whole"])
    if known.examples < FEW or not known.encoder:
        many = "few" if known.examples < FEW else "many"
        why = f"{known.counted} are {many} for a model that writes (below {FEW:,}: our rule of thumb); LoRA learns "
        why += "less and forgets less than full training (Biderman et al. 2024, arXiv 2405.09673)"
        reasons.append(why)
        if 0 < known.parameters < PROMPTS_FROM:
            reasons.append(
                f"less than LoRA, prompt tuning, comes near it from about 1,000 M parameters up (Lester et al. 2021, figure 1); "
                f"this base has {known.parameters / 1e6:,.0f} M"
            )
        return Advice("lora", reasons)
    return Advice("full", [*reasons, known.counted])


def after(
    history: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    higher_is_better: bool,
    epochs: float,
    techniques: Sequence[str],
    share_trained: float,
    deviation: float | None = None,
    varies: tuple[str, float] | None = None,
    gain: tuple[float, float] | None = None,
) -> list[str]:
    """What a run's own curves say about the next one; nothing where they say nothing.

    `history`: entries of steps (epoch, loss) and evaluations (epoch, validation). `deviation`: of the metric over repeats.
    `varies`: a metric and its standard deviation over repeats, to be told. `gain`: interval of the gain over the best baseline.
    """
    checks = [(entry["epoch"], entry["validation"]) for entry in history if metric in entry.get("validation", {})]
    losses = [entry["loss"] for entry in history if entry.get("loss") is not None]  # a private training tells none
    sign = 1 if higher_is_better else -1
    found = []
    if len(checks) >= 2:
        values = [figures[metric] for _, figures in checks]
        best = max(range(len(values)), key=lambda n: sign * values[n])
        at, last = checks[best][0], values[-1]
        if best == len(values) - 1 and sign * (values[-1] - values[-2]) > (deviation or CLEAR * abs(last)):
            found.append(
                f"Validation {metric} still improved at the last evaluation ({values[-2]:.3g} to {last:.3g} at epoch "
                f"{checks[-1][0]:g}): train longer than {epochs:g} epochs."
            )
        if at <= epochs / 2 and sign * (values[best] - last) > (deviation or 0.0):
            less = "LoRA or freeze" if "lora" not in techniques else "freeze, or a lower rank"
            found.append(
                f"Validation {metric} was best at epoch {at:g} of {epochs:g} ({values[best]:.3g}, {last:.3g} at the end): what came "
                f"after was learned by heart. Train for fewer epochs, or less of the model ({less}; {share_trained:.1%} trained)."
            )
    if losses and checks and "loss" in checks[-1][1]:
        few = losses[-max(1, len(losses) // 10) :]
        seen, unseen = sum(few) / len(few), checks[-1][1]["loss"]
        if unseen > 3 * seen and unseen - seen > 0.1:
            found.append(
                f"At the end the loss was {seen:.2g} nats in training and {unseen:.2g} on validation: more examples would help more "
                "than a larger model."
            )
        elif seen > 0.8 * unseen and share_trained < 0.5 and not (deviation and deviation > 0):
            found.append(
                f"The loss in training ({seen:.2g} nats) is as high as on validation ({unseen:.2g}) with {share_trained:.1%} of the "
                "parameters trained: a higher rank, or full training, may still learn more."
            )
    if varies is not None and varies[1] > 0:
        found.append(
            f"Repeated trainings differ in {varies[0]} by {varies[1]:.2g} (one standard deviation): a smaller difference between two "
            "settings is chance."
        )
    if gain is not None and gain[1] <= 0:
        found.append(
            f"The model is not better than the best baseline (gain {gain[0]:.3g} to {gain[1]:.3g}): look at the data and the worst "
            "cases before another technique."
        )
    return found


LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)  # of a container, versions 2 and 1


def memory(limits: Sequence[str] = LIMITS) -> int:
    """Bytes of this machine's memory, or of what a container may take of it; 0 where the system does not tell."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    written = [Path(limit).read_text().strip() for limit in limits if Path(limit).is_file()]
    return min([whole, *(int(text) for text in written if text.isdigit())])


def parameters_in(folder: Path) -> int:
    """Parameters of a model folder, by the headers of its safetensors; no weights are read."""
    found = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                n = 1
                for size in entry["shape"]:
                    n *= size
                found += n
    return found
