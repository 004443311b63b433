"""The model card of a run: Markdown with Hugging Face front matter, made from facts; each figure names its evidence."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

from luthier.choice import find
from luthier.facts import Figure, Made, RunFacts
from luthier.plots import known
from luthier.report import (
    TUNED,
    attacked,
    best_baseline,
    comparison,
    direction,
    encodable,
    figure,
    goodness,
    marked,
    privacy,
    repeats,
    templates,
    told,
    units,
    verdict,
)

WORST = 5  # weakest groups named under the limits
NAMED = 20  # small groups named there
PIPELINES = {"AutoModelForCausalLM": "text-generation", "AutoModelForSeq2SeqLM": "text2text-generation"}


def page(facts: RunFacts) -> str:
    """The whole card. The same facts give the same bytes."""
    environment = templates(html=False)
    environment.filters["md"] = escaped
    view = {
        "facts": facts,
        "front": front_matter(facts),
        "purpose": purpose(facts),
        "main": facts.scores.main,
        "verdict": verdict(facts),
        "tuned": figure(facts, TUNED),
        "direction": direction(facts),
        "against": comparison(facts, figure(facts, TUNED), best_baseline(facts))[1],
        "metrics": list(facts.scores.higher_is_better),
        "units": units(facts),
        "evidence": evidence(facts.lineage),
        "repeats": repeats(facts.spread),
        "weakest": weakest(facts),
        "small": small(facts),
        "unseen": figure(facts, TUNED, ("unseen", "true")),
        "loading": loading(facts),
        "told": told(facts),
        "privacy": privacy(facts),
        "attacked": attacked(facts.membership) if facts.membership else "",
        "adapter": facts.trained.adapter,
        "few": facts.scores.fewest_entities,
    }
    text = environment.get_template("card.md").render(view)
    return encodable(re.sub(r"\n{3,}", "\n\n", text))


def front_matter(facts: RunFacts) -> str:
    """The YAML that a model hub reads; a licence that was not stated is left out."""
    from ruamel.yaml import YAML

    base, adapter = facts.base, facts.trained.adapter
    entries: dict[str, Any] = {} if base.license in ("", "not stated") else {"license": base.license}
    entries |= {"base_model": base.name, **({"base_model_relation": "adapter"} if adapter else {})}
    entries |= {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": PIPELINES.get(facts.encoded.auto, "text-classification"),
        "tags": ["luthier", facts.task["kind"], *(block["kind"] for block in facts.trained.techniques)],
        "metrics": list(facts.scores.higher_is_better),
    }
    writer, written = YAML(), io.StringIO()
    writer.default_flow_style = False
    writer.width = 10_000
    writer.dump(entries, written)
    return written.getvalue().rstrip()


def purpose(facts: RunFacts) -> str:
    """What the model does, in the words of its task."""
    return " ".join((find("tasks", facts.task["kind"]).__doc__ or "").split())


def evidence(lineage: Sequence[Made]) -> dict[str, str]:
    """Artifact ids by stage, and those that the score read by their role (`tuned`, baseline names)."""
    found = {entry.stage: entry.artifact for entry in lineage}
    for entry in lineage:
        if entry.stage == "score":
            found |= {f"predictions of {role}": artifact for role, artifact in entry.inputs.items()}
    return found


def weakest(facts: RunFacts) -> list[tuple[str, str, Figure, str]]:
    """Groups with the worst main metric that are large enough to say so: slice, value, figure, comparison."""
    few = facts.scores.fewest_entities
    large = [(name, value, f) for name, value, f in groups(facts) if f.entities >= few and known(f.estimate)]
    worst = sorted(large, key=lambda group: goodness(facts, group[2]))[:WORST]
    return [(name, value, f, comparison(facts, f, best_baseline(facts, (name, value)))[1]) for name, value, f in worst]


def small(facts: RunFacts) -> str:
    """Groups with too few independent test examples to judge: the first of them by name, the rest counted."""
    few = facts.scores.fewest_entities
    names = [f"{name} {value or '(empty)'} ({f.entities})" for name, value, f in groups(facts) if f.entities < few]
    more = sum(counts.n - counts.judged for counts in facts.scores.groups.values()) - len(names[:NAMED])
    if not names:
        return f"{more:,} of them" if more else ""
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more else "")


def groups(facts: RunFacts) -> list[tuple[str, str, Figure]]:
    """Every group of the test split with the tuned model's main metric."""
    sliced = facts.scores.systems[TUNED].slices
    found = [(name, value, figure(facts, TUNED, (name, value))) for name, values in sliced.items() for value in values]
    return [(name, value, f) for name, value, f in found if f is not None]


def loading(facts: RunFacts) -> str:
    """Python that loads the folder with transformers, and peft where it holds an adapter, and asks it once."""
    auto, adapter, writes = facts.encoded.auto, facts.trained.adapter, bool(facts.encoded.writes)
    settings = ", GenerationConfig" if adapter and writes else ""
    lines = [*(["import json", ""] if adapter and not writes else [])]
    lines += [*(["from peft import PeftModel"] if adapter else [])]
    lines += [
        f"from transformers import {auto}, AutoTokenizer{settings}",
        "",
        'folder = "."  # this folder',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if adapter:
        head = ""
        if not writes:  # it has a head, whose size the adapter does not tell
            lines.append('with open(f"{folder}/model.json", encoding="utf-8") as file:')
            lines.append('    labels = json.load(file)["labels"]')
            head = ", num_labels=len(labels), id2label=dict(enumerate(labels)), ignore_mismatched_sizes=True"
        # as it was read in training, whatever its weights are saved in
        lines.append(f'base = {auto}.from_pretrained({json.dumps(facts.base.name)}, dtype="float32"{head})')
        if settings:
            lines.append("base.generation_config = GenerationConfig.from_pretrained(folder)")
        lines.append("model = PeftModel.from_pretrained(base, folder).eval()")
    else:
        lines.append(f"model = {auto}.from_pretrained(folder)")
    return "\n".join([*lines, "", *asking(facts)])


def asking(facts: RunFacts) -> list[str]:
    """Lines that ask a loaded model once, as it was asked when it was scored."""
    if not facts.encoded.writes:
        return [
            'inputs = tokenizer("a text", return_tensors="pt", truncation=True)',
            "shares = model(**inputs).logits.softmax(-1)[0].tolist()",
        ]
    if facts.encoded.conversations:
        asked = [
            'messages = [{"role": "user", "content": "a question"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        asked = [
            'prompt = "a prompt"  # white space at its end is the beginning of the answer',
            'inputs = tokenizer(prompt.rstrip(), return_tensors="pt")',
        ]
    new = "[0]" if facts.encoded.writes == "apart" else '[0, inputs["input_ids"].shape[1] :]'
    return [
        *asked,
        f"written = model.generate(**inputs){new}",
        "answer = tokenizer.decode(written, skip_special_tokens=True).strip()",
    ]


def escaped(value: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = marked(" ".join(str(value).split()))
    return re.sub(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]", r"\\\g<0>", one_line)
