"""Every architecture that is promised: a tiny random model of each, and the proof that what was trained is what answers."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

from luthier import flow, runs, seams
from luthier.errors import UserError
from luthier.form import Form
from luthier.generate import by_transformers, generate
from luthier.model import load, load_trained, writing_head
from luthier.recipe_file import loads
from luthier.runs import Run
from luthier.stages.train import validation_loss
from luthier.store import Store
from luthier.token_arrays import TokenArrays

NAMED = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
DEEPSEEK = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
GEMMA_LAYER = {**GROUPED, "head_dim": 8, "sliding_window": 16}
T5GEMMA = {"vocab_size": tiny.sizes(), **NAMED, **GEMMA_LAYER, "query_pre_attn_scalar": 8}


@dataclass(frozen=True)
class Architecture:
    """A kind of model in miniature."""

    name: str
    config: str  # class of transformers
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: str = "decoder"

    def build(self, folder: Path) -> Path:
        """A model folder with random weights from a fixed seed."""
        settings = {"vocab_size": tiny.sizes(), **NAMED, **self.settings}
        config = getattr(transformers, self.config)(**settings)
        auto = {
            "encoder": "AutoModelForMaskedLM",
            "decoder": "AutoModelForCausalLM",
            "encoder-decoder": "AutoModelForSeq2SeqLM",
        }[self.kind]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = getattr(transformers, auto).from_config(config)
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.data.normal_(0, 0.15)  # wide enough that answers depend on what is read
        model.save_pretrained(folder)
        tiny.tokenizer(self.kind).save_pretrained(folder)
        return folder


def encoder(name: str, config: str, **settings: Any) -> Architecture:
    """An encoder with 160 positions."""
    return Architecture(name, config, {**SMALL, "max_position_embeddings": 160, **settings}, "encoder")


ALL = [
    encoder("bert", "BertConfig"),
    encoder("roberta", "RobertaConfig"),
    encoder("deberta", "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    encoder(
        "deberta-v2",
        "DebertaV2Config",
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
    ),
    encoder("modernbert", "ModernBertConfig", local_attention=16, cls_token_id=1, sep_token_id=2),
    encoder("distilbert", "DistilBertConfig", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    encoder("electra", "ElectraConfig", embedding_size=16),
    encoder("albert", "AlbertConfig", embedding_size=16),
    encoder("mpnet", "MPNetConfig"),
    encoder("convbert", "ConvBertConfig", embedding_size=16, head_ratio=2, num_groups=1),
    encoder("longformer", "LongformerConfig", attention_window=[8, 8], sep_token_id=2),
    Architecture("gpt2", "GPT2Config", {**GPT, "n_positions": 160}),
    Architecture(
        "gpt_neo",
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 160,
        },
    ),
    Architecture("gpt_neox", "GPTNeoXConfig", {**SMALL, "max_position_embeddings": 160}),
    Architecture("bloom", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    Architecture(
        "opt",
        "OPTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 160,
            "word_embed_proj_dim": 32,
        },
    ),
    Architecture("llama", "LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    Architecture("mistral", "MistralConfig", {**GROUPED, "sliding_window": 16}),
    Architecture("mixtral", "MixtralConfig", {**GROUPED, **EXPERTS}),
    Architecture("qwen2", "Qwen2Config", GROUPED),
    Architecture("qwen3", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    Architecture("gemma2", "Gemma2Config", {**GEMMA_LAYER, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}),
    Architecture("gemma3_text", "Gemma3TextConfig", {**GEMMA_LAYER, "query_pre_attn_scalar": 8}),
    Architecture("phi3", "Phi3Config", GROUPED),
    Architecture(
        "gpt_oss",
        "GptOssConfig",
        {**GROUPED, **EXPERTS, "head_dim": 8, "sliding_window": 16, "max_position_embeddings": 256},
    ),
    Architecture("deepseek_v3", "DeepseekV3Config", {**SMALL, "num_key_value_heads": 4, **DEEPSEEK}),
    Architecture("mamba", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    Architecture("t5", "T5Config", T5, "encoder-decoder"),
    Architecture(
        "t5 (gated)",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "encoder-decoder",
    ),
    Architecture("mt5", "MT5Config", T5, "encoder-decoder"),
    Architecture("bart", "BartConfig", SEQ2SEQ, "encoder-decoder"),
    Architecture("mbart", "MBartConfig", SEQ2SEQ, "encoder-decoder"),
    Architecture("pegasus", "PegasusConfig", SEQ2SEQ, "encoder-decoder"),
    encoder("mobilebert", "MobileBertConfig", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    Architecture("xlm", "XLMConfig", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": False}, "encoder"),
    Architecture("openai-gpt", "OpenAIGPTConfig", {**GPT, "n_positions": 160}),
    Architecture("ctrl", "CTRLConfig", {**GPT, "dff": 64, "n_positions": 160}),
    Architecture("falcon", "FalconConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    Architecture(
        "qwen3_moe",
        "Qwen3MoeConfig",
        {**GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    Architecture(
        "rwkv",
        "RwkvConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 64},
    ),
    Architecture(
        "falcon_h1",
        "FalconH1Config",
        {
            **GROUPED,
            "head_dim": 8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
        },
    ),
    Architecture("t5gemma", "T5GemmaConfig", {"encoder": T5GEMMA, "decoder": T5GEMMA}, "encoder-decoder"),
]
TECHNIQUES = {"full": "full", "lora": "{kind: lora, rank: 4}"}


def purposes(architecture: Architecture) -> list[str]:
    """What can be asked of a kind of model."""
    return ["classify"] if architecture.kind == "encoder" else ["write", "classify"]


@cache
def rows() -> tuple[str, str]:
    """A table to write by (JSON lines) and one to classify by (CSV), in which the answer follows from one letter."""
    draw = random.Random(7)
    letters = [draw.choice("abcdef") for _ in range(56)]
    written = [{"prompt": f"{n} {c * draw.randint(1, 9)} =", "completion": f"{c}{c}z"} for n, c in enumerate(letters)]
    labelled = [
        f"no {n} {c * draw.randint(1, 9)} here,{'low' if c in 'abc' else 'high'}" for n, c in enumerate(letters)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in written)
    return lines, "\n".join(["text,label", *labelled, ""])


def recipe(purpose: str, technique: str, precision: str) -> str:
    """A run of four epochs."""
    task = {
        "write": "{kind: generate, table: rows.jsonl}",
        "classify": "{kind: classify, table: rows.csv, text: text, label: label}",
    }[purpose]
    return f"""\
