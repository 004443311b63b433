"""The main job from a table to a signed-off model and back to a table, with tiny models of every architecture."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import asked_by_card
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from luthier import flow, runs, seams
from luthier.checks import Check
from luthier.errors import UserError
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.seams import Prediction
from luthier.store import Silent, Store

STANDARDIZE = """\
version: 1
name: {shape}
task: {{kind: standardize, table: table.csv, column: messy, target: clean, context: [kind]}}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: grouped, by: owner, validation: 20, test: 40}}, slices: {{kind: kind}}}}
encode: {{max_length: 64}}
train: {{precision: float32, epochs: 1, learning_rate: 1e-3, techniques: [{technique}]}}
predict: {{engine: {{kind: torch, max_new_tokens: 6}}}}
score: {{baselines: [identity, rules, {{kind: untuned, shots: 2}}], latency_samples: 2}}
gate:
  checks:
    - {{kind: floor, metric: exact_match, at_least: 0.5}}
    - {{kind: better_than, baseline: untuned, required: false}}
    - {{kind: latency, at_most_ms: 60000, required: false}}
"""

CLASSIFY = """\
version: 1
name: {shape}
task: {{kind: classify, table: table.csv, columns: [messy, clean], label: kind}}
base: {{kind: folder, path: {base}}}
prepare: {{split: {{kind: stratified, validation: 20, test: 40}}}}
encode: {{max_length: 64}}
train: {{precision: float32, epochs: {epochs}, learning_rate: 3e-3, techniques: [{technique}], stop: {{metric: accuracy}}}}
score: {{baselines: [majority, tfidf, untuned], latency_samples: 0}}
gate: {{checks: [{{kind: floor, metric: accuracy, at_least: 0.8}}]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow")
    for shape in ("llama", "gemma3", "bert", "t5"):
        tiny.build(root / shape, shape)
    draw = random.Random(0)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["owner", "kind", "messy", "clean"])
        for n in range(220):
            kind, value = draw.choice("AB"), draw.randint(1, 9999)
            writer.writerow([f"o{n // 3}", kind, f"{value:05d}{'kg' if kind == 'A' else ' m'}", value])
    chat = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(60)
    ]
    (root / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    return root


def run(place: Path, text: str) -> tuple[Run, Store]:
    loaded = loads(text, folder=place)
    store = flow.store_for(loaded)
    return flow.run(loaded, store), store


@pytest.fixture(scope="module")
def standardized(place: Path) -> tuple[Run, Store]:
    return run(place, STANDARDIZE.format(shape="gemma3", base="gemma3", technique="{kind: lora, rank: 4}"))


def test_a_run_leaves_a_report_a_card_and_a_model(standardized: tuple[Run, Store]) -> None:
    done, _ = standardized
    assert {file.name for file in done.folder.iterdir()} == {"report.html", "model", "recipe.yaml", "run.json"}
    assert "<html" in (done.folder / "report.html").read_text()
    assert (done.folder / "model" / "README.md").read_text().startswith("---\n")
    assert (done.folder / "model" / "adapter_model.safetensors").exists()
    text = "".join(f.read_text() for f in (done.folder / "model").glob("*.json"))
    assert str(done.folder.parents[2]) not in text, "no path of this machine leaves in a model folder"


def test_no_row_is_lost_between_the_steps(standardized: tuple[Run, Store]) -> None:
    facts = standardized[0].facts
    assert [step.step for step in facts.flow] == ["read", "examples", "dedup", "fit in max_length"]
    assert all(step.adds_up for step in facts.flow)
    assert facts.flow[0].arrived == 220
    assert sum(facts.prepared.splits.values()) == facts.prepared.flow[-1].kept
    assert facts.encoded.splits == {name: facts.prepared.splits[name] for name in ("train", "validation")}


def test_an_untrained_tiny_model_is_not_released_and_the_verdict_says_why(standardized: tuple[Run, Store]) -> None:
    done, _ = standardized
    assert not done.released
    floor = done.facts.verdicts[0]
    assert (floor.outcome, floor.check, floor.required) == ("failed", "exact_match >= 0.5", True)
    assert floor.n >= 30
    assert floor.evidence == [done.artifacts["tuned"].id]


def test_the_same_recipe_is_served_from_the_store_and_opens_the_test_once(
    place: Path, standardized: tuple[Run, Store]
) -> None:
    again, store = run(place, STANDARDIZE.format(shape="gemma3", base="gemma3", technique="{kind: lora, rank: 4}"))
    assert again.name == standardized[0].name
    assert all(artifact.reused for artifact in again.artifacts.values())
    assert again.facts.test_openings == 1
    assert store.verify() == []


@pytest.mark.slow
def test_fresh_gives_the_same_bytes(place: Path, standardized: tuple[Run, Store]) -> None:
    loaded = loads(STANDARDIZE.format(shape="gemma3", base="gemma3", technique="{kind: lora, rank: 4}"), folder=place)
    redone = flow.run(loaded, flow.store_for(loaded, fresh=True))
    for role, artifact in redone.artifacts.items():
        if role not in ("base", "measure"):
            assert not artifact.reused
            assert role == "gate" or artifact.content == standardized[0].artifacts[role].content, role


def test_every_prediction_stands_beside_its_rivals_on_the_same_rows(standardized: tuple[Run, Store]) -> None:
    done, _ = standardized
    ids = {
        role: [p.id for p in runs.predictions_of(a)]
        for role, a in done.artifacts.items()
        if role.startswith(("tuned", "base")) and role != "base"
    }
    assert set(ids) == {"tuned", "baseline_identity", "baseline_rules", "baseline_untuned"}
    assert len({tuple(found) for found in ids.values()}) == 1
    assert done.facts.scores.order == ["identity", "rules", "untuned", "tuned"]
    assert set(done.facts.scores.systems["tuned"].slices) == {"column", "kind"}


def test_row_text_stays_out_of_manifests(standardized: tuple[Run, Store], place: Path) -> None:
    _, store = standardized
    values = [line.split(",")[2] for line in (place / "table.csv").read_text().splitlines()[1:]]
    for manifest in store.artifacts.glob("*/manifest.json"):
        text = manifest.read_text()
        assert not [value for value in values if value in text]


def test_applying_adds_columns_beside_the_originals(
    standardized: tuple[Run, Store], place: Path, tmp_path: Path
) -> None:
    done, store = standardized
    source = tmp_path / "new.csv"
    source.write_text('owner,kind,messy,messy_suggestion\nx,A,00012kg,keep\ny,B,"",\nz,B,7\nw,B,00007 m,\n')
    result = runs.apply(store, done.name, source, tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert list(rows[0]) == ["owner", "kind", "messy", "messy_suggestion", "messy_suggestion_", "messy_confidence"]
    assert [row["messy"] for row in rows] == ["00012kg", "", "00007 m"]
    assert rows[0]["messy_suggestion"] == "keep"
    assert rows[1]["messy_confidence"] == "", "nothing is suggested for an empty cell"
    assert 0 <= float(rows[0]["messy_confidence"]) <= 1
    assert (result["rows"], result["quarantined"], result["predictions"]) == (3, 1, 2)
    put_aside = json.loads((tmp_path / "out.csv.quarantine.jsonl").read_text())
    assert (put_aside["line"], put_aside["rule"]) == (4, "ragged")
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        runs.apply(store, done.name, source, tmp_path / "out.csv")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft on its own, transformers 5.23
def test_an_adapter_loads_with_plain_peft_and_a_merged_folder_with_plain_transformers(
    standardized: tuple[Run, Store], place: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    done, store = standardized
    adapter = runs.export(store, done.name, "peft", "float32", tmp_path / "adapter")
    whole = runs.export(store, done.name, "hf", "float32", tmp_path / "whole")
    half = runs.export(store, done.name, "hf", "bfloat16", tmp_path / "half")
    base = AutoModelForCausalLM.from_pretrained(place / "gemma3", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
    merged = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32).eval()
    short = AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(whole)
    examples = list(seams.read(done.artifacts["examples"].path / "test", seams.Example))
    said = {p.id: p.output for p in runs.predictions_of(done.artifacts["tuned"])}
    n_clear, n = 0, 0
    for example in examples[:12]:
        prompt = f"messy {example.slices['kind']}: {example.input['fields']['value']} =>"
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            logits = tuned(input_ids=ids).logits
            torch.testing.assert_close(
                merged(input_ids=ids).logits, logits, rtol=0, atol=1e-5 * float(logits.abs().max())
            )
            best = logits.topk(2, dim=-1)
            clear = best.values[..., 0] - best.values[..., 1] > 0.02 * logits.abs().max()  # not within bfloat16's error
            rounded = short(input_ids=ids).logits.argmax(-1)
            assert torch.equal(rounded[clear], best.indices[..., 0][clear])
            n_clear, n = n_clear + int(clear.sum()), n + clear.numel()
        answer = merged.generate(
            ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0
        )
        text = tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert text == str(said[example.id])
        for folder in (adapter, whole):
            assert asked_by_card(folder, place / "gemma3", prompt)["answer"] == str(said[example.id])
    assert n_clear > 0.5 * n


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "technique"), [("bert", "full"), ("llama", "{kind: lora, rank: 4}")])
def test_encoders_and_decoders_learn_to_classify(place: Path, shape: str, technique: str) -> None:
    done, store = run(place, CLASSIFY.format(shape=shape, base=shape, technique=technique, epochs=6))
    assert done.facts.scores.confusion.labels == ["A", "B"]
    assert done.facts.prepared.label_names == ["A", "B"]
    figures = {name: s.metrics["accuracy"].estimate for name, s in done.facts.scores.systems.items()}
    assert figures["tfidf"] >= 0.95
    assert figures["tuned"] >= 0.8
    assert done.released
    predictions = list(runs.predictions_of(done.artifacts["tuned"]))
    assert all(abs(sum(score for _, score in p.candidates) - 1) < 1e-3 for p in predictions)
    if shape == "bert":  # a plain folder, read by plain transformers, says the same
        whole = runs.export(store, done.name, "hf", "float32", place / "bert-out")
        model = AutoModelForSequenceClassification.from_pretrained(whole).eval()
        tokenizer = AutoTokenizer.from_pretrained(whole)
        example = next(iter(seams.read(done.artifacts["examples"].path / "test", seams.Example)))
        text = "\n".join(f"{k}: {v}" for k, v in example.input["fields"].items())
        with torch.no_grad():
            logits = model(
                **{k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"}
            ).logits
        said: Prediction = next(p for p in predictions if p.id == example.id)
        assert model.config.id2label[int(logits.argmax())] == str(said.output)


@pytest.mark.slow
def test_an_encoder_decoder_goes_the_whole_way(place: Path) -> None:
    done, _ = run(place, STANDARDIZE.format(shape="t5", base="t5", technique="full"))
    assert done.facts.base.architecture == "encoder-decoder"
    assert done.facts.scores.systems["tuned"].metrics["exact_match"].n >= 30


class Heard(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_answers_that_are_cut_off_are_told_counted_and_not_released(place: Path) -> None:
    (place / "codes.jsonl").write_text(
        "".join(json.dumps({"prompt": f"code {n}", "completion": f"{n}-" * 9}) + "\n" for n in range(40))
    )
    loaded = loads(
        """\
version: 1
name: codes
task: {kind: generate, table: codes.jsonl}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 5, test: 10}}
train: {precision: float32, epochs: 1}
predict: {engine: {kind: torch, max_new_tokens: 8}}
score: {latency_samples: 0, baselines: [majority], metrics: [edit_similarity]}
gate: {checks: [{kind: floor, metric: edit_similarity, at_least: 0, min_n: 1}]}
""",
        folder=place,
    )
    heard = Heard()
    done = flow.run(loaded, flow.store_for(loaded, heard))
    cut = sum(prediction.cut for prediction in seams.read(done.artifacts["tuned"].path / "predictions", Prediction))
    assert cut == done.facts.cut_answers == 10
    assert [verdict.outcome for verdict in done.facts.verdicts] == ["passed", "failed"]
    assert done.facts.verdicts[1].check == "answers cut off <= 0.01"
    assert not done.released
    told = [line for line in heard.lines if "max_new_tokens" in line]
    assert told == [
        "warning: predict.engine.max_new_tokens: 30 of 30 answers to learn from are longer than the 8 tokens that the model "
        "may write, the longest 28; raise it: an answer that is cut off is wrong",
        "warning: 10 of 10 answers were cut off at predict.engine.max_new_tokens",
    ]
    advisory = loaded.recipe.model_copy(deep=True)
    advisory.gate.checks.append(Check.pick({"kind": "cut_answers", "at_most": 0.5, "required": False}))
    assert len(advisory.checks()) == 2


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.mark.slow
def test_messages_are_learned_through_a_chat_template_with_loss_on_the_answers_alone(place: Path) -> None:
    text = f"""\
version: 1
name: chat
task: {{kind: generate, table: chat.jsonl, chat_template: {json.dumps(TEMPLATE)}}}
base: {{kind: folder, path: llama}}
prepare: {{split: {{kind: random, validation: 5, test: 10}}}}
encode: {{max_length: 96}}
train: {{precision: float32, epochs: 1, learning_rate: 1e-3, techniques: [{{kind: lora, rank: 2}}]}}
predict: {{engine: {{kind: torch, max_new_tokens: 4}}}}
score: {{latency_samples: 0, baselines: [{{kind: untuned, shots: 1}}]}}
"""
    done, _ = run(place, text)
    pieces = done.facts.previews[0].pieces
    loss = "".join(piece for piece, carries in pieces if carries)
    rest = "".join(piece for piece, carries in pieces if not carries)
    assert loss.endswith(("!<eos>", "!<eos>\n"))
    assert "say" in rest
    assert "say" not in loss
    assert AutoTokenizer.from_pretrained(done.folder / "model").chat_template
    # the untuned base, which has no template of its own, is asked in the recipe's too
    assert done.facts.scores.systems["untuned"].metrics["exact_match"].n == 10


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_control_token_without_embedding_that_data_or_template_hold_is_told_with_the_row(
    place: Path, tmp_path: Path, everywhere: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build(tmp_path / "base", "llama"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<img>"]})
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"prompt": f"say {'<img>' if everywhere else ''}{number}", "completion": "x"} for number in range(40)]
    rows[7]["prompt"] = "say <img>"
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = """\
version: 1
name: beyond
task: {kind: generate, table: t.jsonl}
base: {kind: folder, path: base}
prepare: {split: {kind: random, validation: 5, test: 10}}
encode: {max_length: 32, control_tokens: parse}
"""
    with pytest.raises(UserError, match=rf"t.jsonl:\d+: the tokenizer .*{tiny.sizes()} embeddings; '<img>' has none"):
        run(tmp_path, text)


Change = Callable[[str], str]


def table(rows: str, header: str = "owner,kind,messy,clean") -> bytes:
    return f"{header}\n{rows}".encode()


ROWS = "".join(f"o{n},{'AB'[n % 2]},{n:04d} x,{n}\n" for n in range(120))

BAD_TABLES: dict[str, tuple[bytes, str, str]] = {
    "an empty file": (b"", STANDARDIZE, "is empty"),
    "a header alone": (
        b"owner,kind,messy,clean\n",
        STANDARDIZE,
        "has a header and no records; add rows below the header",
    ),
    "a target column that is not there": (
        table(ROWS, "owner,kind,messy,cleaned"),
        STANDARDIZE,
        "no column 'clean'; did you mean 'cleaned'?",
    ),
    "ragged rows": (
        table(ROWS + "a,b\n" * 3),
        STANDARDIZE,
        "3 of 123 records cannot be read (limit 1.0%): line 122: 2 fields where the header has 4",
    ),
    "one class only": (
        table(ROWS.replace(",B,", ",A,")),
        CLASSIFY,
        "all training rows have the one label 'A'; classification needs at least two labels; check the column",
    ),
    "no answers at all": (
        table("".join(f"o{n},A,{n} x,\n" for n in range(120))),
        STANDARDIZE,
        "no row of the table makes an example; 120 with no target",
    ),
    "labels in the input": (
        table("".join(f"o{n},{'AB'[n % 2]},this is {'AB'[n % 2]} {n},{n}\n" for n in range(120))),
        CLASSIFY,
        "the label stands in the input of 80 of 80 rows",
    ),
    "a table that is a zip": (b"PK\x03\x04" + bytes(200), STANDARDIZE, "zip"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_bad_table_is_told_and_nothing_is_made(place: Path, tmp_path: Path, kind: str) -> None:
    content, recipe, sentence = BAD_TABLES[kind]
    (tmp_path / "table.csv").write_bytes(content)
    shape = "bert" if recipe is CLASSIFY else "llama"
    text = recipe.format(shape=shape, base=place / shape, technique="full", epochs=1)
    with pytest.raises(UserError) as told:
        run(tmp_path, text)
    assert sentence in told.value.sentence()
    made = [folder.name for folder in (tmp_path / ".luthier").glob("artifacts/*")]
    assert not [name for name in made if not name.startswith("prepare-")], "what was read may be kept, no more"
    assert not list((tmp_path / ".luthier").glob("runs/*"))


def test_a_wrong_encoding_is_told_line_by_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(table(ROWS) + "x,A,café,1\n".encode("cp1252"))
    text = STANDARDIZE.format(shape="llama", base=place / "llama", technique="full").replace(
        "prepare: {", "prepare: {reader: {kind: csv, encoding: utf-8}, quarantine_limit: 0, "
    )
    with pytest.raises(UserError, match=r"1 of 121 records cannot be read .*line 122"):
        run(tmp_path, text)


def test_duplicate_ids_are_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(table(ROWS + "o3,A,0999 x,999\n"))
    text = STANDARDIZE.format(shape="llama", base=place / "llama", technique="full").replace(
        "prepare: {", "prepare: {id_column: owner, "
    )
    with pytest.raises(UserError, match="the id 'o3:messy' occurs twice; make the ids unique"):
        run(tmp_path, text)


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("prepare.steps", ["dedup"], [{"kind": "dedup", "within": False}]),
        ("prepare.hold_out", {}, {"kind": ["B"]}),
        ("prepare.slices", {}, {"owner": "owner"}),
        ("prepare.quarantine_limit", 0.01, 0.5),
    ],
)
def test_changing_a_key_of_prepare_changes_the_examples(
    place: Path, tmp_path: Path, setting: str, before: Any, after: Any
) -> None:
    (tmp_path / "table.csv").write_bytes(table(ROWS + ROWS + ("short\n" * 5 if "quarantine" in setting else "")))
    text = STANDARDIZE.format(shape="llama", base=place / "llama", technique="full").replace(
        "kind: grouped, by: owner", "kind: random"
    )

    def prepared(value: Any) -> Any:
        loaded = loads(text, folder=tmp_path, changes=[f"{setting}={json.dumps(value)}"])
        store = flow.store_for(loaded)
        try:
            return flow.prepared(loaded, store).content
        except UserError as problem:
            return problem.sentence()

    assert prepared(before) != prepared(after)
    assert prepared(before) == prepared(before)


def test_what_is_too_long_to_learn_from_is_told_with_the_first_row(place: Path) -> None:
    rows = [{"prompt": f"say {n}" + " more" * (20 if n % 4 == 0 else 0), "completion": f"{n}!"} for n in range(40)]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = loads(
        """\
version: 1
name: long
task: {kind: generate, table: long.jsonl}
base: {kind: folder, path: llama}
prepare: {split: {kind: random, validation: 5, test: 10}}
encode: {max_length: 32, truncation: drop}
""",
        folder=place,
    )
    heard = Heard()
    store = flow.store_for(loaded, heard)
    encoded = flow.encode_for(
        loaded.recipe, store, flow.prepared(loaded, store), flow.base_model(loaded.recipe.base, loaded, store)
    )
    left = encoded.facts["flow"]["fates"]["too long to learn from"]
    told = [line for line in heard.lines if "are left out" in line]
    assert told[0].startswith("warning: long.jsonl:")
    assert told[0].endswith(
        f"{left} of 30 examples are longer than encode.max_length and are left out; raise it, or set encode.truncation to cut_input"
    )
