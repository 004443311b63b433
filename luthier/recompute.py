"""Gradient checkpointing: a block's inner results are computed again when its gradient is, and not kept until then.

Memory for activations falls from that of all blocks to that of one (Chen et al. 2016, arXiv 1604.06174). Dropout draws the
same numbers the second time, so the gradient is the same.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from luthier.errors import UserError, first_line

if TYPE_CHECKING:
    from luthier.model import Model


@contextlib.contextmanager
def blocks(model: Model, wanted: bool) -> Iterator[None]:
    """Inside this block a model in training computes its blocks twice, where that is wanted; UserError where it cannot."""
    if not wanted:
        yield
        return
    refused = UserError(
        "prefixes stand in the cache, which is not kept when blocks are computed again",
        where="train.gradient_checkpointing",
        hint="leave it out, or use another technique",
    )
    if model.adapted and any(config.peft_type == "PREFIX_TUNING" for config in model.forward.peft_config.values()):
        raise refused
    try:
        with known_by_another_name():
            model.bare.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as problem:
        raise UserError(
            f"the base cannot compute its blocks again: {first_line(problem)}",
            where="train.gradient_checkpointing",
            hint="leave it out; lower train.tokens_per_batch to need less memory",
        ) from problem
    config = model.bare.config
    # a BERT-shaped encoder takes what it never caches for a cache, and says that it cannot be had
    cached = {"use_cache": True} if not model.head.writes and vars(config).get("use_cache") else {}
    config.update(dict.fromkeys(cached, False))
    try:
        yield
    finally:
        config.update(cached)
        with known_by_another_name():
            model.bare.gradient_checkpointing_disable()


@contextlib.contextmanager
def known_by_another_name() -> Iterator[None]:
    """The name that all of transformers 5 has for it, which 5.23 warns will be another in version 6."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing_", FutureWarning)
        yield
