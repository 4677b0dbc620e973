"""What a transport does and reports. It decides nothing: decisions are the broker's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sparring.engine.lease import Lease, Work, Worker
from sparring.errors import OtherNetwork


@dataclass(frozen=True, kw_only=True, slots=True)
class Up:
    """A worker that was started can take leases from now on."""

    worker: Worker
    """Its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A lease's images are attacked and in their slot."""

    worker: Worker
    """Its name."""
    lease: int
    """Number of the lease."""
    work: Work
    """What it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Died:
    """A worker is dead for certain: it writes no more, and reports no more."""

    worker: Worker
    """Its name."""
    reason: str
    """How it ended: its last words, or its exit code."""
    refusal: OtherNetwork | None = None
    """That no worker can attack for this run, because the network it builds is another one."""


Event = Up | Done | Died


@runtime_checkable
class Transport(Protocol):
    """Workers somewhere, each doing its leases in the order in which it gets them."""

    shares_memory: bool = True
    """Whether workers write to the trainer's arena themselves, the clean images too."""

    def start(self) -> Worker:
        """One more worker, by a name that is never used again; its `Up` follows, or its `Died`."""
        ...

    def is_placed(self, worker: Worker) -> bool:
        """Whether a worker that was started has a machine to begin on, or still waits for one."""
        ...

    def submit(self, lease: Lease) -> None:
        """Hand a lease to its worker; if that is dead, its `Died` is still to come."""
        ...

    def poll(self, timeout: float) -> Sequence[Event]:
        """What happened since the last call; waits for something so many seconds at most."""
        ...

    def kill(self, worker: Worker) -> None:
        """End a worker that hangs, whatever it does; its `Died` follows."""
        ...

    def stop(self) -> None:
        """End all workers and wait until they are gone; may be called twice."""
        ...
