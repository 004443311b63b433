"""Text into tokens, one way for training, prediction and the exported tokenizer: prompts, answers, conversations.

Text of the data is ordinary text: what looks like a control token in it (`</s>`) is spelled out, unless the recipe says
`control_tokens: parse`. The start token stands where the tokenizer itself puts it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from luthier.batching import Encoded
from luthier.errors import UserError, first_line

Prompt = str | list[dict[str, str]]  # a text, or messages for a chat template
Messages = Sequence[dict[str, str]]
PROBE = "Probe answer"  # stands for an answer where a chat template is looked at
QUESTION = {"role": "user", "content": "?"}
QUESTIONS: tuple[Messages, ...] = ([QUESTION], [{"role": "system", "content": "Answer."}, QUESTION])


@dataclass(frozen=True)
class Reading:
    """How a model reads: what turns text into its tokens."""

    tokenizer: Any
    architecture: str  # "encoder", "decoder" or "encoder-decoder"
    labels: tuple[str, ...]  # names of a classification head's outputs
    max_length: int  # tokens of one example, prompt and answer together
    control_tokens: Literal["text", "parse"] = "text"  # what a control token's name in the data is
    like: Messages = ()  # a conversation of the data, such as the chat template is made for

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer itself puts before and behind a text."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        at = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
        return list(whole[:at]), list(whole[at + len(bare) :])

    @cached_property
    def control_names(self) -> re.Pattern[str] | None:
        """Finds the names of control tokens in text."""
        names = sorted(control_tokens(self.tokenizer).values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def end_of_turn(self) -> int | None:
        """The control token that the chat template writes behind an answer."""
        _, tail = around_answer(self.tokenizer, self.like)
        found = parsed(closing(tail, self), (), self)[-1:]
        return found[0] if found else None

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts of the data, without a frame."""
        if not texts:
            return []
        found = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=self.control_tokens == "text"
        )
        return [list(ids) for ids in found["input_ids"]]

    def holds_control(self, text: str) -> bool:
        """Whether a text of the data has the name of a control token in it."""
        return self.control_names is not None and self.control_names.search(text) is not None


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that are never ordinary text: number -> name."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {n: token.content for n, token in tokenizer.added_tokens_decoder.items() if token.special}


def end_of(reading: Reading) -> int:
    """The token that ends a text; UserError where the tokenizer names none."""
    end: int | None = reading.tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-sequence token", where="base", hint="set eos_token in its files")
    return end


def ends_of(reading: Reading) -> list[int]:
    """The tokens that end what a trained model writes: its end token and the end of a turn of its chat template."""
    found = {end_of(reading)}
    if reading.end_of_turn is not None:
        found.add(reading.end_of_turn)
    return sorted(found)


def leave_open(reading: Reading) -> bool:
    """Let a decoder's tokenizer put nothing behind a text, since an answer follows it; whether that changed it."""
    from tokenizers.processors import TemplateProcessing

    before, behind = reading.frame
    if not behind or not hasattr(reading.tokenizer, "backend_tokenizer"):
        return False
    names = reading.tokenizer.convert_ids_to_tokens(before)
    reading.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*names, "$A"]), special_tokens=list(dict(zip(names, before, strict=True)).items())
    )
    return True


def may_leave_off_ends(tokenizer: Any) -> bool:
    """Whether a tokenizer can be let do so without losing white space elsewhere."""
    added = tokenizer.added_tokens_decoder.values()
    return hasattr(tokenizer, "backend_tokenizer") and all(token.special for token in added)


def leave_off_ends(tokenizer: Any) -> bool:
    """Let a tokenizer leave off white space at the end of a text by itself, as `asked_text` does for prompts; whether
    that changed it.

    Not where tokens that are no control tokens are found before anything else: white space before them would go too.
    """
    from tokenizers.normalizers import Sequence as Steps
    from tokenizers.normalizers import Strip

    if not may_leave_off_ends(tokenizer):
        return False
    if (
        tokenizer("a \n", add_special_tokens=False)["input_ids"]
        == tokenizer("a", add_special_tokens=False)["input_ids"]
    ):
        return False
    backend = tokenizer.backend_tokenizer
    strip = Strip(left=False, right=True)
    backend.normalizer = Steps([strip, backend.normalizer]) if backend.normalizer is not None else strip
    return True


