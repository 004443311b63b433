"""The training loop: plan the steps of an epoch, take each of them, evaluate now and then, keep what may be needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier import divergence, room
from luthier import model as models
from luthier.batching import Encoded, Step, plan
from luthier.checkpoint import History, Progress, State
from luthier.errors import UserError
from luthier.facts import Group, Grouping
from luthier.mixing import Mixture, Sample, Several
from luthier.objectives import Objective
from luthier.quantized import memory
from luthier.recipe import TrainSettings
from luthier.rising import Rise
from luthier.schedules import WARMUP, LearningRate
from luthier.store import Artifact, Out, size_of
from luthier.techniques import Plan, Running, Together, learning_rate_for
from luthier.token_arrays import TokenArrays

if TYPE_CHECKING:
    from luthier.model import Model

Evaluate = Callable[["Model"], dict[str, float]]  # figures on the validation split; empty where there is none
Inputs = Mapping[str, Mapping[str, Artifact]]  # technique -> name of an input -> artifact


@dataclass(frozen=True)
class Watch:
    """How evaluations are judged: the metric that decides, and what follows from it."""

    metric: str = "loss"
    higher_is_better: bool = False
    patience: int = 0  # evaluations without improvement after which training ends; 0: never
    keep_best: bool = True

    def figures(self, evaluations: Sequence[Mapping[str, Any]]) -> list[float]:
        """The metric at each evaluation so far, turned so that lower is better."""
        sign = -1.0 if self.higher_is_better else 1.0
        found = [evaluation["validation"] for evaluation in evaluations]
        return [sign * figures[self.metric] for figures in found if self.metric in figures]


def fit(
    model: Model,
    examples: TokenArrays | Mixture,
    objective: Objective | Several,
    settings: TrainSettings,
    evaluate: Evaluate,
    watch: Watch,
    out: Out,
    seed: int,
    inputs: Inputs,
    rise: Rise | None = None,
    until: int | None = None,
) -> Progress:
    """Train in place; the weights that are to be kept are in the model at the end. Goes on from `out.checkpoints`.

    With `rise`, its steps and rates take the place of the settings', and a loss that runs away ends the training. After
    `until` evaluations it pauses, with the whole state there: the schedule is that of the full length.

    The history, a JSON line for each step and evaluation, is left beside the checkpoints in `history.jsonl`.
    """
    import numpy as np
    import torch

    from luthier import dropout, neftune, recompute, used_embeddings

    lengths = examples.lengths().tolist()
    mixed = examples if isinstance(examples, Mixture) else None
    n = sum(mixed.counts()) if mixed else len(lengths)
    per_epoch = math.ceil(n / settings.batch_size)
    total = rise.total if rise else max(1, round(settings.epochs * per_epoch))
    every = max(1, round(settings.evaluate_every * per_epoch))
    warmup = WARMUP if settings.warmup is None else settings.warmup
    rate = rise or LearningRate(
        settings.learning_rate or learning_rate_for(settings.techniques), total, warmup, settings.schedule
    )
    running = start(model, settings, inputs, seed)
    model.label_smoothing = settings.label_smoothing
    lengths = [length + len(model.front) for length in lengths]
    running.expect(Plan(len(lengths), settings.batch_size, total, weighted=unequal(examples)))
    used = None
    if only_used(model, running, settings):
        used = np.union1d(examples.tokens(), [model.tokenizer.pad_token_id])
    with (
        torch.random.fork_rng(),
        dropout.quick(*model.modules()),
        used_embeddings.alone(model.bare, used),
        neftune.noise(model, settings.neftune_alpha),
        recompute.blocks(model, settings.gradient_checkpointing),
    ):
        state = begin(model, running, settings, rate, out)
        goes_back = settings.on_divergence == "rollback" and not rise
        state.untouched = {} if goes_back else None
        if running.looks_before and not state.progress.step:
            out.say(f"looking at {len(examples):,} training examples before the first step")
            with models.autocast(model):
                running.before(examples, lambda batch, needs: objective.outputs(model, batch, needs))
        check_room(state, settings, watch, out)
        if goes_back and not state.progress.step:
            state.save(out.checkpoints)
        progress, pace = state.progress, Pace(out, state.progress.step, total)
        steps: list[Step] = []
        losses: list[float] = []  # for `rise` alone, which is not resumed
        while not progress.stopped and not paused(progress, until):
            epoch, within = divmod(progress.step, per_epoch)
            if within == 0 or not steps:
                steps = plan(
                    lengths,
                    settings.batch_size,
                    settings.tokens_per_batch,
                    seed,
                    epoch,
                    packed=model.packed,
                    drawn=mixed.drawn(seed, epoch) if mixed else None,
                    part_of=mixed.part_of if mixed else None,
                )
            if within == 0 and state.running.epoch(epoch, progress.evaluations):
                regroup(state, rate.peak, settings.weight_decay)
                check_room(state, settings, watch, out)
                state.note_trainable(out.checkpoints)
                tell_groups(state, out)
            torch.manual_seed(seed * 1_000_003 + progress.step)  # each step has its own dropout: nothing to restore
            factor = rate.factor(progress.step, watch.figures(progress.evaluations)) * divergence.factor(
                progress.events
            )
            for group in state.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            chosen = running.batches(progress.step, steps[within], lengths, settings.tokens_per_batch)
            micro_batches = [[examples[i] for i in micro] for micro in chosen]
            policy: divergence.Policy = "stop" if rise else settings.on_divergence
            loss, norm = take_step(state, micro_batches, objective, settings.max_grad_norm, policy)
            losses.append(loss)
            if rise and (rise.over(losses) or not math.isfinite(norm)):
                progress.stopped = "ran away"
            elif not rise and judge(state, policy, loss, norm, total, out) == "rolled back":
                go_back(state, settings, rate, out)
                progress, steps, pace = state.progress, [], Pace(out, state.progress.step, total)
                continue
            progress.step += 1
            progress.tokens += sum(example.covers for batch in micro_batches for example in batch)
            figures: dict[str, Any] = {
                "loss": loss,
                "learning_rate": rate.peak * factor,
                "grad_norm": norm,
                "tokens": progress.tokens,
            }
            if not running.tells_loss:
                figures |= {"loss": None, "tokens": None}
            if rise or math.isfinite(loss + norm):
                note(state, {"epoch": round(progress.step / per_epoch, 4), **figures})
            pace.tell(progress.step, figures["loss"], sum(lengths[i] for micro in chosen for i in micro))
            if progress.step % every == 0 or progress.step == total:
                consider(state, evaluate, watch, progress.step / per_epoch, out)
            if progress.step == total:
                progress.stopped = progress.stopped or "finished"
            if progress.step % settings.checkpoint_steps == 0 or progress.stopped or paused(progress, until):
                state.save(out.checkpoints)
        if progress.stopped and watch.keep_best and progress.best and progress.best["step"] != progress.step:
            state.restore_best(out.checkpoints)
        progress.facts = running.facts()
        running.close()
        for module in model.modules():
            module.eval()
    return progress


def paused(progress: Progress, until: int | None) -> bool:
    """Whether as many evaluations are done as are to be done for now."""
    return until is not None and len(progress.evaluations) >= until


def unequal(examples: TokenArrays | Mixture | Sample) -> bool:
    """Whether some examples weigh more or less than 1, or are of another task, or a share of those that there are."""
    if isinstance(examples, Mixture):
        return len(examples.parts) > 1 or any(part.weight != 1 or unequal(part.examples) for part in examples.parts)
    return isinstance(examples, Sample) or bool((examples.weights != 1).any())


def take_step(
    state: State,
    micro_batches: Sequence[Sequence[Encoded]],
    objective: Objective | Several,
    max_grad_norm: float,
    policy: divergence.Policy = "stop",
) -> tuple[float, float]:
    """One optimizer step; returns the loss (nats per supervised token, with penalties) and the gradient's norm.

    Nothing is changed where one of them is not finite, or where the policy is not to apply such a loss.
    """
    loss = gradients(state.model, micro_batches, objective, state.running)
    norm = clip(state.model, max_grad_norm)
    if divergence.done(policy, divergence.found(state.progress.course, loss, norm)) == "applied":
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, norm


def judge(state: State, policy: divergence.Policy, loss: float, norm: float, total: int, out: Out) -> divergence.Done:
    """What was done about a step; DivergedError where nothing more is to be tried. Whatever it was is remembered and told."""
    progress = state.progress
    found = divergence.found(progress.course, loss, norm)
    if state.running.tells_loss:  # else nothing follows from it
        progress.course = divergence.remembered(progress.course, loss, found)
    if not found:
        return "applied"
    done = divergence.done(policy, found)
    event = {"step": progress.step + 1, "found": found, "done": done}
    why = divergence.exhausted(progress.events, done, total)
    if done == "stopped" or why:
        raise divergence.diverged(event, loss, norm, why)
    progress.events.append(event)
    if done != "rolled back":  # which is told when it is known to where
        note(state, event)
        out.say(divergence.sentence(event))
    return done


def go_back(state: State, settings: TrainSettings, rate: LearningRate | Rise, out: Out) -> None:
    """Take up the last checkpoint, remember why, and keep that before anything else happens."""
    events = state.progress.events
    state.go_back(out.checkpoints)
    regroup(state, rate.peak, settings.weight_decay)
    state.take_up_optimizer(out.checkpoints)
    events[-1]["to"] = state.progress.step
    state.progress.events = events
    state.history.add(events[-1])
    state.progress.history_lines += 1
    state.save(out.checkpoints)
    out.say(divergence.sentence(events[-1]))


def gradients(
    model: Model, micro_batches: Sequence[Sequence[Encoded]], objective: Objective | Several, running: Running
) -> float:
    """Gradients of one effective batch; returns its mean loss per supervised token (nats) with the penalties.

    Each micro-batch's sum is divided by the supervised tokens of the *whole* batch, so cutting it differently changes
    nothing: one big batch and sixteen small ones have the same gradient.
    """
    covered = sum(example.covers * example.weight for batch in micro_batches for example in batch) or 1.0
    model.forward.train()
    total = 0.0
    for batch in micro_batches:
        with models.autocast(model):
            outputs = objective.outputs(model, batch, running.needs)
            outputs.again = lambda other, needs, batch=batch: objective.outputs(other, batch, needs)
            divisor = running.divisor(batch, covered)
            losses_B = running.losses(batch, objective.loss(outputs, batch), outputs)
            losses_B = losses_B / (divisor if isinstance(divisor, float) else losses_B.new_tensor(divisor))
        running.backward(losses_B)
        total += losses_B.detach().sum()
    penalty = running.penalty()
    if penalty is not None:
        penalty.backward()
        total += penalty.detach()
    running.finish()
    return float(total)


def clip(model: Model, max_norm: float) -> float:
    """Scale the gradients of all that trains down to a norm where theirs is larger; returns theirs."""
    from torch.nn.utils import clip_grads_with_norm_, get_total_norm

    moving = [parameter for parameter in model.trainable().values() if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in moving if parameter.grad is not None])
    found = float(norm)
    if found + 1e-6 > max_norm:  # torch's own multiplies by 1 otherwise, which is a pass over all of them
        clip_grads_with_norm_(moving, max_norm, norm)
    return found


def start(model: Model, settings: TrainSettings, inputs: Inputs, seed: int) -> Together:
    """The techniques, running; they may have changed the model."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # new matrices, such as those of lora, are drawn from the recipe's seed alone
        in_turn = sorted(settings.techniques, key=lambda technique: technique.starts_last)
        running = Together([each.start(model, inputs.get(each.kind, {})) for each in in_turn])
    if not model.trainable():
        raise UserError(
            "every parameter is frozen, so there is nothing to train", where="train.techniques", hint="freeze less"
        )
    model.packed = model.packed and all(technique.layout != "rows" for technique in settings.techniques)
    return running


