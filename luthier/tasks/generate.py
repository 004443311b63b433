"""Generate: plain instruction tuning on prompt and completion, or on chat messages, with loss on the answers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import model_validator

from luthier.readers import Row
from luthier.seams import Dropped, Example, Prediction, Preference, Text, name_of, text_of
from luthier.tasks import Task, suggestion

ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot"), "assistant"),
}
CALLS = ("function_call", "tool_call")  # roles of a message that calls a tool
TOOLS = ("tool", "function", "observation", "tool_response", "ipython")  # roles of a message that a tool wrote
KEYS = (("role", "content"), ("from", "value"))  # of who speaks and what is said
PREFERENCE = ("chosen", "rejected")
PAIRED = "a pair of chosen and rejected answers whose columns are not named"
VOTES = {**dict.fromkeys(("true", "1", "yes", "good"), True), **dict.fromkeys(("false", "0", "no", "bad"), False)}

Message = dict[str, str]  # role, one of system, user and assistant, and content


class Generate(Task):
    """Prompt -> completion, or messages through the base's own chat template.

    A prompt or completion that is no text, such as a JSON object, is the text that JSON writes. Rows that cannot be
    learned from are left out, each with its reason: tool calls among them.
    """

    outside: ClassVar[tuple[str, ...]] = ("table",)
    form_settings: ClassVar[tuple[str, ...]] = ("chat_template", "rejected_column", "good_column")
    converses: ClassVar[bool] = True
    advice: ClassVar[dict[str, str]] = {
        PAIRED: "set task.completion_column to chosen and task.rejected_column to rejected, and add the technique dpo"
    }

    table: str
    """File with the conversations or prompts."""
    prompt_column: str = "prompt"
    """Column with the prompt, where rows are prompts and completions."""
    input_column: str = ""
    """Column with further text of the prompt, such as the `input` of an instruction: it stands below the prompt, after an
    empty line, and may be blank."""
    completion_column: str = "completion"
    """Column with the completion."""
    messages_column: str = "messages"
    """Column with a list of messages, or its JSON, where rows are conversations: {role, content}, or {from, value} as
    ShareGPT has them, spoken by system, user (human) and assistant (gpt, model, bot). Parts of text are joined by line
    breaks; nothing else of a message is read."""
    rejected_column: str = ""
    """Column with a worse answer to the same prompt: a text, or a list of messages that ends with it. Rows are then pairs of
    answers, for the technique dpo; the better one is that of `completion_column` or `messages_column`."""
    good_column: str = ""
    """Column that says whether the answer is good (true, 1, yes, good) or bad (false, 0, no, bad). Rows are then single
    judged answers, for the technique dpo with `loss: kto`; bad ones are learned from, never validated or tested on."""
    chat_template: str = ""
    """A Jinja chat template to use instead of the base's own; required for messages when the base has none."""

    @model_validator(mode="after")
    def _apart(self) -> Generate:
        if self.input_column and self.input_column in (self.prompt_column, self.completion_column):
            raise ValueError(f"input_column: '{self.input_column}' is the prompt or the completion already")
        if self.rejected_column and self.good_column:
            raise ValueError("good_column: rows are pairs of answers by rejected_column already; leave out one of them")
        return self

    def learned_by(self) -> str:
        return "preference" if self.rejected_column else "vote" if self.good_column else self.objective

    def source(self) -> Generate:
        """With the columns that say which answers are better: they decide both what is read and how it is learned."""
        preferred = {"rejected_column": self.rejected_column, "good_column": self.good_column}
        return super().source().model_copy(update=preferred)

    def partly_comparable(self) -> bool:
        return bool(self.good_column)

    def comparable(self, example: Example) -> bool:
        return not isinstance(example.target, Preference) or bool(example.target.chosen)

    def columns(self) -> list[str]:
        return [self.input_column] if self.input_column else []  # what says which answers are better is no question

    def unasked(self, known: Sequence[str]) -> str:
        read = (self.prompt_column, self.messages_column)
        if not {*read} & {*known}:
            return f"has no column '{read[0]}' or '{read[1]}', of which the model reads one"
        return super().unasked(known)

    def targets(self) -> list[str]:
        return [column for column in (self.rejected_column, self.good_column) if column]

    def of_row(self, row: Row, truth: Row | None) -> Iterator[Example | Dropped]:
        said, prompt = row.values.get(self.messages_column), listed(row.values.get(self.prompt_column))
        if said not in (None, "", []):
            found = self.conversation(row, said, truth)
        elif is_talk(prompt):
            found = self.conversation(row, [*prompt, *turns(row.values.get(self.completion_column))], truth)
        else:
            found = self.single(row, truth)
        yield self.preferred(row, found)

    def preferred(self, row: Row, found: Example | Dropped) -> Example | Dropped:
        """The example with what is known of its answer beside others."""
        if isinstance(found, Dropped) or not isinstance(found.target, Text):
            return found
        answer = found.target.text
        if self.rejected_column:
            worse = turns(row.values.get(self.rejected_column))
            said = conversation(worse) if worse else "no rejected answer"
            if isinstance(said, str):
                return Dropped(said, row.line, self.rejected_column)
            rejected = said[-1]["content"]
            if said[-1]["role"] != "assistant" or not rejected.strip():
                return Dropped("no rejected answer", row.line, self.rejected_column)
            if rejected == answer:
                return Dropped("a rejected answer that is the chosen one", row.line, self.rejected_column)
            found.target = Preference(answer, rejected)
        elif self.good_column:
            good = VOTES.get(name_of(row.values.get(self.good_column)).casefold())
            if good is None:
                return Dropped("an answer that is neither good nor bad", row.line, self.good_column)
            found.target = Preference(answer, "") if good else Preference("", answer)
        return found

    def conversation(self, row: Row, said: Any, truth: Row | None) -> Example | Dropped:
        """The example of a row of messages."""
        column = self.messages_column if row.values.get(self.messages_column) else self.prompt_column
        messages = conversation(said)
        if isinstance(messages, str):
            return Dropped(messages, row.line, column)
        answer = messages[-1] if messages[-1]["role"] == "assistant" else None
        asked = messages[:-1] if answer else messages
        target = None
        if truth is not None:
            if answer is None:
                return Dropped("a last message that is not the assistant's", row.line, column)
            if not answer["content"].strip():
                return Dropped("no target", row.line, column)
            target = Text(answer["content"])
        if not any(message["role"] == "user" for message in asked):
            return Dropped("no question", row.line, column)
        if not asked[-1]["content"].strip():
            return Dropped("nothing is asked", row.line, column)
        return self.example(row, {"messages": asked}, target)

    def single(self, row: Row, truth: Row | None) -> Example | Dropped:
        """The example of a row of prompt and completion."""
        if self.prompt_column not in row.values:
            if self.messages_column in row.values:
                return Dropped("no messages", row.line, self.messages_column)
            return Dropped(lacking(row, f"neither {self.prompt_column} nor {self.messages_column}"), row.line, "")
        prompt = text_of(row.values[self.prompt_column])
        if not prompt.strip():
            return Dropped("empty value", row.line, self.prompt_column)
        further = text_of(row.values.get(self.input_column)) if self.input_column else ""
        if further.strip():
            prompt = f"{prompt}\n\n{further}"
        answer = text_of(row.values.get(self.completion_column))
        if truth is not None and not answer.strip():
            return Dropped(lacking(row, "no target"), row.line, self.completion_column)
        return self.example(row, {"text": prompt}, Text(answer) if truth is not None else None)

    def example(self, row: Row, asked: dict[str, Any], target: Text | None) -> Example:
        """One example of a row."""
        origin = {"file": row.file, "row": row.line, "column": ""}
        return Example(id=str(row.line), task=self.kind, input=asked, target=target, origin=origin)

    def prompt(self, example: Example) -> str | list[Message]:
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


