"""Hub: a model of the Hugging Face hub, or of its local cache when HF_HUB_OFFLINE is set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from luthier.bases import Base
from luthier.errors import UserError
from luthier.store import Out

WANTED = ["README.md", "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "NOTICE*"]


class Hub(Base):
    """A model by its hub name."""

    name: str
    """Name on the hub, such as `HuggingFaceTB/SmolLM2-135M`."""
    revision: str = "main"
    """Branch, tag or commit; a commit makes the run repeatable."""

    def fetch(self, out: Out) -> dict[str, Any]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

        try:
            found = snapshot_download(self.name, revision=self.revision, allow_patterns=WANTED)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            raise UserError(
                f"{self.name} is not in the local hub cache and the hub cannot be reached",
                where="base.name",
                hint="unset HF_HUB_OFFLINE where there is a network, or use `kind: folder` or `kind: package`",
            ) from None
        except HfHubHTTPError as problem:
            raise UserError(
                f"the hub refused {self.name} ({problem.response.status_code})",
                where="base.name",
                hint="check the name; gated models need `hf auth login` first",
            ) from None
        snapshot = Path(found)
        for file in sorted(f for f in snapshot.rglob("*") if f.is_file()):
            target = out.folder / file.relative_to(snapshot)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return {"name": self.name, "revision": snapshot.name, "license": licence(out.folder), "notes": []}


def licence(folder: Path) -> str:
    """The licence that the model's card states, or "not stated"."""
    card = folder / "README.md"
    if card.exists():
        for line in card.read_text(encoding="utf-8").splitlines():
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    return "not stated"
