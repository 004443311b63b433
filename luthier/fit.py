"""The training loop: steps, learning-rate schedule, evaluation, early stopping, and checkpoints that resume bitwise."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import model as models
from luthier.batching import Encoded, Step, plan
from luthier.errors import UserError
from luthier.objectives import Objective
from luthier.recipe import Train
from luthier.store import Out, check_folder, seal, sync_folder
from luthier.techniques import Technique, learning_rate_for, owns

if TYPE_CHECKING:
    import torch
    from torch import nn

BEST, LAST = "best", "last"


@dataclass
class Progress:
    """Where training stands: everything but the tensors, as JSON in each checkpoint."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # supervised tokens seen
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # epoch, step, metric, value
    waited: int = 0  # evaluations since the best one
    stopped: str = ""  # "finished" or "patience" once training has ended
    techniques: list[dict[str, Any]] = field(default_factory=list)  # state of each technique


Evaluate = Callable[[models.Loaded], dict[str, float]]


def fit(
    loaded: models.Loaded, examples: Sequence[Encoded], objective: Objective, settings: Train, evaluate: Evaluate,
    out: Out, seed: int,
) -> Progress:  # fmt: skip
    """Train in place; the weights that `keep` names are in the model at the end. Continues from `out.checkpoints`."""
    import torch

    techniques = settings.techniques
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # new matrices, such as those of lora, are drawn from the recipe's seed alone
        for technique in techniques:
            loaded.model = technique.attach(loaded.model)
    trainable = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UserError(
            "every parameter is frozen, so there is nothing to train", where="train.techniques", hint="freeze less"
        )
    peak = settings.learning_rate or learning_rate_for(techniques)
    optimizer = torch.optim.AdamW(groups(loaded.model, techniques, peak, settings.weight_decay), lr=peak, fused=True)
    lengths = [example.length for example in examples]
    packed = models.packs(loaded)
    per_epoch = math.ceil(len(lengths) / settings.batch_size)
    total = max(1, round(settings.epochs * per_epoch))
    every = max(1, round(settings.evaluate_every * per_epoch))
    progress = resume(out.checkpoints, trainable, optimizer, techniques) or Progress()
    if progress.step:
        out.say(f"resuming at step {progress.step} of {total}")
    steps: list[Step] = []
    clock, started_at, computed = time.perf_counter(), progress.step, 0
    warm = clock
    with torch.random.fork_rng():
        while progress.step < total and not progress.stopped:
            epoch, within = divmod(progress.step, per_epoch)
            if within == 0 or not steps:
                steps = plan(lengths, settings.batch_size, settings.tokens_per_batch, seed, epoch, packed=packed)
            if within == 0:
                for technique in techniques:
                    changed = technique.epoch(loaded.model, epoch, progress.history)
                    if changed is not None:
                        optimizer.param_groups.clear()
                        for group in changed:
                            optimizer.add_param_group(group)
            torch.manual_seed(
                seed * 1_000_003 + progress.step
            )  # each step has its own dropout: nothing else to restore
            factor = schedule(progress.step, total, settings.warmup, settings.schedule)
            for group in optimizer.param_groups:
                group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * factor
            loss, n = one_step(loaded, [[examples[i] for i in micro] for micro in steps[within]], objective, techniques)
            norm = torch.nn.utils.clip_grad_norm_(trainable.values(), settings.max_grad_norm).item()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise UserError(
                    f"the loss became {loss} (gradient norm {norm}) at step {progress.step + 1}", where="train",
                    hint="lower train.learning_rate, or use precision float32; the last checkpoint holds finite weights",
                )  # fmt: skip
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            progress.tokens += n
            computed += sum(examples[i].length for micro in steps[within] for i in micro)
            progress.history.append({
                "step": progress.step, "epoch": round(progress.step / per_epoch, 4), "loss": loss,
                "learning_rate": peak * factor, "tokens": progress.tokens, "grad_norm": norm,
            })  # fmt: skip
            seconds = time.perf_counter() - clock
            if progress.step - started_at == 1:
                warm = time.perf_counter()
            elif progress.step - started_at == 2:  # the first step also warms up
                left = (time.perf_counter() - warm) * (total - progress.step)
                out.say(f"training will take about {left:.0f} s on this machine ({total} steps)")
            out.progress(
                progress.step, total, loss=f"{loss:.3f}", **{"tokens/s": f"{computed / seconds:.0f}"},
                left=f"{seconds / (progress.step - started_at) * (total - progress.step):.0f} s",
            )  # fmt: skip
            if progress.step % every == 0 or progress.step == total:
                consider(loaded, evaluate, settings, progress, per_epoch, trainable, out)
            if progress.step == total:
                progress.stopped = progress.stopped or "finished"
            if progress.step % settings.checkpoint_steps == 0 or progress.stopped:
                progress.techniques = [technique.state() for technique in techniques]
                save_checkpoint(out.checkpoints / LAST, trainable, optimizer, progress)
    if settings.keep == "best" and progress.best and progress.best["step"] != progress.step:
        restore_weights(out.checkpoints / BEST, trainable)
    loaded.model.eval()
    return progress


