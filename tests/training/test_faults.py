"""Real runs with real workers that are killed, stopped and left: same weights, nothing behind."""

import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from torch import Tensor

from sparring.engine import FixedLag
from sparring.records import MetricsLog, RunDirectory, to_json, write_json
from sparring.training import Asynchronous, Step, resume, train
from training.small_runs import PAPERS, Watching, assert_same_bits, small, weights_of

pytestmark = pytest.mark.process
SOURCE = Asynchronous(workers=1, policy=FixedLag(lag=3, split=2), fresh_steps=1, patience=3.0)
UPDATES = 40


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run that nothing disturbs. It has no workers, which change no bit."""
    config = small(model=PAPERS, source=replace(SOURCE, workers=0), updates=UPDATES)
    return weights_of(train(config, tmp_path_factory.mktemp("calm") / "run").network)


def children(process: int) -> list[int]:
    """Workers of a process; Python's own resource tracker is none."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found if b"spawn_main" in _command_of(int(child))]


def _command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def is_gone(process: int) -> bool:
    """Whether there is no such process, or it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: object, seconds: float) -> float:
    """Wait for a condition, and return how long it took."""
    begun = time.monotonic()
    while not condition():  # pyright: ignore[reportCallIssue]
        if time.monotonic() - begun > seconds:
            pytest.fail(f"not within {seconds} seconds")
        time.sleep(0.02)
    return time.monotonic() - begun


def test_workers_killed_and_stopped_at_random_change_no_bit(expected, tmp_path):
    chance, before = random.Random(7), sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    hurt: list[int] = []

    def disturb(step: Step) -> None:
        """Every fifth update hurts a worker that starts, attacks or waits."""
        workers = [child for child in children(os.getpid()) if child not in hurt]
        if step.step % 5 == 3 and workers and len(hurt) < 4:
            time.sleep(chance.uniform(0, 0.5))
            hurt.append(chance.choice(workers))
            how = (signal.SIGKILL, signal.SIGSTOP)[len(hurt) % 2]
            os.kill(hurt[-1], how)

    config = small(model=PAPERS, source=replace(SOURCE, workers=2), updates=UPDATES)
    done = train(config, tmp_path / "rough", sinks=[Watching(disturb)])
    assert_same_bits(weights_of(done.network), expected)
    assert len(hurt) >= 3
    rows = MetricsLog(done.run.metrics).rows()
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, UPDATES + 1))
    totals = next(row for row in reversed(rows) if "deaths" in row)
    assert totals["trained"] == UPDATES
    assert totals["leased"] == int(totals["done"] or 0) + int(totals["lost"] or 0)
    assert int(totals["deaths"] or 0) >= 1  # on a busy machine also of workers that start slowly
    assert any("died" in str(row.get("event")) for row in rows)
    until(lambda: all(map(is_gone, hurt)), 500)
    assert not children(os.getpid())
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1  # noqa: PTH208


@contextmanager
def running(out: Path, tmp_path: Path, **how: object) -> Iterator[subprocess.Popen[bytes]]:
    """A run of its own process, as a user starts one."""
    config = small(model=PAPERS, source=SOURCE, updates=UPDATES, checkpoint_every=10)
    settings = tmp_path / "settings.json"
    write_json(settings, to_json(config))
    command = [sys.executable, "-m", "sparring", "train", "--config", str(settings)]
    process = subprocess.Popen([*command, "--out", str(out)], **how)  # pyright: ignore
    try:
        metrics = RunDirectory(out).metrics
        until(lambda: metrics.exists() and metrics.read_bytes().count(b"loss") >= 8, 500)
        until(lambda: len(children(process.pid)) == 1, 500)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_trainer_leaves_no_orphan_and_its_run_can_be_resumed(expected, tmp_path):
    with running(tmp_path / "run", tmp_path) as process:
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGSTOP)
        process.kill()
        process.wait()
        until(lambda: all(map(is_gone, workers)), 500)
    assert_same_bits(weights_of(resume(tmp_path / "run").network), expected)


def is_deaf_to(process: int, number: signal.Signals) -> bool:
    """Whether the process's main thread has the signal blocked."""
    status = Path(f"/proc/{process}/status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked.split()[1], 16) >> (number - 1) & 1)


def test_a_closed_terminal_stops_the_run_at_a_checkpoint(expected, tmp_path):
    """The terminal's processes get SIGHUP, and writing to it fails from then on.

    Workers ignore it, and Ctrl-C, which reaches them too.
    """
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    Thread(target=_read_all, args=(ours,), daemon=True).start()
    with running(tmp_path / "run", tmp_path, **terminal) as process:
        workers = children(process.pid)
        for number in (signal.SIGINT, signal.SIGHUP):
            assert all(is_deaf_to(worker, number) for worker in workers), number
        os.close(theirs)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(timeout=500) == 128 + signal.SIGHUP
        until(lambda: all(map(is_gone, workers)), 500)
    assert_same_bits(weights_of(resume(tmp_path / "run").network), expected)


def _read_all(terminal: int) -> None:
    """Read a terminal until its other end is closed."""
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
