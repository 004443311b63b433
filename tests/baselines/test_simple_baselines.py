"""Simple rivals: what they say of literal rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.numpy import save_file

from luthier.baselines import Setting
from luthier.baselines.identity import Identity
from luthier.baselines.majority import Majority
from luthier.baselines.rules import Rules
from luthier.baselines.tfidf import Tfidf
from luthier.baselines.untuned import Untuned, spread
from luthier.engines import Request, Said, Session, Tell, untold
from luthier.engines.torch import TorchSession
from luthier.errors import UserError
from luthier.model import load, writing_head
from luthier.seams import Answer, Example, Label, Labels, Number, Ranking, Text
from luthier.tasks.classify import Classify
from luthier.tasks.generate import Generate
from luthier.tasks.standardize import Standardize


def cell(column: str, value: str, country: str, answer: str | None) -> Example:
    fields = {"column": column, "value": value, "context": {"country": country}}
    target = None if answer is None else Text(answer)
    return Example(
        id=f"{column}/{value}", task="standardize", input={"fields": fields}, target=target, slices={"column": column}
    )


class Answering(Session):
    """An open model that answers each request with its number and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        self.requests += requests
        tell(len(requests), len(requests))
        return [Said(f" answer {number} ", confidence=0.5) for number in range(len(requests))]


def no_model() -> Session:
    raise AssertionError("this rival needs no model")


def setting(task: Any, session: Callable[[], Session] = no_model, base: Path = Path(), **more: Any) -> Setting:
    return Setting(
        base=base, task=task, session=session, seed=0, device="cpu", precision="float32", max_length=64, **more
    )


SETTING = setting(Standardize(table="t", fields={"date": "day"}, context=["country"]))

LEARNED = [
    cell("date", "03.05.1987", "DE", "1987-05-03"),
    cell("date", "May 3, 1987", "US", "1987-05-03"),
    cell("phone", "030 123456", "DE", "+4930123456"),
    cell("phone", "(201) 555-0123", "US", "+12015550123"),
    cell("sum", "1.234,50 EUR", "DE", "EUR 1234.50"),
    cell("sum", "$1,200", "US", "USD 1200"),
    cell("firm", "BAUER AGRO G.m.b.H.", "DE", "Bauer Agro | GmbH"),
    cell("firm", "Redwood Steel, Inc.", "US", "Redwood Steel | Inc"),
    cell("land", "Allemagne", "DE", "DE"),
    cell("land", "SPAIN", "US", "ES"),
    cell("size", "12.0 oz", "", "12"),
    cell("size", "16 ounces", "", "16"),
    cell("code", "x1", "", "x1"),
    cell("code", "y2", "", "y2"),
]


@pytest.mark.parametrize(
    ("column", "value", "country", "answer"),
    [
        ("date", "gegr. 7.12.1968", "DE", "1968-12-07"),
        ("date", "12/7/1968", "US", "1968-12-07"),
        ("date", "12/7/1968", "GB", "1968-07-12"),
        ("date", "never", "GB", "never"),
        # No part of a date is made up: dateutil would put today's day here.
        ("date", "10 ottorbe 1983", "IT", "10 ottorbe 1983"),
        ("date", "May 1987", "US", "May 1987"),
        ("date", "19 października 1981; fuzja 1990", "PL", "1981-10-19"),
        ("date", "1969年2月8日", "JP", "1969-02-08"),
        ("date", "12.03.2020 10:00 MEZ", "DE", "2020-03-12"),  # a time zone that dateutil does not know
        ("size", "1234567.50 kg", "", "1234567.5"),
        ("phone", "tel. 030/123 457", "DE", "+4930123457"),
        ("phone", "03O/123 457 (office)", "DE", "+4930123457"),
        ("phone", "030 123457, 9-17h", "DE", "+4930123457"),
        ("phone", "ask Jo", "DE", "ask Jo"),
        ("phone", "+33 1 23 45 28 77", "DE", "+33123452877"),
        ("sum", "ca. 76.600 EUR", "DE", "EUR 76600"),
        ("sum", "~ 1,000.25", "US", "USD 1000.25"),
        ("sum", "Umsatz 2023: 1,2 Mio. €", "DE", "EUR 1200000"),
        ("sum", "31k USD (2020)", "US", "USD 31000"),
        ("firm", "Vogt Papier gmbh", "DE", "Vogt Papier | GmbH"),
        ("land", "Alemagne", "DE", "DE"),
        ("firm", "Fa. Vogt Papier, Ges.m.b.H.", "AT", "Vogt Papier | GmbH"),
        ("firm", "K.K. Fuji Steel", "JP", "Fuji Steel | KK"),
        ("land", "hecho en U.S.A.", "ES", "US"),
        ("land", "from Sapin, 100 %", "US", "ES"),
        ("land", "Hiszpania", "DE", "ES"),
        ("size", "8.4 fl. oz.", "", "8.4"),
        ("code", "  a b ", "", "a b"),
    ],
)
def test_rules_choose_for_each_column_what_fits_its_training_rows(
    column: str, value: str, country: str, answer: str
) -> None:
    (found,) = Rules().predict(LEARNED, [cell(column, value, country, None)], SETTING)
    example, answered = found
    assert example.id == f"{column}/{value}"
    assert answered.output == Text(answer)
    assert answered.confidence == 1.0, "every training row of the column was right"