def asked(prompts: Sequence[Prompt], reading: Reading) -> list[list[int]]:
    """Tokens of what a model reads before it writes, at most `max_length` each; texts are encoded all at once."""
    encoded = iter(written_prompts([asked_text(prompt) for prompt in prompts if isinstance(prompt, str)], reading))
    found = []
    for prompt in prompts:
        if isinstance(prompt, str):
            found.append(shortened(next(encoded), reading.max_length, reading))
        elif reading.architecture == "encoder-decoder":
            found.append(fitting(prompt, reading)[-reading.max_length :])
        else:
            found.append(shortened(fitting(prompt, reading), reading.max_length, reading))
    return found


def whole(prompts: Sequence[Prompt], reading: Reading, places: Sequence[str]) -> list[tuple[list[int], int]]:
    """Tokens of each prompt and how many of them do not fit; an error of the chat template names the prompt's place."""
    texts = [asked_text(prompt) for prompt in prompts if isinstance(prompt, str)]
    if reading.labels:
        return read_whole(texts, reading)
    encoded = iter(written_prompts(texts, reading))
    found = []
    for prompt, place in zip(prompts, places, strict=True):
        if isinstance(prompt, str):
            ids = next(encoded)
        else:
            with told_where(place):
                text = rendered(prompt, reading.tokenizer, asks=True)
            ids = parsed(text, contents_in(text, prompt, reading, asks=True), reading)
        found.append((ids, max(0, len(ids) - reading.max_length)))
    return found


@contextlib.contextmanager
def told_where(place: str) -> Iterator[None]:
    """An error of a chat template names the row that it met."""
    try:
        yield
    except UserError as problem:
        raise UserError(problem.what, where=place, hint=problem.hint) from None


def asked_text(prompt: str) -> str:
    """A prompt without white space at its end, which is the beginning of the answer.

    A tokenizer joins white space to the word that follows it; a prompt that ends in some makes the first token of the
    answer a strange one.
    """
    return prompt.rstrip()


def shortened(ids: list[int], room: int, reading: Reading) -> list[int]:
    """Tokens that fit, cut as the exported tokenizer cuts: a decoder's at the left, behind its start token, since the end
    of a prompt says what is asked; an encoder-decoder's at the right, before its end token."""
    if len(ids) <= room:
        return ids
    before, behind = reading.frame
    if reading.architecture == "encoder-decoder":
        kept = max(room - len(behind), 1)
        return [*ids[:kept], *behind]
    start = before if ids[: len(before)] == before else []
    return [*start, *ids[len(ids) - max(room - len(start), 1) :]]


def written_prompts(texts: Sequence[str], reading: Reading) -> list[list[int]]:
    """Tokens of prompts in the tokenizer's frame; a decoder's have no end token, since the answer follows.

    A prompt of no tokens at all is its start token, or the end token where there is none.
    """
    before, behind = reading.frame
    if reading.architecture == "decoder":
        behind = []
    return [[*before, *ids, *behind] or [end_of(reading)] for ids in reading.plain(texts)]


def read_whole(texts: Sequence[str], reading: Reading) -> list[tuple[list[int], int]]:
    """Tokens of texts that a classification head reads, in the tokenizer's own frame and cut by it, and how many were."""
    if not texts:
        return []
    options = {"split_special_tokens": reading.control_tokens == "text"}
    whole = reading.tokenizer(list(texts), **options)["input_ids"]
    found = [(list(ids) or [reading.tokenizer.pad_token_id], 0) for ids in whole]
    for number in [n for n, ids in enumerate(whole) if len(ids) > reading.max_length]:  # those alone are read again
        short = reading.tokenizer(texts[number], truncation=True, max_length=reading.max_length, **options)["input_ids"]
        found[number] = (list(short), len(whole[number]) - len(short))
    return found


