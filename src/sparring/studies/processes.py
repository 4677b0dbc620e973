"""Independent pieces of work side by side, each in a process of its own.

Units: seconds are wall-clock.
"""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, runtime_checkable

from sparring.errors import SparringError, TrainingError

TOLD_EVERY = 0.5
"""Seconds between two messages about progress."""

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
    def start(cls) -> "_Worker":
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        end, leash = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, end))
        process.start()
        theirs.close()
        end.close()
        return cls(process=process, connection=ours, leash=leash)

    def give(self, job: Job, threads: int) -> None:
        """Hand a job over, to be done with so many CPU threads."""
        self.job = job
        self.connection.send((job, threads))

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
class JobProcesses:
    """Processes that carry jobs out, some at a time; they are there as long as the `with` lasts.

    A job that fails stops the others, which may take their time to leave things in order; so does
    whatever ends the iteration over results early. A process whose parent dies is asked to stop,
    too.
    """

    told: Callable[[Job, float], None] = lambda job, share: None
    """Hears how far each job is."""
    _idle: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> "JobProcesses":
        """Themselves; a process is started when it is first needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Send them home."""
        while self._idle:
            self._idle.pop().stop()

    def carry_out(
        self, jobs: Sequence[Job], *, at_once: int, threads: int = 1
    ) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, as they come; begun in order, with so many CPU threads each.

        Raises what a job raised, if that is one of ours that pickles; else `TrainingError`.
        """
        left, busy = list(reversed(jobs)), list[_Worker]()
        try:
            while left or busy:
                while left and len(busy) < at_once:
                    busy.append(self._idle.pop() if self._idle else _Worker.start())
                    busy[-1].give(left.pop(), threads)
                heard = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in heard]:
                    if (done := self._done(worker)) is not None:
                        busy.remove(worker)
                        self._idle.append(worker)
                        yield done
        finally:
            for worker in busy:
                worker.stop()

    def _done(self, worker: _Worker) -> tuple[Job, Any] | None:
        """The job that a worker has come to the end of, and its result; `None` while it runs."""
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


def _serve(connection: Any, leash: Any) -> None:
    """What a worker does."""
    # A terminal sends these to all processes at once; the parent alone decides, and then asks.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(leash,), daemon=True).start()
    import torch

    with suppress(EOFError, OSError):
        while True:
            job, threads = connection.recv()
            torch.set_num_threads(threads)
            connection.send(_carried_out(job, connection))


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
    except Exception:  # the parent raises it
        return Message(ended=True, error=traceback.format_exc())


def _watch(leash: Any) -> None:
    """Ask this process to stop when its parent is gone; nothing else ever comes."""
    with suppress(EOFError, OSError):
        leash.recv()
    os.kill(os.getpid(), signal.SIGTERM)


def _picklable(error: SparringError) -> SparringError | str:
    """The error, if it comes through a pipe whole."""
    try:
        pickle.loads(pickle.dumps(error))
    except TypeError:
        return str(error)
    return error
