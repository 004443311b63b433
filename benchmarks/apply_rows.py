"""Memory and time of `apply` beside the model: reading the table, keeping questions and answers, writing the result.

    python benchmarks/apply_rows.py [--rows 10000 100000]

Each table of distinct short values is applied in a process of its own, by a session that answers at once. The peak is
what that process held at most, less what it held before it began.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from luthier.applying import Questions, answer, begun, write
from luthier.durable import identity
from luthier.engines import Request, Said, Session, Tell, untold
from luthier.form import Form
from luthier.objectives import Objective
from luthier.readers import Table
from luthier.reading import detect
from luthier.store import Silent, hardware
from luthier.tasks.standardize import Standardize


class AtOnce(Session):
    """Says the beginning of what it is asked."""

    def answer(self, requests: Sequence[Request], tell: Tell = untold) -> list[Said]:
        return [Said(text=str(request.prompt)[:12], confidence=0.5) for request in requests]


def applied(source: Path) -> None:
    """Apply, and print seconds and kilobytes."""
    task = Standardize(table="t", column="value", target="clean")
    form = Form(task=task.form(), objective=Objective.pick("causal"), auto="", max_length=64)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    table, session, target = Table(source, detect(source)), AtOnce(), source.with_suffix(".out.csv")
    with begun(target, {}, Silent()) as answers:
        answers.plan(Questions(task, {"table": table}, form), source)
        part = answers.path.stat().st_size
        answer(answers, session, Silent())
        write(answers, session, form, task, table, target, identity(source.stat()))
        part = max(part, answers.path.stat().st_size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(time.perf_counter() - start, (peak - before) / 1000, source.stat().st_size / 1e6, part / 1e6)


def main() -> None:
    """Make, apply, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--apply", type=Path, help="the table that this process is to apply")
    options = parser.parse_args()
    if options.apply:
        applied(options.apply)
        return
    print(f"{hardware()['processor']}, {hardware()['threads']} threads")
    print(f"{'rows':>10}{'seconds':>9}{'peak MB':>9}{'table MB':>10}{'part-file MB':>14}")
    with tempfile.TemporaryDirectory() as scratch:
        for n in options.rows:
            source = Path(scratch) / f"{n}.csv"
            with source.open("w", encoding="utf-8") as file:
                file.write("id,value\n")
                file.writelines(f"{number},value number {number:x}\n" for number in range(n))
            command = [sys.executable, __file__, "--apply", str(source)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak, size, part = map(float, done.stdout.split())
            print(f"{n:>10,}{seconds:>9.1f}{peak:>9.1f}{size:>10.1f}{part:>14.1f}")


if __name__ == "__main__":
    main()
