"""Self-test: the proofs, made on the user's own recipe, run or model folder, with what each measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from luthier.errors import UserError
from luthier.proofs import PROOFS, Proof
from luthier.recipe_file import RecipeFile, load
from luthier.store import Listener, Silent, Store
from luthier.subject import opened

ROWS = 8


def selftest(
    target: RecipeFile | Path | str,
    *,
    base: Path | None = None,
    store: Store | None = None,
    rows: int = ROWS,
    precision: Literal["float32", "bfloat16"] = "float32",
    changes: Sequence[str] = (),
    listener: Listener | None = None,
) -> list[Proof]:
    """Prove a recipe, a model folder or a run of the `store`; nothing of it is changed and no network is asked.

    `base`: folder of an adapter's base, where its config does not name one that is there. `changes`: of a recipe, as
    `path=value`. Raises UserError where what was named is none of these or cannot be opened.
    """
    listener = listener or Silent()
    found = []
    with opened(
        named(target, store, changes), store=store, base=base, rows=rows, precision=precision, listener=listener
    ) as subject:
        for line in subject.told:
            listener.say(line)
        for n, (name, proof) in enumerate(PROOFS.items()):
            listener.progress("selftest", n, len(PROOFS), {"now": name})
            start = time.perf_counter()
            found.append(replace(proof(subject), seconds=round(time.perf_counter() - start, 2)))
        listener.progress("selftest", len(PROOFS), len(PROOFS), {})
    return found


def named(target: RecipeFile | Path | str, store: Store | None, changes: Sequence[str]) -> RecipeFile | Path | str:
    """A recipe for a file, a path for a folder, else the name of a run."""
    if isinstance(target, RecipeFile):
        return target
    path = Path(target)
    if path.is_file():
        return load(path, list(changes))
    if changes:
        raise UserError("only a recipe has settings to change", where="--set", hint="name a recipe, or leave it out")
    if path.is_dir():
        if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
            raise UserError(
                "is no model folder",
                where=str(path),
                hint="it needs config.json or adapter_config.json; a run goes by its name",
            )
        return path
    if store is None:
        raise UserError(
            "no such recipe or model folder", where=str(target), hint="name a recipe, a model folder or a run"
        )
    return str(target)


def line(proof: Proof) -> str:
    """One line for people: `pass  accumulation  4e-07 of the gradient's norm (at most 0.0001); 8 rows`."""
    told = ""
    if proof.difference is not None and proof.tolerance is not None:
        told = f"{proof.difference:.2g} {proof.unit} (at most {proof.tolerance:.2g})"
    rest = "; ".join(part for part in (told, proof.detail) if part)
    return f"{proof.status:<12} {proof.name:<16} {rest}"


def failed(found: Sequence[Proof]) -> bool:
    """Whether any proof failed."""
    return any(proof.status == "fail" for proof in found)
