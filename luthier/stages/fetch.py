"""Fetch: bring a base model into the store, once per user, with its licence and terms on record."""

from __future__ import annotations

from typing import Any

from luthier.bases import Base
from luthier.choice import Settings
from luthier.model import architecture_of
from luthier.store import Artifact, Out, Store, stage


class Fetch(Settings):
    """What is fetched."""

    base: Base
    identity: dict[str, Any]
    """Names and versions that decide whether it is the same."""


@stage(version=1)
def fetch(config: Fetch, out: Out) -> dict[str, Any]:
    """A Hugging Face folder with safetensors, config and tokenizer."""
    facts = config.base.fetch(out)
    return {**facts, "architecture": architecture_of(out.folder)}


def fetched(choice: Base, store: Store) -> Artifact:
    """A base in the store that all of a user's recipes share, fetched into it once, which `store` needs from now on."""
    shared = store.shared
    shared.used_by(store)
    with shared.in_use():
        base = shared.do(fetch, Fetch(base=choice, identity=choice.identity()))
        store.uses([base.id])
    return base
