"""The whole state of training, saved and taken up: what trains is asked of the model at each use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.durable import settle, swap
from luthier.store import check_folder, seal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.model import Model
    from luthier.techniques import Running

BEST, LAST, HISTORY = "best", "last", "history.jsonl"
WEIGHTS, OPTIMIZER, RUNNING = "weights.safetensors", "optimizer.safetensors", "running.safetensors"


@dataclass
class Progress:
    """Where training stands: everything but the tensors, as JSON in each checkpoint."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # supervised tokens seen
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # step, epoch, validation figures
    best: dict[str, Any] | None = None  # epoch, step, metric, value
    best_kept: bool = False  # whether its weights lie beside; where the last ones are wanted they do not
    waited: int = 0  # evaluations since the best one
    stopped: str = ""  # "finished" or "patience" once training has ended
    history_lines: int = 0  # of the history file that belong to the steps done
    trains: list[str] = field(default_factory=list)  # parameters that train now
    trained: list[str] = field(default_factory=list)  # parameters that have ever trained: all that may differ
    running: dict[str, Any] = field(default_factory=dict)  # JSON state of the techniques
    optimizer: dict[str, Any] = field(default_factory=dict)  # what the optimizer keeps of a parameter beside tensors
    groups: list[dict[str, Any]] = field(default_factory=list)  # parameter groups from each step at which they changed
    facts: dict[str, Any] = field(default_factory=dict)  # what they say of the training, once it has ended
    course: list[float] = field(default_factory=list)  # losses (nats) of the latest steps, by which a spike is told
    events: list[dict[str, Any]] = field(default_factory=list)  # of divergence: step, found, done, to


