"""The self-test passes where all is right, and notices each property that is broken on purpose."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import luthier
from luthier import checkpoint, fit, flow, generate, model, runs
from luthier.errors import UserError
from luthier.objectives import causal
from luthier.proofs import PROOFS, Proof
from luthier.proving import failed, line, selftest
from luthier.recipe_file import load

pytestmark = pytest.mark.slow

CHATS = "{% for m in messages %}<{{ m.role }}> {{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
RECIPE = """\
version: 1
name: {name}
task: {task}
base: {{kind: folder, path: {shape}}}
prepare: {{split: {{kind: random, validation: 10, test: 20}}}}
encode: {{max_length: 64}}
train: {{epochs: 1, learning_rate: 1e-3, batch_size: 8, techniques: {techniques}}}
predict: {{engine: {{kind: torch, max_new_tokens: 6}}}}
score: {{latency_samples: 0}}
"""
WRITE, LABEL = "{kind: generate, table: rows.jsonl}", "{kind: classify, table: rows.jsonl, text: prompt, label: kind}"
TALK = "{kind: generate, table: chats.jsonl}"
LORA = "[{kind: lora, rank: 4, dropout: 0.1}, {kind: freeze, layers: 1}]"
KINDS = {
    "decoder": ("llama", WRITE, LORA),
    "conversation": ("llama", TALK, LORA),
    "encoder-decoder": ("t5", WRITE, LORA),
    "encoder": ("bert", LABEL, LORA),
    "whole": ("gpt2", WRITE, "[full, freeze]"),
    "whole-encoder": ("bert", LABEL, "[full]"),  # most rows of its embeddings are read by nobody and are not trained
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, tiny bases, and a recipe of each kind."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("selftest")
    draw = random.Random(0)
    rows = [
        {"prompt": f"{draw.randint(0, 9**n)} + {n} =", "completion": f" {n}" * (1 + n % 3), "kind": "AB"[n % 2]}
        for n in range(1, 60)
    ]
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in rows
    ]
    for name, lines in (("rows", rows), ("chats", chats)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    for shape in ("llama", "t5", "bert", "gpt2"):
        tiny.build(folder / shape, shape, dropout=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    tokenizer.chat_template = CHATS
    tokenizer.save_pretrained(folder / "llama")
    for kind, (shape, task, techniques) in KINDS.items():
        text = RECIPE.format(name=kind, shape=shape, task=task, techniques=techniques)
        (folder / f"{kind}.yaml").write_text(text)
    return folder


def adapter_of(auto: str, base: Path, target: Path, **settings: Any) -> Any:
    """An adapter that plain peft makes and saves: what it says is not what its base says."""
    import transformers
    from peft import LoraConfig, get_peft_model

    with model.quiet():
        bare = getattr(transformers, auto).from_pretrained(base, **({"num_labels": 3} if "Sequence" in auto else {}))
        wrapped = get_peft_model(bare, LoraConfig(r=4, init_lora_weights=False, **settings))
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if parameter.requires_grad and "bias" in name:
                    parameter.add_(0.1)
        wrapped.save_pretrained(target)
    return wrapped


def by_name(found: Sequence[Proof]) -> dict[str, Proof]:
    return {proof.name: proof for proof in found}


def proved(place: Path, kind: str = "decoder", **options: Any) -> dict[str, Proof]:
    return by_name(selftest(place / f"{kind}.yaml", **options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_passes_and_what_could_not_be_checked_is_told(place: Path, kind: str) -> None:
    found = proved(place, kind)
    assert list(found) == list(PROOFS)
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    open_ = {name for name, proof in found.items() if proof.status == "not checked"}
    without = {
        "encoder": {"end_of_sequence"},
        "whole": {"merged", "switched_off"},
        "whole-encoder": {"end_of_sequence", "frozen", "merged", "switched_off"},
    }
    assert open_ == without.get(kind, set())
    assert all(found[name].detail for name in open_)


BESIDES = {  # what it trains -> shape, task, techniques, and what cannot be checked of it
    "two answers": (
        "llama",
        "{kind: generate, table: pairs.jsonl, rejected_column: worse}",
        "[dpo]",
        {"training_text", "supervised_loss", "packed", "frozen", "merged", "switched_off"},
    ),
    "prefix": ("t5", WRITE, "[{kind: prefix, tokens: 2}]", {"merged"}),
    "virtual tokens": ("bert", LABEL, "[{kind: prompt_tuning, tokens: 2}]", {"end_of_sequence", "merged"}),
    "embeddings in use": ("bert", LABEL, "[full]", {"end_of_sequence", "frozen", "merged", "switched_off"}),
    "private": (
        "t5",
        WRITE,
        "[full, {kind: private, noise: 1.0, delta: 0.01, accountant: rdp}]",
        {"accumulation", "frozen", "merged", "switched_off"},
    ),
}


@pytest.mark.parametrize("what", BESIDES)
def test_every_way_of_training_passes_or_says_what_cannot_be_checked(place: Path, what: str) -> None:
    shape, task, techniques, unchecked = BESIDES[what]
    rows = [json.loads(row) for row in (place / "rows.jsonl").read_text().splitlines()]
    pairs = [{**row, "worse": row["completion"] + "!"} for row in rows]
    (place / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    recipe = RECIPE.format(name="besides", shape=shape, task=task, techniques=techniques)
    (place / "besides.yaml").write_text(recipe.replace("epochs: 1,", "epochs: 1, precision: float32,"))
    found = proved(place, "besides")
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    assert {name for name, proof in found.items() if proof.status == "not checked"} == unchecked


def test_bfloat16_has_its_own_tolerances(place: Path) -> None:
    found = proved(place, precision="bfloat16")
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    assert found["packed"].difference is not None
    assert found["packed"].tolerance == 0.05


def test_everything_is_offline_and_the_same_twice(place: Path) -> None:
    first, again = ([replace(p, seconds=0) for p in proved(place).values()] for _ in range(2))
    assert first == again


Break = Callable[[pytest.MonkeyPatch], None]


def divides_by_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """The mean of means, which weighs a short row as much as a long one (transformers#34191)."""

    def gradients(loaded: Any, micro_batches: Any, objective: Any, running: Any) -> float:
        total = 0.0
        for batch in micro_batches:
            covered = sum(row.covers for row in batch) * len(micro_batches)
            outputs = objective.outputs(loaded, batch, running.needs)
            losses_B = objective.loss(outputs, batch) / covered
            losses_B.sum().backward()
            total += float(losses_B.detach().sum())
        return total

    patch.setattr(fit, "gradients", gradients)


def positions_go_on(patch: pytest.MonkeyPatch) -> None:
    """Packed rows see each other (unsloth#1207)."""
    plain = causal.packed

    def packed(batch: Any, loaded: Any) -> Any:
        inputs, starts = plain(batch, loaded)
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
        return inputs, starts

    patch.setattr(causal, "packed", packed)


def resumes_without_moments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkpoint.State, "take_up_optimizer", lambda self, checkpoints: None)


