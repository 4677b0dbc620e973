"""Starts, deaths and replacements of workers; the broker decides what they attack.

Units: seconds of the engine's clock.
"""

import logging
import math
from collections.abc import Callable

from sparring.engine.lease import Worker
from sparring.engine.transports.protocol import Died, Transport

DEATHS = 5
"""Workers in a row that are replaced although they died before their first result."""
BACK_OFF = 0.5
"""Seconds before the second of these replacements starts; doubled for each further one."""
log = logging.getLogger(__name__)


class WorkerPool:
    """Starts workers and replaces those that die, with growing delays if they die at once.

    A single dead worker is replaced immediately. If one after the other dies while it starts or at
    its first lease, no more are started, and the run continues with those that are left. Deaths
    after the first finished lease, or while idle, do not count. A worker that is not up `arrival`
    seconds after it was placed is killed.
    """

    def __init__(
        self, transport: Transport, workers: int, clock: Callable[[], float], *, arrival: float
    ) -> None:
        self._transport, self._clock, self._arrival = transport, clock, arrival
        self._starting: dict[Worker, float] = {}
        self._due = [clock()] * workers
        self._alive: set[Worker] = set()
        self._proved: set[Worker] = set()
        self._deaths = 0
        self.start_due_workers()

    def __len__(self) -> int:
        """Number of workers that are up."""
        return len(self._alive)

    @property
    def has_workers(self) -> bool:
        """Whether a worker is up or will be."""
        return bool(self._alive or self._starting or self._due)

    def start_due_workers(self) -> None:
        """Start the workers that are due, and kill those that took too long to be up."""
        now = self._clock()
        for when in [when for when in self._due if when <= now]:
            self._due.remove(when)
            self._starting[self._transport.start()] = now
        for worker, since in self._starting.items():
            if not self._transport.is_placed(worker):
                self._starting[worker] = now  # it cannot be late before it has a machine
            elif now - since > self._arrival:
                self._starting[worker] = math.inf  # kill it once; its death follows
                arrival = self._arrival
                log.warning("worker %s was not up after %.0f s; it is killed", worker, arrival)
                self._transport.kill(worker)

    def pause(self, most: float) -> float:
        """Seconds until the next start is due, at most `most`."""
        return max(0.0, min([most, *(when - self._clock() for when in self._due)]))

    def arrived(self, worker: Worker) -> None:
        """Record that a worker is up."""
        del self._starting[worker]
        self._alive.add(worker)

    def proved(self, worker: Worker) -> None:
        """Record that a worker has finished a lease."""
        self._proved.add(worker)
        self._deaths = 0

    def lost(self, death: Died, *, idle: bool) -> None:
        """Record a death, and schedule a replacement unless too many died in a row."""
        worker = death.worker
        was_able = worker in self._proved or (worker in self._alive and idle)
        self._starting.pop(worker, None)
        self._alive.discard(worker)
        self._proved.discard(worker)
        self._deaths = 0 if was_able else self._deaths + 1
        if self._deaths > DEATHS:
            ending = "the run continues without it"
        else:
            ending = "a new one is started"
            wait = BACK_OFF * 2 ** (self._deaths - 2) if self._deaths > 1 else 0.0
            self._due.append(self._clock() + wait)
        log.warning("worker %s died (%s); %s", worker, death.reason, ending)