def test_identity_changes_nothing() -> None:
    asked = [cell("land", " Spain", "US", None), cell("other", "x", "", None)]
    found = list(Identity().predict(LEARNED, asked, SETTING))
    assert [(example.id, answered.output) for example, answered in found] == [
        ("land/ Spain", Text(" Spain")),
        ("other/x", Text("x")),
    ]


def test_majority_knows_one_answer_per_column_and_the_commonest_of_all_for_others() -> None:
    asked = [cell("land", " Spain", "US", None), cell("other", "x", "", None)]
    more = [*LEARNED, cell("land", "Espagne", "FR", "ES")]
    found = list(Majority().predict(more, asked, SETTING))
    assert [(a.output, round(a.confidence, 3)) for _, a in found] == [
        (Text("ES"), 0.667),
        (Text("1987-05-03"), 0.133),  # two of 15, as ES; the first by name among equals
    ]


@pytest.mark.parametrize(
    ("targets", "commonest", "share"),
    [
        ([Label("b"), Label("a"), Label("b")], Label("b"), 2 / 3),
        ([Label("b"), Label("a")], Label("a"), 0.5),
        ([Labels(("x", "y")), Labels(("y", "x")), Labels(("x",))], Labels(("x", "y")), 2 / 3),
        ([Number(1.5), Number(2.5), Number(2.5)], Number(2.5), 2 / 3),
        ([Ranking(("a", "b")), Ranking(("a", "b"))], Ranking(("a", "b")), 1.0),
        ([None, Label("a")], Label("a"), 1.0),
    ],
)
def test_majority_answers_in_any_kind(targets: list[Answer | None], commonest: Answer, share: float) -> None:
    learned = [Example(id=str(n), task="t", input={"text": ""}, target=target) for n, target in enumerate(targets)]
    ((_, answered),) = Majority().predict(learned, [Example(id="new", task="t", input={"text": ""})], setting(None))
    assert (answered.output, answered.confidence) == (commonest, pytest.approx(share))


def text(name: object, words: str, label: str | None = None) -> Example:
    return Example(id=str(name), task="classify", input={"text": words}, target=None if label is None else Label(label))


def test_tfidf_tells_topics_apart() -> None:
    learned = [text(n, f"{w} {n}", "animal") for n, w in enumerate(["the dog", "a cat", "dog and cat", "a cow"])]
    learned += [text(9 + n, f"{w} {n}", "metal") for n, w in enumerate(["iron", "raw steel", "steel and iron", "zinc"])]
    told: list[tuple[int, int]] = []
    topics = setting(CLASSIFY, tell=lambda done, total: told.append((done, total)))
    found = list(Tfidf().predict(learned, [text(99, "an iron bar"), text(98, "the old dog")], topics))
    assert [(example.id, a.output) for example, a in found] == [("99", Label("metal")), ("98", Label("animal"))]
    assert all(0.5 < a.confidence <= 1 and a.candidates[0] == (a.output, a.confidence) for _, a in found)
    assert told == [(1, 2), (2, 2)]


