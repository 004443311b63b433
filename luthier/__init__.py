"""Luthier: fine-tune a language model on your own data, and get one that you can sign off."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.errors import UserError as UserError
    from luthier.flow import Run as Run
    from luthier.flow import apply as apply
    from luthier.flow import export as export
    from luthier.flow import run as run
    from luthier.flow import store_for as store_for
    from luthier.recipe import Recipe as Recipe
    from luthier.recipe import load as load
    from luthier.recipe import loads as loads
    from luthier.store import Store as Store

_HOMES = {
    "UserError": "errors", "Run": "flow", "apply": "flow", "export": "flow", "run": "flow", "store_for": "flow",
    "Recipe": "recipe", "load": "recipe", "loads": "recipe", "Store": "store",
}  # fmt: skip

__all__ = ["Recipe", "Run", "Store", "UserError", "apply", "export", "load", "loads", "run", "store_for"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `import luthier` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute '{name}'")
    return getattr(importlib.import_module(f"luthier.{_HOMES[name]}"), name)
