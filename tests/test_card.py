"""The model card: readable by a hub, each figure beside its evidence, nothing invented."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import asked_by_card, changed, share, with_groups
from ruamel.yaml import YAML

from luthier import card, flow, runs, seams
from luthier.facts import FlowStep, Made, RunFacts
from luthier.model import quiet
from luthier.recipe_file import loads


def front(page: str) -> dict[str, Any]:
    """The front matter as a hub reads it."""
    opening, matter, _ = page.split("---\n", 2)
    assert opening == ""
    return YAML(typ="safe").load(matter)


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.fixture(params=["suppliers", "judged", "letters", "unmeasured"])
def facts(request: pytest.FixtureRequest) -> Any:
    """Every kind of run in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapted(judged: RunFacts) -> RunFacts:
    """The run of the suppliers as if it had trained an adapter of a base from a hub."""
    base = {"name": "google/gemma-3-270m", "kind": "package", "license": "gemma", "notes": ["The terms pass on."]}
    trained = {"adapter": True, "techniques": [{"kind": "lora", "rank": 16, "alpha": None}]}
    return judged.model_copy(
        update={
            "base": judged.base.model_copy(update=base),
            "trained": judged.trained.model_copy(update=trained),
            "lineage": [Made(stage="fetch", artifact="fetch-0a", reused=True, inputs={}, versions={}), *judged.lineage],
        }
    )


def test_a_hub_can_read_the_front_matter(adapted: RunFacts) -> None:
    assert front(card.page(adapted)) == {
        "license": "gemma",
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["luthier", "standardize", "lora"],
        "metrics": ["exact_match", "edit_similarity"],
    }


def test_a_licence_that_was_not_stated_is_not_made_up(letters: RunFacts) -> None:
    page = card.page(letters)
    assert front(page) == {
        "base_model": "bert",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["luthier", "classify", "full"],
        "metrics": ["accuracy", "f1"],
    }
    assert "Licence: not stated." in page


@pytest.mark.parametrize("name", ["x: y\n---\n# injected", "- a", "{x}", "#", "null", "\x1b\u202e", ""])
def test_a_strange_name_cannot_break_out_of_the_front_matter(name: str, judged: RunFacts) -> None:
    assert front(card.page(changed(judged, "base.name", name)))["base_model"] == name