def test_many_rare_labels_are_learned_without_a_warning_of_the_library() -> None:
    learned = [text(n, f"word {n}", f"label {n % 20}") for n in range(30)]
    ((_, found),) = Tfidf().predict(learned, [text(99, "word 7")], setting(CLASSIFY))
    assert len(found.candidates) == 5


CLASSIFY = Classify(table="t", text="x", label="y")


def test_examples_in_a_prompt_are_spread_over_the_columns() -> None:
    shots = spread(LEARNED, 5, seed=1)
    assert len({shot.slices["column"] for shot in shots}) == 5
    assert shots == spread(LEARNED[::-1], 5, seed=1)
    assert shots != spread(LEARNED, 5, seed=2)


# What the untuned base is asked; a base that writes is known by its config alone.


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    save_file({}, tmp_path / "model.safetensors")
    return tmp_path


def answered_by(session: Answering, writer: Path, rival: Untuned, task: Any, train: Any, asked: Any) -> list[Any]:
    return list(rival.predict(train, asked, setting(task, lambda: session, writer)))


SOLVED = [text(1, "the  dog\nbarks", "animal"), text(2, "raw steel", "metal")]


def test_untuned_asks_the_session_after_solved_examples_and_ends_with_the_line(writer: Path) -> None:
    session = Answering()
    found = answered_by(session, writer, Untuned(shots=2), CLASSIFY, SOLVED, [text(8, "zinc\nore"), text(9, "a cow")])
    before = {"the dog barks => animal\nraw steel => metal\n", "raw steel => metal\nthe dog barks => animal\n"}
    assert [request.prompt for request in session.requests] == ["zinc ore =>", "a cow =>"]
    assert len({request.before for request in session.requests} & before) == 1
    assert {request.stop for request in session.requests} == {"\n"}
    assert [(example.id, a.output, a.confidence) for example, a in found] == [
        ("8", Label("answer 0"), 0.5),
        ("9", Label("answer 1"), 0.5),
    ]


def test_untuned_writes_cells_in_the_tasks_own_words(writer: Path) -> None:
    session = Answering()
    task = SETTING.task
    train, asked = [cell("date", "May 3, 1987", "US", "1987-05-03")], [cell("date", "1.2.99", "DE", None)]
    found = answered_by(session, writer, Untuned(shots=1), task, train, asked)
    assert session.requests == [Request("date DE: 1.2.99 =>", "date US: May 3, 1987 => 1987-05-03\n", "\n")]
    assert found[0][1].output == Text("answer 0")


def test_untuned_shows_as_many_solved_examples_as_the_base_has_room_for(writer: Path) -> None:
    class Narrow(Answering):
        def fits(self, requests: Sequence[Request]) -> bool:
            return all(len(request.before.splitlines()) <= 1 for request in requests)

    session = Narrow()
    answered_by(session, writer, Untuned(shots=2), CLASSIFY, SOLVED, [text(9, "a cow")])
    assert len(session.requests[0].before.splitlines()) == 1


def test_a_session_fits_what_its_positions_hold(tmp_path: Path) -> None:
    base = tiny.build(tmp_path / "gpt2", "gpt2")
    model = load(base, writing_head("decoder"), device="cpu", precision="float32")
    session = TorchSession(model, max_length=64, max_new_tokens=24, batch_size=4)
    assert session.fits([Request("p" * 10, "s" * 990)])
    assert not session.fits([Request("p" * 11, "s" * 990)]), "1,024 positions hold 990 + 11 + 24 tokens no more"


def test_untuned_asks_without_examples_where_no_shots_are_wanted(writer: Path) -> None:
    session = Answering()
    answered_by(session, writer, Untuned(shots=0), CLASSIFY, SOLVED, [text(9, "a cow")])
    assert session.requests == [Request("a cow =>")]


