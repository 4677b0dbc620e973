"""How fast an asynchronous run can be: the closed formula.

Units: seconds. A device is whatever attacks or trains: a GPU, a core, an emulated one.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from sparring.errors import ConfigError

Limit = Literal["workers", "trainer", "fresh steps"]
"""What keeps the others waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What one batch takes, on one device.

    Without overheads this is the paper's account of its Figure 9: one trainer is busy with the
    batches of as many workers as an attack takes updates.
    """

    attack: float
    """The attack: steps times the time of one."""
    update: float
    """The update of the weights."""
    lease: float = 0.0
    """A worker's overhead a batch: loading the weights, writing the images."""
    handover: float = 0.0
    """The trainer's overhead a batch."""
    publication: float = 0.0
    """The trainer's time for publications, a batch: one publication's over the period."""
    chain: float = 0.0
    """What of the attack must wait for the update before it, by all who share it: `chained`."""

    def __post_init__(self) -> None:
        """Refuse times that cannot be."""
        for name in ("attack", "update", "lease", "handover", "publication", "chain"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name in ("attack", "update") and not value):
                raise ConfigError(
                    f"{name} must be a time above 0 (an overhead: 0 or more), in seconds; got "
                    f"{value:g}."
                )

    @property
    def serial(self) -> float:
        """A batch on one device that does both in turn: the synchronous baseline."""
        return self.attack + self.update

    @property
    def trainer(self) -> float:
        """The trainer's own time a batch: it can never be faster than this."""
        return self.update + self.handover + self.publication

    @property
    def cycle(self) -> float:
        """The least time from one update to the next, with any number of workers."""
        return self.trainer + self.chain

    @property
    def saturation(self) -> float:
        """Workers beyond which more of them gain nothing."""
        return (self.attack + self.lease) / self.cycle

    def chained(self, fresh: float, parts: int) -> "Costs":
        """The same where a share of each attack is `fresh`, taken by as many as a ticket's `parts`.

        With 1 all of it waits for the weights, as under `Sync` and `Sharded`. Of a lease's
        overhead half belongs to the fresh steps, unless they are all there is.
        """
        lease = self.lease if fresh == 1 else self.lease / 2
        chain = (fresh * self.attack + lease) / parts if fresh else 0.0
        return replace(self, chain=chain)

    def speed_up(self, workers: float, *, helps: bool) -> float:
        """Batches a second over those of one device that does both in turn.

        Without help it is S(N) = (A + U) min(N / (A + d), 1 / (U + h + p + c)); a trainer that
        helps spends what time it has left on attacks: as one device more, up to the same ceiling.
        No worker at all is the baseline. A slower worker counts as part of one. It is a
        bound, for parts of tickets may not come out even among those who attack.
        """
        attacked = workers / (self.attack + self.lease)
        if helps or not workers:
            attacked = (1 + self.attack * attacked) / (self.attack + self.trainer)
        return self.serial * min(attacked, 1 / self.cycle)

    def bottleneck(self, workers: float, *, helps: bool) -> Limit:
        """Who keeps the others waiting; fresh steps if they are the larger part of a cycle."""
        if self.speed_up(workers, helps=helps) < self.serial / self.cycle:
            return "workers"
        return "fresh steps" if self.chain > self.trainer else "trainer"

    @property
    def advised_workers(self) -> int:
        """The fewest workers with which it is as fast as it can be, but for 2 %."""
        return max(1, math.ceil(0.98 * self.saturation))