def answers(pairs: Sequence[tuple[str, str]], reading: Reading) -> list[list[int]]:
    """Tokens of the answers of (prompt, answer), each with the end token: without it a model never learns to stop.

    A decoder's answer has the tokens that it has behind its prompt, where those of the prompt stay what they are.
    """
    end = [end_of(reading)]
    if reading.architecture != "decoder":
        return [[*ids, *end] for ids in reading.plain([answer for _, answer in pairs])]
    prompts = [asked_text(prompt) for prompt, _ in pairs]
    rest = [prompt[len(kept) :] + answer for (prompt, answer), kept in zip(pairs, prompts, strict=True)]
    before = reading.plain(prompts)
    joint = reading.plain([prompt + more for prompt, more in zip(prompts, rest, strict=True)])
    found = [whole[len(ids) :] for whole, ids in zip(joint, before, strict=True)]
    # where the prompt's tokens change, or the answer goes on with its last word and could not be told from it
    apart = [
        n
        for n, (ids, (_, answer)) in enumerate(zip(before, pairs, strict=True))
        if joint[n][: len(ids)] != ids or not says(found[n], answer, reading)
    ]
    for n, ids in zip(apart, reading.plain([rest[n] for n in apart]), strict=True):
        found[n] = ids
    return [[*ids, *end] for ids in found]


def says(tokens: Sequence[int], answer: str, reading: Reading) -> bool:
    """Whether an answer comes back from its tokens, apart from white space at its ends."""
    back: str = reading.tokenizer.decode(tokens, skip_special_tokens=True)
    return back.strip() == answer.strip()