def test_every_row_of_every_table_has_as_many_cells_as_its_head(facts: RunFacts) -> None:
    strange = "new|system"
    facts = changed(facts, "task.table", "a|b.csv")
    facts = changed(facts, f"scores.systems.{strange}", facts.scores.systems["tuned"])
    facts = changed(facts, "scores.order", [*facts.scores.order, strange])
    tables = re.findall(r"(?:^\|.*\|\n)+", card.page(facts), flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_each_system_stands_with_interval_n_and_evidence(judged: RunFacts) -> None:
    evaluated = section(card.page(judged), "How it was evaluated")
    ids = {made.stage: made.artifact for made in judged.lineage}
    inputs = next(made.inputs for made in judged.lineage if made.stage == "score")
    assert inputs["tuned"] == ids["predict"]
    assert (
        f"| tuned | 0.935 (0.898 to 0.959) | 0.958 (0.926 to 0.976) | 260 | `{ids['score']}`, `{inputs['tuned']}` |"
    ) in evaluated
    assert (
        "| identity | 0.200 (0.156 to 0.253) | 0.700 (0.642 to 0.752) | 260 "
        f"| `{ids['score']}`, `{inputs['identity']}` |"
    ) in evaluated
    assert "**0.935 (0.898 to 0.959, n 260)**; tuned wins: 0.935 vs 0.712." in evaluated
    assert (
        "p50 611 ms (611 to 742 ms), p95 742 ms (742 to 811 ms) over 100 single requests "
        f"on AMD EPYC 7B13 with 2 threads (`{ids['measure']}`)" in evaluated
    )


def test_each_check_stands_with_its_evidence(judged: RunFacts) -> None:
    checks = section(card.page(judged), "Release checks")
    assert (
        r"| failed | exact_match \>= 0.9 where unseen=true | 0.833 | 0.720 to 0.907 | 60 (12 independent) | 0.900 "
        "| required "
        "| `predict-77e1b2c3d4f5` |"
    ) in checks
    assert checks.count("\n| ") == 1 + len(judged.verdicts)


def test_every_figure_of_a_real_run_names_an_artifact_of_that_run(suppliers: RunFacts) -> None:
    page = card.page(suppliers)
    made = {entry.artifact for entry in suppliers.lineage}
    cited = set(re.findall(r"`((?:prepare|encode|train|predict|baseline|score|measure|gate)-\w+)`", page))
    assert cited <= made
    assert {artifact.split("-")[0] for artifact in cited} == {
        "prepare",
        "encode",
        "train",
        "predict",
        "baseline",
        "score",
        "measure",
        "gate",
    }
    assert "not recorded" not in page


def test_limits_name_the_weak_the_unseen_and_the_small(judged: RunFacts) -> None:
    limits = section(card.page(judged), "Limits")
    assert "unseen in training): exact_match 0.833 (0.720 to 0.907, n 60)" in limits
    assert "  - column weight: 0.811 (0.686 to 0.894, n 53); rules wins: 0.981 vs 0.811." in limits
    assert "fewer than 10 independent test examples, too few to judge: country FI (2)." in limits
    assert (
        r"Check not passed: exact_match \>= 0.8 in every country (not enough data; `predict-77e1b2c3d4f5`)." in limits
    )


@pytest.mark.parametrize(
    ("higher_is_better", "weakest"),
    [
        (True, ["column weight", "unseen true", "country DE", "country FR", "unseen false"]),
        (False, ["column unit", "unseen false", "country FR", "country DE", "unseen true"]),
    ],
)
def test_the_weakest_groups_come_worst_first(higher_is_better: bool, weakest: list[str], judged: RunFacts) -> None:
    facts = changed(judged, "scores.higher_is_better.exact_match", higher_is_better)
    assert re.findall(r"^  - (\w+ \w+): ", section(card.page(facts), "Limits"), flags=re.MULTILINE) == weakest


def test_where_lower_is_better_the_card_says_so_and_the_smallest_wins(judged: RunFacts) -> None:
    page = card.page(changed(judged, "scores.higher_is_better.exact_match", False))
    assert (
        "exact_match of the tuned model on the test split (lower is better): "
        "**0.935 (0.898 to 0.959, n 260)**; identity wins: 0.200 vs 0.935."
    ) in page
    assert "  - column unit: 0.982 (0.902 to 0.997, n 54); rules wins: 0.722 vs 0.982." in page


def test_hundreds_of_small_groups_are_counted_not_listed(judged: RunFacts) -> None:
    fi = judged.scores.systems["tuned"].slices["country"]["FI"]
    country = {f"X{number}": fi for number in range(300)}
    limits = section(card.page(with_groups(judged, "country", country)), "Limits")
    assert "too few to judge: country X0 (2), country X1 (2)," in limits
    assert "country X19 (2) and 280 more." in limits
    limits = section(card.page(with_groups(judged, "country", {}, n=300)), "Limits")
    assert "- Groups of fewer than 10 independent test examples, too few to judge: 300 of them." in limits


def test_a_run_with_nothing_measured_says_so_and_invents_nothing(unmeasured: RunFacts) -> None:
    page = card.page(unmeasured)
    for said in (
        "**Not checked.**",
        "the test split: **not measured**",
        "| tuned | not measured | not measured | 0 | not recorded |",
        "Latency: not measured.",
        "The recipe has no release checks.",
        "Best on validation: not measured.",
        "Held-out values (unseen in training): not measured.",
        "Groups of at least 10 independent test examples: not measured.",
    ):
        assert said in page
    assert not re.search(r"\b(nan|None|undefined)\b", page)


@pytest.mark.parametrize(
    ("kind", "adapter", "imports", "last"),
    [
        ("standardize", True, "AutoModelForCausalLM", "PeftModel.from_pretrained(base, folder).eval()"),
        ("standardize", False, "AutoModelForCausalLM", "AutoModelForCausalLM.from_pretrained(folder)"),
        ("generate", False, "AutoModelForSeq2SeqLM", "AutoModelForSeq2SeqLM.from_pretrained(folder)"),
        ("classify", True, "AutoModelForSequenceClassification", "PeftModel.from_pretrained(base, folder).eval()"),
    ],
)
def test_the_snippet_fits_what_the_folder_holds(
    kind: str, adapter: bool, imports: str, last: str, judged: RunFacts
) -> None:
    facts = changed(changed(judged, "task", {"kind": kind}), "trained.adapter", adapter)
    writes = {"classify": "", "generate": "apart"}.get(kind, "behind the prompt")
    facts = changed(facts, "encoded.writes", writes)
    snippet = re.search(r"```python\n(.*?)\n```", card.page(changed(facts, "encoded.auto", imports)), flags=re.DOTALL)
    assert snippet is not None
    lines = snippet[1].splitlines()
    further = ", GenerationConfig" if adapter and writes else ""
    assert f"from transformers import {imports}, AutoTokenizer{further}" in lines
    assert ("from peft import PeftModel" in lines) is adapter
    assert ("num_labels=len(labels)" in snippet[1]) is (kind == "classify")
    assert f"model = {last}" in lines
    compile(snippet[1], "card", "exec")


def test_text_of_the_user_stays_text(judged: RunFacts) -> None:
    page = card.page(changed(judged, "prepared.source.file", "a|b <img src=x>\n# head.csv"))
    assert r"- Data: a\|b \<img src=x\> # head.csv; train" in page
    assert "\n# head" not in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exact_match", "exact_match"),
        ("_id_ and __init__", r"\_id\_ and \_\_init\_\_"),
        ("[x](y) `z` **b** ~s~ a|b", r"\[x\]\(y\) \`z\` \*\*b\*\* \~s\~ a\|b".replace(r"\(", "(").replace(r"\)", ")")),
        ("<b>&lt;</b>", r"\<b\>\&lt;\</b\>"),
        ("$x$ \\ y", r"\$x\$ \\ y"),
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("a\n\n---\n# b\u2028c", "a --- # b c"),
        ("a\x1b[2Jb\u202ec", r"a\[U+001B\]\[2Jb\[U+202E\]c"),
        ("\ud800", r"\[U+D800\]"),
        (7, "7"),
    ],
)
def test_nothing_in_a_text_is_markdown(text: object, expected: str) -> None:
    assert card.escaped(text) == expected


