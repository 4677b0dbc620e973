"""Workers as spawned processes of this machine, each with a pipe of its own.

Processes share no lock, semaphore or queue: a worker that is killed at any instant blocks no other,
and its death is the end of its own pipe. Images and weights are in the arena; only leases and their
numbers go through the pipe.
"""

import itertools
import os
import pickle
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
from typing_extensions import override

from sparring.data import Images
from sparring.engine.attacker import Attacker, AttackJob
from sparring.engine.lease import Lease, Worker
from sparring.engine.memory import Arena, anonymous_file
from sparring.engine.shared_images import SharedImages
from sparring.engine.transports.birth import FileHandoff, ParentDeathGuard, run_worker
from sparring.engine.transports.protocol import FORGOTTEN, Died, Done, Event, Transport, Up
from sparring.errors import OtherNetwork

GRACE = 2.0
"""Seconds that workers have to end by themselves once their pipes are closed."""
LONGEST_TRACEBACK = 8000
"""Characters of a traceback that go through the pipe: few enough for one piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSetup:
    """What a worker's process gets when it starts."""

    job: bytes
    """A pickled `AttackJob`."""
    arena: Arena
    """Weights, images and results."""
    shared: SharedImages
    threads: int

    def work(self, device: str, pipe: Connection) -> None:
        """Carry out the leases that come through the pipe, until it closes."""
        try:
            torch.set_num_threads(self.threads)
            job, images = pickle.loads(self.job), self.shared.images
            attacker = Attacker(job, self.arena, images, torch.device(device))
            pipe.send(None)
            while True:
                lease = pipe.recv()
                pipe.send((lease.number, attacker(lease)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except OtherNetwork as error:
            pipe.send(error)
            sys.exit(1)
        except Exception:
            # After an unknown error this process cannot be trusted; a new one takes over.
            pipe.send(traceback.format_exc()[-LONGEST_TRACEBACK:])
            sys.exit(1)


@dataclass(kw_only=True, slots=True)
class WorkerHandle:
    """The trainer's side of a worker's process."""

    process: SpawnProcess
    pipe: Connection
    device: str
    reason: str = ""
    """Its traceback, if it sent one."""
    refusal: OtherNetwork | None = None
    """The error that every worker of this run would end with."""


class ProcessTransport(Transport):
    """Spawned processes; a worker's name is a number that is never used again.

    A worker computes on the one of `devices` with the fewest workers. Cost: a copy of the training
    images that are in memory. Raises `DataError` for streamed images that do not pickle.
    """

    def __init__(
        self,
        job: AttackJob,
        arena: Arena,
        images: Images,
        *,
        devices: Sequence[str] = ("cpu",),
        threads: int = 1,
    ) -> None:
        self._devices = devices
        # As bytes: multiprocessing would move every tensor of a pickled network into a file of
        # /dev/shm, the caller's own tensors too.
        self._setup = WorkerSetup(
            job=pickle.dumps(job), arena=arena, shared=SharedImages(images), threads=threads
        )
        self._workers: dict[Worker, WorkerHandle] = {}
        self._noticed: list[Died] = []
        self._names = itertools.count()

    @override
    def start(self) -> Worker:
        # The worker attacks after some seconds, most of which are the import of PyTorch.
        name = next(self._names)
        try:
            self._workers[name] = self._spawned(f"sparring worker {name}")
        except OSError as error:
            reason = f"it could not be started: {error.strerror or error}"
            self._noticed.append(Died(worker=name, reason=reason))
        return name

    def _spawned(self, name: str) -> WorkerHandle:
        spawn = get_context("spawn")
        taken = Counter(worker.device for worker in self._workers.values())
        device = min(self._devices, key=taken.__getitem__)
        handoff = FileHandoff(self._setup, anonymous_file())
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=run_worker,
            args=(ParentDeathGuard(os.getpid()), handoff, device, theirs),
            name=name,
            daemon=True,
        )
        # Ctrl-C and the end of a terminal reach all of its processes, and the trainer handles them:
        # workers start with both blocked, so that neither interrupts an import. The tracker of
        # multiprocessing would unblock them if the first worker started it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            handoff.close()
        return WorkerHandle(process=process, pipe=ours, device=device)  # pyright: ignore

    @override
    def is_placed(self, worker: Worker) -> bool:
        return True

    @override
    def submit(self, lease: Lease) -> None:
        try:
            self._workers[lease.worker].pipe.send(lease)
        except (BrokenPipeError, ConnectionResetError):
            return  # the worker is dead, which `poll` will find at the end of its pipe

    @override
    def poll(self, timeout: float) -> Sequence[Event]:
        names = {worker.pipe: name for name, worker in self._workers.items()}
        events: list[Event] = [*self._noticed]
        self._noticed.clear()
        for pipe in wait(list(names), 0 if events else timeout):
            name = names[pipe]  # pyright: ignore[reportArgumentType]
            events += self._read(name)
        return events

    @override
    def kill(self, worker: Worker) -> None:
        if worker in self._workers:
            self._workers[worker].process.kill()
        else:  # an exception, such as Ctrl-C, kept its end from the engine
            self._noticed.append(Died(worker=worker, reason=FORGOTTEN))

    @override
    def stop(self) -> None:
        for worker in self._workers.values():
            worker.pipe.close()  # its signal to end
        for worker in self._workers.values():
            _ended(worker.process)
        while self._workers:
            _, worker = self._workers.popitem()
            worker.process.close()
        self._setup.shared.close()

    @property
    def processes(self) -> dict[Worker, int]:
        """Process numbers of the workers whose death is not known."""
        return {name: worker.process.pid or 0 for name, worker in self._workers.items()}

    def _read(self, name: Worker) -> list[Event]:
        events: list[Event] = []
        worker = self._workers[name]
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                match message:
                    case str():
                        worker.reason = message
                    case OtherNetwork():
                        worker.reason, worker.refusal = str(message), message
                    case None:
                        events.append(Up(worker=name))
                    case number, work:
                        events.append(Done(worker=name, lease=number, work=work))
        except (EOFError, OSError):
            events.append(self._bury(name))
        return events

    def _bury(self, name: Worker) -> Died:
        worker = self._workers[name]
        code = _ended(worker.process)  # takes seconds: after Ctrl-C the next poll waits again
        del self._workers[name]
        worker.pipe.close()
        worker.process.close()
        return Died(worker=name, reason=worker.reason or _ending(code), refusal=worker.refusal)


def _ended(process: SpawnProcess) -> int | None:
    """Wait for a process, kill it if it takes too long, and return its exit code."""
    process.join(GRACE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _ending(code: int | None) -> str:
    """What an exit code means."""
    if code == -signal.SIGKILL:
        return "its process was killed; the system does so when memory runs out"
    return f"its process ended with exit code {code}"
