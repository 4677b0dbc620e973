"""The workers as processes that start, arrive and die; what they attack is the broker's.

Units: seconds of the engine's clock.
"""

import logging
import math
from collections.abc import Callable

from sparring.engine.lease import Worker
from sparring.engine.transports.protocol import Died, Transport

DEATHS = 5
"""Workers in a row that may die before they have attacked anything, and be replaced."""
BACK_OFF = 0.5
"""Seconds before the second of such replacements starts; doubled for each one more."""
log = logging.getLogger(__name__)


class Crew:
    """Starts workers and replaces those that die, later and later if they only die.

    A single death is answered at once. Where one after the other dies at its start or its first
    lease, the cause is not in the process: no more are started, and the run goes on with those that
    are left. Who dies later, or with nothing to do, was able to work and does not count. Who is not
    up `arrival` seconds after it was placed hangs.
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
        self.muster()

    def __len__(self) -> int:
        """Workers that are up."""
        return len(self._alive)

    @property
    def hopes(self) -> bool:
        """Whether a worker is up, or is to come."""
        return bool(self._alive or self._starting or self._due)

    def muster(self) -> None:
        """Start those whose time has come, and end those that never arrived."""
        now = self._clock()
        for when in [when for when in self._due if when <= now]:
            self._due.remove(when)
            self._starting[self._transport.start()] = now
        for worker, since in self._starting.items():
            if not self._transport.is_placed(worker):
                self._starting[worker] = now  # it cannot be late before it has a machine
            elif now - since > self._arrival:
                self._starting[worker] = math.inf  # once is enough: its death is to come
                arrival = self._arrival
                log.warning("worker %s was not up after %.0f s; it is killed", worker, arrival)
                self._transport.kill(worker)

    def pause(self, most: float) -> float:
        """Time until the next start is due, and no more than this."""
        return max(0.0, min([most, *(when - self._clock() for when in self._due)]))

    def arrived(self, worker: Worker) -> None:
        """A worker is up."""
        del self._starting[worker]
        self._alive.add(worker)

    def proved(self, worker: Worker) -> None:
        """A worker attacked something: workers can."""
        self._proved.add(worker)
        self._deaths = 0

    def lost(self, death: Died, *, idle: bool) -> None:
        """See to a replacement, unless workers only die."""
        worker = death.worker
        was_able = worker in self._proved or (worker in self._alive and idle)
        self._starting.pop(worker, None)
        self._alive.discard(worker)
        self._proved.discard(worker)
        self._deaths = 0 if was_able else self._deaths + 1
        if self._deaths > DEATHS:
            ending = "the run goes on without it"
        else:
            ending = "another takes over"
            wait = BACK_OFF * 2 ** (self._deaths - 2) if self._deaths > 1 else 0.0
            self._due.append(self._clock() + wait)
        log.warning("worker %s died (%s); %s", worker, death.reason, ending)
