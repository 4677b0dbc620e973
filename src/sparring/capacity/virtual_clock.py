"""A clock that jumps from event to event, and workers that only exist on it.

Broker and engine are the real ones. Only the duration of work is replaced by a number, and nothing
is attacked. Units: seconds of the virtual clock.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence

from typing_extensions import override

from sparring.engine.lease import Lease, Work, Worker
from sparring.engine.transports import Died, Done, Event, Transport, Up


class VirtualClock:
    """A time that advances only on request."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self.now += seconds


class SimulatedTransport(Transport):
    """Each worker carries out its leases in order, each in `cost(lease)` seconds.

    An infinite cost is a worker that hangs. A worker is up `arrival` seconds after its start, and
    dies `lifetime()` seconds after it.
    """

    def __init__(
        self,
        clock: VirtualClock,
        cost: Callable[[Lease], float],
        *,
        arrival: float = 0.0,
        lifetime: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._clock, self._cost = clock, cost
        self.arrival, self._lifetime = arrival, lifetime
        self._names = itertools.count()
        self._free_from: dict[Worker, float] = {}
        self._ends: dict[Worker, float] = {}
        self._events: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self.busy_seconds = 0.0
        """Time that workers spent on attacks that they finished, over all workers."""

    @property
    def workers(self) -> list[Worker]:
        """Workers that are alive."""
        return list(self._free_from)

    @override
    def start(self) -> Worker:
        name = next(self._names)
        self._free_from[name] = self._clock.now + self.arrival
        self._ends[name] = self._clock.now + self._lifetime()
        if self._free_from[name] < self._ends[name]:
            self._add(self._free_from[name], Up(worker=name))
        if self._ends[name] < math.inf:
            self._add(self._ends[name], Died(worker=name, reason="its lifetime was over"))
        return name

    @override
    def is_placed(self, worker: Worker) -> bool:
        return True

    @override
    def submit(self, lease: Lease) -> None:
        if lease.worker not in self._free_from:
            return
        cost = self._cost(lease)
        end = max(self._clock.now, self._free_from[lease.worker]) + cost
        self._free_from[lease.worker] = end
        if end < self._ends[lease.worker]:
            self.busy_seconds += cost
            done = Done(worker=lease.worker, lease=lease.number, work=Work(attack=cost))
            self._add(end, done)

    @override
    def poll(self, timeout: float) -> Sequence[Event]:
        if timeout and not (self._events and self._events[0][0] <= self._clock.now):
            due = self._events[0][0] if self._events else math.inf
            self._clock.now = min(due, self._clock.now + timeout)
        events: list[Event] = []
        while self._events and self._events[0][0] <= self._clock.now:
            event = heapq.heappop(self._events)[2]
            if isinstance(event, Died):
                self._free_from.pop(event.worker, None)
            events.append(event)
        return events

    @override
    def kill(self, worker: Worker) -> None:
        if worker in self._free_from:
            del self._free_from[worker]
            now = self._clock.now
            self._events = [e for e in self._events if e[2].worker != worker or e[0] <= now]
            heapq.heapify(self._events)
            self._add(now, Died(worker=worker, reason="killed"))

    @override
    def stop(self) -> None:
        self._free_from.clear()
        self._events.clear()

    def _add(self, when: float, event: Event) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))
