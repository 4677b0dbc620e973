"""Keeps workers busy and gives the trainer its attacked tickets in order.

All of it runs in the trainer's thread, between updates. Units: seconds of a monotonic clock.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from sparring.engine.broker import Broker, Lease, Ready, Worker
from sparring.engine.transports.protocol import Died, Done, Event, Transport

WAIT = 1.0
"""Seconds between two looks at workers that say nothing."""
PATIENCE = 60.0
"""A worker hangs if it holds a lease for so many seconds, and for ten times what it should take."""
DEATHS = 3
"""Workers in a row that are replaced with nothing attacked in between."""
TRAINER: Worker = "trainer"
"""The trainer's name where it takes a lease itself."""

log = logging.getLogger(__name__)


@runtime_checkable
class Home(Protocol):
    """The trainer's own process."""

    def publish(self, buffer: int) -> None:
        """Write the current weights to this buffer, whole."""
        ...

    def attack(self, lease: Lease) -> float:
        """Carry out a lease here; the seconds it took."""
        ...


class Engine:
    """An iterator of tickets that are ready to train; going on to the next one commits the last.

    Where the next ticket is not ready, the trainer attacks one that nobody has yet, unless `helps`
    is off: it has nothing better to do, and what it attacks is one less for the workers. Without
    workers it attacks everything. A worker that dies is replaced; those that die again and again
    with nothing attacked in between are not, and the run goes on with what is left.
    """

    def __init__(  # noqa: PLR0913 - three that work together, three settings by keyword
        self,
        broker: Broker,
        transport: Transport,
        home: Home,
        *,
        workers: int,
        helps: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker, self.transport = broker, transport
        self._home, self._clock = home, clock
        self._attack_seconds = 0.0
        self._deaths = 0
        self._training = False
        # A second lease spares a worker the wait for this thread; in a window too small to give
        # one to everybody it would be kept from a worker that has none.
        self._depth = 2 if broker.policy.window >= 2 * workers + 2 else 1
        for _ in range(workers):
            broker.join(transport.start())
        self._helps = helps or not workers
        if self._helps:
            broker.join(TRAINER)

    def __iter__(self) -> Iterator[Ready]:
        return self

    def __next__(self) -> Ready:
        """Commit the ticket that was given last, and wait for the next."""
        if self._training:
            self.broker.commit()
            self._training = False
        if self.broker.finished:
            self.close()
            raise StopIteration
        while True:
            self._give_out()
            self._heed(self.transport.poll(0))
            ready = self.broker.ready
            if ready is not None:
                self._training = True
                self._give_out()
                return ready
            if not self._help():
                self._heed(self.transport.poll(WAIT))
                self._end_hanging()

    def close(self) -> None:
        """End the workers; may be called twice."""
        self.transport.stop()

    def _give_out(self) -> None:
        """Publish the weights if they are due, and see to it that every worker has its leases."""
        if self.broker.due and not self._training:
            buffer = self.broker.free_buffer()
            if buffer is not None:
                self._home.publish(buffer)
                self.broker.published(buffer, self.broker.trained)
        for depth in range(1, self._depth + 1):
            for worker in self.broker.workers:
                if worker != TRAINER and self.broker.holds(worker) < depth:
                    lease = self.broker.lease(worker, self._clock())
                    if lease is None:
                        return
                    self.transport.submit(lease)

    def _heed(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Done():
                    self._deaths = 0
                    if self.broker.done(event.lease, event.seconds):
                        self._timed(event.seconds)
                case Died():
                    self._replace(event)

    def _replace(self, death: Died) -> None:
        """Start another, or go on with one less if they only die; with none left, attack here."""
        self.broker.lost(death.worker)
        self._deaths += 1
        if self._deaths <= DEATHS:
            log.warning("worker %s died (%s); another takes over", death.worker, death.reason)
            self.broker.join(self.transport.start())
            return
        log.warning("worker %s died (%s); the run goes on without it", death.worker, death.reason)
        if not self.broker.workers:
            log.warning("no worker is left: the trainer attacks every batch itself")
            self._helps = True
            self.broker.join(TRAINER)

    def _help(self) -> bool:
        """Attack a ticket that nobody has yet here, while the next to train is not ready."""
        if not self._helps:
            return False
        lease = self.broker.lease(TRAINER, self._clock())
        if lease is None:
            return False
        seconds = self._home.attack(lease)
        self._timed(seconds)
        return self.broker.done(lease.number, seconds)

    def _timed(self, seconds: float) -> None:
        known = self._attack_seconds or seconds
        self._attack_seconds = 0.8 * known + 0.2 * seconds

    def _end_hanging(self) -> None:
        patience = max(PATIENCE, 10 * self._depth * self._attack_seconds)
        for worker in list(self.broker.overdue(self._clock(), patience)):
            log.warning("worker %s has held a lease for %.0f s; it is killed", worker, patience)
            self.transport.kill(worker)