@pytest.mark.parametrize(
    "text", ["<script>x</script>", "a\n\n# injected\n\n| b |", "\x00\x1b\u202e\u2066", "\ud800", "```", "---"]
)
def test_no_text_of_the_user_or_of_the_base_changes_the_card(text: str, adapted: RunFacts) -> None:
    facts = adapted
    tuned = facts.scores.systems["tuned"]
    for path, value in {
        "base.name": text,
        "base.notes": [text],
        "base.license": text,
        "task.table": text,
        "task.prompt": text,
        "verdicts.1.check": text,
        "verdicts.1.note": text,
        "prepared.source.file": text,
        "prepared.flow.0": FlowStep(step="read", arrived=2, kept=1, fates={text: 1}),
        "scores.systems.tuned.slices": {"country": {text: tuned.metrics, f"{text}2": tuned.slices["country"]["FI"]}},
        "environment.machine": text,
    }.items():
        facts = changed(facts, path, value)
    page = card.page(facts).encode().decode()
    body = page.split("\n---\n", 1)[1]
    assert front(page) | {"license": "", "base_model": ""} == front(card.page(adapted)) | {
        "license": "",
        "base_model": "",
    }
    assert (front(page)["license"], front(page)["base_model"]) == (text, text)
    assert not re.search(r"(?<!\\)<", body.split("```")[0] + body.split("```")[2])
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        line for line in card.page(adapted).splitlines() if line.startswith("#")
    ]
    assert not set(body.replace("\n", "")) & {chr(code) for code in [*range(32), 0x202E, 0x2066]}
    assert body.count("\n```") == 2


