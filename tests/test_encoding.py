"""Text into tokens: what does not fit, what a conversation begins with, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from luthier.encoding import (
    Reading,
    answers,
    asked,
    chat,
    ends_of,
    leave_off_ends,
    leave_open,
    open_turn,
    read_whole,
    told_where,
)
from luthier.errors import UserError
from luthier.model import save_tokenizer
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
        ({"messages": talk("hello", first="assistant")}, "no question"),
        ({"prompt": " ", "completion": "x"}, "empty value"),
        ({"prompt": "x", "completion": ""}, "no target"),
    ],
)
def test_rows_that_ask_nothing_are_dropped_with_the_rule(values: dict[str, Any], rule: str) -> None:
    row = Row("t.jsonl", 3, values)
    task = Task.pick({"kind": "generate", "table": "t"})
    assert [made.rule for made in task.of_row(row, row) if isinstance(made, Dropped)] == [rule]


def framed(kind: str, before: str = "<bos>", behind: str = "") -> Any:
    """A tokenizer of one of the three families, with words of its own, that puts something around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<end>"]
    if kind == "bpe":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = [*special, *letters, "Ġ4", "Ġx", "Ġ\u0120"]
        made = Tokenizer(
            models.BPE(vocab={w: n for n, w in enumerate(words)}, merges=[("Ġ", "4"), ("Ġ", "x"), ("Ġ", "Ġ")])
        )
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif kind == "sentencepiece":
        words = [*special, "\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789=:<>/\n", "\u25814", "\u2581x"]
        merges = [("\u2581", "4"), ("\u2581", "x")]
        made = Tokenizer(models.BPE(vocab={w: n for n, w in enumerate(words)}, merges=merges, unk_token="<unk>"))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
        )
    else:
        words = [
            *special,
            *"abcdefghijklmnopqrstuvwxyz0123456789=:<>/",
            *(f"##{c}" for c in "abcdefghijklmnop0123456789"),
        ]
        made = Tokenizer(models.WordPiece(vocab={w: n for n, w in enumerate(words)}, unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=False)
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    whole = " ".join(part for part in (before, "$A", behind) if part)
    named = [(name, special.index(name)) for name in {before, behind} - {""}]
    made.post_processor = processors.TemplateProcessing(single=whole, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<end>"],
    )


def learned(example: Any, tokenizer: Any) -> str:
    return str(tokenizer.decode([t for t, loss in zip(example.ids, example.supervised, strict=True) if loss]))


FAMILIES = ["bpe", "sentencepiece", "wordpiece"]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(("before", "behind"), [("<bos>", ""), ("", ""), ("<bos>", "<eos>"), ("", "<eos>")])
@pytest.mark.parametrize("end", ["", " ", "\n", " \n  "])
def test_what_is_learned_behind_is_what_is_sent_token_for_token(kind: str, before: str, behind: str, end: str) -> None:
    reads = Reading(framed(kind, before, behind), "decoder", (), 64)
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    example = Example("1", "generate", {"text": f"a 1 ={end}"}, Text("42"))
    (encoded,) = objective.encode([example], task, reads)
    (sent,) = asked([task.prompt(example)], reads)
    assert list(encoded.ids[: len(sent)]) == sent
    assert list(encoded.supervised) == [False] * len(sent) + [True] * (len(encoded.ids) - len(sent))
    start = reads.tokenizer.convert_tokens_to_ids([before]) if before else []
    assert sent == [*start, *reads.tokenizer("a 1 =", add_special_tokens=False)["input_ids"]], (
        "no white space at its end"
    )
    assert encoded.ids[-1] == reads.tokenizer.eos_token_id
    answer = reads.tokenizer.decode(encoded.ids[len(sent) : -1])
    assert answer.strip() == "42"


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_white_space_between_prompt_and_answer_is_the_beginning_of_the_answer(kind: str) -> None:
    reads = Reading(framed(kind), "decoder", (), 64)
    joined = reads.tokenizer.convert_tokens_to_ids("Ġ4" if kind == "bpe" else "\u25814")
    for prompt, answer in (("a =", " 42"), ("a = ", "42")):
        (ids,) = answers([(prompt, answer)], reads)
        assert ids[0] == joined
    (ids,) = answers([("a =", "42")], reads)
    assert reads.tokenizer.decode(ids[:-1]) == "42"
    assert ids[0] != joined


def test_an_answer_that_would_go_on_with_the_last_word_of_its_prompt_begins_a_word_of_its_own() -> None:
    reads = Reading(framed("wordpiece"), "decoder", (), 64)
    (joined,) = answers([("a b", "cd")], reads)
    (apart,) = answers([("a b =", "cd")], reads)
    assert joined == apart, "as ##c ##d it would say ##cd"
    assert reads.tokenizer.decode(joined[:-1]) == "cd"
    assert faults_of("a b", "cd", reads) == []


def faults_of(prompt: str, answer: str, reads: Reading) -> list[str]:
    """What the audit finds in a prompt with this answer."""
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    example = Example("1", "generate", {"text": prompt}, Text(answer))
    (encoded,) = objective.encode([example], task, reads)
    return list(objective.audit(encoded, example, task, reads))


CLASSES = ["GPT2Tokenizer", "LlamaTokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast"]


@pytest.mark.parametrize("name", CLASSES)
def test_the_exported_tokenizer_leaves_off_what_prompts_are_sent_without(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    if name == "PreTrainedTokenizerFast":
        tokenizer = framed("sentencepiece", "<bos>", "<eos>")
    else:
        letters = ["<unk>", "<s>", "</s>", "<pad>", "\u2581", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = kind(vocab={letter: number for number, letter in enumerate(letters)}, merges=[], add_eos_token=True)
    prompts = ["a b", "a b ", " a  b \n", "x </s> y "]
    sent = asked(prompts, Reading(tokenizer, "decoder", (), 64, "parse"))
    changed = leave_open(Reading(tokenizer, "decoder", (), 64))
    assert leave_off_ends(tokenizer)
    assert changed
    assert not leave_off_ends(tokenizer), "once is enough"
    save_tokenizer(tokenizer, tmp_path, own=True)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for prompt, ids in zip(prompts[:3], sent, strict=False):
        assert again(prompt)["input_ids"] == ids
    assert again.decode(again("a b")["input_ids"], skip_special_tokens=True).strip() == "a b"


def test_tokens_that_are_found_before_anything_else_keep_the_white_space_before_them() -> None:
    tokenizer = framed("bpe")
    tokenizer.add_tokens(["<think>"])
    before = tokenizer("a <think> b")["input_ids"]
    assert not leave_off_ends(tokenizer)
    assert tokenizer("a <think> b")["input_ids"] == before


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_name_of_a_control_token_in_the_data_is_text_unless_it_shall_be_parsed(kind: str) -> None:
    tokenizer = framed(kind)
    named = "a <end> b"
    end = tokenizer.convert_tokens_to_ids("<end>")
    (prompt,) = asked([named], Reading(tokenizer, "decoder", (), 64))
    ((whole, cut),) = read_whole([named], Reading(tokenizer, "encoder", ("x",), 64))
    (answer,) = answers([("a", f"{named} <eos>")], Reading(tokenizer, "decoder", (), 64))
    assert end not in prompt
    assert end not in whole
    assert cut == 0
    assert [t for t in answer if t in (end, tokenizer.eos_token_id)] == [tokenizer.eos_token_id], "the end alone"
    (parsed_prompt,) = asked([named], Reading(tokenizer, "decoder", (), 64, "parse"))
    assert end in parsed_prompt


def test_control_tokens_of_a_template_are_meant_and_those_in_its_contents_are_text() -> None:
    tokenizer = framed("bpe", "")
    tokenizer.chat_template = TEMPLATE.replace("<eos>", "<end>")
    end, reads = tokenizer.convert_tokens_to_ids("<end>"), Reading(tokenizer, "decoder", (), 128)
    messages = talk("say <end> now", "<end>", "again <end>")
    encoded = chat(messages, "I say <end> too", reads, 1.0)
    (sent,) = asked([messages], reads)
    assert list(encoded.ids[: len(sent)]) == sent
    assert sent.count(end) == 3, "one behind each turn"
    assert list(encoded.ids[len(sent) :]).count(end) == 1
    assert encoded.ids[-1] == end
    assert ends_of(reads) == sorted({end, tokenizer.eos_token_id})
    assert "I say <end> too" in learned(encoded, tokenizer)


def test_a_long_conversation_loses_its_oldest_turns_in_training_as_when_it_is_asked() -> None:
    reads = reading(max_length=40)
    system = [{"role": "system", "content": "s"}]
    messages = [*system, *talk("first", "one", "second", "two", "third")]
    encoded = chat(messages, "three", reads, 1.0)
    text = reads.tokenizer.decode(encoded.ids)
    assert len(encoded.ids) <= 40
    assert text.startswith("<system>s")
    assert text.endswith("<user>third<eos><assistant>three<eos>")
    assert "first" not in text
    assert encoded.cut_tokens > 0
    (sent,) = asked([messages], reads)
    assert reads.tokenizer.decode(sent) == text.removesuffix("three<eos>")


THOUGHTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}\n"
)


def test_what_a_template_writes_at_the_head_of_an_answer_stands_in_the_prompt_here_and_in_the_exported_template() -> (
    None
):
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, THOUGHTS)
    once = reads.tokenizer.chat_template
    open_turn(reads.tokenizer)
    assert reads.tokenizer.chat_template == once, "it is added once"
    (sent,) = asked([talk("q")], reads)
    assert reads.tokenizer.decode(sent).endswith("<assistant><think></think>")
    encoded = chat(talk("q", "old", "r"), "new", reads, 1.0)
    assert learned(encoded, reads.tokenizer) == "new<eos>", "what history shows otherwise is not learned from"


