"""The model card of a run: Markdown with Hugging Face front matter, made from facts; each figure names its evidence."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.choice import find
from luthier.plots import known
from luthier.report import FEW, TUNED, best_baseline, comparison, encodable, figure, metrics, templates, verdict

WORST = 5  # weakest groups named under the limits
AUTO = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
PIPELINES = {"decoder": "text-generation", "encoder-decoder": "text2text-generation"}


def page(facts: Mapping[str, Any]) -> str:
    """The whole card. The same facts give the same bytes."""
    environment = templates(html=False)
    environment.filters["md"] = escaped
    scores = facts["scores"]
    text = environment.get_template("card.md").render(
        facts=facts, front=front_matter(facts), purpose=purpose(facts), main=scores["main"], verdict=verdict(facts),
        tuned=figure(facts, TUNED), against=comparison(figure(facts, TUNED), best_baseline(facts))[1],
        metrics=metrics(scores),
        evidence=evidence(facts["lineage"]), weakest=weakest(facts), small=small(facts),
        unseen=figure(facts, TUNED, ("unseen", "true")), loading=loading(facts), adapter=is_adapter(facts), FEW=FEW,
    )  # fmt: skip
    return encodable(re.sub(r"\n{3,}", "\n\n", text))


def front_matter(facts: Mapping[str, Any]) -> str:
    """The YAML that a model hub reads; a licence that was not stated is left out."""
    from ruamel.yaml import YAML

    base, classes = facts["base"], is_classifier(facts)
    entries: dict[str, Any] = {} if base["license"] in (None, "", "not stated") else {"license": base["license"]}
    entries |= {
        "base_model": base["name"],
        **({"base_model_relation": "adapter"} if is_adapter(facts) else {}),
        "library_name": "peft" if is_adapter(facts) else "transformers",
        "pipeline_tag": "text-classification" if classes else PIPELINES.get(base["architecture"], "text-generation"),
        "tags": ["luthier", facts["task"]["kind"], *(block["kind"] for block in facts["train"]["techniques"])],
        "metrics": metrics(facts["scores"]),
    }  # fmt: skip
    writer, written = YAML(), io.StringIO()
    writer.default_flow_style = False
    writer.width = 10_000
    writer.dump(entries, written)
    return written.getvalue().rstrip()


def purpose(facts: Mapping[str, Any]) -> str:
    """What the model does, in the words of its task."""
    return " ".join((find("tasks", facts["task"]["kind"]).__doc__ or "").split())


def is_classifier(facts: Mapping[str, Any]) -> bool:
    """Whether the model gives labels rather than text."""
    objective: str = find("tasks", facts["task"]["kind"]).objective  # type: ignore[attr-defined]
    return objective == "classify"


def is_adapter(facts: Mapping[str, Any]) -> bool:
    """Whether the folder holds an adapter that needs its base."""
    return bool(facts["train"].get("adapter", any(block["kind"] == "lora" for block in facts["train"]["techniques"])))


def evidence(lineage: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Artifact ids by stage, and those that the score read by their role (`tuned`, baseline names)."""
    found = {entry["stage"]: entry["artifact"] for entry in lineage}
    for entry in lineage:
        if entry["stage"] == "score":
            found |= {f"predictions of {role}": artifact for role, artifact in entry["inputs"].items()}
    return found


def weakest(facts: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any], str]]:
    """Groups with the lowest main metric that are large enough to say so: slice, value, figure, comparison."""
    large = [(name, value, f) for name, value, f in groups(facts) if f["n"] >= FEW and known(f["estimate"])]
    lowest = sorted(large, key=lambda group: group[2]["estimate"])[:WORST]
    return [(name, value, f, comparison(f, best_baseline(facts, (name, value)))[1]) for name, value, f in lowest]


def small(facts: Mapping[str, Any]) -> list[str]:
    """Groups with too few test examples to judge."""
    return [f"{name} {value or '(empty)'} (n {f['n']})" for name, value, f in groups(facts) if f["n"] < FEW]


def groups(facts: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Every group of the test split with the tuned model's main metric."""
    sliced = facts["scores"]["systems"].get(TUNED, {}).get("slices", {})
    found = [(name, value, figure(facts, TUNED, (name, value))) for name, values in sliced.items() for value in values]
    return [(name, value, f) for name, value, f in found if f is not None]


def loading(facts: Mapping[str, Any]) -> str:
    """Python that loads the folder with transformers, and peft where it holds an adapter."""
    auto = (
        "AutoModelForSequenceClassification"
        if is_classifier(facts)
        else AUTO.get(facts["base"]["architecture"], "AutoModel")
    )
    lines = [
        f"from transformers import {auto}, AutoTokenizer", "",
        'folder = "."  # this folder', "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]  # fmt: skip
    if not is_adapter(facts):
        return "\n".join([*lines, f"model = {auto}.from_pretrained(folder)"])
    lines, head = ["from peft import PeftModel", *lines], ""
    if is_classifier(facts):
        lines = [
            "import json",
            "",
            *lines,
            'labels = json.load(open(f"{folder}/model.json", encoding="utf-8"))["labels"]',
        ]
        head = ", num_labels=len(labels), id2label=dict(enumerate(labels))"
    lines.append(f"base = {auto}.from_pretrained({json.dumps(facts['base']['name'])}{head})")
    return "\n".join([*lines, "model = PeftModel.from_pretrained(base, folder)"])


def escaped(value: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", " ".join(str(value).split()))
