"""Independent jobs in parallel, each in a process of its own.  Units: wall-clock seconds."""

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

REPORT_EVERY = 0.5
"""Seconds between two messages about progress."""

ReportShare = Callable[[float], None]
"""Takes the share of the work that is done."""


@runtime_checkable
class Job(Protocol):
    """A piece of work; it pickles."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def work(self, report: ReportShare) -> Any:
        """Do it and report its progress; the result pickles."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """From a process about its job."""

    share: float = 0.0
    """The share that is done."""
    result: Any = None
    """Its result, at the end."""
    ended: bool = False
    """Whether the job has ended."""
    error: SparringError | str | None = None
    """Why it failed."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Worker:
    """A process that does one job after the other, and this end of its pipes."""

    process: BaseProcess
    connection: Any
    parent_pipe: Any
    """It closes when this process ends; then the worker stops."""
    job: Job | None = None
    """Its current job."""

    @classmethod
    def start(cls) -> "_Worker":
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        end, parent_pipe = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, end))
        process.start()
        theirs.close()
        end.close()
        return cls(process=process, connection=ours, parent_pipe=parent_pipe)

    def send(self, job: Job, threads: int) -> None:
        self.job = job
        self.connection.send((job, threads))

    def receive(self) -> Message:
        """Its next message; one with an error if the process is dead."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Message(ended=True, error=f"its process ended with {self.process.exitcode}")

    def stop(self) -> None:
        """Stop its job, and wait until it ends."""
        if self.job is not None:
            self.process.terminate()
            while not self.receive().ended:  # a full pipe would block it
                pass
        self.connection.close()
        self.process.join()
        self.parent_pipe.close()
        self.process.close()


@dataclass(kw_only=True, slots=True, eq=False)
class JobProcesses:
    """Processes for jobs, each started when it is first needed; the end of the `with` stops them.

    A job that fails stops the others, which may still clean up. So does the end of the iteration
    over results. A process stops when its parent dies.
    """

    report: Callable[[Job, float], None] = lambda job, share: None
    """Takes each job's share that is done."""
    _idle: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> "JobProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().stop()

    def results(
        self, jobs: Sequence[Job], *, at_once: int, threads: int = 1
    ) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, in order of completion; jobs start in the order given.

        Raises a job's error if that is a `SparringError` that pickles; else `TrainingError`.
        """
        left, busy = list(reversed(jobs)), list[_Worker]()
        try:
            while left or busy:
                while left and len(busy) < at_once:
                    busy.append(self._idle.pop() if self._idle else _Worker.start())
                    busy[-1].send(left.pop(), threads)
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    if (done := self._done(worker)) is not None:
                        busy.remove(worker)
                        self._idle.append(worker)
                        yield done
        finally:
            for worker in busy:
                worker.stop()

    def _done(self, worker: _Worker) -> tuple[Job, Any] | None:
        """A worker's job with its result; `None` while it runs."""
        job, message = worker.job, worker.receive()
        if job is None or not message.ended:
            if job is not None:
                self.report(job, message.share)
            return None
        worker.job = None
        if isinstance(message.error, SparringError):
            raise message.error
        if message.error is not None:
            raise TrainingError(
                f"{job.name} failed: {message.error} Finished work is kept: run the study again."
            )
        return job, message.result


def _serve(connection: Any, parent_pipe: Any) -> None:
    """The main function of a worker."""
    # A terminal sends these to all processes; the parent stops the workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, args=(parent_pipe,), daemon=True).start()
    import torch

    with suppress(EOFError, OSError):
        while True:
            job, threads = connection.recv()
            torch.set_num_threads(threads)
            connection.send(_last_message(job, connection))


def _last_message(job: Job, connection: Any) -> Message:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY:
            last = time.monotonic()
            with suppress(OSError):
                connection.send(Message(share=share))

    try:
        return Message(ended=True, result=job.work(report))
    except SparringError as error:
        return Message(ended=True, error=_picklable(error))
    except Exception:  # the parent raises it
        return Message(ended=True, error=traceback.format_exc())


def _stop_with_parent(parent_pipe: Any) -> None:
    """Send this process SIGTERM once its parent is gone; nothing is ever sent in this pipe."""
    with suppress(EOFError, OSError):
        parent_pipe.recv()
    os.kill(os.getpid(), signal.SIGTERM)


def _picklable(error: SparringError) -> SparringError | str:
    """The error, or its text if it does not pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except TypeError:
        return str(error)
    return error
