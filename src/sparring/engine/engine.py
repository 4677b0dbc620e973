"""Keeps workers busy and gives the trainer its attacked tickets in order.

Everything runs in the trainer's thread, between updates. Units: seconds of a monotonic clock.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sparring.engine.broker import Broker
from sparring.engine.lease import Lease, Ready, Work, Worker
from sparring.engine.transports.protocol import Died, Done, Event, Transport, Up
from sparring.engine.worker_pool import WorkerPool
from sparring.records.stage import Stage

WAIT = 1.0
"""Longest time between two checks of workers that report nothing, in seconds."""
PATIENCE = 60.0
"""A worker hangs if it holds a lease for this many seconds and for ten times its usual time."""
ARRIVAL = 5
"""A started worker must be up within this many patiences: it imports PyTorch first."""
TRAINER: Worker = "trainer"
"""The trainer's name on the leases that it takes itself."""

log = logging.getLogger(__name__)


@runtime_checkable
class LocalExecutor(Protocol):
    """What the trainer's own process does for the engine."""

    def publish(self, buffer: int) -> None:
        """Write the current weights to this buffer."""
        ...

    def attack(self, lease: Lease) -> Work:
        """Carry out a lease in this process."""
        ...


@dataclass(kw_only=True, slots=True)
class Timings:
    """Where the trainer's thread spent its time while it fetched tickets, in seconds."""

    help: float = 0.0
    """Attacking tickets itself."""
    wait: float = 0.0
    """Idle."""
    publish: float = 0.0
    """Writing its weights for the workers."""
    commit: float = 0.0
    """Serving the workers as soon as the weights are new; includes most of `publish`."""
    fresh: float = 0.0
    """Taking the fresh steps of its batches itself."""


class Engine:
    """An iterator of tickets that are ready to train.

    The next one commits the last. Call `commit` as soon as the weights are new, so that workers do
    not wait for the trainer's other work.

    If the next ticket is not ready, the trainer attacks one that is not leased yet, unless `helps`
    is off. Workers take leases once they are up, and one that dies is replaced. Without workers, or
    with none left, the trainer attacks everything. Iteration ends early if `stopped` while nothing
    is ready.
    """

    def __init__(  # noqa: PLR0913 - three that work together, the settings by keyword
        self,
        broker: Broker,
        transport: Transport,
        executor: LocalExecutor,
        *,
        workers: int,
        helps: bool = True,
        patience: float = PATIENCE,
        stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker, self.timings = broker, Timings()
        self._transport, self._executor = transport, executor
        self._patience, self._stopped, self._clock = patience, stopped, clock
        self._seconds: dict[Stage, float] = {}
        self._begun: dict[Worker, float] = {}
        self._killed: set[Worker] = set()
        self._training = False
        # With a second lease (of each part) a worker need not wait for this thread. A window too
        # small for two leases each would keep it from a worker that has none.
        room = broker.policy.window * broker.parts // (workers + 1)
        self._depth = max(1, min(room, 2 * broker.parts))
        self._pool = WorkerPool(transport, workers, clock, arrival=ARRIVAL * patience)
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
            self._handle(self._transport.poll(0))  # first: a worker that is up by now is not late
            self._pool.start_due_workers()
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
        """Free the last ticket's slot, publish the new weights and give out leases.

        A second call does nothing.
        """
        begun = self._clock()
        self._commit()
        self.timings.commit += self._clock() - begun

    @property
    def num_workers(self) -> int:
        """Number of workers that are up."""
        return len(self._pool)

    def close(self) -> None:
        """End the workers; may be called twice."""
        self._transport.stop()

    def _commit(self) -> None:
        if self._training:
            self.broker.commit()
            self._training = False
            self._handle(self._transport.poll(0))
            self._give_out()

    def _give_out(self) -> None:
        """Publish the weights if they are due, and give every worker its leases."""
        if self.broker.due:
            buffer = self.broker.free_buffer()
            if buffer is not None:
                begun = self._clock()
                self._executor.publish(buffer)
                self.broker.published(buffer, self.broker.trained)
                self.timings.publish += self._clock() - begun
        for depth in range(1, self._depth + 1):
            for worker in self.broker.workers:
                if worker != TRAINER and self.broker.holds(worker) < depth:
                    lease = self.broker.lease(worker, self._clock())
                    if lease is None:
                        return
                    if self.broker.holds(worker) == 1:
                        self._begun[worker] = lease.since
                    self._transport.submit(lease)

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Up():
                    self._pool.arrived(event.worker)
                    self.broker.join(event.worker)
                case Done():
                    self._pool.proved(event.worker)
                    self._begun[event.worker] = self._clock()
                    self._done(event.lease, event.work)
                case Died():
                    if event.refusal is not None:
                        raise event.refusal
                    idle = not self.broker.lost(event.worker)
                    self._pool.lost(event, idle=idle)
        if not self._helps and not self._pool.has_workers:
            log.warning("no worker is left: the trainer attacks every batch itself")
            self._take_part()

    def _take_part(self) -> None:
        self._helps = True
        self.broker.join(TRAINER)

    def _help(self) -> bool:
        """Attack a ticket in this process; return whether there was one."""
        if not self._helps or self._soon():
            return False
        lease = self.broker.lease(TRAINER, self._clock())
        if lease is None:
            return False
        begun = self._clock()
        try:
            work = self._executor.attack(lease)
        except BaseException:
            self.broker.failed(lease)  # the next call attacks it
            raise
        self.timings.help += self._clock() - begun
        return self._done(lease.number, work)

    def _soon(self) -> bool:
        """Whether the next ticket is due within a quarter of an attack's time."""
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
        """Wait for events, and kill workers that have held a lease for too long."""
        begun = self._clock()
        pause = min(self._seconds.values(), default=WAIT) if self._helps else WAIT
        self._handle(self._transport.poll(self._pool.pause(min(pause, WAIT))))
        self.timings.wait += self._clock() - begun
        usual = max(self._seconds.values(), default=0.0)
        patience = max(self._patience, 10 * self._depth * usual)
        overdue = set(self.broker.overdue(self._clock(), patience))
        for worker in overdue - self._killed:
            log.warning("worker %s has held a lease for %.0f s; it is killed", worker, patience)
            self._transport.kill(worker)
        self._killed |= overdue

    def _done(self, number: int, work: Work) -> bool:
        """Record that a lease is done, and the usual time of its stage."""
        lease = self.broker.done(number, work)
        if lease is None:
            return False
        seconds = work.attack + work.overhead
        self._seconds[lease.stage] = 0.8 * self._seconds.get(lease.stage, seconds) + 0.2 * seconds
        return True
