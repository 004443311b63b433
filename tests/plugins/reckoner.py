"""Reckoner: an engine that needs no torch: it answers with the first number of the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from luthier.engines import Engine, Request, Said, Session, Tell, untold


class Reckoner(Engine):
    """Plain Python."""

    def open(self, folder: Path, base: Path | None, **settings: object) -> Session:
        assert (folder / "config.json").exists() or (folder / "adapter_config.json").exists()
        return Reckoning()


class Reckoning(Session):
    """Reads numbers."""

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        tell(len(requests), len(requests))
        numbers = [re.search(r"\d+", str(request.prompt)) for request in requests]
        return [Said(text=str(int(n.group())) if n else "", confidence=0.9 if n else 0.1) for n in numbers]
