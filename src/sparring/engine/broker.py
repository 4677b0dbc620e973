"""Who attacks which ticket with which weights: every decision of the engine, and all of its state.

The broker does no work, no input or output, and reads no clock: transports tell it what happened
and when, and carry out what it says. So the same broker runs under processes, under the simulator
and under property tests. It belongs to one thread.

The life of a ticket (of one of its parts): waiting, leased, attacked, in training, trained. A lease
that is lost goes back to waiting. Units: seconds of the caller's clock.
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from sparring.engine.policies import Policy

Worker = Hashable
"""Any name of a worker; a replacement has a new one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """One ticket, or a part of it, handed to one worker with one version of the weights."""

    number: int
    """Never given twice: what comes back under a number that is no longer out is ignored."""
    worker: Worker
    """Who holds it."""
    ticket: int
    """The ticket's place in the order of training."""
    part: int
    """Which part of the ticket, from 0."""
    version: int
    """The weights to attack."""
    buffer: int
    """Where they are kept."""
    slot: int
    """Where the attacked images go."""
    since: float
    """When it was given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A ticket whose every part is attacked, and that is the next to train."""

    ticket: int
    """Its place in the order of training."""
    version: int
    """The weights that it was attacked with."""
    slot: int
    """Where its attacked images are."""
    seconds: float
    """Time that its attack took, of the slowest part."""


@dataclass(kw_only=True, slots=True)
class Ledger:
    """What happened, in numbers: every lease is done, failed, lost, or still out."""

    leased: int = 0
    done: int = 0
    late: int = 0
    failed: int = 0
    lost: int = 0
    trained: int = 0
    published: int = 0
    skipped: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    """Trained tickets by staleness, in updates."""


