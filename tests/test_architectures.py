"""What is promised of each architecture holds, on a tiny random model: a sample of them here, all of them in `make soak`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from architectures import ALL, TECHNIQUES, Architecture, broken, line, page, prove, purposes

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
BY_NAME = {each.name: each for each in ALL}
SAMPLE = [
    ("roberta", "classify", "lora"),
    ("convbert", "classify", "full"),
    ("mobilebert", "classify", "lora"),
    ("rwkv", "write", "full"),
    ("falcon_h1", "write", "lora"),
    ("albert", "classify", "lora"),
    ("bloom", "classify", "full"),
    ("gpt_neo", "write", "full"),
    ("gemma2", "write", "full"),
    ("mixtral", "write", "lora"),
    ("mamba", "write", "lora"),
    ("bart", "classify", "lora"),
    ("t5gemma", "write", "lora"),
    ("pegasus", "classify", "full"),
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # plain transformers and peft are asked as users ask them
]


def proved(
    each: Architecture, purpose: str, technique: str, folder: Path, precision: str = "float32"
) -> dict[str, Any]:
    folder.mkdir()
    each.build(folder / "base")
    return prove(folder, purpose, technique, precision)


@pytest.mark.parametrize(("name", "purpose", "technique"), SAMPLE)
def test_what_the_page_says_of_an_architecture_holds(tmp_path: Path, name: str, purpose: str, technique: str) -> None:
    found = proved(BY_NAME[name], purpose, technique, tmp_path / "one")
    assert not broken(found)
    assert line((name, purpose, technique), found) in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("name", "purpose", "technique", "precision"),
    [
        ("deberta", "classify", "full", "float32"),
        ("bart", "classify", "full", "bfloat16"),
        ("llama", "write", "lora", "bfloat16"),
        ("mamba", "write", "full", "bfloat16"),  # its logits are float32 whatever its head computes in
    ],
)
def test_in_bfloat16_a_base_is_computed_or_falls_back_and_says_so(
    tmp_path: Path, name: str, purpose: str, technique: str, precision: str
) -> None:
    found = proved(BY_NAME[name], purpose, technique, tmp_path / "one", "bfloat16")
    assert not broken(found)
    assert any("computing in float32" in note for note in found["notes"]) == (precision == "float32")


@pytest.mark.skipif(not os.environ.get("LUTHIER_SOAK"), reason="all architectures take minutes: LUTHIER_SOAK=1")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_architecture_holds_its_promises_and_the_page_says_so(tmp_path: Path, precision: str) -> None:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in ALL:
            for purpose in purposes(each):
                for technique in TECHNIQUES:
                    key = (each.name, purpose, technique)
                    found[key] = proved(each, purpose, technique, tmp_path / "-".join(key), precision)
    assert {key: broken(each) for key, each in found.items() if broken(each)} == {}
    if precision == "float32":
        PAGE.write_text(page(found), encoding="utf-8")
