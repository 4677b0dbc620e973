"""Which worker attacks which ticket with which weights: all decisions and state of the engine.

The broker does no work, no input or output, and reads no clock. Transports report what happened
and when, and carry out its decisions. So the same broker runs under processes, under the simulator
and under property tests. It belongs to one thread.

The life of a ticket (of one of its parts): waiting, leased, attacked, in training, trained. A lease
that is lost goes back to waiting. Where workers take fresh steps there are two leases, one for the
first steps and one for the last. The second waits until the weights that the ticket is trained on
are published. Where the trainer takes them, leases are for the first steps only. Units: seconds of
the caller's clock.
"""

import heapq
from collections.abc import Iterator, Sequence

from sparring.engine.lease import Attacked, Lease, Ledger, Ready, Work, Worker
from sparring.engine.policies import Policy, fresh_steps_by
from sparring.records.stage import Stage


class Broker:
    """Hands out leases, collects attacked tickets, and gives them to the trainer in order.

    At most `policy.window` tickets are out at one time, the one in training included; ticket t uses
    slot t mod window, so no two of them share one. A buffer is overwritten only when no lease and
    no ticket of the window can name its version any more, so torn weights are never read.
    """

    def __init__(
        self, policy: Policy, *, tickets: int, trained: int = 0, fresh: bool = False
    ) -> None:
        self.policy = policy
        self.fresh_by = fresh_steps_by(policy, fresh=fresh)
        """Which processes take the fresh steps."""
        self.tickets = tickets
        self.trained = trained
        self.parts = policy.split
        self.ledger = Ledger()
        self._buffers: list[int | None] = [None] * policy.buffers
        self._out: dict[int, Lease] = {}
        self._holds: dict[Worker, set[int]] = {}
        self._waiting: list[tuple[int, int]] = []
        self._reached = trained
        self._begun: dict[int, dict[int, Attacked]] = {}
        self._to_finish: list[int] = []
        self._attacked: dict[int, dict[int, Attacked]] = {}
        self._numbers = 0

    # The weights.

    @property
    def newest(self) -> int | None:
        """The newest published version."""
        return max((version for version in self._buffers if version is not None), default=None)

    @property
    def due(self) -> bool:
        """Whether the current weights must be published before anything else."""
        newest = self.newest
        return newest is None or self.trained - newest >= self.policy.period

    def free_buffer(self) -> int | None:
        """A buffer that can no longer be read, to write the current weights to."""
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

    def check_kept(self, versions: Sequence[int]) -> None:
        """Raise `ValueError` unless these can be what `kept` returned after as many tickets."""
        ahead = range(self.trained, min(self.tickets, self.trained + self.policy.window))
        asked = {self.policy.version(ticket, self.trained) for ticket in ahead}
        needed = {version for version in asked if version is not None and version < self.trained}
        oldest = self.policy.oldest(self.trained)
        allowed = () if oldest is None else range(oldest, self.trained + 1)
        unique = set(versions)
        if len(unique) < len(versions) or not needed <= unique <= set(allowed):
            raise ValueError(
                f"weights of the versions {sorted(needed)} are needed after {self.trained} "
                f"updates, each once; there are those of {sorted(versions)}"
            )

    # The workers.

    def join(self, worker: Worker) -> None:
        """A worker takes leases from now on."""
        self._holds[worker] = set()

    @property
    def workers(self) -> list[Worker]:
        """Names of the workers that take leases."""
        return list(self._holds)

    def holds(self, worker: Worker) -> int:
        """Number of leases that this worker has."""
        return len(self._holds[worker])

    def lease(self, worker: Worker, now: float) -> Lease | None:
        """The most urgent work that is not leased, if its version is published.

        First come the last steps of the next ticket to train, which only an idle worker gets, then
        the first part of the first ticket that is not leased.
        """
        newest = self.newest
        place = None if newest is None else self._place(newest, idle=not self._holds[worker])
        if place is None:
            return None
        ticket, part, version, stage = place
        self._numbers += 1
        lease = Lease(
            number=self._numbers,
            worker=worker,
            ticket=ticket,
            part=part,
            parts=self.parts,
            stage=stage,
            version=version,
            buffer=self._buffers.index(version),
            slot=ticket % self.policy.window,
            since=now,
            trained=self.trained,
        )
        self._out[lease.number] = lease
        self._holds[worker].add(lease.number)
        self.ledger.leased += 1
        return lease

    def done(self, number: int, work: Work) -> Lease | None:
        """Record that a lease's images are in their slot; return the lease if it was still out."""
        lease = self._out.pop(number, None)
        if lease is None:
            self.ledger.late += 1
            return None
        self._holds[lease.worker].discard(number)
        begun = lease.stage == "first" and self.fresh_by == "workers"
        place = self._begun if begun else self._attacked
        attacked = Attacked(lease=lease, work=work, trained=self.trained)
        place.setdefault(lease.ticket, {})[lease.part] = attacked
        if begun and lease.ticket == self.trained:
            heapq.heappush(self._to_finish, lease.part)
        self.ledger.done += 1
        return lease

    def lost(self, worker: Worker) -> list[Lease]:
        """Return the leases of a dead worker, which writes no more, to the waiting ones."""
        leases = [self._out[number] for number in sorted(self._holds.pop(worker, ()))]
        for lease in leases:
            self._wait_again(lease)
        self.ledger.deaths += 1
        return leases

    def failed(self, lease: Lease) -> None:
        """Return one lease to the waiting ones, whose worker lives."""
        self._holds[lease.worker].discard(lease.number)
        self._wait_again(lease)

    def overdue(self, now: float, patience: float) -> Iterator[Worker]:
        """Workers with a lease that is out for longer than `patience` seconds."""
        for worker, numbers in self._holds.items():
            if any(now - self._out[number].since > patience for number in numbers):
                yield worker

    # The trainer.

    @property
    def ready(self) -> Ready | None:
        """The next ticket to train, if all leases of every part of it are done."""
        parts = self._attacked.get(self.trained, {})
        if len(parts) < self.parts:
            return None
        last = tuple(parts[part] for part in range(self.parts))
        if self.fresh_by != "workers":
            return Ready(parts=last)
        first = self._begun[self.trained]
        return Ready(parts=tuple(first[part] for part in range(self.parts)), finished=last)

    def commit(self) -> None:
        """The ticket that was ready is trained: its slot is free, the weights one version on."""
        last = self._attacked.pop(self.trained)
        first = self._begun.pop(self.trained, last)
        self.ledger.staleness[self.trained - first[0].lease.version] += 1
        self.ledger.trained += 1
        self.trained += 1
        self._to_finish = sorted(self._begun.get(self.trained, ()))

    @property
    def finished(self) -> bool:
        """Whether every ticket is trained."""
        return self.trained == self.tickets

    @property
    def attacked(self) -> int:
        """Tickets that are attacked and wait to be trained."""
        return sum(len(parts) == self.parts for parts in self._attacked.values())

    @property
    def awaited(self) -> list[Lease]:
        """The leases that alone keep the next ticket from being ready; none if more is missing."""
        out = [lease for lease in self._out.values() if lease.ticket == self.trained]
        there = len(self._attacked.get(self.trained, ())) + len(out)
        complete = there == self.parts
        if self.fresh_by == "workers":
            complete &= all(lease.stage == "last" for lease in out)
        return out if complete else []

    @property
    def out(self) -> list[Lease]:
        """All leases that are out, in the order in which they were given."""
        return list(self._out.values())

    # Below: where leases come from and where they go.

    def _place(self, newest: int, *, idle: bool) -> tuple[int, int, int, Stage] | None:
        """Ticket, part, version and stage of the most urgent work that can begin."""
        if self._to_finish and newest == self.trained:
            if not idle:
                return None  # leave it to an idle worker; a busy one would only queue it
            return self.trained, heapq.heappop(self._to_finish), newest, "last"
        if not self._fill():
            return None
        version = self.policy.version(self._waiting[0][0], newest)
        if version is None:
            return None
        ticket, part = heapq.heappop(self._waiting)
        return ticket, part, version, "whole" if self.fresh_by == "none" else "first"

    def _wait_again(self, lease: Lease) -> None:
        del self._out[lease.number]
        if lease.stage == "last":
            heapq.heappush(self._to_finish, lease.part)
        else:
            heapq.heappush(self._waiting, (lease.ticket, lease.part))
        self.ledger.lost += 1

    def _fill(self) -> bool:
        """Add the next ticket to the waiting ones if the window has room; whether one waits."""
        if not self._waiting and self._reached < min(
            self.tickets, self.trained + self.policy.window
        ):
            self._waiting = [(self._reached, part) for part in range(self.parts)]
            self._reached += 1
        return bool(self._waiting)
