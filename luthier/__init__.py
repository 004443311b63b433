"""Luthier: fine-tune a language model on your own data, and get one that you can sign off."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.errors import UserError as UserError
    from luthier.flow import run as run
    from luthier.flow import store_for as store_for
    from luthier.proving import selftest as selftest
    from luthier.recipe import Recipe as Recipe
    from luthier.recipe_file import load as load
    from luthier.recipe_file import loads as loads
    from luthier.runs import Run as Run
    from luthier.runs import apply as apply
    from luthier.runs import export as export
    from luthier.searching import search as search
    from luthier.store import Store as Store

_HOMES = {
    "Recipe": "recipe",
    "Run": "runs",
    "Store": "store",
    "UserError": "errors",
    "apply": "runs",
    "export": "runs",
    "load": "recipe_file",
    "loads": "recipe_file",
    "run": "flow",
    "search": "searching",
    "selftest": "proving",
    "store_for": "flow",
}

__all__ = [
    "Recipe",
    "Run",
    "Store",
    "UserError",
    "apply",
    "export",
    "load",
    "loads",
    "run",
    "search",
    "selftest",
    "store_for",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `import luthier` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute '{name}'")
    return getattr(importlib.import_module(f"luthier.{_HOMES[name]}"), name)