version: 1
name: architecture
seed: 3
device: cpu
task: {task}
base: {{kind: folder, path: base}}
prepare: {{split: {{kind: random, validation: 8, test: 8}}}}
encode: {{max_length: 48}}
train: {{epochs: 4, learning_rate: 5e-3, batch_size: 8, precision: {precision}, techniques: [{TECHNIQUES[technique]}]}}
predict: {{engine: {{kind: torch, batch_size: 8, max_new_tokens: 6}}}}
score: {{latency_samples: 0, baselines: []}}
"""


def prove(folder: Path, purpose: str, technique: str, precision: str = "float32") -> dict[str, Any]:
    """What holds of a base in `folder/base`: name of a promise -> True, or what was found instead; and `notes`.

    `refused` alone, with the sentence, where the run was refused.
    """
    written, labelled = rows()
    (folder / "rows.jsonl").write_text(written, encoding="utf-8")
    (folder / "rows.csv").write_text(labelled, encoding="utf-8")
    opened = loads(recipe(purpose, technique, precision), folder=folder)
    store = flow.store_for(opened)
    try:
        done = flow.run(opened, store)
    except UserError as problem:
        return {"refused": problem.what}
    found: dict[str, Any] = {"notes": done.facts.trained.notes}
    losses = [entry["loss"] for entry in done.facts.history if "loss" in entry]
    found["trains"] = sum(losses[-3:]) < sum(losses[:3]) or f"loss {losses[0]:.3g} to {losses[-1]:.3g}"
    found |= loss_is_plain(done, folder)
    if purpose == "write":
        found["generation"] = generation_is_plain(folder / "base", done.facts.base.architecture)
    found["exported"] = answers_alike(done, store, folder, purpose, "hf")
    if technique == "lora":
        found["adapter in peft"] = answers_alike(done, store, folder, purpose, "peft")
    return found


def generation_is_plain(base: Path, kind: str) -> Any:
    """Whether answers of an untuned base behind a shared beginning, in a batch, are those of transformers one by one."""
    model = load(base, writing_head(kind), device="cpu", precision="float32")  # type: ignore[arg-type]
    draw = random.Random(5)
    shared, *prompts = [[draw.randrange(4, tiny.sizes()) for _ in range(n)] for n in (20, 3, 9, 9, 5, 12)]
    ours = generate(model, prompts, max_new_tokens=8, stop={2}, prefix=shared)
    theirs = [by_transformers(model, [[*shared, *p]], 8, {2}, 1, lambda done: None)[0] for p in prompts]
    wrong = sum(a.tokens != b.tokens for a, b in zip(ours, theirs, strict=True))
    return wrong == 0 or f"{wrong} of {len(prompts)} answers differ"


def loss_is_plain(done: Run, folder: Path) -> dict[str, Any]:
    """The reloaded model's validation loss beside that of training, and each example's beside the plain forward's."""
    path = done.artifacts["model"].path / "model"
    form, model = Form.read(path), load_trained(path, folder / "base", device="cpu", precision="float32")
    validation = TokenArrays(done.artifacts["encoded"].path / "validation")
    best = done.facts.trained.best or {}
    reloaded = validation_loss(model, form.objective, validation)
    batch = [validation[n] for n in range(len(validation))]
    with torch.inference_mode():
        ours = form.objective.loss(form.objective.outputs(model, batch, "losses"), batch)
        plain = torch.tensor([plain_loss(model, example) for example in batch])
    difference = float((ours - plain).abs().max() / plain.abs().max())
    apart = abs(reloaded - best.get("value", float("nan")))
    tolerance = 1e-4 if done.facts.trained.precision == "float32" else 0.05
    return {
        "loss": difference < 1e-4 or f"differs by {difference:.2g}",
        "reloads": apart < tolerance * max(1.0, reloaded) or f"validation loss {reloaded:.4g} for {best.get('value')}",
    }


