"""Memory of preparing and training on many short rows: the peak of anonymous memory, which is what a machine must have.

    python benchmarks/million_rows.py [--rows 1000000] [--epochs 1] [--keep FOLDER]

A table of short rows is made (classification of a few words, two labels), then prepared, encoded and trained on
with a tiny model, in a process of its own that is watched. Mapped files are not counted: they can be dropped at any
time. Times are of this machine.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

RECIPE = """\
version: 1
name: million
task: {kind: classify, table: rows.csv, text: text, label: label}
base: {kind: folder, path: base}
prepare: {split: {kind: random, validation: 0.01, test: 0.01}}
encode: {max_length: 32}
train: {epochs: EPOCHS, learning_rate: 1e-3, batch_size: 512, tokens_per_batch: 16384, precision: float32}
score: {latency_samples: 0}
"""
WORDS = ["red", "blue", "old", "new", "big", "tin", "cap", "box", "nut", "rod"]

CHILD = """
import sys
from luthier import flow
from luthier.recipe_file import load

class Lines:
    def progress(self, what, done, total, figures): pass
    def say(self, line): print("|", line, flush=True)

opened = load(sys.argv[1])
store = flow.store_for(opened, Lines())
opened = flow.settled(opened, store)
print("stage prepare", flush=True)
examples = flow.prepared(opened, store)
print("stage encode", flush=True)
base = flow.base_model(opened.recipe.base, opened, store)
encoded = flow.encode_for(opened.recipe, store, examples, base)
print("stage train", flush=True)
model = flow.trained(opened, store, encoded, base)
print("stage end", examples.facts["splits"], model.facts["steps"], flush=True)
"""


def table(path: Path, n: int) -> None:
    """Rows of two to five words with a number that makes most of them distinct."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(n):
            words = " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))
            file.write(f"{words} {number:x},{'AB'[number % 3 == 0]}\n")


def anonymous_bytes(process: int) -> int:
    """Anonymous memory that a process holds now."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def watched(recipe: Path) -> dict[str, tuple[float, int]]:
    """Seconds and peak anonymous bytes of each stage."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(recipe)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    lines: list[str] = []
    peaks: dict[str, tuple[float, int]] = {}
    stage, start = "start", time.perf_counter()

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            print(line.rstrip(), file=sys.stderr)
            lines.append(line)

    threading.Thread(target=listen, daemon=True).start()
    seen = 0
    while process.poll() is None:
        try:
            now = anonymous_bytes(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
        while seen < len(lines):
            if lines[seen].startswith("stage "):
                stage, start = lines[seen].split()[1], time.perf_counter()
            seen += 1
        peaks[stage] = (time.perf_counter() - start, max(now, peaks.get(stage, (0.0, 0))[1]))
        time.sleep(0.05)
    if process.wait():
        raise SystemExit("the watched process failed")
    return peaks


def main() -> None:
    """Make, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, help="folder to work in; by default a temporary one")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny

    from luthier.store import hardware

    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        root.mkdir(exist_ok=True)
        tiny.build(root / "base", "bert")
        table(root / "rows.csv", options.rows)
        (root / "recipe.yaml").write_text(RECIPE.replace("EPOCHS", str(options.epochs)))
        peaks = watched(root / "recipe.yaml")
    print(
        f"{options.rows:,} rows, {options.epochs:g} epochs; {hardware()['processor']}, {hardware()['threads']} threads"
    )
    print(f"{'':<10}{'seconds':>9}{'peak anonymous memory':>24}")
    for stage in ("prepare", "encode", "train"):
        seconds, peak = peaks[stage]
        print(f"{stage:<10}{seconds:>9.0f}{peak / 1e9:>21.2f} GB")


if __name__ == "__main__":
    main()
