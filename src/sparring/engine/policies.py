"""Which weights a ticket is attacked with, and how far attacks may run ahead of training.

Units: tickets and versions count from 0 and are trained in order, so the ticket of number t is
trained on by the weights of version t: its staleness is t minus the version it was attacked with,
and is known when it is leased. L lag, K period, Q credits.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from sparring.records.checks import at_least


@runtime_checkable
class Policy(Protocol):
    """Decides by numbers alone: no clock, no state."""

    @property
    def period(self) -> int:
        """Updates between two publications of the weights."""
        ...

    @property
    def window(self) -> int:
        """Tickets that may be leased, attacked or in training at one time."""
        ...

    @property
    def bound(self) -> int:
        """The largest staleness that a ticket can have."""
        ...

    @property
    def split(self) -> int:
        """Parts of a ticket, leased apart, with the same weights."""
        ...

    @property
    def buffers(self) -> int:
        """Copies of the weights that must be kept, the one being written included."""
        ...

    def version(self, ticket: int, newest: int) -> int | None:
        """The version to attack this ticket with; `None` if it is not published yet."""
        ...

    def oldest(self, trained: int) -> int | None:
        """The oldest version that may still be asked for; `None` if only the newest may be."""
        ...


@dataclass(frozen=True, kw_only=True)
class FixedLag:
    """Ticket t is attacked with version K floor(max(0, t - L) / K), published every K updates.

    The version depends on the ticket alone, so the trained weights depend neither on timing, nor
    on the number of workers, nor on what crashed. Staleness is at most L + K - 1.
    """

    lag: int = 1
    """L: how far attacks may run ahead, in updates; `0` gives each ticket its own version."""
    period: int = 1
    """K: updates between two publications."""
    split: int = 2
    """Parts of a ticket: smaller pieces of work keep workers busy at a smaller lag."""

    def __post_init__(self) -> None:
        at_least("source.policy.lag", self.lag, 0)
        at_least("source.policy.period", self.period, 1)
        at_least("source.policy.split", self.split, 1)

    @property
    def window(self) -> int:
        """Every ticket whose version can have been published: L + K."""
        return self.lag + self.period

    @property
    def bound(self) -> int:
        """L + K - 1."""
        return self.lag + self.period - 1

    @property
    def buffers(self) -> int:
        """The versions that tickets of the window use, and one to write to."""
        return max(1, -(-self.lag // self.period)) + 1

    def version(self, ticket: int, newest: int) -> int | None:
        """The ticket's own version, once it is published."""
        version = max(0, ticket - self.lag) // self.period * self.period
        return version if version <= newest else None

    def oldest(self, trained: int) -> int | None:
        """The version of the next ticket to train."""
        return self.version(trained, trained)


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """A ticket is attacked with the newest published version: the paper's engine (section 5).

    Staleness depends on timing, and is at most Q - 1 + K - 1: a ticket that would exceed it,
    because a publication had to wait for a free buffer, is leased only after the next publication.
    """

    credits: int = 8
    """Q: tickets that may be leased, attacked or in training at one time."""
    period: int = 1
    """K: updates between two publications; the paper's is 100."""

    def __post_init__(self) -> None:
        at_least("source.policy.credits", self.credits, 1)
        at_least("source.policy.period", self.period, 1)

    @property
    def window(self) -> int:
        """Q."""
        return self.credits

    @property
    def bound(self) -> int:
        """Q - 1 + K - 1."""
        return self.credits + self.period - 2

    @property
    def split(self) -> int:
        """One: a ticket is attacked as a whole."""
        return 1

    @property
    def buffers(self) -> int:
        """The newest, one that a slow worker still reads, and one to write to."""
        return 3

    def version(self, ticket: int, newest: int) -> int | None:
        """The newest, unless the ticket would be too stale by the time it is trained on."""
        return newest if ticket - newest <= self.bound else None

    def oldest(self, trained: int) -> int | None:
        """`None`: only the newest is asked for."""
        return None


class InStep:
    """Base of `Sync` and `Sharded`: a ticket is attacked with the weights it is trained on."""

    @property
    def period(self) -> int:
        """Every version is published."""
        return 1

    @property
    def window(self) -> int:
        """One ticket at a time."""
        return 1

    @property
    def bound(self) -> int:
        """`0`: nothing is ever stale."""
        return 0

    @property
    def buffers(self) -> int:
        """The current weights, and one to write to."""
        return 2

    def version(self, ticket: int, newest: int) -> int | None:
        """The version that the ticket is trained on."""
        return ticket if ticket <= newest else None

    def oldest(self, trained: int) -> int | None:
        """The current version."""
        return trained


@dataclass(frozen=True, kw_only=True)
class Sync(InStep):
    """Every ticket is attacked with the weights it is then trained on, one at a time."""

    @property
    def split(self) -> int:
        """One: a ticket is attacked as a whole."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Sharded(InStep):
    """`Sync`, with each ticket split evenly among the workers."""

    split: int = 2
    """Parts of a ticket: as many as there are workers, and one more where the trainer helps."""

    def __post_init__(self) -> None:
        at_least("source.policy.split", self.split, 1)


PolicyKind = FixedLag | Newest | Sync | Sharded


FreshSteps = Literal["none", "workers", "trainer"]
"""Which processes take the fresh steps of attacks."""


def fresh_steps_by(policy: Policy, *, fresh: bool) -> FreshSteps:
    """Where the `fresh` steps of attacks are taken under a policy.

    They need the weights after every update. Where these are published, workers take them, by a
    second lease of each part. Otherwise the trainer takes them itself, just before the update.
    Where nothing runs ahead all steps are fresh, and one lease takes them.
    """
    if not fresh or not policy.bound:
        return "none"
    return "workers" if policy.period == 1 else "trainer"