def plain_loss(model: Any, example: Any) -> float:
    """Cross-entropy of one example from the logits of the plain forward, without padding or packing."""
    ids = torch.tensor([[int(token) for token in example.ids]])
    mask = torch.ones_like(ids)
    if model.labels:
        logits = model.forward(input_ids=ids, attention_mask=mask).logits.float()
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor([int(example.targets[0])])))
    if model.architecture == "encoder-decoder":
        wanted = torch.tensor([[int(token) for token in example.targets]])
        return float(model.forward(input_ids=ids, attention_mask=mask, labels=wanted).loss) * wanted.shape[1]
    labels = ids.clone()
    labels[0, ~torch.tensor([bool(s) for s in example.supervised])] = -100
    logits = model.forward(input_ids=ids, attention_mask=mask).logits.float()
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"))


def answers_alike(done: Run, store: Store, folder: Path, purpose: str, form: str) -> Any:
    """Whether an export in plain transformers (or peft) gives what was recorded, each row alone, by its own settings."""
    auto = done.facts.encoded.auto
    target = folder / f"{purpose}-{done.name}-{form}"
    runs.export(store, done.name, form, "float32", target)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    model = plain(target, folder / "base", auto, form)
    examples = list(seams.read(done.artifacts["examples"].path / "test", seams.Example))
    said = {p.id: p for p in runs.predictions_of(done.artifacts["tuned"])}
    wrong, exact = 0, done.facts.trained.precision == "float32"  # rounding turns some answers of a random model
    for example in examples:
        inputs = tokenizer(example.input["text"], return_tensors="pt")
        with torch.inference_mode():
            if purpose == "classify":
                shares = model(**inputs).logits.softmax(-1)[0]
                labels = json.loads((target / "model.json").read_text())["labels"]
                recorded = {str(answer): share for answer, share in said[example.id].candidates}
                apart = max(abs(float(shares[n]) - recorded[label]) for n, label in enumerate(labels))
                wrong += apart > (1e-3 if exact else 0.1)
            else:
                out = model.generate(**inputs)
                new = out[0] if done.facts.encoded.writes == "apart" else out[0, inputs["input_ids"].shape[1] :]
                text = tokenizer.decode(new, skip_special_tokens=True).strip()
                wrong += text != str(said[example.id].output)
    return wrong <= (0 if exact else len(examples) // 2) or f"{wrong} of {len(examples)} answers differ"


def plain(target: Path, base: Path, auto: str, form: str) -> Any:
    """The exported model without anything of ours."""
    if form == "hf":
        return getattr(transformers, auto).from_pretrained(target, dtype=torch.float32).eval()
    from peft import PeftModel

    options = {}
    if auto == "AutoModelForSequenceClassification":
        labels = json.loads((target / "model.json").read_text())["labels"]
        options = {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    with torch.random.fork_rng():
        torch.manual_seed(99)  # what the adapter lacks would be drawn otherwise than in the run
        start = getattr(transformers, auto).from_pretrained(base, dtype=torch.float32, **options)
    if auto != "AutoModelForSequenceClassification":
        start.generation_config = transformers.GenerationConfig.from_pretrained(target)
    return PeftModel.from_pretrained(start, str(target)).eval()


PROMISES = {
    "trains": "the loss falls",
    "loss": "equals the plain forward's",
    "reloads": "validation loss as in training",
    "generation": "equals `generate`",
    "exported": "plain transformers answers alike",
    "adapter in peft": "plain peft answers alike",
}
HEAD = """\
# Architectures

What was shown of each kind of base, on a tiny random model of it, in float32 (transformers {transformers}, peft {peft}):
it is trained for four epochs through a whole run, reloaded, exported, and asked again without Luthier.

- **trains**: the loss falls. **loss**: for each validation example it is that of the plain forward pass, one example at a
  time, without padding or packing. **reloads**: the saved model has the validation loss that training had.
- **generation**: answers of the untuned base behind a shared beginning, in a batch, are those of transformers' own greedy
  `generate`, one by one. Kinds for which that was not found are answered by `generate` itself.
- **exported**: the exported folder in plain transformers gives the recorded answers (probabilities within 0.001), by its
  own settings. **adapter in peft**: so does the adapter over its base in plain peft.

This page is written by `LUTHIER_SOAK=1 python -m pytest tests/test_architectures.py`. A kind that is not listed is not
refused: it is tried out before training, answered by `generate`, and told where it cannot do what is asked.

"""


def page(found: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """docs/architectures.md: a line for each architecture, purpose and technique."""
    lines = [
        "| base | answers | technique | " + " | ".join(PROMISES) + " | remarks |",
        "|---" * (len(PROMISES) + 4) + "|",
    ]
    lines += [line(key, each) for key, each in found.items()]
    versions = {"transformers": transformers.__version__, "peft": __import__("peft").__version__}
    return HEAD.format(**versions) + "\n".join(lines) + "\n"


def line(key: tuple[str, str, str], found: dict[str, Any]) -> str:
    """One line of the page."""
    if "refused" in found:
        cells = [""] * len(PROMISES)
        return "| " + " | ".join([*key, *cells, f"refused: {found['refused']}"]) + " |"
    cells = ["" if name not in found else "yes" if found[name] is True else found[name] for name in PROMISES]
    return "| " + " | ".join([*key, *cells, "; ".join(found["notes"])]) + " |"


def broken(found: dict[str, Any]) -> dict[str, Any]:
    """The promises that do not hold."""
    return {name: found[name] for name in PROMISES if found.get(name, True) is not True}