def lacking(row: Row, otherwise: str) -> str:
    """Why a row has no answer."""
    if row.values.keys() >= {*PREFERENCE}:
        return PAIRED
    return otherwise


def listed(cell: Any) -> Any:
    """A cell of messages: the list that its JSON holds, where it is text."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def is_talk(cell: Any) -> bool:
    """Whether a cell is a list of messages, whatever they hold."""
    said = listed(cell)
    return isinstance(said, list) and bool(said) and all(isinstance(one, dict) and keys_of(one) for one in said)


def keys_of(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of who speaks and what is said, if a message has them; a call of tools may lack the second."""
    return next((keys for keys in KEYS if keys[0] in message and (keys[1] in message or calls(message))), None)


def calls(message: Mapping[str, Any]) -> bool:
    """Whether a message calls a tool."""
    return bool(message.get("tool_calls") or message.get("function_call"))


def turns(cell: Any) -> list[Any]:
    """The messages of a completion beside a prompt that is a conversation: its own, or its text as the assistant's."""
    said = listed(cell)
    if is_talk(said):
        return list(said)
    text = text_of(cell)
    return [{"role": "assistant", "content": text}] if text else []


def conversation(cell: Any) -> list[Message] | str:
    """The messages of a cell, as role and content, or what is wrong with them."""
    said = listed(cell)
    if not isinstance(said, list):
        return "messages that are no list"
    if not said:
        return "no messages"
    found = []
    for message in said:
        keys = keys_of(message) if isinstance(message, dict) else None
        if keys is None:
            return "a message without role and content"
        read = turn(message, message[keys[0]], message.get(keys[1]))
        if isinstance(read, str):
            return read
        found.append(read)
    return found


def turn(message: Mapping[str, Any], role: Any, content: Any) -> Message | str:
    """One message as role and content, or what is wrong with it."""
    named = role.strip().lower() if isinstance(role, str) else ""
    if calls(message) or named in CALLS:
        return "a tool call"
    if named in TOOLS:
        return "role tool"
    if named not in ROLES:
        return "a role that is none of system, user and assistant"
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            return "a part of a message that is not text"
        content = "\n".join(map(str, texts))
    if content is None:
        return "a message whose content is null"
    if not isinstance(content, str):
        return "a message whose content is not text"
    return {"role": ROLES[named], "content": content}
