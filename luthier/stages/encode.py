"""Encode: examples become tokens for one base, once; every supervised token can be seen, and wrong supervision is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

from luthier import hints, seams, suitability, token_arrays
from luthier.batching import Encoded
from luthier.choice import Settings
from luthier.encoding import Messages, Reading, asked_text, ends_of, may_leave_off_ends, open_turn, whole
from luthier.errors import Problems, UserError
from luthier.facts import EncodedFacts, FlowStep, PreparedFacts
from luthier.form import Form
from luthier.give_away import GiveAway
from luthier.model import Head, architecture_of, load_tokenizer
from luthier.objectives import Objective
from luthier.preparers import Preparer
from luthier.recipe import EncodeSettings
from luthier.seams import Example, place
from luthier.store import Artifact, Out, stage
from luthier.tasks import Task

LEARNED = ("train", "validation")
PREVIEWS = 8  # examples shown with their supervised tokens
CHUNK = 512  # examples encoded at once
WHITE = "white space at the end of a prompt"
LONG = "too long to learn from"
CUT = "cut in the test"  # under which the first such row is remembered
FEWEST = 20  # examples below which no share of faults is refused


class Encode(Settings):
    """What decides the tokens."""

    task: Task
    """Its form alone."""
    settings: EncodeSettings


@stage(version=6)
def encode(config: Encode, out: Out, examples: Artifact, base: Artifact) -> dict[str, Any]:
    """Token arrays `train` and `validation`, the validation Examples as `asked`, `previews.jsonl` and `form.json`."""
    task, settings = config.task, config.settings
    prepared = PreparedFacts(**examples.facts)
    objective = Objective.pick(task.learned_by())
    architecture = architecture_of(base.path)
    head = objective.head(architecture, prepared.label_names)
    suitability.check_kind(base.path, head)
    tokenizer = load_tokenizer(base.path)
    suitability.check_vocabulary(tokenizer, base.path)
    most = suitability.positions(base.path, head)
    suitability.check_lengths(settings.max_length, most)
    like = next((messages for messages, _ in conversations(examples, task)), ())
    open_turn(tokenizer, task.template_of_chats(), conversations(examples, task), like)
    labels = tuple(prepared.label_names)
    reading = Reading(tokenizer, architecture, labels, settings.max_length, settings.control_tokens, like)
    audit = Audit(objective, task, reading, settings, suitability.embeddings_of(base.path))
    splits = {}
    with out.timed("encode"), (out.folder / "previews.jsonl").open("w", encoding="utf-8") as previews:
        for split in LEARNED:
            audit.previews = previews if split == "train" else None
            audit.learning = split == "train"
            kept = audit.each(seams.read(examples.path / split, Example))
            if split == "validation":
                asked: list[str] = []
                splits[split] = token_arrays.write(out.folder / split, remembered(kept, asked))
                seams.write_lines(out.folder / "asked", asked)
            else:
                splits[split] = token_arrays.write(out.folder / split, (encoded for _, encoded in kept))
            out.say(f"encoded {splits[split]:,} examples of {split}")
        audit.ask(seams.read(examples.path / "test", Example))
    for warning in audit.judge():
        out.say(f"warning: {warning.sentence()}")
    if not splits["train"]:
        raise UserError("no training example fits", where="encode.max_length", hint="raise it, or truncate otherwise")
    Form(
        task=task,
        objective=objective,
        auto=head.auto,
        problem=head.problem,
        labels=head.labels,
        max_length=settings.max_length,
        steps=[Preparer.pick(step) for step in prepared.steps],
        hints=hints.read(examples.path),
        chat_template=tokenizer.chat_template
        if audit.conversations and isinstance(tokenizer.chat_template, str)
        else "",
        control_tokens=settings.control_tokens,
        conversations=audit.conversations,
        ends=tuple(ends_of(reading)) if head.writes else (),
    ).write(out.folder)
    return audit.facts(splits, head, most).model_dump(mode="json")


def conversations(examples: Artifact, task: Task) -> Iterator[tuple[Messages, str]]:
    """The conversations that are learned from, with their answers."""
    if not task.converses:
        return  # tables of a million rows are not read for it
    for example in seams.read(examples.path / "train", Example):
        prompt = task.prompt(example)
        if not isinstance(prompt, str) and example.target:
            yield prompt, task.completion(example.target)


def remembered(kept: Iterable[tuple[Example, Encoded]], asked: list[str]) -> Iterator[Encoded]:
    """Pass encoded examples through and keep what evaluating them needs: no ids, no groups, no places."""
    for example, encoded in kept:
        bare = Example(str(len(asked)), example.task, example.input, example.target, example.weight)
        asked.append(seams.line(bare))
        yield encoded


class Audit:
    """The supervision audit: what carries loss, what was cut, what must not happen."""

    def __init__(
        self, objective: Objective, task: Task, reading: Reading, settings: EncodeSettings, n_embeddings: int
    ) -> None:
        self.objective, self.task, self.reading, self.settings = objective, task, reading, settings
        self.n_embeddings = n_embeddings
        self.beyond: dict[int, str] = {}  # token without embedding -> where it was met first
        self.previews: TextIO | None = None
        self.learning = False  # whether what is looked at belongs to the training split
        self.of_one: Counter[bytes] = Counter()  # hash of an entity, or of what examples were made from -> examples
        self.shown = 0
        self.n = self.arrived = self.tokens = self.supervised = 0
        self.truncated = self.cut_tokens = self.too_long = self.longest = 0
        self.white_ends = 0  # prompts that end in white space
        self.n_asked = self.asked_cut = self.longest_asked = 0  # of the test
        self.conversations = False
        self.answers: Counter[int] = Counter()  # tokens of an answer -> examples
        self.give_away = GiveAway(reading.labels)
        self.faults: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def each(self, examples: Iterator[Example]) -> Iterator[tuple[Example, Encoded]]:
        """Encode examples and look at each; those that do not fit are cut, left out or, in the end, refused."""
        while chunk := list(islice(examples, CHUNK)):
            encoded = self.objective.encode(chunk, self.task, self.reading)
            for example, tokens in zip(chunk, encoded, strict=True):
                self.arrived += 1
                if tokens.cut_tokens and self.settings.truncation == "drop":
                    self.too_long += 1
                    self.first.setdefault(LONG, place(example))
                    continue
                self.look(example, tokens)
                yield example, tokens

    def look(self, example: Example, encoded: Encoded) -> None:
        """Count one example and note what is wrong with its supervision."""
        self.n += 1
        prompt = self.task.prompt(example)
        self.conversations |= not isinstance(prompt, str)
        if isinstance(prompt, str) and not self.reading.labels and prompt != asked_text(prompt):
            self.white_ends += 1
            self.first.setdefault(WHITE, place(example))
        self.tokens += encoded.length
        self.supervised += encoded.covers
        if n := self.objective.answer_tokens(encoded):
            self.answers[n] += 1
        self.longest = max(self.longest, encoded.length + encoded.cut_tokens)
        self.truncated += encoded.cut_tokens > 0
        self.cut_tokens += encoded.cut_tokens
        self.embedded(encoded.ids, example)
        self.give_away.look(example)
        if self.learning:
            self.belongs(example)
        for fault in self.objective.audit(encoded, example, self.task, self.reading):
            self.faults[fault] += 1
            self.first.setdefault(fault, place(example))
        if self.previews is not None and self.shown < PREVIEWS:
            self.shown += 1
            shown = {"id": str(self.shown), "pieces": self.objective.pieces(encoded, self.reading.tokenizer)}
            self.previews.write(json.dumps(shown, ensure_ascii=False) + "\n")

    def belongs(self, example: Example) -> None:
        """Count one more example of its entity, and of what it was made from."""
        self.of_one.update(
            {short("entity", example.entity or example.id), short("parent", example.parent or example.id)}
        )

    def embedded(self, ids: Iterable[int], example: Example) -> None:
        """Note a token that the base has no embedding for."""
        if (highest := max(ids, default=0)) >= self.n_embeddings:
            self.beyond.setdefault(highest, place(example))

    def ask(self, examples: Iterator[Example]) -> None:
        """Look at what the test will ask: every example is answered, and what does not fit is cut and counted."""
        while chunk := list(islice(examples, CHUNK)):
            prompts = [self.task.prompt(example) for example in chunk]
            self.conversations |= any(not isinstance(prompt, str) for prompt in prompts)
            asked = whole(prompts, self.reading, list(map(place, chunk)))
            for example, (ids, cut) in zip(chunk, asked, strict=True):
                self.n_asked += 1
                self.longest_asked = max(self.longest_asked, len(ids) - cut)
                self.embedded(ids, example)
                self.asked_cut += cut > 0
                if cut:
                    self.first.setdefault(CUT, place(example))

    def judge(self) -> list[UserError]:
        """What is worth telling; raises Problems for supervision that would train the wrong thing."""
        found: list[UserError] = [] if self.settings.give_away == "allow" else list(self.give_away.problems())
        told: list[UserError] = []
        for name, n in self.faults.items():
            fault = self.objective.faults[name]
            if self.conversations:  # of a table that holds both, the exported tokenizer reads both alike
                fault = self.objective.faults.get(f"{name} in a conversation", fault)
            refused = n > fault.tolerated * self.n and (fault.tolerated == 0 or self.n >= FEWEST)
            problem = UserError(fault.sentence.format(n=n, total=self.n), where=self.first[name], hint=fault.hint)
            (found if refused else told).append(problem)
        for token, where in self.beyond.items():
            found.append(suitability.no_embedding(self.reading.tokenizer, token, self.n_embeddings, where))
        if self.truncated and self.settings.truncation == "error":
            found.append(
                UserError(
                    f"{self.truncated} examples are longer than {self.settings.max_length} tokens "
                    f"(the longest has {self.longest})",
                    where="encode.max_length",
                    hint="raise it, or set encode.truncation to cut_input or drop",
                )
            )
        if self.too_long:
            sentence = f"{self.too_long} of {self.arrived} examples are longer than encode.max_length and are left out"
            told.append(
                UserError(sentence, where=self.first[LONG], hint="raise it, or set encode.truncation to cut_input")
            )
        if self.asked_cut:
            sentence = f"{self.asked_cut} of {self.n_asked} test examples are longer than encode.max_length and are cut"
            told.append(UserError(sentence, where=self.first[CUT], hint="raise it to let the model read them whole"))
        alone = self.conversations or self.settings.control_tokens == "parse"
        if self.white_ends and (alone or not may_leave_off_ends(self.reading.tokenizer)):
            told.append(
                UserError(
                    f"{self.white_ends} of {self.n} prompts end in white space, which is left off here and which the exported "
                    "tokenizer keeps",
                    where=self.first[WHITE],
                    hint="leave it off when you ask the exported model, as the card's Python does",
                )
            )
        template = self.reading.tokenizer.chat_template
        if self.conversations and isinstance(template, str) and "strftime_now" in template:
            told.append(
                UserError(
                    "the chat template writes today's date, so what the model reads changes from day to day",
                    where="task.chat_template",
                    hint="give a template with a fixed date in the recipe",
                )
            )
        if found:
            raise Problems(found)
        return told

    def where_written(self) -> str:
        """Where an answer stands: a decoder's behind its prompt, that of an encoder-decoder by itself."""
        return "behind the prompt" if self.reading.architecture == "decoder" else "apart"

    def facts(self, splits: dict[str, int], head: Head, most: int | None) -> EncodedFacts:
        """For the manifest and the report."""
        fates = {LONG: self.too_long} if self.too_long else {}
        return EncodedFacts(
            flow=FlowStep(step="fit in max_length", arrived=self.arrived, kept=self.n, fates=fates, made=self.arrived),
            splits=splits,
            examples=self.n,
            tokens=self.tokens,
            supervised_tokens=self.supervised,
            truncated=self.truncated,
            cut_tokens=self.cut_tokens,
            longest=self.longest,
            longest_asked=self.longest_asked,
            auto=head.auto,
            positions=most,
            writes=self.where_written() if head.writes else "",
            conversations=self.conversations,
            asked_cut=self.asked_cut,
            most_of_one_entity=max(self.of_one.values(), default=0),
            answer_tokens=sorted(self.answers.items()),
            counted={name: self.faults[name] for name, fault in self.objective.faults.items() if fault.tolerated}
            | ({"label in the input": self.give_away.counted()} if self.give_away.own else {}),
        )


def short(*parts: str) -> bytes:
    """A hash of names, to count by: eight bytes, since there may be millions."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
