"""Text into tokens: what does not fit, what a conversation begins with, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from luthier.encoding import Reading, asked, chat
from luthier.objectives import Objective
from luthier.readers import Row
from luthier.seams import Dropped, Example, Text
from luthier.tasks import Task

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def reading(architecture: str = "decoder", max_length: int = 32) -> Reading:
    tokenizer = tiny.tokenizer(architecture)
    tokenizer.chat_template = TEMPLATE
    return Reading(tokenizer, architecture, (), max_length)


def talk(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]


@pytest.mark.parametrize("architecture", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize(("answer", "fault"), [("short", []), ("l" * 60, ["an answer that does not fit"])])
def test_an_answer_longer_than_max_length_is_a_fault(architecture: str, answer: str, fault: list[str]) -> None:
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    example = Example("1", "generate", {"text": "p" * 40}, Text(answer))
    (encoded,) = objective.encode([example], task, reading(architecture))
    assert list(objective.audit(encoded, example, task, reading(architecture))) == fault
    assert encoded.length <= 32 or fault


def test_a_chat_whose_answers_do_not_fit_is_a_fault_and_a_long_prompt_is_cut_from_the_front() -> None:
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    example = Example("1", "generate", {"messages": talk("q", "a" * 30, "q")}, Text("b" * 30))
    (encoded,) = objective.encode([example], task, reading())
    assert list(objective.audit(encoded, example, task, reading())) == ["an answer that does not fit"]
    (ids,) = asked([talk("x" * 90)], reading())
    assert len(ids) == 32
    assert reading().tokenizer.decode(ids).endswith("xx<eos><assistant>")


def test_what_a_conversation_begins_with_answers_nothing() -> None:
    encoded = chat(talk("hello", "hi", first="assistant"), "fine", reading(max_length=190), 1.0)
    tokenizer = reading().tokenizer
    learned = tokenizer.decode([t for t, loss in zip(encoded.ids, encoded.supervised, strict=True) if loss])
    assert "fine" in learned
    assert "hello" not in learned


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"messages": talk("hello", first="assistant")}, "nothing is asked"),
        ({"prompt": " ", "completion": "x"}, "empty value"),
        ({"prompt": "x", "completion": ""}, "no target"),
    ],
)
def test_rows_that_ask_nothing_are_dropped_with_the_rule(values: dict[str, Any], rule: str) -> None:
    row = Row("t.jsonl", 3, values)
    task = Task.pick({"kind": "generate", "table": "t"})
    assert [made.rule for made in task.of_row(row, row) if isinstance(made, Dropped)] == [rule]