def only_used(model: Model, running: Together, settings: TrainSettings) -> bool:
    """Whether embeddings that no example reads may be left out: nothing moves them, no technique looks at them, and
    which they are need not be hidden."""
    moved = settings.weight_decay or not settings.optimizer.unmoved
    return not (model.head.writes or moved or running.watches_parameters or running.samples)


def begin(model: Model, running: Together, settings: TrainSettings, rate: LearningRate | Rise, out: Out) -> State:
    """The state before the first step, or that of the last whole checkpoint."""
    out.checkpoints.mkdir(parents=True, exist_ok=True)
    optimizer = settings.optimizer.over(groups(model, running, rate.peak, settings.weight_decay))
    state = State(model, optimizer, Progress(), running, History(out.checkpoints / "history.jsonl"))
    if state.take_up(out.checkpoints):
        regroup(state, rate.peak, settings.weight_decay)
        state.take_up_optimizer(out.checkpoints)
        out.say(f"resuming at step {state.progress.step} of {rate.total}")
    else:
        regroup(state, rate.peak, settings.weight_decay)
        state.note_trainable(out.checkpoints)
        tell_groups(state, out)
    return state


def regroup(state: State, peak: float, weight_decay: float) -> None:
    """Give the optimizer what trains now: a technique's own groups, or matrices with weight decay and the rest without."""
    state.optimizer.param_groups.clear()
    for group in groups(state.model, state.running, peak, weight_decay):
        state.optimizer.add_param_group({**group, "peak": group["lr"]})


