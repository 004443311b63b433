"""The model card: readable by a hub, each figure beside its evidence, nothing invented."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from luthier import card


def front(page: str) -> dict[str, Any]:
    """The front matter as a hub reads it."""
    opening, matter, _ = page.split("---\n", 2)
    assert opening == ""
    return YAML(typ="safe").load(matter)


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_a_hub_can_read_the_front_matter(full: dict[str, Any]) -> None:
    assert front(card.page(full)) == {
        "license": "gemma", "base_model": "google/gemma-3-270m", "base_model_relation": "adapter",
        "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["luthier", "standardize", "lora"],
        "metrics": ["exact_match", "edit_similarity"],
    }  # fmt: skip


def test_a_licence_that_was_not_stated_is_not_made_up(minimal: dict[str, Any]) -> None:
    page = card.page(minimal)
    assert front(page) == {
        "base_model": "tiny-bert", "library_name": "transformers", "pipeline_tag": "text-classification",
        "tags": ["luthier", "classify", "full"], "metrics": ["accuracy"],
    }  # fmt: skip
    assert "Licence: not stated." in page


def test_a_strange_name_cannot_break_out_of_the_front_matter(full: dict[str, Any]) -> None:
    full["base"]["name"] = "x: y\n---\n# injected"
    assert front(card.page(full))["base_model"] == "x: y\n---\n# injected"


@pytest.mark.parametrize("name", ["full", "minimal"])
def test_every_row_of_every_table_has_as_many_cells_as_its_head(name: str, request: pytest.FixtureRequest) -> None:
    facts = request.getfixturevalue(name)
    facts["task"]["table"] = "a|b.csv"
    facts["scores"]["order"] = [*facts["scores"]["order"], "new|system"]
    tables = re.findall(r"(?:^\|.*\|\n)+", card.page(facts), flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_each_system_stands_with_interval_n_and_evidence(full: dict[str, Any]) -> None:
    evaluated = section(card.page(full), "How it was evaluated")
    assert (
        "| tuned | 0.935 (0.898 to 0.959) | 0.958 (0.926 to 0.976) | 260 "
        "| `score-b7710c9d3e42`, `predict-77e1b2c3d4f5` |"
    ) in evaluated
    assert "| identity | 0.200 (0.156 to 0.253) | 0.700 (0.642 to 0.752) | 260 | `score-b7710c9d3e42` |" in evaluated
    assert "**0.935 (0.898 to 0.959, n 260)**; tuned wins: 0.935 vs 0.712." in evaluated
    assert (
        "p50 611 ms, p95 742 ms over 20 single requests on AMD EPYC 7B13 with 2 threads (`measure-c4d2f00a9b18`)"
        in evaluated
    )


def test_each_check_stands_with_its_evidence(full: dict[str, Any]) -> None:
    checks = section(card.page(full), "Release checks")
    assert (
        r"| failed | exact_match \>= 0.9 where unseen=true | 0.833 | 0.720 to 0.907 | 60 | 0.900 | required "
        "| `predict-77e1b2c3d4f5` |"
    ) in checks
    assert checks.count("\n| ") == 1 + len(full["verdicts"])


def test_limits_name_the_weak_the_unseen_and_the_small(full: dict[str, Any]) -> None:
    limits = section(card.page(full), "Limits")
    assert "unseen in training): exact_match 0.833 (0.720 to 0.907, n 60)" in limits
    assert "  - column founded: 0.811 (0.686 to 0.894, n 53); rules wins: 0.981 vs 0.811." in limits
    assert "too few to judge: country CH (n 17), country SE (n 14), country PT (n 11), country FI (n 7)." in limits
    assert (
        r"Check not passed: exact_match \>= 0.8 in every country (not enough data; `predict-77e1b2c3d4f5`)." in limits
    )


def test_a_run_with_nothing_measured_says_so_and_invents_nothing(minimal: dict[str, Any]) -> None:
    page = card.page(minimal)
    for said in (
        "**Not checked.**", "the test split: **not measured**", "| tuned | not measured | 0 | not recorded |",
        "Latency: not measured.", "The recipe has no release checks.", "Best on validation: not measured.",
        "Held-out values (unseen in training): not measured.", "parameters not measured",
    ):  # fmt: skip
        assert said in page
    assert not re.search(r"\b(nan|None|undefined)\b", page)


@pytest.mark.parametrize(
    ("kind", "architecture", "adapter", "imports", "last"),
    [
        ("standardize", "decoder", True, "AutoModelForCausalLM", "PeftModel.from_pretrained(base, folder)"),
        ("standardize", "decoder", False, "AutoModelForCausalLM", "AutoModelForCausalLM.from_pretrained(folder)"),
        (
            "generate", "encoder-decoder", False, "AutoModelForSeq2SeqLM",
            "AutoModelForSeq2SeqLM.from_pretrained(folder)",
        ),
        ("classify", "encoder", True, "AutoModelForSequenceClassification", "PeftModel.from_pretrained(base, folder)"),
    ],
)  # fmt: skip
def test_the_snippet_fits_what_the_folder_holds(
    kind: str, architecture: str, adapter: bool, imports: str, last: str, full: dict[str, Any]
) -> None:
    full["task"], full["base"]["architecture"], full["train"]["adapter"] = {"kind": kind}, architecture, adapter
    snippet = re.search(r"```python\n(.*?)\n```", card.page(full), flags=re.DOTALL)
    assert snippet is not None
    lines = snippet[1].splitlines()
    assert f"from transformers import {imports}, AutoTokenizer" in lines
    assert ("from peft import PeftModel" in lines) is adapter
    assert lines[-1] == f"model = {last}"
    compile(snippet[1], "card", "exec")


def test_text_of_the_user_stays_text(full: dict[str, Any]) -> None:
    full["prepare"]["source"]["file"] = "a|b <img src=x>\n# head.csv"
    page = card.page(full)
    assert r"- Data: a\|b \<img src=x\> # head.csv; train 489" in page
    assert "\n# head" not in page
