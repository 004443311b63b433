"""Training speed of a small encoder: Luthier beside transformers' Trainer, in turn on the same machine.

    LUTHIER_DATA=... python benchmarks/train_encoder.py [--rounds 5] [--texts 1280] [--precision bfloat16] [--threads 2]

Both fine-tune all of MiniLM (22 M parameters) for one epoch on the same questions with 6 labels (those of TREC where
LUTHIER_DATA holds `nlp/trec/train.txt`, made-up ones otherwise): batches of 32, AdamW, the same learning rate,
schedule, clipping and dropout. The Trainer runs at its best for this: fused AdamW, texts of like length together, each
batch padded to its longest, no evaluation, no checkpoint. Each round runs one after the other in fresh processes, the
order alternating, and after a short unmeasured run that warms up. Tokens are real ones; padding is not counted. Shown
are medians over rounds and, of the ratio, the least and the largest. The loss is the mean over the epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCH, LEARNING_RATE, WARMUP, LABELS = 32, 5e-5, 4, 6
WARM_TEXTS = 4 * BATCH


@dataclass
class Measured:
    """One training run."""

    tokens: int
    seconds: float
    loss: float


def questions(n: int) -> tuple[list[str], list[int], str]:
    """Texts, labels, and what they are."""
    place = Path(os.environ.get("LUTHIER_DATA", "")) / "nlp" / "trec" / "train.txt"
    draw = random.Random(0)
    if os.environ.get("LUTHIER_DATA") and place.is_file():
        rows = [line.split(" ", 1) for line in place.read_text(encoding="latin-1").splitlines()]
        draw.shuffle(rows)
        return [text for _, text in rows[:n]], [int(label) for label, _ in rows[:n]], "TREC"
    starts = ["what is", "who was", "where did", "how many", "why does", "when will"]
    words = [
        "the",
        "a",
        "river",
        "city",
        "war",
        "first",
        "king",
        "of",
        "in",
        "name",
        "long",
        "old",
        "color",
        "game",
        "book",
        "film",
        "star",
        "made",
        "from",
        "people",
    ]
    labels = [draw.randrange(LABELS) for _ in range(n)]
    texts = [f"{starts[label]} {' '.join(draw.choices(words, k=draw.randint(4, 18)))} ?" for label in labels]
    return texts, labels, "made-up questions"


def luthier_run(folder: Path, texts: list[str], labels: list[int], precision: str) -> Measured:
    """Luthier's training loop, `luthier.fit.fit`; the only function here that knows its parts."""
    from luthier import model as models
    from luthier import token_arrays
    from luthier.batching import Encoded
    from luthier.checkpoint import State
    from luthier.fit import Watch, fit
    from luthier.objectives import Objective
    from luthier.recipe import TrainSettings
    from luthier.store import Out, Silent

    head = models.Head("AutoModelForSequenceClassification", tuple(str(number) for number in range(LABELS)))
    model = models.load(folder, head, device="cpu", precision=precision, seed=0)
    settings = {
        "epochs": 1,
        "batch_size": BATCH,
        "learning_rate": LEARNING_RATE,
        "warmup": WARMUP,
        "techniques": ["full"],
        "keep": "last",
        "checkpoint_steps": 10**9,
        "precision": precision,
    }
    State.save = lambda *_: None  # type: ignore[method-assign]  # of the one at the end: the Trainer writes none either
    with tempfile.TemporaryDirectory() as scratch:
        ids = model.tokenizer(texts)["input_ids"]
        encoded = (Encoded(row, targets=[label], covers=1) for row, label in zip(ids, labels, strict=True))
        token_arrays.write(Path(scratch) / "train", encoded)
        arrays = token_arrays.TokenArrays(Path(scratch) / "train")
        out = Out(Path(scratch), "train", Silent())
        losses: list[float] = []
        out.progress = lambda *_, **figures: losses.append(float(figures["loss"]))  # type: ignore[method-assign]
        start = time.perf_counter()
        fit(
            model,
            arrays,
            Objective.pick("classify"),
            TrainSettings.model_validate(settings),
            lambda _: {},
            Watch(keep_best=False),
            out,
            0,
            {},
        )
        seconds = time.perf_counter() - start
    return Measured(sum(map(len, ids)), seconds, statistics.mean(losses))


def trainer_run(folder: Path, texts: list[str], labels: list[int], precision: str) -> Measured:
    """The same by transformers' Trainer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        logging,
    )

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS, dtype=torch.float32)
    rows: list[dict[str, Any]] = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}
        for ids, label in zip(tokenizer(texts)["input_ids"], labels, strict=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            bf16=precision == "bfloat16",
            use_cpu=True,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=0,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer)
        )
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # it prints its own summary
            loss = trainer.train().training_loss
        seconds = time.perf_counter() - start
    return Measured(sum(len(row["input_ids"]) for row in rows), seconds, loss)


RUNS = {"luthier": luthier_run, "trainer": trainer_run}


def once(system: str, folder: Path, options: argparse.Namespace) -> Measured:
    """One measured run in a fresh process."""
    flags = {"system": system, "folder": folder, "texts": options.texts, "precision": options.precision}
    command = [sys.executable, __file__, *(str(p) for k, v in flags.items() for p in (f"--{k}", v))]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stderr}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def inside(options: argparse.Namespace) -> None:
    """What the fresh process does: warm up, measure, print."""
    import torch

    torch.set_num_threads(options.threads)
    texts, labels, _ = questions(options.texts)
    run = RUNS[options.system]
    run(options.folder, texts[:WARM_TEXTS], labels[:WARM_TEXTS], options.precision)
    print(json.dumps(asdict(run(options.folder, texts, labels, options.precision))))


def base_folder(scratch: Path) -> Path:
    """MiniLM as a folder, out of the installed package."""
    from luthier.bases.package import minilm
    from luthier.store import Out, Silent

    minilm(scratch, Out(scratch, "fetch", Silent()))
    return scratch


def processor() -> str:
    """The processor's name and its bfloat16 instructions."""
    from luthier.store import hardware

    return str(hardware()["processor"])


def main() -> None:
    """Measure in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1280)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--system", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.system:
        inside(options)
        return
    measured: dict[str, list[Measured]] = {system: [] for system in RUNS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = base_folder(Path(scratch))
        for number in range(options.rounds):
            for system in list(RUNS) if number % 2 == 0 else list(RUNS)[::-1]:
                measured[system].append(once(system, folder, options))
                last = measured[system][-1]
                print(f"round {number + 1}: {system} {last.tokens / last.seconds:.0f} tokens/s", file=sys.stderr)
    speeds = {system: [run.tokens / run.seconds for run in runs] for system, runs in measured.items()}
    ratios = [ours / theirs for ours, theirs in zip(speeds["luthier"], speeds["trainer"], strict=True)]
    tokens, what = measured["luthier"][0].tokens, questions(options.texts)[2]
    print(f"{options.texts} texts ({what}), {tokens} real tokens, batches of {BATCH}, {options.rounds} rounds")
    print(f"{processor()}, {options.threads} threads, {options.precision}")
    print(f"{'':<10}{'real tokens/s':>14}{'seconds':>9}{'loss':>8}")
    for system, runs in measured.items():
        seconds, loss = statistics.median(run.seconds for run in runs), statistics.median(run.loss for run in runs)
        print(f"{system:<10}{statistics.median(speeds[system]):>14.0f}{seconds:>9.2f}{loss:>8.4f}")
    print(f"ratio     {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