def groups(model: Model, running: Running, peak: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: a technique's own or one, each divided where weight decay comes to its matrices alone."""
    if isinstance(running, Together) and running.groups_owner is not None:
        found = []
        for group in running.groups_owner.groups(peak):
            decided = "weight_decay" in group or not weight_decay
            found += [{"weight_decay": 0.0, **group}] if decided else spared(group, weight_decay, f"{group['name']}: ")
        return found
    return spared({"params": list(model.trainable().values()), "lr": peak}, weight_decay)


def check_room(state: State, settings: TrainSettings, watch: Watch, out: Out) -> None:
    """Say what will be written to the disk; MachineError where there is no room for it."""
    model, progress = state.model, state.progress
    parameters = dict(model.named_parameters())
    train = {*progress.trained, *model.trainable()}
    trained, names = [parameters[name] for name in train], room.bytes_of_names(train)
    finished = room.tensor_bytes(trained) if model.adapted else memory(model.bare)
    asked = room.Room(
        weights=room.tensor_bytes(trained),
        optimizer=sum(settings.optimizer.keeps(tuple(parameter.shape)) for parameter in trained),
        techniques=room.tensor_bytes(state.running.state()[0].values()),
        names=names,
        model=finished + names // 5 + room.SETTINGS + room.tokenizer_bytes(model.tokenizer),
        keeps_best=watch.keep_best,
    )
    free = room.check(asked, out.checkpoints, size_of(out.checkpoints))
    out.say(asked.sentence(free))


def spared(group: Mapping[str, Any], weight_decay: float, before: str = "") -> list[dict[str, Any]]:
    """A group as two, with weight decay on matrices and none on biases and norms."""
    matrices = [parameter for parameter in group["params"] if parameter.ndim >= 2]
    rest = [parameter for parameter in group["params"] if parameter.ndim < 2]
    found = [
        {**group, "params": matrices, "weight_decay": weight_decay, "name": f"{before}matrices"},
        {**group, "params": rest, "weight_decay": 0.0, "name": f"{before}biases and norms"},
    ]
    return [each for each in found if each["params"]]


def tell_groups(state: State, out: Out) -> None:
    """What trains from here on, as a table, and for the report."""
    from luthier.used_embeddings import whole_size

    found = [
        Group(
            name=group["name"],
            tensors=len(group["params"]),
            parameters=sum(whole_size(state.model.bare, parameter) for parameter in group["params"]),
            learning_rate=group["peak"],
            weight_decay=group["weight_decay"],
        )
        for group in state.optimizer.param_groups
    ]
    grouping = Grouping(step=state.progress.step, groups=found)
    state.progress.groups.append(grouping.model_dump(mode="json"))
    for line in grouping.table():
        out.say(line)


def consider(state: State, evaluate: Evaluate, watch: Watch, epoch: float, out: Out) -> None:
    """Evaluate on validation, remember the best weights, and stop when patience is out."""
    progress = state.progress
    state.model.forward.eval()
    figures = evaluate(state.model)
    entry = {"epoch": round(epoch, 4), "validation": figures}
    progress.evaluations.append({"step": progress.step, **entry})
    note(state, entry)
    if watch.metric not in figures:
        return  # no validation split
    value, sign = figures[watch.metric], 1.0 if watch.higher_is_better else -1.0
    if progress.best is None or sign * value > sign * progress.best["value"]:
        progress.best = {"epoch": epoch, "step": progress.step, "metric": watch.metric, "value": value}
        progress.waited = 0
        if watch.keep_best:
            state.save_best(out.checkpoints)
    else:
        progress.waited += 1
        if watch.patience and progress.waited >= watch.patience:
            progress.stopped = "patience"


def note(state: State, entry: Mapping[str, Any]) -> None:
    """One line of the history."""
    state.history.add({"step": state.progress.step, **entry})
    state.progress.history_lines += 1


class Pace:
    """Tells how fast training goes and how long it will take."""

    def __init__(self, out: Out, step: int, total: int) -> None:
        self.out, self.first, self.total = out, step, total
        self.tokens, self.start = 0, time.perf_counter()
        self.warm = self.start

    def tell(self, step: int, loss: float | None, tokens: int) -> None:
        """One step is done; the first one also warms up, so the estimate comes after the second."""
        now, done = time.perf_counter(), step - self.first
        self.tokens += tokens
        if done == 1:
            self.warm = now
        elif done == 2:
            left = (now - self.warm) * (self.total - step)
            self.out.say(f"training will take about {left:.0f} s on this machine ({self.total} steps)")
        seconds = now - self.start
        figures = {} if loss is None else {"loss": f"{loss:.3f}"}
        figures["tokens/s"] = f"{self.tokens / seconds:.0f}"
        self.out.progress(step, self.total, **figures, left=f"{seconds / done * (self.total - step):.0f} s")