OWN = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}"
    "<t>{{ m.content.split('</t>')[0].replace('<t>', '') if '</t>' in m.content }}</t>{% endif %}"
    "{{ m.content.split('</t>')[-1] }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("brought", "sent_ends", "taught"),
    [
        (["a", "b"], "<assistant><t></t>", "a<eos>"),
        (["<t>why</t>a", "<t>how</t>b"], "<assistant>", "<t>why</t>a<eos>"),
        (["<t></t>a", "<t></t>b"], "<assistant>", "<t></t>a<eos>"),
    ],
)
def test_thoughts_stand_in_the_prompt_unless_the_answers_bring_them(
    brought: list[str], sent_ends: str, taught: str
) -> None:
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, OWN, [(talk("q"), answer) for answer in brought])
    (sent,) = asked([talk("q")], reads)
    assert reads.tokenizer.decode(sent).endswith(sent_ends)
    assert learned(chat(talk("q"), brought[0], reads, 1.0), reads.tokenizer) == taught


@pytest.mark.parametrize("text", ["\u0130stanbul \u0130", "\ufb03 \U0001f916"])
def test_letters_of_the_data_move_nothing_in_what_is_seen_of_a_template(text: str) -> None:
    """In lower case this capital of Turkish is two characters."""
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, like=talk(text))
    assert reads.tokenizer.chat_template == TEMPLATE
    assert faults("a", reads, talk(text)) == []
    robot = TEMPLATE.replace("{{ m.content }}", "{{ '\U0001f916 ' if m.role == 'assistant' }}{{ m.content | upper }}")
    open_turn(reads.tokenizer, robot, like=talk(text))
    (sent,) = asked([talk("q")], reads)
    assert reads.tokenizer.decode(sent).endswith("<assistant>\U0001f916 ")
    assert learned(chat(talk("q"), "A", reads, 1.0), reads.tokenizer) == "A<eos>"