def one_step(
    loaded: models.Loaded,
    micro_batches: Sequence[Sequence[Encoded]],
    objective: Objective,
    techniques: Sequence[Technique],
) -> tuple[float, int]:
    """Gradients of one effective batch; returns its mean loss per supervised token (nats) and their number.

    Each micro-batch's sum is divided by the supervised tokens of the *whole* batch, so cutting it differently changes
    nothing: one big batch and sixteen small ones have the same gradient.
    """
    covered = sum(example.n_supervised * example.weight for batch in micro_batches for example in batch)
    n = sum(example.n_supervised for batch in micro_batches for example in batch)
    owner = next((technique for technique in techniques if owns(technique, "backward")), None)
    loaded.model.train()
    total = 0.0
    for number, batch in enumerate(micro_batches):
        with models.autocast(loaded):
            losses_B, _ = objective.loss(loaded, batch)
        loss = losses_B.sum() / covered
        if number == 0:
            for technique in techniques:
                penalty = technique.penalty(loaded.model, batch, losses_B)
                if penalty is not None:
                    loss = loss + penalty
        if owner is not None:
            owner.backward(losses_B / covered)
        else:
            loss.backward()
        total += float(loss.detach())
    return total, n


def groups(model: nn.Module, techniques: Sequence[Technique], peak: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: a technique's own, or two, with weight decay on matrices and none on biases and norms."""
    owner = next((technique for technique in techniques if owns(technique, "groups")), None)
    if owner is not None:
        return owner.groups(model, peak)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "lr": peak,
            "weight_decay": weight_decay,
            "name": "matrices",
        },
        {"params": [p for p in parameters if p.ndim < 2], "lr": peak, "weight_decay": 0.0, "name": "biases and norms"},
    ]
    return [group for group in found if group["params"]]


def schedule(step: int, total: int, warmup: float, kind: str) -> float:
    """Share of the peak learning rate at a step (from 0): rises linearly over the warm-up, then falls as `kind` says."""
    rising = warmup if warmup >= 1 else warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    if kind == "constant":
        return 1.0
    done = (step - rising) / max(1.0, total - rising)
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def consider(
    loaded: models.Loaded, evaluate: Evaluate, settings: Train, progress: Progress, per_epoch: int,
    trainable: dict[str, nn.Parameter], out: Out,
) -> None:  # fmt: skip
    """Evaluate on validation, remember the best weights, and stop when patience is out."""
    loaded.model.eval()
    figures = evaluate(loaded)
    progress.history.append({
        "step": progress.step, "epoch": round(progress.step / per_epoch, 4), "validation": figures,
    })  # fmt: skip
    metric = settings.stop.metric if settings.stop else "loss"
    if metric not in figures:
        return  # no validation split
    value = figures[metric]
    sign = -1.0 if metric == "loss" else 1.0
    if progress.best is None or sign * value > sign * progress.best["value"]:
        progress.best = {"epoch": progress.step / per_epoch, "step": progress.step, "metric": metric, "value": value}
        progress.waited = 0
        if settings.keep == "best":
            save_weights(out.checkpoints / BEST, trainable, progress.best)
    else:
        progress.waited += 1
        if settings.stop and progress.waited >= settings.stop.patience:
            progress.stopped = "patience"


def save_weights(folder: Path, trainable: dict[str, nn.Parameter], facts: dict[str, Any]) -> None:
    """The trainable weights, as a sealed folder."""
    replace_folder(folder, {"weights.safetensors": dict(trainable)}, facts)


def save_checkpoint(
    folder: Path, trainable: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Weights, optimizer and progress, as a sealed folder that replaces the last one only when it is whole."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    moments: dict[str, torch.Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, tensor in state.items():
            moments[f"{key}/{names[id(parameter)]}"] = tensor
    replace_folder(
        folder, {"weights.safetensors": dict(trainable), "optimizer.safetensors": moments}, progress.__dict__
    )


def replace_folder(folder: Path, files: dict[str, dict[str, torch.Tensor]], facts: dict[str, Any]) -> None:
    """Write a new sealed folder beside, then swap: the old one is whole until the new one is."""
    from safetensors.torch import save

    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, tensors in files.items():
        (beside / name).write_bytes(save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}))
    seal(beside, {"facts": json.loads(json.dumps(facts)), "made_with": {}}, {})
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(beside, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint folder, or the one it was about to replace, whichever verifies."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if candidate.exists() and not check_folder(candidate):
            return candidate
    return None


def resume(
    checkpoints: Path,
    trainable: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    techniques: Sequence[Technique],
) -> Progress | None:
    """Take up the last whole checkpoint, or None where there is none."""
    from safetensors.torch import load_file

    folder = newest_whole(checkpoints / LAST)
    if folder is None:
        shutil.rmtree(checkpoints / BEST, ignore_errors=True)
        return None
    progress = Progress(**json.loads((folder / "manifest.json").read_text())["facts"])
    best = progress.best
    if best and best["step"] != progress.step and newest_whole(checkpoints / BEST) is None:
        return None  # the best weights are lost: begin again rather than keep others
    restore_weights(folder, trainable)
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in trainable.items():
        state = {key.partition("/")[0]: moments[key] for key in moments if key.partition("/")[2] == name}
        if state:
            optimizer.state[parameter] = {
                key: tensor if key == "step" else tensor.to(parameter.device) for key, tensor in state.items()
            }
    for technique, kept in zip(techniques, progress.techniques, strict=True):
        technique.restore(kept)
    return progress


def restore_weights(folder: Path, trainable: dict[str, nn.Parameter]) -> None:
    """Copy stored weights into the live parameters."""
    import torch
    from safetensors.torch import load_file

    stored = load_file((newest_whole(folder) or folder) / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(stored[name])
