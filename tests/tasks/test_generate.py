"""Generate: a row makes an example, or is dropped with the rule that says why."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.readers import Row
from luthier.seams import Dropped
from luthier.tasks import Task

GENERATE = Task.pick({"kind": "generate", "table": "t"})


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def outcome(values: dict[str, Any], *, told: bool = True) -> Any:
    """(what is asked, the answer) of a row's example, or the rule and column of what dropped it."""
    row = Row("t.jsonl", 1, values)
    (made,) = GENERATE.of_row(row, row if told else None)
    if isinstance(made, Dropped):
        return made.rule, made.column
    asked = GENERATE.prompt(made)
    return asked, made.target and str(made.target)


def test_a_table_can_be_asked_that_has_a_prompt_or_messages() -> None:
    assert GENERATE.unasked(["prompt"]) == GENERATE.unasked(["id", "messages"]) == ""
    assert GENERATE.unasked(["question"]) == "has no column 'prompt' or 'messages', of which the model reads one"


ASKED = turn("user", "Say 1")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt": " a :b ", "completion": "x"}, (" a :b ", "x")),
        ({"prompt": 7, "completion": True}, ("7", "true")),
        ({"prompt": None, "completion": "x"}, ("empty value", "prompt")),
        ({"prompt": " \u2028", "completion": "x"}, ("empty value", "prompt")),
        ({"prompt": "a", "completion": None}, ("no target", "completion")),
        ({"prompt": "a"}, ("no target", "completion")),
        ({"question": "a"}, ("neither prompt nor messages", "")),
        ({"messages": [ASKED, turn("assistant", "1")]}, ([ASKED], "1")),
        ({"messages": [ASKED, turn("assistant", " ")]}, ("no target", "messages")),
        ({"messages": [turn("user", " "), turn("assistant", "1")]}, ("nothing is asked", "messages")),
        (
            {"messages": [turn("system", "Be kind"), turn("user", ""), turn("assistant", "1")]},
            ("nothing is asked", "messages"),
        ),
        ({"messages": [turn("assistant", "1")]}, ("nothing is asked", "messages")),
        ({"messages": [ASKED, turn("assistant", None)]}, ("content is not text", "messages")),
        (
            {"messages": [{"from": "human", "value": "hi"}]},
            ("messages of from and value where role and content are needed", "messages"),
        ),
    ],
)
def test_a_row_is_an_example_or_says_why_not(values: dict[str, Any], expected: Any) -> None:
    assert outcome(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt": "a"}, ("a", None)),
        ({"prompt": ""}, ("empty value", "prompt")),
        ({"messages": [ASKED]}, ([ASKED], None)),
        ({"messages": [ASKED, turn("assistant", "")]}, ([ASKED], None)),
        ({"messages": [turn("user", " ")]}, ("nothing is asked", "messages")),
    ],
)
def test_a_row_to_be_answered_needs_a_question_and_no_answer(values: dict[str, Any], expected: Any) -> None:
    assert outcome(values, told=False) == expected
