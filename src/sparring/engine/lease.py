"""What the broker gives to workers and gets back, and the counts of both.

Units: seconds of the engine's clock; staleness in updates.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from sparring.records.stage import Stage

Worker = Hashable
"""Any name of a worker; a replacement has a new one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """One ticket, or a part of it, given to one worker with one version of the weights."""

    number: int
    """Never given twice: a result under a number that is no longer out is ignored."""
    worker: Worker
    ticket: int
    """The ticket's place in the order of training."""
    part: int
    """Which part of the ticket, from 0."""
    parts: int
    stage: Stage
    version: int
    """The weights to attack."""
    buffer: int
    """The buffer of these weights."""
    slot: int
    """Where the attacked images go."""
    since: float
    """When it was given."""
    trained: int
    """Version of the trainer's weights at that moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Time that a lease took, in seconds."""

    attack: float
    overhead: float = 0.0
    """Loading the weights and writing the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attacked:
    """One part of a ticket that is attacked."""

    lease: Lease
    work: Work
    trained: int
    """Version of the trainer's weights when it came back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The next ticket to train, all parts of which are attacked."""

    parts: tuple[Attacked, ...]
    """Its parts, in order, by the leases of their first steps."""
    finished: tuple[Attacked, ...] = ()
    """The same, by the leases of their fresh steps; empty if workers take none."""

    @property
    def ticket(self) -> int:
        """Its place in the order of training, which is also the version that it is trained on."""
        return self.parts[0].lease.ticket

    @property
    def version(self) -> int:
        """The weights that it was attacked with."""
        return self.parts[0].lease.version

    @property
    def slot(self) -> int:
        """Where its attacked images are."""
        return self.parts[0].lease.slot

    @property
    def attack_seconds(self) -> float:
        """Time of its attack, all parts and stages together."""
        return sum(part.work.attack for part in (*self.parts, *self.finished))

    @property
    def behind(self) -> int:
        """Age of the weights, in updates, when its first part was leased."""
        return min(part.lease.trained for part in self.parts) - self.version

    @property
    def waiting(self) -> int:
        """Updates from the return of its last part to its training."""
        return self.ticket - max(part.trained for part in self.parts)

    @property
    def in_flight(self) -> int:
        """Updates from its first lease to the return of its last part."""
        return self.ticket - self.version - self.behind - self.waiting


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Counts of what happened: every lease is done, lost, or still out."""

    leased: int = 0
    done: int = 0
    lost: int = 0
    """Leases whose worker died; they were given out again."""
    late: int = 0
    """Results under a lease that was no longer out; they were ignored."""
    trained: int = 0
    published: int = 0
    """Publications of the weights."""
    skipped: int = 0
    """Publications that had to wait, because every buffer could still be read."""
    deaths: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    """Trained tickets by staleness, in updates."""
