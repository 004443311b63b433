"""Teachers: finished models that another one learns from, opened as they answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from luthier import suitability
from luthier.errors import UserError
from luthier.model import ABOUT, Head, architecture_of, load, load_trained, writing_head

if TYPE_CHECKING:
    from luthier.model import Model

TEACHER = "train.techniques distil.teacher"


def opened(folder: Path, base: Path | None, *, writes: bool, device: str, precision: str) -> Model:
    """The model in a folder that Luthier wrote, or in one of Hugging Face or peft (an adapter over `base`), in eval mode.

    UserError where it does not answer as the student does, which `writes` or has a head of labels.
    """
    if (folder / "adapter_config.json").exists() and base is None:
        raise UserError(
            "is an adapter and needs its base model", where=TEACHER, hint="name the base as teacher_base, or merge them"
        )
    if (folder / ABOUT).exists():
        model = load_trained(folder, base, device=device, precision=precision)
    else:
        model = load(folder, head_of(folder, base, writes), base=base, device=device, precision=precision)
    if model.head.writes != writes:
        said, wanted = ("writes", "gives labels") if model.head.writes else ("gives labels", "writes")
        raise UserError(f"the teacher {said}, and the student {wanted}", where=TEACHER, hint="choose another teacher")
    model.forward.requires_grad_(False).eval()
    return model


def head_of(folder: Path, base: Path | None, writes: bool) -> Head:
    """The head of a folder that Luthier did not write: that of a writer, or the labels that its configuration names."""
    weights = base if base is not None and (folder / "adapter_config.json").exists() else folder
    architecture = architecture_of(weights)
    if writes:
        return writing_head(architecture, weights)
    config = suitability.config_of(weights)
    classes = json.loads((weights / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    if weights is not folder or not classes[0].endswith("ForSequenceClassification"):
        raise UserError(
            "holds no classifier whose labels it names",
            where=TEACHER,
            hint="export one with Luthier, merged into its base",
        )
    return Head("AutoModelForSequenceClassification", tuple(config.id2label[n] for n in sorted(config.id2label)))
