"""Every technique goes on after a crash, at whatever change to the disk it comes, and ends in the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import combining
import lasting
import pytest
import soaking
from crashing import PowerCut, failing, power
from lasting import Ready, Stopping, checkpoints

from luthier.checkpoint import LAST, newest_whole, read_weights
from luthier.errors import MachineError
from luthier.store import Artifact

pytestmark = pytest.mark.slow
ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("techniques")
    combining.build(folder)
    return folder


@pytest.fixture(scope="module", params=lasting.KINDS)
def ready(request: pytest.FixtureRequest, place: Path) -> Ready:
    """All before the training of one technique, and the training as it is when nothing happens."""
    made = Ready(place, request.param)
    made.whole = made.train(place / f"whole-{request.param}")
    made.kind = request.param
    return made


def same(one: Artifact, other: Artifact) -> bool:
    """Whether weights, history and facts are the same."""
    return one.content == other.content


def last_step(root: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    found = newest_whole(checkpoints(root) / LAST) if list(root.glob("work/train-*/checkpoints")) else None
    if found is None:
        return 0
    read_weights(found)
    return int(json.loads((found / "manifest.json").read_text())["facts"]["step"])


def test_stopped_at_any_step_it_resumes_to_the_bit_and_repeats_no_more_than_an_interval(
    ready: Ready, tmp_path: Path
) -> None:
    draw = random.Random(f"steps/{ready.kind}")
    repeated, seconds, n, wrong = [0], list[float](), soaking.trials(1, 5), 0
    for trial in range(n):
        root, reached = tmp_path / str(trial), 0
        for _ in range(2):
            listener = Stopping(draw.randint(1, 5))
            start = time.perf_counter()
            with contextlib.suppress(StopIteration):
                ready.train(root, listener)
            seconds += [listener.first - start] if listener.resumed_at else []
            assert reached - listener.resumed_at <= lasting.CHECKPOINT_STEPS
            repeated.append(reached - listener.resumed_at)
            reached = listener.reached
        wrong += not same(ready.train(root), ready.whole)
    figures = f"{max(repeated)} steps repeated at most (interval {lasting.CHECKPOINT_STEPS})"
    figures += f"; first step again after {median(seconds):.1f} s in the median" if seconds else ""
    soaking.record("QR1, QR2", f"{ready.kind}: stopped at random steps, ends in the same bytes", n, wrong, figures)
    assert not wrong


def test_whichever_change_to_the_disk_is_the_last_one_training_goes_on_to_the_same_bytes(
    ready: Ready, tmp_path: Path, quick_disk: Path
) -> None:
    with power() as meter:
        ready.train(quick_disk / "counted")
    draw = random.Random(f"cuts/{ready.kind}")
    cuts = sorted(draw.sample(range(meter.n), min(meter.n, soaking.trials(2, 20))))
    wrong = 0
    for cut in cuts:
        root = quick_disk / f"cut-{cut}"
        with power(cut), pytest.raises(PowerCut):
            ready.train(root)
        before = last_step(root)
        listener = Stopping()
        made = ready.train(root, listener)
        wrong += not same(made, ready.whole)
        assert made.reused or listener.resumed_at == before, "what was found whole is what is gone on from"
    what = f"{ready.kind}: power cut at a change to the disk, ends in the same bytes"
    soaking.record("QR1", what, len(cuts), wrong, f"of {meter.n} changes in all")
    assert not wrong


def test_whichever_change_to_the_disk_fails_once_nothing_is_mixed_and_nothing_is_lost(
    ready: Ready, quick_disk: Path
) -> None:
    with power() as meter:
        ready.train(quick_disk / "counted")
    draw = random.Random(f"errors/{ready.kind}")
    points = [(number, error) for number in range(1, meter.n + 1) for error in ERRORS]
    tried = draw.sample(points, min(len(points), soaking.trials(2, 20)))
    wrong = 0
    for number, error in tried:
        root = quick_disk / f"failed-{number}-{error}"
        with failing(number, error):
            try:
                ready.train(root)
            except OSError as problem:
                assert problem.errno == error
            except MachineError as problem:
                assert error == errno.ENOSPC
                assert problem.exit_code == 4
        last_step(root)  # reads what verifies
        wrong += not same(ready.train(root), ready.whole)
    what = f"{ready.kind}: a change to the disk fails once (ENOSPC, EIO, EINTR), nothing is mixed or lost"
    soaking.record("QR3", what, len(tried), wrong, f"of {len(points)} in all")
    assert not wrong


WORKER = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from lasting import Ready, Stopping
import peft, transformers

class Killer(Stopping):
    def __init__(self, steps, delay):
        super().__init__()
        self.steps, self.delay = steps, delay

    def progress(self, what, done, total, figures):
        if what == "train" and self.steps:
            self.steps -= 1
            if not self.steps:
                signal.setitimer(signal.ITIMER_REAL, self.delay)

ready = Ready(Path(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    root, steps, delay = line.split()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        print(ready.train(Path(root), Killer(int(steps), float(delay))).content, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print("killed" if os.waitstatus_to_exitcode(status) == -signal.SIGKILL else "failed", flush=True)
"""


@pytest.mark.skipif(
    not soaking.SOAK, reason="test_resume.py kills some techniques each time; all of them: LUTHIER_SOAK=1"
)
@pytest.mark.parametrize("kind", lasting.KINDS)
def test_killed_with_sigkill_at_random_moments_it_ends_in_the_same_bytes(
    place: Path, tmp_path: Path, kind: str
) -> None:
    draw, killed, answers = random.Random(f"kills/{kind}"), 0, []
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(place), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"

        def attempt(root: str, steps: int, delay_s: float) -> str:
            worker.stdin.write(f"{tmp_path / root} {steps} {delay_s}\n")
            worker.stdin.flush()
            return worker.stdout.readline().strip()

        whole = attempt("whole", 0, 0)
        for trial in range(6):
            for _ in range(3):
                answers.append(attempt(str(trial), draw.randint(1, 4), draw.uniform(0.0001, 0.05)))
            answers.append(attempt(str(trial), 0, 0))
            assert answers[-1] == whole
        worker.stdin.close()
    killed = answers.count("killed")
    assert killed >= 6
    assert set(answers) == {"killed", whole}
    soaking.record("QR1", f"{kind}: SIGKILL at random moments, ends in the same bytes", killed, 0)