def test_where_few_answers_bring_their_thoughts_those_are_told() -> None:
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, OWN, [(talk("q"), "a"), (talk("q"), "<t>why</t>b"), (talk("q"), "c")])
    assert faults("a", reads) == []
    with pytest.raises(UserError, match="asks with text that it does not write before this answer, such as thoughts"):
        faults("<t>why</t>b", reads)


def test_a_template_that_trims_contents_leaves_control_tokens_in_them_text() -> None:
    tokenizer = framed("bpe", "")
    tokenizer.chat_template = TEMPLATE.replace("<eos>", "<end>").replace("m.content", "m.content | trim")
    end, reads = tokenizer.convert_tokens_to_ids("<end>"), Reading(tokenizer, "decoder", (), 128)
    (sent,) = asked([talk(" say <end> \n")], reads)
    assert sent.count(end) == 1, "the one behind the turn"
    encoded = chat(talk("q"), "<end> a ", reads, 1.0)
    assert list(encoded.ids).count(end) == 2
    assert faults("<end> a ", reads) == ["text that looks like a control token in a conversation"]


def test_a_template_that_takes_a_whole_conversation_and_not_less_of_it_is_cut_by_tokens() -> None:
    reads = reading(max_length=40)
    needs = "{% if 'first' not in messages[0].content %}{{ raise_exception('needs it') }}{% endif %}"
    reads.tokenizer.chat_template = needs + TEMPLATE
    messages = talk("first", "one", "second", "two", "third")
    (sent,) = asked([messages], reads)
    assert len(sent) == 40
    assert reads.tokenizer.decode(sent).endswith("<user>third<eos><assistant>")
    encoded = chat(messages, "three", reads, 1.0)
    assert len(encoded.ids) == 40
    assert learned(encoded, reads.tokenizer) == "three<eos>"