def rendered(messages: Messages, tokenizer: Any, *, asks: bool) -> str:
    """A conversation through the chat template; UserError with the template's own words where it refuses."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the base has no chat template, so messages cannot be rendered",
            where="task.chat_template",
            hint="give a template in the recipe, or use prompt and completion",
        )
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks)
    except Exception as problem:  # a template is a program of its own, which fails in its own ways
        raise UserError(
            f"the chat template refuses a conversation: {first_line(problem)}",
            where="task.chat_template",
            hint="change the conversations, or give a template in the recipe that takes them",
        ) from None
    return text


def around_answer(tokenizer: Any, like: Messages = ()) -> tuple[str, str]:
    """What the chat template writes by itself between a prompt and its answer, and behind the answer.

    Seen on a conversation `like` those of the data, else on questions of our own; nothing where it takes none of them.
    """
    for question in (like, *QUESTIONS) if like else QUESTIONS:
        try:
            before = rendered(question, tokenizer, asks=True)
            whole = rendered([*question, {"role": "assistant", "content": PROBE}], tokenizer, asks=False)
        except UserError:
            continue
        behind = whole[len(before) :]
        probed = re.search(PROBE, behind, re.IGNORECASE)  # some templates write answers in capitals
        if whole.startswith(before) and probed:
            return behind[: probed.start()], behind[probed.end() :]
    return "", ""


def open_turn(
    tokenizer: Any, chat_template: str = "", conversations: Iterable[tuple[Messages, str]] = (), like: Messages = ()
) -> None:
    """Take the recipe's chat template, if it has one, and let it ask with all that it writes before an answer.

    Some templates write empty thoughts, or open a channel, at the head of an answer and not behind the prompt that asks
    for it. Written behind the prompt, it is no part of any answer, here and in the exported tokenizer; unless most
    answers of the data, as (messages, answer), bring it themselves.
    """
    if chat_template:
        tokenizer.chat_template = chat_template
    if not isinstance(tokenizer.chat_template, str):
        return
    head, _ = around_answer(tokenizer, like)
    own = (
        Counter(brings(head, messages, answer, tokenizer) for messages, answer in conversations) if head else Counter()
    )
    if head and own[True] <= own[False]:  # the rarer kind is told where it is encoded
        plain = tokenizer.chat_template.removesuffix("\n")
        tokenizer.chat_template = (
            f"{plain}{{% if add_generation_prompt %}}{{{{ {json.dumps(head, ensure_ascii=False)} }}}}{{% endif %}}"
        )


def brings(head: str, messages: Messages, answer: str, tokenizer: Any) -> bool:
    """Whether an answer begins with what a template writes at the head of answers, such as thoughts, as its own text."""
    if answer.lstrip()[:1] not in ("<", "[", head.lstrip()[:1]):  # most answers need no look
        return False
    try:
        before = rendered(messages, tokenizer, asks=True)
        whole = rendered([*messages, {"role": "assistant", "content": answer}], tokenizer, asks=False)
    except UserError:
        return False  # told where it is encoded
    return not whole.startswith((before + head + answer, before + head + answer.strip()))


def closing(tail: str, reading: Reading) -> str:
    """The beginning of what a template writes behind an answer, up to its first control token; nothing without one."""
    found = reading.control_names.search(tail) if reading.control_names else None
    return tail[: found.end()] if found else ""


Span = tuple[int, int]


def contents_in(text: str, messages: Messages, reading: Reading, *, asks: bool) -> list[Span]:
    """Where the contents of the data stand in a conversation that the chat template wrote; nothing where none of them
    holds the name of a control token.

    Seen from the same conversation with marks for its contents, since a content may be what the template writes itself.
    """
    contents = [turn["content"] for turn in messages]
    if reading.control_tokens != "text" or not any(map(reading.holds_control, contents)):
        return []
    marked = [{**turn, "content": f"\ue000{number}\ue001"} for number, turn in enumerate(messages)]
    try:
        shape = rendered(marked, reading.tokenizer, asks=asks)
    except UserError:
        return searched(text, contents)
    found: list[Span] = []
    at = behind = 0
    for mark in re.finditer("\ue000(\\d+)\ue001", shape):
        own, content = shape[behind : mark.start()], contents[int(mark[1])]
        start = at + len(own)
        written = next((w for w in (content, content.strip()) if text.startswith(w, start)), None)
        if not text.startswith(own, at) or written is None:
            return searched(text, contents)
        at, behind = start + len(written), mark.end()
        found.append((start, at))
    return found if text.startswith(shape[behind:], at) else searched(text, contents)


def searched(text: str, contents: Sequence[str]) -> list[Span]:
    """Where contents stand in a text, each behind the one before it, of a template that writes by what it is given."""
    found: list[Span] = []
    place = 0
    for content in contents:
        start, written = next(
            ((at, w) for w in (content, content.strip()) if w and (at := text.find(w, place)) >= 0), (-1, "")
        )
        if start >= 0:
            place = start + len(written)
            found.append((start, place))
    return found


def parsed(text: str, contents: Sequence[Span], reading: Reading) -> list[int]:
    """Tokens of what a chat template wrote: its control tokens are meant, those in the `contents` of the data are text."""
    found: list[int] = []
    at = 0
    for start, end in contents if reading.control_names is not None else ():
        for named in reading.control_names.finditer(text, start, end):  # type: ignore[union-attr]
            found += reading.tokenizer(text[at : named.start()], add_special_tokens=False)["input_ids"]
            found += reading.plain([named.group()])[0]
            at = named.end()
    return [*found, *reading.tokenizer(text[at:], add_special_tokens=False)["input_ids"]]


def chat(messages: Messages, answer: str, reading: Reading, weight: float) -> Encoded:
    """A conversation with loss on every assistant turn up to the token that ends it; the oldest turns go where it is long.

    What an answer is trained behind is what is sent when it is asked for, token for token. An encoder-decoder reads all
    but the last answer, which alone carries loss.
    """
    if reading.architecture == "encoder-decoder":
        (target,) = answers([("", answer)], reading)
        prompt = fitting(messages, reading)
        room = max(reading.max_length - len(target), 1)
        kept = prompt[-room:]
        ((asked_whole, _),) = whole([list(messages)], reading, [""])
        return Encoded(kept, (), target, (), len(target), len(asked_whole) - len(kept), weight)
    full = 0
    for part in (messages, *suffixes(messages)):
        try:
            said = conversation(part, answer, reading)
        except UserError:
            if part is messages:
                raise
            break
        full = full or len(said.ids)
        if len(said.ids) <= reading.max_length:
            break
    ids, supervised = said.ids, said.supervised
    if len(ids) > reading.max_length:  # one long question is cut as it is when it is asked
        room = max(reading.max_length - (len(ids) - said.last), 1)
        prompt = shortened(ids[: said.last], room, reading)
        ids, supervised = [*prompt, *ids[said.last :]], [*[False] * len(prompt), *supervised[said.last :]]
    return Encoded(ids, supervised, (), (), sum(supervised[1:]), full - len(ids), weight)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation in tokens."""

    ids: list[int]
    supervised: list[bool]
    last: int  # where the last answer begins


