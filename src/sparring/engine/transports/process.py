"""Workers as processes of this machine, spawned, each with a pipe of its own.

No lock, semaphore or queue is shared between processes: a worker that is killed at any instant
blocks nobody, and its death is the end of its own pipe. Images and weights travel through the
arena; only leases and their numbers go through the pipe.
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

from sparring.data import Images
from sparring.engine.attacker import Attacker, Job
from sparring.engine.handed_images import SharedImages
from sparring.engine.lease import Lease, Worker
from sparring.engine.memory import Arena, anonymous_file
from sparring.engine.transports.birth import Birth, Parcel, live
from sparring.engine.transports.protocol import Died, Done, Event, Up
from sparring.errors import OtherNetwork

GRACE = 2.0
"""Seconds that workers have to end by themselves once their pipes are closed."""
LAST_WORDS = 8000
"""Characters of a traceback that go through the pipe: few enough to be sent in one piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """All that a worker's process is told when it starts."""

    job: bytes
    """What to attack, and how: a pickled `Job`."""
    arena: Arena
    """Where weights, images and results are."""
    shared: SharedImages
    """The training images."""
    threads: int
    """CPU threads of the worker."""


@dataclass(kw_only=True, slots=True)
class _Hand:
    process: SpawnProcess
    pipe: Connection
    device: str
    words: str = ""
    """Why it is about to end, if it said so."""
    refusal: OtherNetwork | None = None
    """The error that every worker of this run would end with."""


class ProcessTransport:
    """Spawned processes; every worker's name is a number that is never used again.

    A worker computes on the one of `devices` that has the fewest of them. Cost: a copy of the
    training images that are in memory. Raises `DataError` for images that cannot be handed over.
    """

    def __init__(
        self,
        job: Job,
        arena: Arena,
        images: Images,
        *,
        devices: Sequence[str] = ("cpu",),
        threads: int = 1,
    ) -> None:
        self._devices = devices
        # As bytes: multiprocessing would move every tensor of a network that comes along into a
        # file of /dev/shm, the caller's own too.
        self._place = Workplace(
            job=pickle.dumps(job), arena=arena, shared=SharedImages(images), threads=threads
        )
        self._hands: dict[Worker, _Hand] = {}
        self._stillborn: list[Died] = []
        self._names = itertools.count()

    def start(self) -> Worker:
        """Spawn a process. Cost: some seconds until it attacks, most of them to import PyTorch.

        One that the system has no room for is a death, which the next `poll` tells of.
        """
        name = next(self._names)
        try:
            self._hands[name] = self._spawned(f"sparring worker {name}")
        except OSError as error:
            reason = f"it could not be started: {error.strerror or error}"
            self._stillborn.append(Died(worker=name, reason=reason))
        return name

    def _spawned(self, name: str) -> _Hand:
        spawn = get_context("spawn")
        taken = Counter(hand.device for hand in self._hands.values())
        device = min(self._devices, key=taken.__getitem__)
        parcel = Parcel(self._place, anonymous_file())
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=live,
            args=(Birth(os.getpid()), parcel, device, theirs),
            name=name,
            daemon=True,
        )
        # Ctrl-C and the end of a terminal reach all of its processes and are the trainer's to
        # handle: workers are born with both blocked, so that neither can meet them in an import.
        # The tracker of multiprocessing would unblock them, were it started by the first worker.
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
            parcel.close()
        return _Hand(process=process, pipe=ours, device=device)  # pyright: ignore

    def is_placed(self, worker: Worker) -> bool:
        """It always has: this machine."""
        return True

    def submit(self, lease: Lease) -> None:
        """Send the lease down its worker's pipe."""
        try:
            self._hands[lease.worker].pipe.send(lease)
        except (BrokenPipeError, ConnectionResetError):
            return  # the worker is dead, which `poll` will find at the end of its pipe

    def poll(self, timeout: float) -> Sequence[Event]:
        """Read every pipe that has something to say."""
        names = {hand.pipe: name for name, hand in self._hands.items()}
        events: list[Event] = [*self._stillborn]
        self._stillborn.clear()
        for pipe in wait(list(names), 0 if events else timeout):
            name = names[pipe]  # pyright: ignore[reportArgumentType]
            events += self._read(name)
        return events

    def kill(self, worker: Worker) -> None:
        """SIGKILL, which a stopped process obeys too."""
        if worker in self._hands:
            self._hands[worker].process.kill()

    def stop(self) -> None:
        """Close the pipes, which tells workers to end; kill those that do not."""
        for hand in self._hands.values():
            hand.pipe.close()
        for hand in self._hands.values():
            hand.process.join(GRACE)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            hand.process.close()
        self._hands.clear()
        self._place.shared.close()

    @property
    def processes(self) -> dict[Worker, int]:
        """Process numbers of the workers that are not known to be dead."""
        return {name: hand.process.pid or 0 for name, hand in self._hands.items()}

    def _read(self, name: Worker) -> list[Event]:
        events: list[Event] = []
        hand = self._hands[name]
        try:
            while hand.pipe.poll():
                message = hand.pipe.recv()
                match message:
                    case str():
                        hand.words = message
                    case OtherNetwork():
                        hand.words, hand.refusal = str(message), message
                    case None:
                        events.append(Up(worker=name))
                    case number, work:
                        events.append(Done(worker=name, lease=number, work=work))
        except (EOFError, OSError):
            events.append(self._bury(name))
        return events

    def _bury(self, name: Worker) -> Died:
        hand = self._hands.pop(name)
        hand.pipe.close()
        hand.process.join(GRACE)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join()
        code = hand.process.exitcode
        hand.process.close()
        return Died(worker=name, reason=hand.words or _ending(code), refusal=hand.refusal)


def _ending(code: int | None) -> str:
    """What an exit code means."""
    if code == -signal.SIGKILL:
        return "its process was killed; the system does so when memory runs out"
    return f"its process ended with exit code {code}"


def work(place: Workplace, device: str, pipe: Connection) -> None:
    """Leases in, numbers out, until the pipe closes."""
    try:
        torch.set_num_threads(place.threads)
        job, images = pickle.loads(place.job), place.shared.images
        attacker = Attacker(job, place.arena, images, torch.device(device))
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
        # Whatever it was, this process is not to be trusted any more; a fresh one takes over.
        pipe.send(traceback.format_exc()[-LAST_WORDS:])
        sys.exit(1)
