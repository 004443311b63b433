"""The proofs: what must hold of any fine-tuning, each measured on a model and rows, with a tolerance.

B examples, T tokens, S supervised positions, V tokens or C classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier import checkpoint, fit
from luthier import model as models
from luthier.batching import Encoded
from luthier.encoding import rendered
from luthier.engines import Request
from luthier.errors import UserError, first_line
from luthier.model import ABOUT, Model
from luthier.subject import ADAPTER, Subject, adapter_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.encoding import Prompt
    from luthier.techniques import Running

Status = Literal["pass", "fail", "not checked"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of what is computed in another order
GRADIENT = {"float32": 1e-3, "bfloat16": 0.1}  # sums over a vocabulary of 262,144 tokens were seen to part by 3e-4
SAME = 1e-6  # of what is computed in the same order
TELLING = 10  # times the tolerance that an adapter must change, so that its merge can be judged
WEIGHTS = (1.0, 0.5, 2.0, 0.25, 1.5)  # of examples, unequal
NEW_TOKENS = 8  # written by each prompt
LOGITS = "of the largest logit"
TWO_ANSWERS = "a row holds two answers, and is no text of one prompt and its answer"
FILES = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.RUNNING)


@dataclass(frozen=True)
class Proof:
    """What was found of one property."""

    name: str
    status: Status
    difference: float | None = None  # measured, in `unit`; None where nothing was
    tolerance: float | None = None
    unit: str = ""
    detail: str = ""  # what was looked at, or why nothing was
    seconds: float = 0.0

    def json(self) -> dict[str, Any]:
        """As JSON; what is no number is null."""
        finite = self.difference is not None and math.isfinite(self.difference)
        return asdict(self) | {"difference": self.difference if finite else None, "claim": claim(self.name)}


def accumulation(subject: Subject) -> Proof:
    """Rows computed one by one and accumulated have the loss and the gradient of one batch of them all, however long they
    are and whatever they weigh."""
    name, objective = "accumulation", subject.objective
    if objective is None or len(subject.encoded) < 2:
        return unchecked(name, "there are no two rows")
    model, running = subject.started()
    if running.samples:
        return unchecked(name, "a technique draws the rows of each step, and noise on its gradient")
    still(model)
    if running.looks_before:
        with models.autocast(model):
            running.before(subject.encoded, lambda rows, needs: objective.outputs(model, rows, needs))
    batch = [replace(row, weight=WEIGHTS[n % len(WEIGHTS)]) for n, row in enumerate(subject.encoded)]
    whole = gradient(subject, model, running, [batch])
    parts = gradient(subject, model, running, [[row] for row in batch])
    tolerance = GRADIENT[model.precision]
    if not apart(parts, whole) <= tolerance:
        again = gradient(subject, model, running, [batch])
        if not apart(again, whole) <= tolerance:
            return unchecked(name, "the same batch twice has two gradients: a technique draws noise for each")
    return judged(
        name, apart(parts, whole), tolerance, "of the gradient's norm", f"1 x {len(batch)} rows, {len(batch)} x 1"
    )


def packed(subject: Subject) -> Proof:
    """Rows computed together, end to end or padded, have the logits that each has alone."""
    import torch

    name, model = "packed", subject.model
    if subject.objective is None or not subject.encoded:
        return unchecked(name, "there are no rows")
    if subject.objective.learned_with:
        return unchecked(name, TWO_ANSWERS)
    model.packed = model.packed and not (subject.folder is None and rows_only(subject))
    with torch.no_grad(), models.autocast(model):
        outputs = subject.objective.outputs(model, subject.encoded, "logits")
    if outputs.logits is None:
        return unchecked(name, "its objective leaves no logits")
    alone_SV = torch.cat([at_supervised(model, row) for row in subject.encoded])
    how = "end to end" if model.packed else "padded"
    return judged(name, relative(outputs.logits, alone_SV), TOLERANCE[model.precision], LOGITS, how)


def supervised_loss(subject: Subject) -> Proof:
    """The loss at supervised positions alone is the loss that transformers computes from all logits and its own labels."""
    import torch

    name, model = "supervised_loss", subject.model
    if subject.objective is None or not subject.encoded:
        return unchecked(name, "there are no rows")
    if subject.objective.learned_with:
        return unchecked(name, TWO_ANSWERS)
    rows = [replace(row, weight=1.0) for row in subject.encoded]
    with torch.no_grad(), models.autocast(model):
        mine_B = subject.objective.loss(subject.objective.outputs(model, rows, "losses"), rows).double()
        theirs = [model.forward(**alone(model, row), labels=labels_of(model, row)).loss * row.covers for row in rows]
    theirs_B = torch.stack(theirs).double()
    # a model that knows its rows loses next to nothing on them, and rounding is that of the logits, not of the loss
    apart = relative(mine_B, theirs_B) * min(1.0, float(theirs_B.max()))
    unit = "of the largest loss, or nats where it is below 1"
    return judged(name, apart, TOLERANCE[model.precision], unit, f"{len(rows)} rows")


def end_of_sequence(subject: Subject) -> Proof:
    """The last token that carries loss in each row ends an answer, so that the model learns to stop."""
    import torch

    name, model = "end_of_sequence", subject.model
    if not subject.head.writes:
        return unchecked(name, "a classification head writes nothing")
    if not subject.examples or subject.objective is None:
        return unchecked(name, "without its recipe nobody knows which tokens carried loss")
    with torch.no_grad(), models.autocast(model):
        outputs = subject.objective.outputs(model, subject.encoded, "logits")
    if outputs.wanted is None or outputs.rows is None:
        return unchecked(name, "its objective names no tokens")
    ends = set(model.ends)
    wanted, rows = outputs.wanted.tolist(), outputs.rows.tolist()
    last = dict(zip(rows, wanted, strict=True))  # of each row the last one stays
    missing = sum(last.get(row) not in ends for row in range(len(subject.encoded)))
    names = ", ".join(model.tokenizer.convert_ids_to_tokens(sorted(ends)))
    return judged(name, missing, 0, "rows", f"{len(subject.encoded)} rows end with {names}")


def training_text(subject: Subject) -> Proof:
    """What a row is trained behind is, token for token, what predict sends for it and what transformers makes of the folder's
    own tokenizer; of a chat template: the tokens that ask are the beginning of the whole conversation's."""
    from transformers import AutoTokenizer

    name = "training_text"
    folder = subject.folder or subject.saved
    there = folder if (folder / "tokenizer_config.json").exists() else subject.weights
    tokenizer = AutoTokenizer.from_pretrained(there, local_files_only=True)
    if subject.form is None:
        return asks_as_it_trains(name, subject, tokenizer)
    if subject.form.objective.learned_with:
        return unchecked(name, TWO_ANSWERS)
    if subject.form.conversations and not tokenizer.chat_template:
        return Proof(name, "fail", detail="it learned conversations, and its tokenizer has no chat template")
    if subject.examples:
        whole = [n for n, row in enumerate(subject.encoded) if not row.cut_tokens]
        prompts: list[Prompt] = [subject.form.task.prompt(subject.examples[n]) for n in whole]
        trained = [prompt_of(subject.encoded[n]) for n in whole]
    else:
        prompts, trained = some_prompts(subject, tokenizer), []
    if not prompts:
        return unchecked(name, "every row is cut")
    try:
        sent = tokens_sent(subject, prompts)
        exported = [as_exported(prompt, tokenizer) for prompt in prompts]
    except UserError as problem:
        return Proof(name, "fail", detail=problem.what)
    if not trained:  # a conversation that does not fit is cut by whole turns, which no tokenizer does by itself
        fits = [
            n for n, prompt in enumerate(prompts) if isinstance(prompt, str) or len(exported[n]) <= subject.max_length
        ]
        prompts, sent, exported = ([part[n] for n in fits] for part in (prompts, sent, exported))  # type: ignore[assignment]
        if not prompts:
            return unchecked(name, "no conversation of ours fits")
    others = {"predict": sent, "the folder's tokenizer": exported}
    if not trained:
        trained, others = sent, {"the folder's tokenizer": exported}
    wrong = {who: sum(list(a) != list(b) for a, b in zip(trained, ids, strict=True)) for who, ids in others.items()}
    told = "; ".join(f"{who} reads {n} of {len(prompts)} otherwise" for who, n in wrong.items() if n)
    return judged(name, max(wrong.values()), 0, "prompts", told or f"{len(prompts)} prompts, {' and '.join(wrong)}")