def merges_at_another_scale(patch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora.layer import Linear

    plain = Linear.get_delta_weight
    patch.setattr(Linear, "get_delta_weight", lambda self, adapter: 1.5 * plain(self, adapter))


def loses_its_template(patch: pytest.MonkeyPatch) -> None:
    plain = model.save_tokenizer

    def save(tokenizer: Any, folder: Path, *, own: bool) -> None:
        plain(tokenizer, folder, own=own)
        (folder / "chat_template.jinja").unlink(missing_ok=True)

    patch.setattr(model, "save_tokenizer", save)


def asks_with_a_space(patch: pytest.MonkeyPatch) -> None:
    """Predict sends a prompt in another form than it was trained behind."""
    from luthier.engines import torch as engine

    plain = engine.asked
    patch.setattr(engine, "asked", lambda prompts, reading: [[*ids, 36] for ids in plain(prompts, reading)])


def drops_the_end(patch: pytest.MonkeyPatch) -> None:
    """Padding and end are one token, and both are masked (as trainers do whose labels are -100 for padding)."""
    plain = causal.Causal.encode

    def encode(self: Any, examples: Any, task: Any, reading: Any) -> Any:
        found = plain(self, examples, task, reading)
        return [replace(r, supervised=[*r.supervised[:-1], False], covers=r.covers - 1) for r in found]

    patch.setattr(causal.Causal, "encode", encode)
    patch.setattr(causal.Causal, "audit", lambda *args: iter(()))


def loses_the_first_token(patch: pytest.MonkeyPatch) -> None:
    """Labels shifted once more than they should be."""
    plain = causal.at_positions
    patch.setattr(
        causal, "at_positions", lambda m, at, wanted, rows, needs, **i: plain(m, at - 1, wanted, rows, needs, **i)
    )


def pads_on_the_wrong_side(patch: pytest.MonkeyPatch) -> None:
    plain = generate._decoder_state

    def state(loaded: Any, texts: Any, shared: Any) -> Any:
        width = max(map(len, texts))
        pad = loaded.tokenizer.pad_token_id
        return plain(loaded, [[*text, *[pad] * (width - len(text))] for text in texts], shared)

    patch.setattr(generate, "_decoder_state", state)


def saves_other_weights(patch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    plain = model.save

    def save(loaded: Any, folder: Path, **options: Any) -> None:
        plain(loaded, folder, **options)
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        last = sorted(tensors)[-1]
        save_file({**tensors, last: tensors[last] * 1.01}, file)

    patch.setattr(model, "save", save)


def stays_on(patch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    patch.setattr(PeftModel, "disable_adapter", lambda self: contextlib.nullcontext())
    from luthier import proofs

    patch.setattr(proofs, "how_much_it_changes", lambda subject: 1.0)


def moves_what_is_frozen(patch: pytest.MonkeyPatch) -> None:
    """Weight decay that reaches parameters which do not train."""
    plain = fit.take_step

    def step(state: Any, *args: Any) -> Any:
        done = plain(state, *args)
        with torch.no_grad():
            for parameter in state.model.forward.parameters():
                if not parameter.requires_grad:
                    parameter.mul_(0.999)
        return done

    patch.setattr(fit, "take_step", step)


@pytest.mark.parametrize(
    ("name", "kind", "harm"),
    [
        ("accumulation", "decoder", divides_by_micro_batch),
        ("packed", "decoder", positions_go_on),
        ("resumed", "decoder", resumes_without_moments),
        ("merged", "decoder", merges_at_another_scale),
        ("training_text", "conversation", loses_its_template),
        ("training_text", "decoder", asks_with_a_space),
        ("end_of_sequence", "decoder", drops_the_end),
        ("supervised_loss", "decoder", loses_the_first_token),
        ("batched_answers", "decoder", pads_on_the_wrong_side),
        ("saved", "decoder", saves_other_weights),
        ("switched_off", "decoder", stays_on),
        ("frozen", "decoder", moves_what_is_frozen),
    ],
)
def test_a_property_that_is_broken_fails(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, harm: Break
) -> None:
    harm(monkeypatch)
    opened = load(place / f"{kind}.yaml")
    found = by_name(selftest(opened, store=flow.store_for(opened, root=tmp_path / "store")))
    assert found[name].status == "fail", line(found[name])


def test_an_adapter_of_plain_peft_passes_with_its_base_and_asks_for_it_without(place: Path, tmp_path: Path) -> None:
    base = tiny.build(tmp_path / "base", "llama")
    adapter_of(
        "AutoModelForCausalLM", base, tmp_path / "adapter", task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]
    )
    found = by_name(selftest(tmp_path / "adapter"))
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    assert {name for name, proof in found.items() if proof.status == "not checked"} == {
        "training_text",
        "end_of_sequence",
    }
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is no folder here") as told:
        selftest(tmp_path / "adapter")
    assert told.value.hint == "name the folder of the base with --base"
    again = by_name(selftest(tmp_path / "adapter", base=tmp_path / "moved"))
    assert {n: p.status for n, p in again.items()} == {n: p.status for n, p in found.items()}
    with pytest.raises(UserError, match="does not fit"):
        selftest(tmp_path / "adapter", base=place / "gpt2")


@pytest.mark.parametrize(("shape", "task"), [("bert", "SEQ_CLS"), ("t5", "SEQ_2_SEQ_LM")])
def test_adapters_of_other_architectures_are_graded_too(place: Path, tmp_path: Path, shape: str, task: str) -> None:
    auto = {"SEQ_CLS": "AutoModelForSequenceClassification", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM"}[task]
    adapter_of(auto, place / shape, tmp_path / "adapter", task_type=task, target_modules="all-linear")
    found = by_name(selftest(tmp_path / "adapter"))
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    assert {found[name].status for name in ("merged", "switched_off", "saved", "resumed")} == {"pass"}


def test_an_adapter_that_also_trained_biases_of_its_base_does_not_switch_off(place: Path, tmp_path: Path) -> None:
    adapter_of(
        "AutoModelForCausalLM",
        place / "gpt2",
        tmp_path / "adapter",
        task_type="CAUSAL_LM",
        target_modules=["c_attn"],
        bias="all",
        fan_in_fan_out=True,
    )
    assert by_name(selftest(tmp_path / "adapter"))["switched_off"].status == "fail"


def test_an_adapter_whose_file_has_other_names_was_not_loaded(place: Path, tmp_path: Path) -> None:
    """As saved from inside a wrapper (torch.compile, DeepSpeed), whose name stands before each tensor's."""
    from safetensors.torch import load_file, save_file

    adapter_of(
        "AutoModelForCausalLM",
        place / "llama",
        tmp_path / "adapter",
        task_type="CAUSAL_LM",
        target_modules=["q_proj"],
    )
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({f"_orig_mod.{name}": tensor for name, tensor in load_file(file).items()}, file)
    found = by_name(selftest(tmp_path / "adapter"))
    assert found["saved"].status == "fail"
    assert "are not in the model" in found["saved"].detail


@pytest.fixture(scope="module")
def ran(place: Path) -> runs.Run:
    opened = load(place / "conversation.yaml", ["train.precision=float32"])
    return flow.run(opened, flow.store_for(opened))


def test_a_run_passes_and_its_release_does_as_a_folder(place: Path, ran: runs.Run, tmp_path: Path) -> None:
    store = flow.store_for(load(place / "conversation.yaml"))
    found = by_name(selftest(ran.name, store=store))
    assert not failed(list(found.values())), [line(proof) for proof in found.values()]
    assert found["training_text"].status == found["end_of_sequence"].status == found["saved"].status == "pass"
    for form, base in (("hf", None), ("peft", place / "llama")):
        folder = runs.export(store, ran.name, form, "float32", tmp_path / form)
        found = by_name(selftest(folder, base=base))
        assert not failed(list(found.values())), [line(proof) for proof in found.values()]
        assert found["training_text"].status == "pass"
        assert found["end_of_sequence"].status == "not checked"
        assert "as it was saved" in found["saved"].detail


def test_a_folder_whose_weights_were_altered_or_whose_base_is_another_is_noticed(
    place: Path, ran: runs.Run, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    store = flow.store_for(load(place / "conversation.yaml"))
    folder = runs.export(store, ran.name, "hf", "float32", tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "mlp.down_proj" in name)
    save_file({**tensors, name: tensors[name] * 1.1}, folder / "model.safetensors", metadata={"format": "pt"})
    found = by_name(selftest(folder))
    assert (found["saved"].status, found["saved"].detail) == ("fail", "as it was saved")
    adapter = runs.export(store, ran.name, "peft", "float32", tmp_path / "peft")
    other = tiny.build(tmp_path / "other", "llama")
    tensors = load_file(other / "model.safetensors")
    moved = {name: tensor * 1.1 for name, tensor in tensors.items()}
    save_file(moved, other / "model.safetensors", metadata={"format": "pt"})
    found = by_name(selftest(adapter, base=other))
    assert (found["saved"].status, found["saved"].detail) == ("fail", "as it was saved")


def test_what_is_nothing_of_it_is_told(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no model folder"):
        selftest(tmp_path)
    with pytest.raises(UserError, match="no such recipe or model folder"):
        selftest("nowhere")
    with pytest.raises(UserError, match="needs no base"):
        selftest(place / "llama", base=place / "llama")
    assert luthier.selftest is selftest


def test_a_chat_template_that_asks_otherwise_than_it_trains_is_noticed(place: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny.build(tmp_path / "chat", "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for template, status in (
        (CHATS, "pass"),
        (CHATS.replace("<assistant> {% endif %}", "<robot> {% endif %}"), "fail"),
    ):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        assert by_name(selftest(folder))["training_text"].status == status


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_and_ends_with_3_where_one_fails(place: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "luthier.cli", "selftest", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    done = command(str(place / "llama"), "--json", "--rows", "4")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["proofs"]
    assert [each["name"] for each in told] == list(PROOFS)
    assert all(each["claim"].endswith(".") for each in told)
    from transformers import AutoTokenizer

    folder = tiny.build(tmp_path / "chat", "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATS.replace("<assistant> {% endif %}", "<robot> {% endif %}")
    tokenizer.save_pretrained(folder)
    done = command(str(folder))
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("fail         training_text")
