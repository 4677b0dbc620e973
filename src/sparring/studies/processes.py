"""Independent pieces of work side by side, each in a process of its own.

Units: seconds are wall-clock.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, runtime_checkable

from sparring.errors import SparringError, TrainingError

TOLD_EVERY = 0.5
"""Seconds between two messages about progress: more often tells no person more."""

Tell = Callable[[float], None]
"""Takes the share of the work that is done."""


@runtime_checkable
class Job(Protocol):
    """Something to be done, which pickles."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def work(self, tell: Tell) -> Any:
        """Do it, telling how far it is; what it returns pickles."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What a process says of its job."""

    share: float = 0.0
    """How much of it is done."""
    result: Any = None
    """What came of it, at the end."""
    ended: bool = False
    """Whether this is the end."""
    error: SparringError | str | None = None
    """Why it could not be done."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Worker:
    """A process that does one job after the other, and our end of what joins us to it."""

    process: BaseProcess
    connection: Any
    leash: Any
    """Ends when this process does: then the worker stops, too."""
    job: Job | None = None
    """What it is doing."""

    @classmethod
    def start(cls, threads: int) -> "_Worker":
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        end, leash = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, end, threads))
        process.start()
        theirs.close()
        end.close()
        return cls(process=process, connection=ours, leash=leash)

    def give(self, job: Job) -> None:
        """Hand a job over."""
        self.job = job
        self.connection.send(job)

    def heard(self) -> Message:
        """What it says next, or that it is dead."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Message(ended=True, error=f"its process ended with {self.process.exitcode}")

    def stop(self) -> None:
        """Ask it to stop what it is doing, and wait until it has."""
        if self.job is not None:
            self.process.terminate()
            while not self.heard().ended:  # so that no full pipe holds it up
                pass
        self.connection.close()
        self.process.join()
        self.leash.close()
        self.process.close()


@dataclass(kw_only=True, slots=True, eq=False)
class SideBySide:
    """Carries jobs out, some at a time, and hands over their results as they come.

    A job that fails stops the others, which may take their time to leave things in order; so does
    whatever ends the iteration early. A process whose parent dies is asked to stop, too.
    """

    jobs: Sequence[Job]
    """What is to be done, in order of starting."""
    at_once: int
    """Processes beside each other."""
    threads: int = 1
    """CPU threads of each."""
    told: Callable[[Job, float], None] = lambda job, share: None
    """Hears how far each job is."""

    def __iter__(self) -> Iterator[tuple[Job, Any]]:
        """Each job with its result.

        Raises what a job raised, if that is one of ours that pickles; else `TrainingError`.
        """
        left = list(reversed(self.jobs))
        workers: list[_Worker] = []
        try:
            workers += (_Worker.start(self.threads) for _ in range(min(self.at_once, len(left))))
            for worker in workers:
                worker.give(left.pop())
            while busy := {worker.connection: worker for worker in workers if worker.job}:
                for connection in wait(list(busy)):
                    worker = busy[connection]
                    if (done := self._done(worker)) is None:
                        continue
                    if left:
                        worker.give(left.pop())
                    yield done
        finally:
            for worker in workers:
                worker.stop()

    def _done(self, worker: _Worker) -> tuple[Job, Any] | None:
        """The job that a worker has come to the end of, and its result; none if it goes on."""
        job, message = worker.job, worker.heard()
        if job is None or not message.ended:
            if job is not None:
                self.told(job, message.share)
            return None
        worker.job = None
        if isinstance(message.error, SparringError):
            raise message.error
        if message.error is not None:
            raise TrainingError(
                f"{job.name} must run to its end for the study to be whole; it failed: "
                f"{message.error} What was done before is kept: give the command again."
            )
        return job, message.result


def _serve(connection: Any, leash: Any, threads: int) -> None:
    """What a worker does."""
    import torch

    torch.set_num_threads(threads)
    # A terminal sends these to all processes at once; the parent alone decides, and then asks.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(leash,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            connection.send(_carried_out(connection.recv(), connection))


def _carried_out(job: Job, connection: Any) -> Message:
    """The last message about a job."""
    last = 0.0

    def tell(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            with suppress(OSError):
                connection.send(Message(share=share))

    try:
        return Message(ended=True, result=job.work(tell))
    except SparringError as error:
        return Message(ended=True, error=_picklable(error))
    except Exception:  # the parent tells of it
        return Message(ended=True, error=traceback.format_exc())


def _watch(leash: Any) -> None:
    """Ask this process to stop when its parent is gone; nothing else ever comes."""
    with suppress(EOFError, OSError):
        leash.recv()
    os.kill(os.getpid(), signal.SIGTERM)


def _picklable(error: SparringError) -> SparringError | str:
    """The error, if it comes through a pipe whole."""
    return error if type(error).__init__ is SparringError.__init__ else str(error)