def test_what_a_template_writes_behind_the_last_turn_alone_takes_no_loss_from_earlier_ones() -> None:
    reads = reading(max_length=128)
    reads.tokenizer.chat_template = TEMPLATE.replace("<eos>", "|<unk>").replace(
        "{% if add", "{% if not add_generation_prompt %}<eos>{% endif %}{% if add"
    )
    encoded = chat(talk("q", "one", "r"), "two", reads, 1.0)
    assert learned(encoded, reads.tokenizer) == "one|<unk>two|<unk>"
    open_turn(reads.tokenizer, THOUGHTS)
    assert faults("two", reads, talk("q", "one", "r")) == ["an earlier answer without loss"]


def test_control_tokens_that_are_parsed_are_no_part_of_an_answer() -> None:
    reads = Reading(framed("bpe"), "decoder", (), 64, "parse")
    assert faults_of("a", "x <end> y", reads) == ["a control token in an answer"]


def test_a_table_of_prompts_and_conversations_is_told_how_the_exported_tokenizer_differs() -> None:
    from luthier.recipe import EncodeSettings
    from luthier.stages.encode import Audit

    reads = reading(max_length=64)
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    audit = Audit(objective, task, reads, EncodeSettings(max_length=64), tiny.sizes())
    rows: list[dict[str, Any]] = [{"text": "a <eos> \n"}, {"messages": talk("q")}]
    for row in rows:
        list(audit.each(iter([Example("1", "generate", row, Text("b"))])))
    told = " ".join(problem.sentence() for problem in audit.judge())
    assert "transformers' own apply_chat_template reads it as a token" in told
    assert "1 of 2 prompts end in white space, which is left off here and which the exported tokenizer keeps" in told


