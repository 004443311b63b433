"""Generate: a row makes an example, or is dropped with the rule that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.readers import Row
from luthier.seams import Dropped, Example
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
PAIR = "a pair of chosen and rejected answers whose columns are not named"


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
        ({"messages": [turn("assistant", "1")]}, ("no question", "messages")),
        ({"messages": [turn("system", "Be kind"), turn("assistant", "1")]}, ("no question", "messages")),
        ({"messages": [ASKED]}, ("a last message that is not the assistant's", "messages")),
        ({"messages": [ASKED, turn("assistant", None)]}, ("a message whose content is null", "messages")),
        ({"messages": [turn("user", None), turn("assistant", "1")]}, ("a message whose content is null", "messages")),
        ({"messages": [turn("user", 7), turn("assistant", "1")]}, ("a message whose content is not text", "messages")),
        ({"messages": [turn("user", {"a": 1})]}, ("a message whose content is not text", "messages")),
        ({"messages": [turn("narrator", "x")]}, ("a role that is none of system, user and assistant", "messages")),
        ({"messages": [turn("", "x")]}, ("a role that is none of system, user and assistant", "messages")),
        *(
            ({"messages": [turn(role, "x")]}, ("a role that is none of system, user and assistant", "messages"))  # type: ignore[arg-type]
            for role in (None, 7, ["user"], {"user": 1})
        ),
        ({"messages": [{"role": "user"}]}, ("a message without role and content", "messages")),
        ({"messages": [{"from": "human"}]}, ("a message without role and content", "messages")),
        *(
            ({"messages": [other]}, ("a message without role and content", "messages"))
            for other in (None, 7, "hi", [], [[ASKED]], {})
        ),
        *(
            ({"messages": other}, ("messages that are no list", "messages"))
            for other in (7, True, "hi", {"a": 1}, "[1")
        ),
        *(({"messages": other}, ("no messages", "messages")) for other in (None, "", [])),
        ({"messages": "[" * 5000}, ("messages that are no list", "messages")),
        # a row of both kinds is what it holds
        ({"messages": None, "prompt": "a", "completion": "x"}, ("a", "x")),
        ({"messages": [ASKED, turn("assistant", "1")], "prompt": None}, ([ASKED], "1")),
        ({"prompt": "a", "chosen": "x", "rejected": "y"}, (PAIR, "completion")),
        ({"chosen": [ASKED], "rejected": [ASKED]}, (PAIR, "")),
        # messages of a prompt, with those of its completion or its text
        ({"prompt": [ASKED], "completion": [turn("assistant", "1")]}, ([ASKED], "1")),
        ({"prompt": [ASKED], "completion": "1"}, ([ASKED], "1")),
        ({"prompt": [ASKED], "completion": None}, ("a last message that is not the assistant's", "prompt")),
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


def spoken(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": who, "value": what} for who, what in pairs]


@pytest.mark.parametrize(
    "messages",
    [
        [turn("user", "Say 1"), turn("assistant", "1")],
        [{**turn("user", "Say 1"), "name": "Ann", "tool_calls": None}, {**turn("assistant", "1"), "tool_calls": []}],
        spoken(("human", "Say 1"), ("gpt", "1")),
        spoken(("Human", "Say 1"), ("GPT", "1")),
        spoken(("user", "Say 1"), ("model", "1")),
        [*spoken(("user", "Say 1")), turn("bot", "1")],
        json.dumps(spoken(("human", "Say 1"), ("assistant", "1"))),
        [turn("user", [{"type": "text", "text": "Say 1"}]), turn("assistant", [{"type": "text", "text": "1"}])],
    ],
)
def test_conversations_of_every_form_are_one(messages: Any) -> None:
    assert outcome({"messages": messages}) == ([ASKED], "1")


def test_parts_of_text_are_lines_and_what_a_system_says_comes_first() -> None:
    talk = spoken(("system", "Be brief"), ("human", [{"type": "text", "text": t} for t in ("Say", "1")]), ("gpt", "1"))
    assert outcome({"messages": talk}) == ([turn("system", "Be brief"), turn("user", "Say\n1")], "1")


CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ([ASKED, {**turn("assistant", None), "tool_calls": [CALL]}, turn("tool", "rain")], "a tool call"),
        ([ASKED, {"role": "assistant", "tool_calls": [CALL]}], "a tool call"),
        ([ASKED, {**turn("assistant", "I look"), "function_call": {"name": "w"}}], "a tool call"),
        (spoken(("human", "Say 1"), ("function_call", "{}"), ("observation", "1"), ("gpt", "1")), "a tool call"),
        ([ASKED, turn("tool", "rain"), turn("assistant", "1")], "role tool"),
        (spoken(("human", "Say 1"), ("observation", "1"), ("gpt", "1")), "role tool"),
        (
            [turn("user", [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "u"}}])],
            "a part of a message that is not text",
        ),
        ([turn("user", ["See"])], "a part of a message that is not text"),
        ([turn("user", [{"type": "text", "text": None}])], "a part of a message that is not text"),
    ],
)
def test_what_is_not_text_alone_is_left_out_by_name(messages: Any, rule: str) -> None:
    assert outcome({"messages": messages}) == outcome({"messages": json.dumps(messages)}) == (rule, "messages")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": True, "a": None, "é": [1, 2.0]}, '{"b": true, "a": null, "é": [1, 2.0]}'),
        ([1, "x"], '[1, "x"]'),
        (False, "false"),
        (0, "0"),
        (1.5e300, "1.5e+300"),
    ],
)
def test_what_is_no_text_is_taught_as_the_json_that_it_is(value: Any, text: str) -> None:
    assert outcome({"prompt": value, "completion": value}) == (text, text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("further", "prompt"),
    [("oak, ash", "Sort\n\noak, ash"), ("", "Sort"), (None, "Sort"), (" \n", "Sort"), ({"n": 1}, 'Sort\n\n{"n": 1}')],
)
def test_further_text_of_a_prompt_stands_below_it(further: Any, prompt: str) -> None:
    alpaca = {"prompt_column": "instruction", "input_column": "input", "completion_column": "output"}
    task = Task.pick({"kind": "generate", "table": "t", **alpaca})
    row = Row("t", 1, {"instruction": "Sort", "input": further, "output": "ash, oak"})
    (made,) = task.of_row(row, row)
    assert isinstance(made, Example)
    assert (task.prompt(made), str(made.target)) == (prompt, "ash, oak")
    assert task.unasked(["instruction"]) == "has no column 'input', which the model reads"
    with pytest.raises(ValueError, match="input_column: 'output' is the prompt or the completion already"):
        Task.pick({"kind": "generate", "table": "t", **alpaca, "input_column": "output"})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "user", "gpt", "text", "[{"]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls", "function_call"]), inside
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    values=st.dictionaries(st.sampled_from(["messages", "prompt", "completion", "chosen", "rejected"]), JSON),
    written=st.booleans(),
    told=st.booleans(),
)
def test_whatever_a_row_holds_it_is_an_example_or_has_a_reason(
    values: dict[str, Any], written: bool, told: bool
) -> None:
    found = outcome({name: json.dumps(value) if written else value for name, value in values.items()}, told=told)
    asked, said = found
    assert isinstance(asked, str) or all(message.keys() == {"role", "content"} for message in asked)
    assert said is None or isinstance(said, str)
