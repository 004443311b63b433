"""Folder: any Hugging Face model folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from luthier.bases import Base


class Folder(Base):
    """A folder with config.json, safetensors weights and a tokenizer."""

    outside: ClassVar[tuple[str, ...]] = ("path",)  # taken by its bytes and never copied

    path: str
    """The folder; relative paths start at the recipe's folder."""

    def locate(self) -> Path:
        return Path(self.path)
