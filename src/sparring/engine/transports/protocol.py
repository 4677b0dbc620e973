"""What a transport does and reports; the broker makes all decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sparring.engine.lease import Lease, Work, Worker
from sparring.errors import OtherNetwork


@dataclass(frozen=True, kw_only=True, slots=True)
class Up:
    """A worker that was started can take leases from now on."""

    worker: Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A lease's images are attacked and in their slot."""

    worker: Worker
    lease: int
    """Number of the lease."""
    work: Work


@dataclass(frozen=True, kw_only=True, slots=True)
class Died:
    """A worker is dead: it writes and reports no more."""

    worker: Worker
    reason: str
    """Its traceback, or its exit code."""
    refusal: OtherNetwork | None = None
    """The error that every worker of this run would end with."""


Event = Up | Done | Died
FORGOTTEN = "its end was forgotten when the loop was interrupted"
"""Why a worker has died whose `Died` was lost."""


@runtime_checkable
class Transport(Protocol):
    """Workers, each of which carries out its leases in the order in which it gets them."""

    shares_memory: bool = True
    """Whether workers write to the trainer's arena themselves, including the clean images."""

    def start(self) -> Worker:
        """Start a worker under a new name; its `Up` or its `Died` follows."""
        ...

    def is_placed(self, worker: Worker) -> bool:
        """Whether a worker that was started has a machine to run on, rather than waits for one."""
        ...

    def submit(self, lease: Lease) -> None:
        """Send a lease to its worker; if that is dead, its `Died` follows."""
        ...

    def poll(self, timeout: float) -> Sequence[Event]:
        """What happened since the last call; waits up to `timeout` seconds for an event."""
        ...

    def kill(self, worker: Worker) -> None:
        """Kill a worker that hangs; its `Died` follows, also if it was dead and that was lost."""
        ...

    def stop(self) -> None:
        """End all workers and wait for their ends; may be called twice."""
        ...