@pytest.mark.parametrize(
    ("tokens", "control", "tells"), [([], "text", False), (["<t>"], "text", True), ([], "parse", True)]
)
def test_white_space_at_ends_is_told_where_the_exported_tokenizer_keeps_it(
    tokens: list[str], control: Any, tells: bool
) -> None:
    from luthier.recipe import EncodeSettings
    from luthier.stages.encode import Audit

    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(tokens)
    reads = Reading(tokenizer, "decoder", (), 64, control)
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    audit = Audit(objective, task, reads, EncodeSettings(max_length=64, control_tokens=control), len(tokenizer))
    list(audit.each(iter([Example("1", "generate", {"text": "a ="}, Text("b"))])))
    assert audit.judge() == []
    list(audit.each(iter([Example("2", "generate", {"text": "a = "}, Text("b"))])))
    assert bool(audit.judge()) == tells


@pytest.mark.parametrize("template", ["as it is", "trimmed", "by what it is given"])
def test_control_tokens_in_contents_are_told_from_the_templates_own_by_where_they_stand(template: str) -> None:
    tokenizer = framed("bpe", "")
    tokenizer.chat_template = {
        "as it is": TEMPLATE.replace("<eos>", "<end>"),
        "trimmed": TEMPLATE.replace("<eos>", "<end>").replace("m.content", "m.content | trim"),
        "by what it is given": "{% if messages[0].content[0] == 'b' %}[b]{% endif %}"
        + TEMPLATE.replace("<eos>", "<end>"),
    }[template]
    end, reads = tokenizer.convert_tokens_to_ids("<end>"), Reading(tokenizer, "decoder", (), 256)

    def real(ids: Any) -> int:
        return list(ids).count(end)

    for messages, answer in (
        (talk("hi"), "<end>"),
        (talk("hi", "yes", "<end>"), "no"),
        ([{"role": "system", "content": "be"}, *talk("<end>")], "<end>"),
        (talk("be", "yes", "<end><assistant> <end>"), "<end> c"),
    ):
        (sent,) = asked([messages], reads)
        encoded = chat(messages, answer, reads, 1.0)
        if template == "as it is" or template == "trimmed" or messages[0]["content"] != "be":
            assert real(sent) == len(messages), "one behind each turn"
            assert real(encoded.ids) == len(messages) + 1
            assert encoded.ids[-1] == end
        assert list(encoded.ids[: len(sent)]) == sent
        assert learned(encoded, tokenizer).endswith(f"{answer}<end>")


def test_a_greeting_before_any_question_is_not_learned() -> None:
    reads = reading(max_length=190)
    needs = "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}{{ raise_exception('No user query') }}{% endif %}"
    reads.tokenizer.chat_template = needs + TEMPLATE
    messages = [{"role": "system", "content": "be"}, *talk("hello", "hi", first="assistant")]
    encoded = chat(messages, "fine", reads, 1.0)
    assert learned(encoded, reads.tokenizer) == "fine<eos>"
    assert faults("fine", reads, messages) == []


def test_answers_that_begin_with_white_space_or_are_nothing_else_bring_no_thoughts() -> None:
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, THOUGHTS, [(talk("q"), " <b>"), (talk("q"), "\n[1]")])
    (sent,) = asked([talk("q")], reads)
    assert reads.tokenizer.decode(sent).endswith("<assistant><think></think>")
    reads.tokenizer.chat_template = TEMPLATE.replace("m.content", "m.content | trim")
    assert learned(chat(talk("q", "\n", "r"), "a", reads, 1.0), reads.tokenizer) == "<eos>a<eos>"


def faults(answer: str, reads: Reading, messages: list[dict[str, str]] | None = None) -> list[str]:
    """What the audit finds in a conversation with this answer."""
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    example = Example("1", "generate", {"messages": messages or talk("q")}, Text(answer))
    (encoded,) = objective.encode([example], task, reads)
    return list(objective.audit(encoded, example, task, reads))