class History:
    """One JSON line for each step and evaluation; a resumed run cuts off what its checkpoint does not know."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append a line; it is on disk only after `sync`, which comes before each checkpoint."""
        self.waiting.append(json.dumps(entry) + "\n")

    def sync(self) -> None:
        """Write what waits, so that it survives a power cut."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(self.waiting)
            file.flush()
            os.fsync(file.fileno())
        self.waiting.clear()

    def cut(self, lines: int) -> None:
        """Keep the first so many lines."""
        self.path.touch()
        with self.path.open("rb+") as file:
            for _ in range(lines):
                file.readline()
            file.truncate(file.tell())


@dataclass
class State:
    """All that changes while training."""

    model: Model
    optimizer: torch.optim.Optimizer
    progress: Progress
    running: Running
    history: History
    untouched: dict[str, torch.Tensor] | None = None
    """What began to train since the last checkpoint, as it was; kept where training may have to go back to that."""

    def note_trainable(self, checkpoints: Path) -> None:
        """Remember what trains now, after it has changed, and let the best weights hold it as it still is."""
        self.progress.trains = list(self.model.trainable())
        known = set(self.progress.trained)
        new = [name for name in self.progress.trains if name not in known]
        self.progress.trained += new
        if self.untouched is not None:
            self.untouched |= {name: parameter.detach().clone() for name, parameter in self.weights(new).items()}
        best = newest_whole(checkpoints / BEST) if self.progress.best else None
        if new and best is not None:
            # what begins to train now had these very values when the best weights were kept
            weights = {**read_weights(best), **self.weights(new)}
            replace_folder(checkpoints / BEST, {WEIGHTS: weights}, self.progress.best or {})

    def weights(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Parameters by name."""
        everything: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        return {name: everything[name] for name in names}

    def save(self, checkpoints: Path) -> None:
        """Replace the last checkpoint by one of the state as it is."""
        import torch

        self.history.sync()
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        kept = {
            f"{key}/{names[id(parameter)]}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }
        moments = {entry: value for entry, value in kept.items() if isinstance(value, torch.Tensor)}
        self.progress.optimizer = {entry: value for entry, value in kept.items() if entry not in moments}
        tensors, self.progress.running = self.running.state()
        files = {WEIGHTS: self.weights(self.progress.trained), OPTIMIZER: moments, RUNNING: tensors}
        replace_folder(checkpoints / LAST, files, asdict(self.progress), keep_former=True)
        if self.untouched is not None:
            self.untouched = {}

    def save_best(self, checkpoints: Path) -> None:
        """Keep the weights as they are as the best ones."""
        self.progress.best_kept = True
        replace_folder(checkpoints / BEST, {WEIGHTS: self.weights(self.progress.trained)}, self.progress.best or {})

    def restore_best(self, checkpoints: Path) -> None:
        """Put the best weights into the model."""
        best = newest_whole(checkpoints / BEST)
        assert best is not None, "the best weights are written before the step that makes them the best is saved"
        self._copy(read_weights(best))

    def take_up(self, checkpoints: Path) -> bool:
        """Go on from the last whole checkpoint: weights, what trains, techniques, history. False where there is none.

        The optimizer's groups are made anew by whoever calls, since they follow from what trains; then
        `take_up_optimizer` fills them.
        """
        folder = newest_whole(checkpoints / LAST)
        progress = Progress(**json.loads((folder / "manifest.json").read_text())["facts"]) if folder else Progress()
        best = progress.best
        lost = bool(progress.best_kept and newest_whole(checkpoints / BEST) is None)
        if folder and best and best["step"] != progress.step and lost:
            folder = None  # the best weights are lost: begin again rather than keep others
        if folder is None:
            for best_one in (checkpoints / BEST, *beside(checkpoints / BEST)):
                shutil.rmtree(best_one, ignore_errors=True)
            self.history.cut(0)
            return False
        self.progress = progress
        self.history.cut(progress.history_lines)
        trains = set(progress.trains)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trains)
        self._copy(read_weights(folder))
        self.running.restore(read_weights(folder, RUNNING), progress.running)
        if best and lost:
            self.save_best(checkpoints)
        return True

    def go_back(self, checkpoints: Path) -> None:
        """Take up the last whole checkpoint in the midst of training, as if nothing had happened since."""
        self.history.waiting.clear()
        self._copy(self.untouched or {})
        self.optimizer.state.clear()
        found = self.take_up(checkpoints)
        assert found, "a training that may go back has a checkpoint from before its first step on"

    def take_up_optimizer(self, checkpoints: Path) -> None:
        """The moments of the last whole checkpoint."""
        folder = newest_whole(checkpoints / LAST)
        assert folder is not None
        parameters = dict(self.model.named_parameters())
        for entry, tensor in read_weights(folder, OPTIMIZER).items():
            key, _, name = entry.partition("/")
            # fused kernels read the count of steps on the device of the parameter, as they do the moments
            self.optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)
        for entry, value in self.progress.optimizer.items():
            key, _, name = entry.partition("/")
            self.optimizer.state[parameters[name]][key] = value

    def _copy(self, stored: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.weights(stored).items():
                parameter.copy_(stored[name])


def carry(source: Path, target: Path) -> None:
    """Copy the whole state between checkpoints and an artifact: the last and the best weights and the history, and nothing
    else that a crash may have left. The last ones come last: where they are whole, all is."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / HISTORY, target / HISTORY)
    for name in (BEST, LAST):
        for left in (target / name, *beside(target / name)):
            shutil.rmtree(left, ignore_errors=True)
        found = newest_whole(source / name)
        if found is not None:
            shutil.copytree(found, target / name)


def read_weights(folder: Path, file: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint that was found whole."""
    from safetensors.torch import load_file

    return load_file(folder / file)


def replace_folder(
    folder: Path, files: dict[str, dict[str, torch.Tensor]], facts: dict[str, Any], *, keep_former: bool = False
) -> None:
    """Write a new sealed folder beside, then swap: whenever a crash comes, `newest_whole` finds a whole one.

    With `keep_former` the one that it replaces stays until the next time, when the new one has verified: should that be
    harmed meanwhile, it is fallen back to. It takes no more room than writing did.
    """
    from safetensors.torch import save

    new, old = beside(folder)
    settle(new, folder, old, whole)
    shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    for name, tensors in files.items():
        (new / name).write_bytes(save(apart({key: t.detach().cpu().contiguous() for key, t in tensors.items()})))
    seal(new, {"facts": json.loads(json.dumps(facts)), "made_with": {}}, {})
    swap(new, folder, old)
    if not keep_former:
        shutil.rmtree(old, ignore_errors=True)


def apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each in memory of its own, as safetensors wants them: an optimizer may give all parameters one table."""
    found: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for key, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[key] = tensor.clone() if place in places else tensor
        places.add(place)
    return found


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that verifies: one that was about to take its place, itself, or the one that it replaced."""
    new, old = beside(folder)
    return next((each for each in (new, folder, old) if each.exists() and whole(each)), None)


def whole(folder: Path) -> bool:
    """Whether every byte is as it was written."""
    return not check_folder(folder)


def beside(folder: Path) -> tuple[Path, Path]:
    """Where the next checkpoint is written, and where the last one waits until that is in place."""
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