def resumed(subject: Subject) -> Proof:
    """Training taken up from a checkpoint ends in the weights, the optimizer and the techniques' state of training that was
    never stopped: in the same bytes on a processor."""
    name = "resumed"
    if subject.objective is None or len(subject.encoded) < 2:
        return unchecked(name, "there are no two rows")
    if problem := no_room(subject):
        return unchecked(name, problem)
    whole = subject.short.checkpoints / checkpoint.LAST
    again = subject.train(subject.place / "again").checkpoints / checkpoint.LAST
    tolerance = 0.0 if subject.device == "cpu" else SAME
    other = [file for file in FILES if sha256(whole / file) != sha256(again / file)]
    found = max((apart_on_disk(whole / file, again / file) for file in other), default=0.0)
    if other and not found:
        found = math.inf  # other names
    told = f"{', '.join(other)} differ" if other else f"SHA-256 {sha256(whole / FILES[0])[:12]} of the weights"
    return judged(name, found, tolerance, "of the largest value", told)


def frozen(subject: Subject) -> Proof:
    """What a technique freezes has the same bytes after training, and something else has moved."""
    import torch

    name = "frozen"
    if subject.objective is None or len(subject.encoded) < 2:
        return unchecked(name, "there are no two rows")
    if problem := no_room(subject):
        return unchecked(name, problem)
    before, _ = subject.started()
    after = dict(subject.short.model.named_parameters())
    changed = [n for n, parameter in before.named_parameters() if not torch.equal(parameter.data, after[n].data)]
    trained = set(subject.short.trained)
    held = [n for n in after if n not in trained]
    wrong = [n for n in changed if n not in trained]
    if not changed:
        return Proof(name, "fail", detail="nothing has moved at all")
    if not held:
        return unchecked(name, "every parameter trains")
    return judged(name, len(wrong), 0, "tensors", f"{wrong[0]} moved" if wrong else f"{len(held)} frozen")