def test_untuned_asks_each_distinct_question_once_and_tells_how_far_it_is(writer: Path) -> None:
    session, told = Answering(), []
    asked = [text(7, "a cow"), text(8, "zinc"), text(9, "a cow")]
    telling = setting(CLASSIFY, lambda: session, writer, tell=lambda done, total: told.append((done, total)))
    found = list(Untuned().predict(SOLVED, asked, telling))
    assert [request.prompt for request in session.requests] == ["a cow =>", "zinc =>"]
    assert [str(a.output) for _, a in found] == ["answer 0", "answer 1", "answer 0"]
    assert told == [(2, 2)]


def test_untuned_answers_a_sample_where_a_limit_is_set(writer: Path) -> None:
    asked = [text(n, f"row {n}") for n in range(50)]

    def ids(limit: int, examples: list[Example]) -> list[str]:
        found = answered_by(Answering(), writer, Untuned(limit=limit), CLASSIFY, SOLVED, examples)
        return [example.id for example, _ in found]

    assert len(ids(7, asked)) == 7
    assert ids(7, asked) != [str(n) for n in range(7)]
    assert ids(7, asked) == ids(7, asked[::-1])[::-1], "the order of the rows decides nothing"
    assert ids(50, asked) == ids(0, asked) == [str(n) for n in range(50)]


def generated(name: str, prompt: str | list[dict[str, str]], answer: str | None = None) -> Example:
    asked = {"text": prompt} if isinstance(prompt, str) else {"messages": prompt}
    return Example(id=name, task="generate", input=asked, target=None if answer is None else Text(answer))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_untuned_shows_solved_conversations_as_earlier_turns(writer: Path) -> None:
    session = Answering()
    shot = generated("1", [turn("system", "Be brief."), turn("user", "hi")], "hello")
    asked = [turn("system", "Be kind."), turn("user", "a"), turn("assistant", "b"), turn("user", "bye")]
    answered_by(session, writer, Untuned(), Generate(table="t"), [shot], [generated("9", asked)])
    assert session.requests == [
        Request(
            [
                turn("system", "Be kind."),
                turn("user", "hi"),
                turn("assistant", "hello"),
                turn("user", "a"),
                turn("assistant", "b"),
                turn("user", "bye"),
            ]
        )
    ]


def test_answers_of_several_lines_end_with_an_empty_line(writer: Path) -> None:
    session = Answering()
    shot = generated("1", "Write a poem:", " Roses\nare red")
    answered_by(session, writer, Untuned(), Generate(table="t"), [shot], [generated("9", "Write a list:")])
    assert session.requests == [Request("Write a list:", "Write a poem: Roses\nare red\n\n", "\n\n")]


def test_prompts_and_conversations_of_one_table_are_each_shown_their_own_kind(writer: Path) -> None:
    session = Answering()
    train = [generated("1", "Q: 1?", " one"), generated("2", [turn("user", "hi")], "hello")]
    asked = [generated("8", "Q: 2?"), generated("9", [turn("user", "bye")])]
    answered_by(session, writer, Untuned(), Generate(table="t"), train, asked)
    assert session.requests == [
        Request("Q: 2?", "Q: 1? one\n", "\n"),
        Request([turn("user", "hi"), turn("assistant", "hello"), turn("user", "bye")]),
    ]


def test_an_encoder_answers_with_its_nearest_training_example_and_opens_no_session(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "bert", "bert")
    asked = [text(9, "raw steel"), text(8, "the dog barks")]
    learned = [text(1, "the dog barks", "animal"), text(2, "raw steel", "metal")]
    found = list(Untuned().predict(learned, asked, setting(CLASSIFY, base=folder)))
    assert [(example.id, a.output) for example, a in found] == [("9", Label("metal")), ("8", Label("animal"))]
    assert all(a.confidence == pytest.approx(1.0, abs=1e-5) for _, a in found)
    with pytest.raises(UserError, match=r"an encoder cannot write text; leave it out for this base"):
        list(Untuned().predict(LEARNED, LEARNED, setting(SETTING.task, base=folder)))