def conversation(messages: Messages, answer: str, reading: Reading) -> Conversation:
    """A whole conversation in tokens, grown turn by turn, so that every prompt is what is sent at that turn.

    An answer that the template writes otherwise in later turns than when it was asked for (without its thoughts, say)
    carries no loss there.
    """
    turns = [*messages, {"role": "assistant", "content": answer}]
    whole = rendered(turns, reading.tokenizer, asks=False)
    ids: list[int] = []
    supervised: list[bool] = []
    last = 0
    for index, turn in enumerate(turns):
        final = index == len(turns) - 1
        if not final and not answers_something(turns, index):
            continue
        before = rendered(turns[:index], reading.tokenizer, asks=True)
        after = whole if final else rendered(turns[: index + 1], reading.tokenizer, asks=False)
        stop = end_of_answer(after, len(before), turn["content"], reading)
        end = closing(after[stop:], reading)
        if not (after.startswith(before) and whole.startswith(after[: stop + len(end)])):
            if not final:
                continue
            raise UserError(
                "the chat template asks with text that it does not write before this answer, such as thoughts, so it is "
                "unclear which tokens are the assistant's",
                where="task.chat_template",
                hint="give a template in the recipe that writes before an answer what it asks with, and only appends",
            )
        prompt = parsed(before, contents_in(before, turns[:index], reading, asks=True), reading)
        same = prompt[: len(ids)] == ids
        supervised = [*(supervised if same else [False] * len(ids)), *[False] * len(prompt)][: len(prompt)]
        contents = contents_in(after, turns[: index + 1], reading, asks=False)
        written = parsed(after[: stop + len(end)], contents, reading)
        if written[: len(prompt)] == prompt:
            said = written[len(prompt) :]
        else:
            answered = [(a - len(before), b - len(before)) for a, b in contents if a >= len(before)]
            said = parsed(after[len(before) : stop + len(end)], answered, reading)
        if final and not end:
            said = [*said, end_of(reading)]
        ids, last = [*prompt, *said], len(prompt)
        supervised += [True] * len(said)
    return Conversation(ids, supervised, last)


def answers_something(turns: Messages, index: int) -> bool:
    """Whether a turn is an answer: what a conversation begins with, before any user's turn, answers nothing."""
    return turns[index]["role"] == "assistant" and any(turn["role"] == "user" for turn in turns[:index])


def end_of_answer(text: str, start: int, content: str, reading: Reading) -> int:
    """Where in a rendered conversation the answer that begins at `start` ends: behind its content, as the template has it."""
    for said in (content, content.strip()):
        if text.startswith(said, start):
            return start + len(said)
    for said in (content, content.strip()):
        if (at := text.find(said, start)) >= 0:
            return at + len(said)
    found = reading.control_names.search(text, start) if reading.control_names else None
    return found.start() if found else len(text)


def fitting(messages: Messages, reading: Reading) -> list[int]:
    """Tokens of a conversation that asks for an answer, without its oldest turns where they do not fit."""
    found: list[int] = []
    for part in (messages, *suffixes(messages)):
        try:
            text = rendered(part, reading.tokenizer, asks=True)
        except UserError:
            if part is messages:
                raise
            break  # a template that takes the whole and not less of it
        found = parsed(text, contents_in(text, part, reading, asks=True), reading)
        if len(found) <= reading.max_length:
            break
    return found


def suffixes(messages: Messages) -> list[list[dict[str, str]]]:
    """The conversation with ever fewer of its oldest turns: what the system says stays, and a user's turn comes first."""
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    starts = [n for n, turn in enumerate(messages) if turn["role"] == "user" and n > len(system)]
    return [[*system, *messages[start:]] for start in starts]