def saved(subject: Subject) -> Proof:
    """A model that was saved and loaded says what it said in memory; a folder of Luthier, what it said when it was saved."""
    name, model = "saved", subject.model
    if subject.altered:
        return Proof(name, "fail", detail=f"{subject.altered[0]} is not what the run recorded")
    if subject.folder is not None and (lost := lost_tensors(subject.folder, model)):
        return Proof(name, "fail", detail=f"{len(lost)} tensors of its file are not in the model, such as {lost[0]}")
    found, told = {}, "saved and loaded here"
    loaded = subject.load(subject.saved)
    rows = subject.encoded
    if rows:
        found[told] = max(relative(logits(loaded, row), logits(model, row)) for row in rows)
    if subject.folder is not None and (then := said_then(subject.folder)):
        import torch

        now = models.said(model)
        found["as it was saved"] = (
            relative(torch.tensor(now), torch.tensor(then)) if len(now) == len(then) else math.inf
        )
    if not found:
        return unchecked(name, "there are no rows")
    worst = max(found, key=lambda way: found[way])
    tolerance = tolerance_of(subject.folder) if worst == "as it was saved" else SAME
    return judged(name, found[worst], tolerance, LOGITS, " and ".join(found) if found[worst] <= tolerance else worst)


def merged(subject: Subject) -> Proof:
    """The adapter folded into the weights says what it says beside them."""
    name, model = "merged", subject.model
    if not model.adapted:
        return unchecked(name, "there is no adapter")
    if not subject.encoded:
        return unchecked(name, "there are no rows")
    try:
        plain = models.folded(model)
    except UserError as problem:
        return unchecked(name, f"it cannot be merged ({first_line(problem)})")
    tolerance = TOLERANCE[model.precision]
    if how_much_it_changes(subject) < TELLING * tolerance:
        return unchecked(name, "the adapter changes next to nothing, so that its merge would prove nothing")
    found = max(relative(logits(model, row, plain), logits(model, row)) for row in subject.encoded)
    return judged(name, found, tolerance, LOGITS, f"{len(subject.encoded)} rows")


