"""An emulated slow network between the trainer and its workers, around any transport.

Leases and results only arrive later, so that with a fixed lag the weights are the same bits. The
trainer's link is shared by all workers, with one queue in each direction. Its messages arrive when
the trainer polls, as those of a real network are read. Units: seconds of the caller's clock; bytes.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from typing_extensions import override

from sparring.engine.lease import Lease, Worker
from sparring.engine.transports.protocol import Died, Done, Event, Transport

Message = TypeVar("Message", Lease, Done)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Speed of the trainer's link, and the sizes of what goes over it."""

    seconds_per_byte: float
    """Of either direction."""
    latency: float
    """Seconds that a message takes beside those for its bytes."""
    weights: int
    """Bytes of the network's weights."""
    images: int
    """Bytes of a batch of images."""

    def part(self, lease: Lease) -> int:
        """Bytes of the images of a lease's part."""
        return math.ceil(self.images / lease.parts)


@dataclass(kw_only=True, slots=True)
class _Direction(Generic[Message]):
    """Messages in one direction: their bytes go one after the other, and arrive in order."""

    link: Link
    free_from: float = 0.0
    waiting: deque[tuple[float, Message]] = field(default_factory=deque)

    def send(self, message: Message, size: int, now: float) -> None:
        self.free_from = max(now, self.free_from) + size * self.link.seconds_per_byte
        self.waiting.append((self.free_from + self.link.latency, message))

    def arrived(self, now: float) -> Iterator[Message]:
        while self.waiting and self.waiting[0][0] <= now:
            yield self.waiting.popleft()[1]

    def forget(self, worker: Worker) -> None:
        """Drop the messages of a dead worker."""
        self.waiting = deque(item for item in self.waiting if item[1].worker != worker)

    @property
    def due(self) -> float:
        """When the next message arrives."""
        return self.waiting[0][0] if self.waiting else math.inf


class SlowTransport(Transport):
    """Another transport whose leases and results are delayed as by a slow link.

    A lease waits for its message, for the weights if the worker's last lease had others, and for
    the images that fresh steps begin with. A result waits for its images. That a worker is up or
    dead is known at once, and what is still under way to or from a dead worker is lost.
    """

    def __init__(
        self, inner: Transport, link: Link, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.shares_memory = inner.shares_memory
        self._inner, self._link, self._clock = inner, link, clock
        self._down: _Direction[Lease] = _Direction(link=link)
        self._up: _Direction[Done] = _Direction(link=link)
        self._versions: dict[Worker, int] = {}
        self._leases: dict[int, Lease] = {}

    @override
    def start(self) -> Worker:
        return self._inner.start()

    @override
    def is_placed(self, worker: Worker) -> bool:
        return self._inner.is_placed(worker)

    @override
    def submit(self, lease: Lease) -> None:
        size = self._link.part(lease) if lease.stage == "last" else 0
        if self._versions.get(lease.worker) != lease.version:
            size += self._link.weights
            self._versions[lease.worker] = lease.version
        self._leases[lease.number] = lease
        self._down.send(lease, size, self._clock())

    @override
    def poll(self, timeout: float) -> Sequence[Event]:
        end = self._clock() + timeout
        while True:
            for lease in self._down.arrived(self._clock()):
                self._inner.submit(lease)
            until = min(end, self._down.due, self._up.due)
            events = self._taken(self._inner.poll(max(0.0, until - self._clock())))
            now = self._clock()
            events = [*self._up.arrived(now), *events]
            if events or now >= end:
                return events

    @override
    def kill(self, worker: Worker) -> None:
        self._inner.kill(worker)

    @override
    def stop(self) -> None:
        self._down.waiting.clear()
        self._up.waiting.clear()
        self._inner.stop()

    def _taken(self, events: Sequence[Event]) -> list[Event]:
        """Put results on the link; return the other events."""
        others: list[Event] = []
        for event in events:
            if isinstance(event, Done):
                size = self._link.part(self._leases.pop(event.lease))
                self._up.send(event, size, self._clock())
                continue
            if isinstance(event, Died):
                self._down.forget(event.worker)
                self._up.forget(event.worker)
                self._versions.pop(event.worker, None)
                leases = self._leases.items()
                self._leases = {n: one for n, one in leases if one.worker != event.worker}
            others.append(event)
        return others
