"""Keeps workers busy and gives the trainer its attacked tickets in order.

All of it runs in the trainer's thread, between updates. Units: seconds of a monotonic clock.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sparring.engine.broker import Broker
from sparring.engine.crew import Crew
from sparring.engine.lease import Lease, Ready, Stage, Work, Worker
from sparring.engine.transports.protocol import Died, Done, Event, Transport, Up

WAIT = 1.0
"""Seconds between two looks at workers that say nothing."""
PATIENCE = 60.0
"""A worker hangs if it holds a lease for so many seconds, and for ten times what it should take."""
ARRIVAL = 5
"""Times this patience, a worker that was started must be up: it imports PyTorch first."""
TRAINER: Worker = "trainer"
"""The trainer's name where it takes a lease itself."""

log = logging.getLogger(__name__)


@runtime_checkable
class Home(Protocol):
    """The trainer's own process."""

    def publish(self, buffer: int) -> None:
        """Write the current weights to this buffer, whole."""
        ...

    def attack(self, lease: Lease) -> Work:
        """Carry out a lease here."""
        ...


@dataclass(kw_only=True, slots=True)
class Spent:
    """Where the trainer's thread spent its time while it fetched tickets, in seconds."""

    help: float = 0.0
    """Attacking tickets itself."""
    wait: float = 0.0
    """Having nothing to do."""
    publish: float = 0.0
    """Writing its weights for the workers."""
    commit: float = 0.0
    """Seeing to the workers as soon as the weights are new; most writing of them is in it."""


class Engine:
    """An iterator of tickets that are ready to train.

    Going on to the next one commits the last, where `commit` was not called before: as soon as its
    weights are there, so that workers need not wait for what else the trainer has to do.

    Where the next ticket is not ready, the trainer attacks one that nobody has yet, unless `helps`
    is off: it has nothing better to do, and what it attacks is one less for the workers. Without
    workers it attacks everything. Workers take leases once they are up; one that dies is replaced,
    and with none left the trainer attacks everything too. It ends before its last ticket if nothing
    is ready and `stopped`.
    """

    def __init__(  # noqa: PLR0913 - three that work together, the settings by keyword
        self,
        broker: Broker,
        transport: Transport,
        home: Home,
        *,
        workers: int,
        helps: bool = True,
        patience: float = PATIENCE,
        stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker, self.spent = broker, Spent()
        self._transport, self._home = transport, home
        self._patience, self._stopped, self._clock = patience, stopped, clock
        self._seconds: dict[Stage, float] = {}
        self._begun: dict[Worker, float] = {}
        self._killed: set[Worker] = set()
        self._training = False
        # A second lease (of each part) spares a worker the wait for this thread; in a window too
        # small to give one to everybody it would be kept from a worker that has none.
        room = broker.policy.window * broker.parts // (workers + 1)
        self._depth = max(1, min(room, 2 * broker.parts))
        self._crew = Crew(transport, workers, clock, arrival=ARRIVAL * patience)
        self._helps = False
        if helps or not workers:
            self._take_part()

    def __iter__(self) -> Iterator[Ready]:
        return self

    def __next__(self) -> Ready:
        """Wait for the next ticket."""
        self._commit()
        if self.broker.finished:
            self.close()
            raise StopIteration
        while True:
            self._heed(self._transport.poll(0))  # first: who is up by now is not late
            self._crew.muster()
            self._give_out()
            ready = self.broker.ready
            if ready is not None:
                self._training = True
                return ready
            if self._stopped():
                raise StopIteration
            if not self._help():
                self._wait()

    def commit(self) -> None:
        """The ticket that was given last is trained: publish the weights, give out what follows.

        Its slot is free from now on. A second call does nothing.
        """
        begun = self._clock()
        self._commit()
        self.spent.commit += self._clock() - begun

    @property
    def num_workers(self) -> int:
        """Workers that are up."""
        return len(self._crew)

    def close(self) -> None:
        """End the workers; may be called twice."""
        self._transport.stop()

    def _commit(self) -> None:
        if self._training:
            self.broker.commit()
            self._training = False
            self._heed(self._transport.poll(0))
            self._give_out()

    def _give_out(self) -> None:
        """Publish the weights if they are due, and see to it that every worker has its leases."""
        if self.broker.due:
            buffer = self.broker.free_buffer()
            if buffer is not None:
                begun = self._clock()
                self._home.publish(buffer)
                self.broker.published(buffer, self.broker.trained)
                self.spent.publish += self._clock() - begun
        for depth in range(1, self._depth + 1):
            for worker in self.broker.workers:
                if worker != TRAINER and self.broker.holds(worker) < depth:
                    lease = self.broker.lease(worker, self._clock())
                    if lease is None:
                        return
                    if self.broker.holds(worker) == 1:
                        self._begun[worker] = lease.since
                    self._transport.submit(lease)

    def _heed(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Up():
                    self._crew.arrived(event.worker)
                    self.broker.join(event.worker)
                case Done():
                    self._crew.proved(event.worker)
                    self._begun[event.worker] = self._clock()
                    self._done(event.lease, event.work)
                case Died():
                    if event.refusal is not None:
                        raise event.refusal
                    idle = not self.broker.lost(event.worker)
                    self._crew.lost(event, idle=idle)
        if not self._helps and not self._crew.hopes:
            log.warning("no worker is left: the trainer attacks every batch itself")
            self._take_part()

    def _take_part(self) -> None:
        self._helps = True
        self.broker.join(TRAINER)

    def _help(self) -> bool:
        """Attack a ticket that nobody has yet here, while the next to train is not ready."""
        if not self._helps or self._soon():
            return False
        lease = self.broker.lease(TRAINER, self._clock())
        if lease is None:
            return False
        begun = self._clock()
        work = self._home.attack(lease)
        self.spent.help += self._clock() - begun
        return self._done(lease.number, work)

    def _soon(self) -> bool:
        """Whether the next ticket comes sooner than a quarter of an attack here would take."""
        out = self.broker.out
        if not all(lease.stage in self._seconds for lease in out):
            return False
        ends = [
            self._begun[last.worker]
            + sum(
                self._seconds[lease.stage]
                for lease in out
                if lease.worker == last.worker and lease.number <= last.number
            )
            for last in self.broker.awaited
        ]
        quarter = max(self._seconds.values(), default=0.0) / 4
        return bool(ends) and abs(max(ends) - self._clock()) < quarter

    def _wait(self) -> None:
        """Wait for news, and end workers that have had a lease for too long."""
        begun = self._clock()
        pause = min(self._seconds.values(), default=WAIT) if self._helps else WAIT
        self._heed(self._transport.poll(self._crew.pause(min(pause, WAIT))))
        self.spent.wait += self._clock() - begun
        usual = max(self._seconds.values(), default=0.0)
        patience = max(self._patience, 10 * self._depth * usual)
        overdue = set(self.broker.overdue(self._clock(), patience))
        for worker in overdue - self._killed:
            log.warning("worker %s has held a lease for %.0f s; it is killed", worker, patience)
            self._transport.kill(worker)
        self._killed |= overdue

    def _done(self, number: int, work: Work) -> bool:
        """Note a lease's end, and what leases of its kind take."""
        lease = self.broker.done(number, work)
        if lease is None:
            return False
        seconds = work.attack + work.overhead
        self._seconds[lease.stage] = 0.8 * self._seconds.get(lease.stage, seconds) + 0.2 * seconds
        return True