class Broker:
    """Hands out leases, collects attacked tickets, and gives them to the trainer in order.

    At most `policy.window` tickets are out at one time, the one in training included; ticket t uses
    slot t mod window, so no two of them share one. A version's buffer is written over only when no
    lease and no ticket of the window can name it any more, so nobody ever reads torn weights.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        tickets: int,
        trained: int = 0,
        parts: int = 1,
        buffers: int | None = None,
    ) -> None:
        self.policy = policy
        self.tickets = tickets
        self.trained = trained
        self.parts = parts
        self.ledger = Ledger()
        self._buffers: list[int | None] = [None] * (buffers or policy.buffers)
        self._out: dict[int, Lease] = {}
        self._holds: dict[Worker, set[int]] = {}
        self._waiting: list[tuple[int, int]] = []
        self._reached = trained
        self._attacked: dict[int, dict[int, tuple[int, float]]] = {}
        self._numbers = 0

    # The weights.

    @property
    def newest(self) -> int | None:
        """The newest published version."""
        return max((version for version in self._buffers if version is not None), default=None)

    @property
    def due(self) -> bool:
        """Whether the current weights are to be published before anything else."""
        newest = self.newest
        return newest is None or self.trained - newest >= self.policy.period

    def free_buffer(self) -> int | None:
        """A buffer that nobody can read any more, to write the current weights to."""
        named = {lease.buffer for lease in self._out.values()}
        oldest = self.policy.oldest(self.trained)
        for buffer, version in enumerate(self._buffers):
            kept = version is not None and (
                version == self.newest or (oldest is not None and version >= oldest)
            )
            if buffer not in named and not kept:
                return buffer
        self.ledger.skipped += 1
        return None

    def published(self, buffer: int, version: int) -> None:
        """The weights of this version are now in this buffer, whole."""
        self._buffers[buffer] = version
        self.ledger.published += 1

    def kept(self, trained: int) -> dict[int, int]:
        """The versions that tickets from number `trained` on may ask for, by their buffers."""
        oldest = self.policy.oldest(trained)
        return {
            buffer: version
            for buffer, version in enumerate(self._buffers)
            if version is not None and oldest is not None and version >= oldest
        }

    # The workers.

    def join(self, worker: Worker) -> None:
        """A worker is there to take leases."""
        self._holds[worker] = set()

    @property
    def workers(self) -> list[Worker]:
        """Everyone who takes leases, those with the fewest first."""
        return sorted(self._holds, key=lambda worker: len(self._holds[worker]))

    def holds(self, worker: Worker) -> int:
        """How many leases this worker has."""
        return len(self._holds[worker])

    def lease(self, worker: Worker, now: float) -> Lease | None:
        """The first part of the first ticket that nobody has, if its version is published."""
        newest = self.newest
        if newest is None or not self._fill():
            return None
        ticket, part = self._waiting[0]
        version = self.policy.version(ticket, newest)
        if version is None:
            return None
        heapq.heappop(self._waiting)
        self._numbers += 1
        lease = Lease(
            number=self._numbers,
            worker=worker,
            ticket=ticket,
            part=part,
            version=version,
            buffer=self._buffers.index(version),
            slot=ticket % self.policy.window,
            since=now,
        )
        self._out[lease.number] = lease
        self._holds[worker].add(lease.number)
        self.ledger.leased += 1
        return lease

    def done(self, number: int, seconds: float) -> bool:
        """A lease's images are attacked and in their slot; False if it was no longer out."""
        lease = self._end(number)
        if lease is None:
            self.ledger.late += 1
            return False
        self._attacked.setdefault(lease.ticket, {})[lease.part] = (lease.version, seconds)
        self.ledger.done += 1
        return True

    def failed(self, number: int) -> Lease | None:
        """A worker could not attack, and lives: its lease is given out again."""
        lease = self._end(number)
        if lease is not None:
            self._again(lease)
            self.ledger.failed += 1
        return lease

    def lost(self, worker: Worker) -> list[Lease]:
        """A worker is dead for certain, and writes no more: all its leases are given out again."""
        leases = [self._out.pop(number) for number in sorted(self._holds.pop(worker, ()))]
        for lease in leases:
            self._again(lease)
        self.ledger.lost += len(leases)
        return leases

    def overdue(self, now: float, patience: float) -> Iterator[Worker]:
        """Workers whose oldest lease is out for longer than this."""
        for worker, numbers in self._holds.items():
            if any(now - self._out[number].since > patience for number in numbers):
                yield worker

    # The trainer.

    @property
    def ready(self) -> Ready | None:
        """The next ticket to train, if every part of it is attacked."""
        parts = self._attacked.get(self.trained, {})
        if len(parts) < self.parts:
            return None
        return Ready(
            ticket=self.trained,
            version=parts[0][0],
            slot=self.trained % self.policy.window,
            seconds=max(seconds for _, seconds in parts.values()),
        )

    def commit(self) -> None:
        """The ticket that was ready is trained: its slot is free, the weights one version on."""
        version, _ = self._attacked.pop(self.trained)[0]
        self.ledger.staleness[self.trained - version] += 1
        self.ledger.trained += 1
        self.trained += 1

    @property
    def finished(self) -> bool:
        """Whether every ticket is trained."""
        return self.trained == self.tickets

    @property
    def attacked(self) -> int:
        """Tickets that are attacked and wait to be trained."""
        return sum(len(parts) == self.parts for parts in self._attacked.values())

    @property
    def out(self) -> list[Lease]:
        """Every lease that is out, in the order in which they were given."""
        return list(self._out.values())

    # Below: where leases come from and where they go.

    def _fill(self) -> bool:
        """See to it that something waits, if the window has room; whether something does."""
        if not self._waiting and self._reached < min(
            self.tickets, self.trained + self.policy.window
        ):
            self._waiting = [(self._reached, part) for part in range(self.parts)]
            self._reached += 1
        return bool(self._waiting)

    def _end(self, number: int) -> Lease | None:
        lease = self._out.pop(number, None)
        if lease is not None:
            self._holds[lease.worker].discard(number)
        return lease

    def _again(self, lease: Lease) -> None:
        heapq.heappush(self._waiting, (lease.ticket, lease.part))
