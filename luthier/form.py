"""What a model must know to be asked: the task's form, its objective, head, lengths, and the steps that change input."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from luthier.choice import Settings, find
from luthier.hints import Fitted
from luthier.model import ABOUT, Head, Model
from luthier.objectives import Objective
from luthier.preparers import Preparer
from luthier.tasks import Task

FILE = "form.json"


def has_form(folder: Path) -> bool:
    """Whether a folder says how what is in it is asked."""
    return (folder / FILE).exists() or (folder / ABOUT).exists()


class Form(Settings):
    """Made by encode, and part of the model.json of every model that is trained on it."""

    task: Task
    objective: Objective
    auto: str
    """Name of the Hugging Face class of the head."""
    problem: str = ""
    """What the scores of labels are, as transformers calls it."""
    labels: tuple[str, ...] = ()
    max_length: int
    steps: list[Preparer] = []
    hints: list[Fitted] = []
    """Sources whose answers stand in the prompt, as they learned."""
    chat_template: str = ""
    """With what it writes at the head of an answer behind the prompt."""
    control_tokens: Literal["text", "parse"] = "text"
    """What the name of a control token in the data is."""
    conversations: bool = False
    """Whether what is learned from goes through the chat template."""
    ends: tuple[int, ...] = ()
    """Tokens that end what is written."""

    @field_validator("task", mode="before")
    @classmethod
    def _blank_sources(cls, task: Any) -> Any:
        """A form has blanks for its sources, which the task's own rules would refuse."""
        if isinstance(task, Task):
            return task
        kind = find("tasks", task["kind"])
        names = {field.alias or name: name for name, field in kind.model_fields.items()}
        return kind.model_construct(**{names[key]: value for key, value in task.items() if key in names})

    def head(self) -> Head:
        """What stands on top of the body."""
        return Head(self.auto, self.labels, self.problem)

    def settle(self, model: Model) -> None:
        """Let a model and its tokenizer read and end as this form says, here and wherever its folder is opened."""
        from luthier.encoding import Reading, leave_off_ends, leave_open

        tokenizer = model.tokenizer
        if self.chat_template:
            tokenizer.chat_template = self.chat_template
        if "token_type_ids" not in inspect.signature(model.bare.forward).parameters:
            names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
            tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
        model.control_tokens, model.ends = self.control_tokens, self.ends
        tokenizer.model_max_length = self.max_length
        if self.head().writes and model.architecture == "decoder":
            tokenizer.truncation_side = "left"
            model.own_tokenizer |= leave_open(Reading(tokenizer, model.architecture, (), self.max_length))
        if self.control_tokens == "text" and not self.conversations:
            if self.head().writes:
                model.own_tokenizer |= leave_off_ends(tokenizer)
            tokenizer.split_special_tokens = True
            tokenizer.init_kwargs["split_special_tokens"] = True

    def write(self, folder: Path) -> None:
        """As `form.json`."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Form:
        """From the artifact of encode, or from a model folder."""
        file = folder / FILE if (folder / FILE).exists() else folder / ABOUT
        told = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{name: told[name] for name in cls.model_fields})
