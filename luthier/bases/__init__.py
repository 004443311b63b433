"""Bases: where a model to start from comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from luthier.choice import Choice
from luthier.store import Out


class Base(Choice):
    """A source of base models."""

    family: ClassVar[str] = "bases"

    def identity(self) -> dict[str, Any]:
        """What decides whether it must be fetched anew: names and versions."""
        return self.model_dump(mode="json")

    def locate(self) -> Path | None:
        """The folder, where it is there already and need not be fetched."""
        return None

    def fetch(self, out: Out) -> dict[str, Any]:
        """Put a Hugging Face folder into `out.folder`; the facts (licence, terms, origin) go to the manifest."""
        raise NotImplementedError