def switched_off(subject: Subject) -> Proof:
    """With its adapter switched off the model says what its base says."""
    name, model = "switched_off", subject.model
    if not model.adapted:
        return unchecked(name, "there is no adapter")
    if not subject.encoded:
        return unchecked(name, "there are no rows")
    base = subject.load(None)
    with without_adapter(model):
        off = [logits(model, row) for row in subject.encoded]
    found = max(relative(mine, logits(base, row)) for mine, row in zip(off, subject.encoded, strict=True))
    return judged(name, found, SAME, LOGITS, f"{len(subject.encoded)} rows")


def batched_answers(subject: Subject) -> Proof:
    """Answers computed in a batch of prompts of unequal lengths are those computed one by one."""
    from luthier.generate import generate, scores

    name, model = "batched_answers", subject.model
    if not subject.encoded:
        return unchecked(name, "there are no prompts")
    prompts = [prompt_of(row) for row in subject.encoded]
    tolerance = TOLERANCE[model.precision]
    if not model.head.writes:
        together, apart_ = scores(model, prompts, batch=len(prompts)), scores(model, prompts, batch=1)
        return judged(name, relative(together, apart_), tolerance, LOGITS, f"{len(prompts)} texts")
    ends = set(model.ends) or {model.tokenizer.eos_token_id} - {None}
    written = [
        generate(model, prompts, max_new_tokens=NEW_TOKENS, stop=ends, batch=batch) for batch in (len(prompts), 1)
    ]
    found = max(parting(a.tokens, a.logprobs, b.tokens, b.logprobs) for a, b in zip(*written, strict=True))
    # two tokens may be level: what they are worth is compared, up to and with the first that differ
    return judged(name, found, 10 * tolerance, "nats", f"{len(prompts)} prompts, up to {NEW_TOKENS} tokens each")


PROOFS: dict[str, Callable[[Subject], Proof]] = {
    proof.__name__: proof
    for proof in (
        training_text,
        end_of_sequence,
        supervised_loss,
        packed,
        accumulation,
        resumed,
        frozen,
        saved,
        merged,
        switched_off,
        batched_answers,
    )
}


def claim(name: str) -> str:
    """What a proof shows, in one sentence."""
    return " ".join((inspect.getdoc(PROOFS[name]) or "").split())


def judged(name: str, difference: float, tolerance: float, unit: str, detail: str) -> Proof:
    """Passed where the difference is within the tolerance; one that is no number is not."""
    return Proof(name, "pass" if difference <= tolerance else "fail", difference, tolerance, unit, detail)


def unchecked(name: str, why: str) -> Proof:
    """A proof that could not be made, with the reason."""
    return Proof(name, "not checked", detail=why)


