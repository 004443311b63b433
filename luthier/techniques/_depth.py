"""How deep a parameter lies under the output: what techniques that go from the top down divide a model by."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from luthier.model import block_of, blocks
from luthier.techniques.freeze import embeddings

if TYPE_CHECKING:
    from torch import nn

    from luthier.model import Model

ABOVE, BELOW = "above the blocks", "embeddings"


def layers(model: Model) -> dict[str, list[nn.Parameter]]:
    """What trains now, from the top down: what is above the blocks, each block, the embeddings; each may be empty.

    The blocks of encoder and decoder are counted from the top of each, and carry the numbers of the longer one. An output
    head that is tied to the embeddings is one of them.
    """
    known = blocks(model.forward)
    sizes = Counter(block.rpartition(".")[0] for block in known)
    highest = max(sizes.values(), default=0)
    numbers = {block: number + highest - sizes[block.rpartition(".")[0]] for block, number in known.items()}
    tables = embeddings(model.forward)
    found: dict[str, list[nn.Parameter]] = {
        name: [] for name in (ABOVE, *(f"block {number}" for number in reversed(range(highest))), BELOW)
    }
    for name, parameter in model.trainable().items():
        number = block_of(name, numbers)
        found[f"block {number}" if number is not None else BELOW if name in tables else ABOVE].append(parameter)
    return found
