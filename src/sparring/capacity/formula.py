"""How fast one trainer with workers can be, and several of them: the closed formula.

A layout is T trainers with N workers each. With T = 1 it is the paper's engine. With N = 0 it is
plain data-parallel training: every device attacks and updates its own batch, and nothing is stale.
A device is anything that attacks or trains: a GPU, a core, an emulated one. Loads no torch. Units:
seconds; rates in batches per second of all trainers together.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from sparring.engine.policies import FixedLag, Policy, Sync, fresh_steps_by
from sparring.records.checks import at_least, positive, within

Limit = Literal["workers", "trainer", "fresh steps"]
"""What the rest of one trainer's engine waits for."""
Bottleneck = Literal["attacks", "updates", "all-reduce", "barrier", "staleness"]
"""What keeps a layout from being faster."""
SPLIT = 2
"""Parts of a ticket: the default of `FixedLag`."""
SPARE = 3
"""Updates of lag beyond the number of workers, with which split tickets keep all workers busy."""
CHECKPOINT = 1000
"""Updates between two checkpoints, the default of a run. A trainer's failure loses half of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Time of one batch on one device.

    Without overheads this is the paper's reckoning of its Figure 9: one trainer is saturated by as
    many workers as an attack lasts updates.
    """

    attack: float
    """The attack: the number of steps times the time of one."""
    update: float
    """The update of the weights."""
    lease: float = 0.0
    """A worker's overhead per batch: loading the weights, writing the images."""
    handover: float = 0.0
    """The trainer's overhead per batch."""
    publication: float = 0.0
    """The trainer's time for publications, per batch: that of one, divided by the period."""
    chain: float = 0.0
    """Attack time on the critical path after an update, divided by the parts that share it: see
    `chained`."""

    def __post_init__(self) -> None:
        positive("attack", self.attack)
        positive("update", self.update)
        for name in ("lease", "handover", "publication", "chain"):
            within(name, getattr(self, name), "[0, inf)")

    @property
    def serial(self) -> float:
        """A batch on one device that attacks and updates in turn: the synchronous baseline."""
        return self.attack + self.update

    @property
    def trainer(self) -> float:
        """The trainer's own time per batch, a lower bound of the time per update."""
        return self.update + self.handover + self.publication

    @property
    def cycle(self) -> float:
        """The least time from one update to the next, with any number of workers."""
        return self.trainer + self.chain

    @property
    def saturation(self) -> float:
        """Number of workers beyond which more of them gain nothing."""
        return (self.attack + self.lease) / self.cycle

    @property
    def advised_workers(self) -> int:
        """The fewest workers that reach 98 % of the largest speed-up."""
        return max(1, math.ceil(0.98 * self.saturation))

    @property
    def largest_speed_up(self) -> float:
        """Throughput relative to one device, with any number of workers."""
        return self.serial / self.cycle

    def finished_by_trainer(self, fresh: float) -> "Costs":
        """The same where the trainer takes a share `fresh` of each attack itself.

        The attack is shorter by it and the update longer: A becomes (1 - f) A and U becomes
        U + f A. With F of κ steps, and updates as long as a step, the largest speed-up is
        (κ + 1) / (F + 1). `fresh` is below 1, as the first step is never one of them.
        """
        own = fresh * self.attack
        return replace(self, attack=self.attack - own, update=self.update + own)

    def chained(self, fresh: float, parts: int) -> "Costs":
        """The same where workers take a share `fresh` of each attack after the last update.

        It is divided among `parts` parts of a ticket. With `fresh` 1 the whole attack waits for
        the weights, as under `Sync` and `Sharded`. Half of a lease's overhead belongs to the fresh
        steps, or all of it if there are no others.
        """
        lease = self.lease if fresh == 1 else self.lease / 2
        chain = (fresh * self.attack + lease) / parts if fresh else 0.0
        return replace(self, chain=chain)

    def speed_up(self, workers: float, *, helps: bool) -> float:
        """Throughput relative to one device that attacks and updates in turn.

        Without help it is S(N) = (A + U) min(N / (A + d), 1 / (U + h + p + c)). A trainer that
        helps spends its remaining time on attacks: it counts as one more device, up to the same
        ceiling. Without workers it is the baseline. A slow worker counts as a fraction. It is an
        upper bound, because parts of tickets may not divide evenly among workers.
        """
        attacked = workers / (self.attack + self.lease)
        if helps or not workers:
            attacked = (1 + self.attack * attacked) / (self.attack + self.trainer)
        return self.serial * min(attacked, 1 / self.cycle)

    def bottleneck(self, workers: float, *, helps: bool) -> Limit:
        """What limits the speed; the fresh steps if they are the larger part of a cycle."""
        if self.speed_up(workers, helps=helps) < self.largest_speed_up:
            return "workers"
        return "fresh steps" if self.chain > self.trainer else "trainer"


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduce:
    """The exchange of gradients between trainers in a ring (Patarasu and Yuan 2009).

    Each of T trainers sends 2 (T - 1) messages in turn, each 1/T of the gradient. Alternatively
    `given` is the time for any number of trainers. No overlap with other work is assumed.
    """

    latency: float = 0.0
    """Seconds of a message beside the time for its bytes."""
    transfer: float = 0.0
    """Seconds that the whole gradient takes over one trainer's link."""
    given: float | None = None
    """Seconds of the whole exchange, measured elsewhere; the other two are then ignored."""

    def __post_init__(self) -> None:
        for name in ("latency", "transfer", "given"):
            if (value := getattr(self, name)) is not None:
                within(f"all_reduce.{name}", value, "[0, inf)")

    def seconds(self, trainers: int) -> float:
        """Time of one exchange; 0 for one trainer."""
        if trainers == 1:
            return 0.0
        if self.given is not None:
            return self.given
        return 2 * (trainers - 1) * (self.latency + self.transfer / trainers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The devices to plan for: alike except for a share of slow ones."""

    costs: Costs
    """Time of one trainer's batch on one device."""
    all_reduce: AllReduce = field(default_factory=AllReduce)
    """Time for averaging the gradients."""
    slow: float = 0.0
    """Share of the devices that take twice the time, at most 0.5. They serve as workers. Trainers
    are slow only in layouts without workers."""
    lifetime: float = math.inf
    """Mean time between two failures of a device (exponential)."""
    restart: float = 0.0
    """Time from a failure until the device works again."""
    fresh: float = 0.0
    """Share of each attack that is taken with the weights that its batch is trained on."""
    spread: float = 0.05
    """Standard deviation of an attack's time, relative to its mean."""
    helps: bool = True
    """Whether a trainer attacks, too, while its next ticket is not ready."""

    def __post_init__(self) -> None:
        within("fresh", self.fresh, "[0, 1)")
        within("slow", self.slow, "[0, 0.5]", "If most devices are slow, give their costs.")
        within("spread", self.spread, "[0, 0.5]")
        within("lifetime", self.lifetime, "(0, inf]")
        within("restart", self.restart, "[0, inf)")

    @property
    def is_uneven(self) -> bool:
        """Whether some devices are slow, or fail."""
        return bool(self.slow) or self.lifetime < math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Trainers, and the workers of each."""

    trainers: int
    """T: a global batch is T batches."""
    workers: int
    """N, per trainer; without workers the trainers attack, with current weights."""
    lag: int = 0
    """Updates by which attacks run ahead; 0 without workers."""
    period: int = 1
    """Updates between two publications of the weights."""

    def __post_init__(self) -> None:
        at_least("period", self.period, 1)
        at_least("trainers", self.trainers, 1)
        at_least("workers", self.workers, 0)
        at_least("lag", self.lag, 1 if self.workers else 0)

    @property
    def devices(self) -> int:
        """T (1 + N)."""
        return self.trainers * (1 + self.workers)

    @property
    def policy(self) -> Policy:
        """Which weights a ticket is attacked with."""
        if not self.workers:
            return Sync()
        return FixedLag(lag=self.lag, period=self.period, split=SPLIT)

    def num_slow(self, site: Site) -> int:
        """Number of slow devices: workers, or trainers if there are no workers."""
        return math.floor(site.slow * self.devices + 1e-9)

    def costs(self, site: Site) -> Costs:
        """Costs of a batch, its fresh steps where they are taken.

        Without workers there is no engine and no overhead, and all steps are fresh.
        """
        if not self.workers:
            return Costs(attack=site.costs.attack, update=site.costs.update)
        if fresh_steps_by(self.policy, fresh=site.fresh > 0) == "trainer":
            return site.costs.finished_by_trainer(site.fresh)
        return site.costs.chained(site.fresh, min(SPLIT, self.workers + site.helps))


def doubled(costs: Costs) -> Costs:
    """Costs on a slow device."""
    return Costs(**{item.name: 2 * getattr(costs, item.name) for item in fields(costs)})


def rate(site: Site, layout: Layout) -> float:
    """Batches per second by the formula: T min(S(N) / (A + U), L P / (A + d)).

    S(N) is `Costs.speed_up` of one trainer, whose update includes the all-reduce. With a fixed lag
    of L, and tickets in P parts, at most L P parts are attacked at a time. The trainer with most
    slow workers sets the pace, and its slow workers count half. A slow trainer without workers
    does so, too. Failures of workers reduce their number by the share of time that they are down,
    failures of trainers by `uptime`. The spread of attack times is ignored.
    """
    slow, costs = layout.num_slow(site), layout.costs(site)
    if slow and not layout.workers:
        costs = doubled(costs)
    up = 1.0 if site.lifetime == math.inf else site.lifetime / (site.lifetime + site.restart)
    costs = replace(costs, update=costs.update + site.all_reduce.seconds(layout.trainers))
    workers = max(0.0, layout.workers - math.ceil(slow / layout.trainers) / 2) * up
    per_trainer = costs.speed_up(workers, helps=site.helps) / costs.serial
    if layout.workers:
        per_trainer = min(per_trainer, layout.lag * SPLIT / (costs.attack + costs.lease))
    return layout.trainers * per_trainer * uptime(site, layout, per_trainer)


def uptime(site: Site, layout: Layout, updates: float) -> float:
    """Share of the time that is not lost to failures of trainers, at `updates` per second.

    A trainer's failure stops all trainers. It costs the restart, and half of the updates between
    two checkpoints are repeated. A worker's failure costs only its lease.
    """
    if site.lifetime == math.inf:
        return 1.0
    lost = site.restart + CHECKPOINT / 2 / updates
    return 1 / (1 + layout.trainers * lost / site.lifetime)


def ceiling(site: Site, layout: Layout) -> float:
    """Batches per second of trainers that wait for no first step of an attack."""
    own = layout.costs(site).cycle + site.all_reduce.seconds(layout.trainers)
    return layout.trainers / own


def busiest(site: Site, layout: Layout) -> Bottleneck:
    """The largest part of an update that waits for nothing."""
    costs = layout.costs(site)
    parts: dict[Bottleneck, float] = {
        "attacks": 0.0 if layout.workers else costs.attack,
        "updates": costs.cycle,
        "all-reduce": site.all_reduce.seconds(layout.trainers),
    }
    return max(parts, key=lambda part: parts[part])
