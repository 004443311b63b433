"""Generate: plain instruction tuning on prompt and completion, or on chat messages, with loss on the answers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from luthier.readers import Row
from luthier.seams import Dropped, Example, Prediction, Text, text_of
from luthier.tasks import Task, suggestion

ROLES = ("system", "user", "assistant")


class Generate(Task):
    """Prompt -> completion, or messages through the base's own chat template."""

    outside: ClassVar[tuple[str, ...]] = ("table",)
    form_settings: ClassVar[tuple[str, ...]] = ("chat_template",)
    converses: ClassVar[bool] = True

    table: str
    """File with the conversations or prompts."""
    prompt_column: str = "prompt"
    """Column with the prompt, where rows are prompts and completions."""
    completion_column: str = "completion"
    """Column with the completion."""
    messages_column: str = "messages"
    """Column with a list of {role, content}, where rows are conversations."""
    chat_template: str = ""
    """A Jinja chat template to use instead of the base's own; required for messages when the base has none."""

    def columns(self) -> list[str]:
        return []

    def unasked(self, known: Sequence[str]) -> str:
        read = (self.prompt_column, self.messages_column)
        return "" if {*read} & {*known} else f"has no column '{read[0]}' or '{read[1]}', of which the model reads one"

    def targets(self) -> list[str]:
        return []

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        origin = {"file": row.file, "row": row.line, "column": ""}
        if self.messages_column in row.values:
            messages = row.values[self.messages_column]
            problem = fault(messages)
            if problem:
                yield Dropped(problem, row.line, self.messages_column)
                return
            asked = messages if truth is None and messages[-1]["role"] != "assistant" else messages[:-1]
            answer = messages[-1] if len(asked) < len(messages) else None
            if truth is not None and (answer is None or answer["role"] != "assistant"):
                yield Dropped("last message is not the assistant's", row.line, self.messages_column)
                return
            if not asked or not asked[-1]["content"].strip():
                yield Dropped("nothing is asked", row.line, self.messages_column)
                return
            if truth is not None and not messages[-1]["content"].strip():
                yield Dropped("no target", row.line, self.messages_column)
                return
            known = Text(answer["content"]) if answer and truth is not None else None
            yield Example(id=str(row.line), task=self.kind, input={"messages": asked}, target=known, origin=origin)
            return
        if self.prompt_column not in row.values:
            yield Dropped(f"neither {self.prompt_column} nor {self.messages_column}", row.line, "")
            return
        if not text_of(row.values[self.prompt_column]).strip():
            yield Dropped("empty value", row.line, self.prompt_column)
            return
        answer_text = text_of(row.values.get(self.completion_column))
        if truth is not None and not answer_text.strip():
            yield Dropped("no target", row.line, self.completion_column)
            return
        yield Example(
            id=str(row.line),
            task=self.kind,
            input={"text": text_of(row.values[self.prompt_column])},
            target=Text(answer_text) if truth is not None else None,
            origin=origin,
        )

    def prompt(self, example: Example) -> str | list[dict[str, str]]:
        if "messages" in example.input:
            return list(example.input["messages"])
        return str(example.input["text"])

    def template_of_chats(self) -> str:
        return self.chat_template

    def readable(self, example: Example) -> str:
        if "messages" in example.input:
            return " / ".join(f"{m['role']}: {m['content']}" for m in example.input["messages"])
        return str(example.input["text"])

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        return suggestion("completion", predictions[0] if predictions else None)


def fault(messages: Any) -> str:
    """What is wrong with a conversation, or nothing."""
    if not isinstance(messages, list) or not messages:
        return "messages are not a list"
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            if isinstance(message, dict) and {"from", "value"} <= message.keys():
                return "messages of from and value where role and content are needed"
            return "a message without role or content"
        if message["role"] not in ROLES:
            return "unknown role"
        if not isinstance(message["content"], str):
            return "content is not text"
    return ""