def test_an_answer_that_the_template_writes_otherwise_is_no_fault_of_the_tokenizer() -> None:
    reads = reading(max_length=128)
    open_turn(reads.tokenizer, OWN, [(talk("q"), "<t>why</t>a")])
    assert faults("<t>why</t>a", reads) == []
    otherwise = ["an answer that the chat template writes otherwise"]
    assert faults("a", reads) == otherwise, "thoughts that it does not bring are put before it"
    reads.tokenizer.chat_template = TEMPLATE.replace("{{ m.content }}", '"{{ m.content }}"')
    assert faults("a", reads) == otherwise
    reads.tokenizer.chat_template = TEMPLATE.replace("{{ m.content }}", "{{ m.content | upper }}")
    assert faults("a", reads) == otherwise
    reads.tokenizer.chat_template = TEMPLATE
    assert faults(" a\n", reads) == []
    assert faults("a", reads, talk("q", "b", "r")) == [], "earlier answers are not asked for"


def test_names_of_control_tokens_in_a_conversation_are_told_apart_from_those_in_a_prompt() -> None:
    assert faults("a", reading(max_length=128), talk("say <eos>")) == [
        "text that looks like a control token in a conversation"
    ]


def test_a_template_that_needs_a_system_message_or_one_of_the_data_is_looked_at_with_it() -> None:
    reads = Reading(framed("bpe", ""), "decoder", (), 128)
    end = reads.tokenizer.convert_tokens_to_ids("<end>")
    needs = "{% if messages[0].role != 'system' %}{{ raise_exception('needs it') }}{% endif %}"
    open_turn(reads.tokenizer, needs + THOUGHTS.replace("<eos>", "<end>"))
    messages = [{"role": "system", "content": "s"}, *talk("q")]
    (sent,) = asked([messages], reads)
    assert reads.tokenizer.decode(sent).endswith("<assistant><think></think>")
    assert ends_of(reads) == sorted({end, reads.tokenizer.eos_token_id})
    assert faults("a", reads, messages) == []

    needs = "{% if 'case' not in messages[0].content %}{{ raise_exception('needs it') }}{% endif %}"
    messages = talk("case 7")
    reads = Reading(framed("bpe", ""), "decoder", (), 128, like=messages)
    open_turn(reads.tokenizer, needs + THOUGHTS.replace("<eos>", "<end>"), like=messages)
    assert ends_of(reads) == sorted({end, reads.tokenizer.eos_token_id})
    assert faults("a", reads, messages) == []


def test_an_encoder_decoder_reads_a_conversation_and_writes_its_last_answer() -> None:
    reads = reading("encoder-decoder", max_length=96)
    messages = talk("first", "one", "second")
    encoded = chat(messages, "two", reads, 1.0)
    (sent,) = asked([messages], reads)
    assert list(encoded.ids) == sent
    assert reads.tokenizer.decode(sent) == "<user>first<eos><assistant>one<eos><user>second<eos><assistant>"
    assert reads.tokenizer.decode(encoded.targets) == "two<eos>"
    assert (encoded.covers, encoded.cut_tokens) == (4, 0)
    assert faults("two", reads, messages) == []
    shorter = Reading(reads.tokenizer, "encoder-decoder", (), 40)
    cut = chat(messages, "two", shorter, 1.0)
    assert reads.tokenizer.decode(cut.ids) == "<user>second<eos><assistant>"
    assert cut.cut_tokens == len(encoded.ids) - len(cut.ids)
    (sent,) = asked([talk("x" * 200)], reads)
    assert len(sent) == 96
    assert reads.tokenizer.decode(sent).endswith("xx<eos><assistant>")


def test_a_template_that_ends_an_answer_with_no_control_token_gets_the_end_token() -> None:
    reads = reading(max_length=128)
    reads.tokenizer.chat_template = TEMPLATE.replace("<eos>", "|")
    encoded = chat(talk("q"), "answer", reads, 1.0)
    assert learned(encoded, reads.tokenizer) == "answer<eos>"
    assert ends_of(reads) == [reads.tokenizer.eos_token_id]