def test_an_unmeasured_group_is_neither_weak_nor_invented(judged: RunFacts) -> None:
    groups = {"DE": {"exact_match": share(None, n=40)}, "FR": {"exact_match": share(0.9, (0.8, 0.95), n=40)}}
    limits = section(card.page(changed(judged, "scores.systems.tuned.slices", {"country": groups})), "Limits")
    assert "  - country FR: 0.900 (0.800 to 0.950, n 40); " in limits
    assert "country DE" not in limits


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
PROMPTS = "{kind: generate, table: prompts.jsonl}"
CHATS = f"{{kind: generate, table: chats.jsonl, chat_template: {json.dumps(TEMPLATE)}}}"
LABELS = "{kind: classify, table: labels.csv, text: text, label: letter}"
LORA = "{kind: lora, rank: 4, alpha: 64}"
ASKED = """\
version: 1
name: asked
task: {task}
base: {{kind: folder, path: base}}
prepare: {{split: {{kind: random, validation: 5, test: 5}}}}
encode: {{max_length: 64}}
train: {{precision: float32, epochs: 2, learning_rate: {rate}, batch_size: 4, techniques: [{technique}]}}
predict: {{engine: {{kind: torch, max_new_tokens: 5}}}}
score: {{latency_samples: 0, baselines: []}}
"""


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft on its own, transformers 5.23
@pytest.mark.parametrize(
    ("shape", "task", "technique", "rate", "weights"),
    [
        ("llama", PROMPTS, "full", "1e-4", "float32"),
        ("llama", PROMPTS, LORA, "3e-3", "bfloat16"),
        ("llama", CHATS, "full", "1e-4", "float32"),
        ("llama", CHATS, LORA, "3e-3", "float32"),
        ("t5", PROMPTS, "full", "2e-2", "float32"),
        ("bert", LABELS, "full", "1e-4", "float32"),
        ("bert", LABELS, LORA, "3e-3", "bfloat16"),
        ("bert", LABELS, LORA, "3e-3", "a classifier of three"),
    ],
)
def test_the_snippet_gives_the_recorded_answers(
    shape: str, task: str, technique: str, rate: str, weights: str, tmp_path: Path
) -> None:
    base = saved_in(tiny.build(tmp_path / "base", shape), weights)
    asked = [f"Say {n} {'abcdefg'[n % 7]}" + " \n"[: n % 3] for n in range(40)]
    prompts = [{"prompt": text, "completion": "abcdefg"[n % 7] * 8} for n, text in enumerate(asked)]
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in prompts
    ]
    for name, rows in {"prompts": prompts, "chats": chats}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "letter"), *((f"{'ab'[n % 2]} {n}", "AB"[n % 2]) for n in range(40))])
    opened = loads(ASKED.format(task=task, technique=technique, rate=rate), folder=tmp_path)
    done = flow.run(opened, flow.store_for(opened))
    examples = list(seams.read(done.artifacts["examples"].path / "test", seams.Example))
    said = {p.id: p for p in runs.predictions_of(done.artifacts["tuned"])}
    assert len(examples) == 5
    for example in examples:
        names = asked_by_card(done.folder / "model", base, opened.recipe.task.prompt(example))
        if task is LABELS:
            recorded = {str(answer): share for answer, share in said[example.id].candidates}
            assert names["shares"] == pytest.approx([recorded["A"], recorded["B"]], abs=1e-4)
        else:
            assert names["answer"] == str(said[example.id].output)
    assert "" not in {str(p.output) for p in said.values()}
    assert len({str(p.output) for p in said.values()}) > 1 or (shape, task) != ("llama", PROMPTS), (
        "answers that tell nothing apart"
    )


def saved_in(base: Path, weights: str) -> Path:
    """The base with its weights in a precision, as hubs have them, or under the head of other labels."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    if weights == "a classifier of three":
        with quiet():
            AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).save_pretrained(base)
        return base

    file = base / "model.safetensors"
    save_file({k: t.to(getattr(torch, weights)) for k, t in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": weights}))
    return base
