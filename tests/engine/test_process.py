"""Real worker processes: what they attack, how they end, and what they leave behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker, spawn
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor, nn

from engine.small_job import (
    IMAGES,
    Home,
    expected_batch,
    lease,
    network,
    small_arena,
    small_job,
    until,
)
from sparring.engine import Broker, Engine, FixedLag, Policy
from sparring.engine.attacker import AttackJob, publish
from sparring.engine.memory import Arena
from sparring.engine.transports import Died, Done
from sparring.engine.transports.process import ProcessTransport

pytestmark = pytest.mark.process


@contextmanager
def workplace(policy: Policy, job: AttackJob) -> Iterator[tuple[Arena, ProcessTransport]]:
    arena = small_arena(policy, job)
    transport = ProcessTransport(job, arena, IMAGES)
    try:
        yield arena, transport
    finally:
        transport.stop()
        arena.close()


def test_a_worker_attacks_with_the_published_weights_as_anyone_would():
    with workplace(FixedLag(lag=1), small_job()) as (arena, transport):
        weights = network(7)
        publish(weights, arena, 0)
        worker = transport.start()
        transport.submit(lease(worker, 3, number=11, slot=1))
        event = until(transport, Done)
        assert (event.worker, event.lease) == (worker, 11)
        assert 0 < event.work.attack < 60
        assert 0 < event.work.overhead < 60
        expected = expected_batch(3, weights, 0)
        assert torch.equal(arena["attacked 1"], expected.adversarial)
        assert not arena["attacked 0"].any()


class Poison:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


@dataclass(frozen=True)
class Carrying:
    """Builds a network and carries something along, as the builder of one's own network may."""

    load: object

    def __call__(self) -> nn.Module:
        return network(0)


def test_a_worker_that_dies_while_it_reads_its_job_keeps_nothing_waiting():
    load = (Poison(), b"0" * 300_000)  # more than a pipe holds
    with workplace(FixedLag(lag=1), replace(small_job(), build=Carrying(load))) as (_, transport):
        worker = transport.start()
        assert until(transport, Died).worker == worker


def test_a_worker_that_dies_before_it_reads_its_job_keeps_nothing_waiting(monkeypatch):
    resource_tracker.ensure_running()  # or it would be the process that ends at once
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(shutil.which("false") or ""))
    weights = torch.zeros(100_000)
    job = replace(small_job(), build=Carrying(weights))
    with workplace(FixedLag(lag=1), job) as (_, transport):
        starting = Thread(target=transport.start, daemon=True)
        starting.start()
        starting.join(500)
        assert not starting.is_alive()
        assert "ended with exit code 1" in until(transport, Died).reason
    assert not weights.is_shared()


def test_a_worker_that_the_system_has_no_room_for_is_a_death(monkeypatch):
    def refused(process: SpawnProcess) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refused)
    with workplace(FixedLag(lag=1), small_job()) as (_, transport):
        worker = transport.start()
        reason = "it could not be started: Resource temporarily unavailable"
        assert list(transport.poll(10.0)) == [Died(worker=worker, reason=reason)]
        assert not transport.processes


@pytest.mark.parametrize(
    ("end", "reason"),
    [(signal.SIGKILL, "when memory runs out"), (signal.SIGTERM, "ended with exit code -15")],
)
def test_a_worker_that_is_killed_is_reported_dead(end, reason):
    with workplace(FixedLag(lag=1), small_job()) as (_, transport):
        worker = transport.start()
        os.kill(transport.processes[worker], end)
        event = until(transport, Died)
        assert event.worker == worker
        assert reason in event.reason
        assert transport.poll(0) == []
        assert not transport.processes


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_raises_says_why_and_ends():
    with workplace(FixedLag(lag=1), small_job(raises_at=0)) as (_, transport):
        transport.submit(lease(transport.start(), 0))
        event = until(transport, Died)
        assert "ArithmeticError: ticket 0 cannot be attacked" in event.reason


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_hangs_can_be_killed_even_if_it_is_stopped():
    with workplace(FixedLag(lag=1), small_job(hangs_at=0)) as (_, transport):
        worker = transport.start()
        transport.submit(lease(worker, 0))
        time.sleep(0.5)
        os.kill(transport.processes[worker], signal.SIGSTOP)
        transport.kill(worker)
        assert until(transport, Died).worker == worker


def interrupted(process: SpawnProcess) -> int | None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("forked_workers")
def test_a_death_is_reported_though_ctrl_c_comes_while_it_is_waited_for(monkeypatch):
    with workplace(FixedLag(lag=1), small_job(raises_at=0)) as (_, transport):
        worker = transport.start()
        transport.submit(lease(worker, 0))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("sparring.engine.transports.process._ended", interrupted)
            until(transport, Died)
        event = until(transport, Died)
        assert event.worker == worker
        assert "ticket 0 cannot be attacked" in event.reason
        assert not transport.processes


@pytest.mark.usefixtures("forked_workers")
def test_who_kills_a_worker_whose_death_was_lost_gets_its_death():
    with workplace(FixedLag(lag=1), small_job()) as (_, transport):
        worker = transport.start()
        os.kill(transport.processes[worker], signal.SIGKILL)
        until(transport, Died)
        transport.kill(worker)
        assert [event.worker for event in transport.poll(0)] == [worker]
        assert transport.poll(0) == []


def test_what_ties_a_worker_to_its_trainer_comes_before_pytorch():
    """Else a trainer that is killed while a worker imports PyTorch leaves it behind."""
    seen = "import sys, sparring.engine.transports.birth; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], check=False).returncode == 0


def test_stopping_leaves_no_process_and_no_descriptor():
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    with workplace(FixedLag(lag=2), small_job(hangs_at=0)) as (_, transport):
        for _ in range(2):
            transport.submit(lease(transport.start(), 0))
        processes = list(transport.processes.values())
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    after = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    # The first spawn of a process starts Python's own resource tracker, which keeps one pipe.
    assert len(after) <= len(before) + 1
    transport.stop()


def run(workers: int, *, helps: bool, kills: int = 0) -> tuple[dict[str, Tensor], Broker]:
    policy, job = FixedLag(lag=6, period=2), small_job()
    with workplace(policy, job) as (arena, transport):
        broker, home = Broker(policy, tickets=60), Home(arena, job)
        engine = Engine(broker, transport, home, workers=workers, helps=helps)
        for ready in engine:
            home.update(arena[f"attacked {ready.slot}"])
            if kills and ready.ticket % 15 == 14:
                kills -= 1
                victims = list(transport.processes.values())
                os.kill(victims[0], signal.SIGKILL)
        engine.close()
        return {n: v.clone() for n, v in home.network.state_dict().items()}, broker


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("workers", "helps", "kills"),
    [(1, False, 0), (2, True, 0), (2, False, 2)],
)
def test_the_weights_depend_neither_on_workers_nor_on_help_nor_on_kills(workers, helps, kills):
    alone, _ = run(0, helps=True)
    weights, broker = run(workers, helps=helps, kills=kills)
    assert all(torch.equal(weights[name], alone[name]) for name in alone)
    assert broker.ledger.trained == 60
    assert max(broker.ledger.staleness) <= broker.policy.bound