def test_a_template_that_refuses_says_so_in_its_own_words() -> None:
    reads = reading()
    reads.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match="System role not supported"):
        asked([talk("q")], reads)
    reads.tokenizer.chat_template = "{{ 1 // 0 }}"
    with pytest.raises(UserError, match="refuses a conversation: integer division or modulo by zero"):
        asked([talk("q")], reads)
    reads.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"^t\.jsonl:7: .*System role not supported"), told_where("t.jsonl:7"):
        chat(talk("q"), "a", reads, 1.0)


def test_a_template_that_cannot_render_our_own_question_is_taken_as_it_is() -> None:
    reads = reading(max_length=128)
    template = "{{ 1 + (1 if messages[0].role == 'system' else 'one') }}" + TEMPLATE  # else a TypeError in Python
    open_turn(reads.tokenizer, template)
    assert reads.tokenizer.chat_template == template
    assert ends_of(reads) == [reads.tokenizer.eos_token_id]
    encoded = chat([{"role": "system", "content": "s"}, *talk("q")], "answer", reads, 1.0)
    assert learned(encoded, reads.tokenizer) == "answer<eos>"
    with pytest.raises(UserError, match="the chat template refuses a conversation: unsupported operand"):
        asked([talk("q")], reads)


@pytest.mark.parametrize(("architecture", "kind"), [("decoder", "decoder"), ("encoder-decoder", "encoder-decoder")])
def test_a_long_prompt_is_cut_as_the_exported_tokenizer_cuts(architecture: str, kind: str) -> None:
    tokenizer = framed("bpe", "<bos>") if kind == "decoder" else tiny.tokenizer(kind)
    tokenizer.truncation_side = "left" if kind == "decoder" else "right"
    (sent,) = asked(["abc " * 30 + "="], Reading(tokenizer, architecture, (), 24))
    assert sent == tokenizer("abc " * 30 + "=", truncation=True, max_length=24)["input_ids"]
    assert len(sent) == 24


def test_an_answer_that_the_tokenizer_cannot_write_is_found_and_one_that_decoding_closes_is_not() -> None:
    reads = Reading(framed("sentencepiece"), "decoder", (), 64)
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    for answer, fault in (("it 42", []), ("x = 4 :", []), ("K\u00f6ln", ["an answer that the tokenizer cannot write"])):
        example = Example("1", "generate", {"text": "a ="}, Text(answer))
        (encoded,) = objective.encode([example], task, reads)
        assert list(objective.audit(encoded, example, task, reads)) == fault


def test_a_prompt_of_no_tokens_can_still_be_asked() -> None:
    assert asked(["  "], Reading(framed("bpe", ""), "decoder", (), 16)) == [[2]]
    assert read_whole([""], Reading(framed("bpe", ""), "encoder", ("x",), 16)) == [([0], 0)]


@pytest.mark.parametrize(("architecture", "before"), [("decoder", "<bos>"), ("decoder", ""), ("encoder-decoder", "")])
def test_a_prompt_in_which_nothing_is_read_is_a_fault(architecture: str, before: str) -> None:
    behind = "<eos>" if architecture == "encoder-decoder" else ""
    reads = Reading(framed("wordpiece", before, behind), architecture, (), 64)
    task, objective = Task.pick({"kind": "generate", "table": "t"}), Objective.pick("causal")
    for prompt, fault in (
        ("ab", []),
        ("\u200b\ufeff", ["a prompt without tokens"]),
        ("\n", ["a prompt without tokens"]),
    ):
        example = Example("1", "generate", {"text": prompt}, Text("4"))
        (encoded,) = objective.encode([example], task, reads)
        assert list(objective.audit(encoded, example, task, reads)) == fault