def relative(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value; infinite where the shapes differ or one is no number."""
    if mine.shape != theirs.shape:
        return math.inf
    mine, theirs = mine.detach().double().cpu(), theirs.detach().double().cpu()
    found = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)) if mine.numel() else 0.0
    return found if math.isfinite(found) else math.inf


Gradient = tuple[float, dict[str, "torch.Tensor"]]  # the loss, and what each parameter that trains got


def gradient(subject: Subject, model: Model, running: Running, micro_batches: Sequence[Sequence[Encoded]]) -> Gradient:
    """Loss and gradient of one step, as the training loop computes them."""
    import torch

    assert subject.objective is not None
    with torch.random.fork_rng():
        torch.manual_seed(subject.seed)
        loss = fit.gradients(model, micro_batches, subject.objective, running)
    found = {name: p.grad.detach().clone() for name, p in model.trainable().items() if p.grad is not None}
    model.forward.zero_grad(set_to_none=True)
    return loss, found


def apart(mine: Gradient, theirs: Gradient) -> float:
    """How far two gradients lie apart, as a share of the second one's norm, or the losses where these differ more."""
    if mine[1].keys() != theirs[1].keys():
        return math.inf
    squares = [
        (float((mine[1][name] - g).double().square().sum()), float(g.double().square().sum()))
        for name, g in theirs[1].items()
    ]
    norm = math.sqrt(sum(square for _, square in squares))
    found = math.sqrt(sum(square for square, _ in squares)) / norm if norm else math.inf
    return max(found, abs(mine[0] - theirs[0]) / max(abs(theirs[0]), 1e-30))


def still(model: Model) -> None:
    """Take all dropout out of a model, which would draw another mask for each way of computing it."""
    from torch.nn.modules.dropout import _DropoutNd

    for module in model.forward.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def rows_only(subject: Subject) -> bool:
    """Whether a technique asks for rows."""
    return any(technique.layout == "rows" for technique in subject.settings.techniques)


def alone(model: Model, row: Encoded) -> dict[str, torch.Tensor]:
    """A row by itself, without padding, as transformers takes it."""
    import torch

    ids = torch.tensor([list(map(int, model.fronted(row.ids)))], device=model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def labels_of(model: Model, row: Encoded) -> torch.Tensor:
    """What a row is to learn, as transformers takes it: -100 where there is no loss."""
    import torch

    targets = list(map(int, row.targets))
    if not model.head.writes:
        return torch.tensor(targets, device=model.device)
    if model.architecture == "encoder-decoder":
        return torch.tensor([targets], device=model.device)
    carried = [int(token) if carries else -100 for token, carries in zip(row.ids, row.supervised, strict=True)]
    carried = [-100] * len(model.front) + carried
    return torch.tensor([carried], device=model.device)


def logits(model: Model, row: Encoded, module: nn.Module | None = None) -> torch.Tensor:
    """Logits (T, V) of a row by itself, of the tokens that an encoder-decoder writes, or (1, C) of a classifier."""
    import torch

    inputs = alone(model, row)
    if model.head.writes and model.architecture == "encoder-decoder":
        start = models.decoder_start(model)
        written = [start, *map(int, row.targets)][:-1]
        inputs["decoder_input_ids"] = torch.tensor([written], device=model.device)
    with torch.no_grad(), models.autocast(model):
        found: torch.Tensor = (module or model.forward)(**inputs).logits.float()
    if not model.head.writes:
        return found
    n = inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else len(row.ids)
    return found[0, -n:]  # behind what an adapter may put before the text


def at_supervised(model: Model, row: Encoded) -> torch.Tensor:
    """The logits of a row by itself that carry loss: (S, V), or (1, C)."""
    found = logits(model, row)
    if not model.head.writes or model.architecture == "encoder-decoder":
        return found
    return found[[place - 1 for place in range(1, len(row.ids)) if row.supervised[place]]]


def prompt_of(row: Encoded) -> list[int]:
    """What a model reads of a row before it writes the last answer."""
    ids = list(map(int, row.ids))
    if not len(row.supervised):
        return ids
    end = len(ids)
    while end and row.supervised[end - 1]:
        end -= 1
    return ids[:end]


def some_prompts(subject: Subject, tokenizer: Any) -> list[Prompt]:
    """What a folder without rows is asked: conversations where it learned them, else texts, one of them too long."""
    if subject.form is not None and subject.form.conversations:
        return [list(turns) for turns in CONVERSATIONS if takes(tokenizer, turns)]
    names = [name for name in tokenizer.all_special_tokens if name]
    return [
        "a",
        "The quick brown fox, 10 : 30",
        f"a {names[0] if names else ''} b",
        "word " * subject.max_length + "end",
    ]


USER, SYSTEM = {"role": "user", "content": "What is it?"}, {"role": "system", "content": "Answer briefly."}
ANSWER = {"role": "assistant", "content": "It is 3."}
CONVERSATIONS = ([USER], [SYSTEM, USER], [USER, ANSWER, {"role": "user", "content": "And now?"}])


def takes(tokenizer: Any, turns: Sequence[dict[str, str]]) -> bool:
    """Whether a chat template takes a conversation."""
    try:
        rendered(turns, tokenizer, asks=True)
    except UserError:
        return False
    return True


def tokens_sent(subject: Subject, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of prompts on the way that predict, apply and the service take."""
    session: Any = subject.session
    found: list[list[int]] = session.tokens([Request(prompt) for prompt in prompts])
    return found


def as_exported(prompt: Prompt, tokenizer: Any) -> list[int]:
    """The tokens of a prompt in plain transformers."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt, truncation=True)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))


def asks_as_it_trains(name: str, subject: Subject, tokenizer: Any) -> Proof:
    """Of a folder that others wrote: a template that asks with the beginning of what it writes with the answer."""
    if not tokenizer.chat_template:
        if models.load_tokenizer(subject.weights).chat_template:
            return Proof(
                name, "fail", detail="the base has a chat template, and the tokenizer beside the adapter has none"
            )
        return unchecked(name, "no recipe and no chat template says what it was trained behind")
    asked = [turns for turns in CONVERSATIONS if takes(tokenizer, turns)]
    if not asked or not subject.head.writes:
        return unchecked(
            name, "its chat template takes no conversation of ours" if subject.head.writes else "it writes nothing"
        )
    wrong = 0
    for turns in asked:
        before = as_exported(turns, tokenizer)
        whole = list(tokenizer.apply_chat_template([*turns, ANSWER], return_dict=False))
        wrong += whole[: len(before)] != before
    return judged(name, wrong, 0, "conversations", f"{len(asked)} conversations through its chat template")


def no_room(subject: Subject) -> str:
    """Why the checkpoints of a short training cannot be written, or nothing."""
    needed = 5 * 12 * subject.n_trained  # checkpoints, each of weights and two moments in float32
    free = shutil.disk_usage(subject.place).free
    return f"its checkpoints need {needed / 1e9:.1f} GB in {subject.place.parent}" if needed > free else ""


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def apart_on_disk(one: Path, other: Path) -> float:
    """The largest difference between tensors of one name, as a share of the largest value."""
    mine, theirs = (checkpoint.read_weights(file.parent, file.name) for file in (one, other))
    if mine.keys() != theirs.keys():
        return math.inf
    return max((relative(mine[name], theirs[name]) for name in mine), default=0.0)


def lost_tensors(folder: Path, model: Model) -> list[str]:
    """Tensors of an adapter's file that the model does not hold as they are there."""
    import torch

    if not (folder / ADAPTER).exists():
        return []
    from peft import get_peft_model_state_dict

    written = adapter_tensors(folder)
    # whether embeddings were saved too is seen in the file; peft itself would look for the base's config, at a hub even
    there = get_peft_model_state_dict(
        model.forward, save_embedding_layers=any("embed_tokens" in name for name in written)
    )
    return [
        name
        for name, tensor in written.items()
        if name not in there or not torch.equal(there[name].cpu().float(), tensor.float())
    ]


def said_then(folder: Path) -> list[float]:
    """What a model said when it was saved; nothing where its folder does not tell."""
    if not (folder / ABOUT).exists():
        return []
    found: list[float] = json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("said", [])
    return found


def tolerance_of(folder: Path | None) -> float:
    """Within which a folder says what was said in memory: by the precision in which its weights lie."""
    config = folder / "config.json" if folder is not None else None
    kind = json.loads(config.read_text(encoding="utf-8")).get("dtype") if config is not None and config.exists() else ""
    return TOLERANCE["bfloat16" if kind == "bfloat16" else "float32"]


def how_much_it_changes(subject: Subject) -> float:
    """The share of the largest logit by which an adapter changes what its base says."""
    model = subject.model
    on = [logits(model, row) for row in subject.encoded]
    with without_adapter(model):
        return max(relative(logits(model, row), with_it) for with_it, row in zip(on, subject.encoded, strict=True))


@contextlib.contextmanager
def without_adapter(model: Model) -> Iterator[None]:
    """The adapter switched off. Where that leaves trained biases on, peft only warns; here it is measured."""
    wrapped: Any = model.forward
    if not wrapped.active_peft_config.is_prompt_learning:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias", UserWarning)
            with wrapped.disable_adapter():
                yield
        return
    from peft.utils.other import AuxiliaryTrainingWrapper

    # what stands before a text is read only where it is put there, which peft's own way does not know; nor does that
    # switch off a head
    heads = [each for each in model.bare.modules() if isinstance(each, AuxiliaryTrainingWrapper)]
    before, (model.front, model.prefix) = (model.front, model.prefix), ((), 0)
    try:
        for head in heads:
            head.enable_adapters(enabled=False)
        yield
    finally:
        model.front, model.prefix = before
        for head in heads:
            head.enable_adapters(enabled=True)


def parting(
    mine: Sequence[int], my_logprobs: Sequence[float], theirs: Sequence[int], their_logprobs: Sequence[float]
) -> float:
    """The largest difference (nats) between what two answers' tokens are worth, up to and with the first that differ."""
    same = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    pairs = list(zip(my_logprobs, their_logprobs, strict=False))[: same + 1]
    return max((abs(a - b) for a, b in pairs), default=0.0)
