"""Room on the disk: what a training will write, reckoned before its first step and whenever more begins to train."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import MachineError

if TYPE_CHECKING:
    import torch

SETTINGS = 2_500  # bytes of configuration in a model folder
SPARE = 1.05  # of what is reckoned, that must be free: a history, and what others write meanwhile


@dataclass(frozen=True)
class Room:
    """Bytes of each thing that a training writes."""

    weights: int  # of all that trains
    optimizer: int  # what the optimizer keeps of it
    techniques: int  # tensors that the techniques keep
    names: int  # headers and manifest of a checkpoint, which grow with the names of what trains
    model: int  # the folder of the finished model, with its tokenizer
    keeps_best: bool

    @property
    def last(self) -> int:
        """One checkpoint."""
        return self.weights + self.optimizer + self.techniques + self.names

    @property
    def best(self) -> int:
        """The weights of the best evaluation."""
        return self.weights + self.names // 4 if self.keeps_best else 0

    @property
    def most(self) -> int:
        """All that lies there at the worst moment: two checkpoints, since one is kept until the next is whole, the best weights,
        and at the end the model, or before it the best weights that take the place of others."""
        return 2 * self.last + self.best + max(self.best, self.model)

    def sentence(self, free: int) -> str:
        """For people."""
        kept = f"checkpoints {amount(2 * self.last)}, best weights {amount(self.best)}, model {amount(self.model)}"
        return f"training writes up to {amount(self.most)} to the disk ({kept}); {amount(free)} are free"


def bytes_of_names(names: Iterable[str]) -> int:
    """Of headers and manifest: a tensor stands in those of the weights and of what the optimizer keeps of it, about three
    entries, and is named twice in the manifest."""
    return 1500 + sum(300 + 5 * len(name) for name in names)


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each as it is."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def check(room: Room, folder: Path, there: int) -> int:
    """Bytes that are free; MachineError where what is to be written, less what lies `there` already, finds no room."""
    free = shutil.disk_usage(folder).free
    needed = round(room.most * SPARE) - there
    if needed > free:
        raise MachineError(
            f"the disk has too little room: training writes up to {amount(room.most)} "
            f"({amount(2 * room.last)} of checkpoints, {amount(room.best)} of best weights, {amount(room.model)} of model), "
            f"of which {amount(there)} are there, and {amount(free)} are free",
            where=str(folder),
            hint="free some space, or let less train (a technique such as lora), and run the same command again",
        )
    return free


def amount(n_bytes: int) -> str:
    """Bytes for people."""
    size, units = float(n_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, _ = size / 1000, units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.3g} {units[0]}"


def tokenizer_bytes(tokenizer: Any) -> int:
    """Of its file: a large vocabulary takes tens of megabytes."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return len(fast.to_str(pretty=True).encode()) if fast is not None else 0
