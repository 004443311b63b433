"""A package of somebody else, in a temporary folder: one new file each, found by entry point."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from luthier.choice import members

SOURCES = Path(__file__).parent / "plugins"


def plug_in(folder: Path, **families: str) -> Path:
    """Write a package with these members, family -> name of the file in tests/plugins, as an installer leaves it."""
    info = folder / "toys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    entries = []
    for family, name in families.items():
        shutil.copyfile(SOURCES / f"{name}.py", folder / f"{name}.py")
        entries.append(f"[luthier.{family}]\n{name} = {name}\n")
    (info / "entry_points.txt").write_text("\n".join(entries))
    return folder


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process see the package."""
    monkeypatch.syspath_prepend(str(folder))
    members.cache_clear()


def forget() -> None:
    """Families are as they were."""
    members.cache_clear()
