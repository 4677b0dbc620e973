"""How devices may be shared out, and how fast that is: by the closed formula.

A layout is T trainers with N workers each. With T = 1 it is the paper's engine; with N = 0 it is
plain data-parallel training, in which every device attacks and updates its own batch and nothing is
stale. Units: seconds; rates in batches a second of all trainers together.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from sparring.engine.policies import FixedLag, Policy, Sync
from sparring.engine.speed import Costs
from sparring.errors import ConfigError
from sparring.records.ranges import at_least

Bottleneck = Literal["attacks", "updates", "all-reduce", "barrier", "staleness"]
"""What keeps a layout from being faster."""
SPLIT = 2
"""Parts of a ticket: the default of `FixedLag`."""
SPARE = 3
"""Updates of lag beyond the number of workers, with which split tickets keep them all busy."""
CHECKPOINT = 1000
"""Updates between two checkpoints, the default of a run: half of them are lost with a trainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduce:
    """The exchange of gradients between trainers in a ring (Patarasu and Yuan 2009).

    T trainers send 2 (T - 1) messages each, one after the other, of a T-th of the gradient; or the
    time is given, for any number of them. It is taken to overlap with nothing.
    """

    latency: float = 0.0
    """Seconds of a message beside its bytes."""
    transfer: float = 0.0
    """Seconds that the whole gradient takes over one trainer's link."""
    given: float | None = None
    """Seconds of the whole exchange, measured elsewhere; the other two are then not used."""

    def __post_init__(self) -> None:
        """Refuse times that cannot be."""
        for name in ("latency", "transfer", "given"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(
                    f"all_reduce.{name} must be a time of 0 seconds or more; got {value:g}."
                )

    def seconds(self, trainers: int) -> float:
        """Of one exchange; one trainer has nothing to exchange."""
        if trainers == 1:
            return 0.0
        if self.given is not None:
            return self.given
        return 2 * (trainers - 1) * (self.latency + self.transfer / trainers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the devices are like, all but some of them alike."""

    costs: Costs
    """What one trainer's batch takes on one device."""
    all_reduce: AllReduce = field(default_factory=AllReduce)
    """What trainers take to average their gradients."""
    slow: float = 0.0
    """Share of the devices that take twice the time, a half at most. They are taken for workers, so
    that trainers are slow only where there are none."""
    lifetime: float = math.inf
    """Mean time between two failures of a device (exponential)."""
    restart: float = 0.0
    """Time from a failure until the device works again."""
    spread: float = 0.05
    """Standard deviation of an attack's time, as a share of it."""
    helps: bool = True
    """Whether trainers attack too where their next ticket is not ready."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("slow", "spread"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ConfigError(
                    f"{name} must be a share of a half at most, because the costs are those of "
                    f"most devices; got {getattr(self, name):g}. Give the costs of the slow ones."
                )
        if not self.lifetime > 0 or not 0 <= self.restart < math.inf:
            raise ConfigError(
                "the time between failures must be above 0 and the time of a restart 0 or more; "
                f"got {self.lifetime:g} and {self.restart:g} seconds."
            )

    @property
    def is_uneven(self) -> bool:
        """Whether some devices are slow, or fail."""
        return bool(self.slow) or self.lifetime < math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Trainers, and workers of each."""

    trainers: int
    """T: a global batch is as many times the batch of one."""
    workers: int
    """N, of each trainer; with none the trainers attack themselves, with current weights."""
    lag: int = 0
    """Updates by which attacks run ahead, the staleness of every batch; 0 without workers."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("trainers", self.trainers, 1)
        at_least("workers", self.workers, 0)
        at_least("lag", self.lag, 1 if self.workers else 0)

    @property
    def devices(self) -> int:
        """T (1 + N): trainers have one each."""
        return self.trainers * (1 + self.workers)

    @property
    def policy(self) -> Policy:
        """Which weights a ticket is attacked with."""
        return FixedLag(lag=self.lag, split=SPLIT) if self.workers else Sync()

    def num_slow(self, site: Site) -> int:
        """Slow devices: workers, or without any trainers."""
        return math.floor(site.slow * self.devices + 1e-9)

    def costs(self, site: Site) -> Costs:
        """Of a batch; without workers there is no engine that costs anything."""
        if self.workers:
            return site.costs
        return Costs(attack=site.costs.attack, update=site.costs.update)


def doubled(costs: Costs) -> Costs:
    """Of a slow device."""
    return Costs(**{item.name: 2 * getattr(costs, item.name) for item in fields(costs)})


def rate(site: Site, layout: Layout) -> float:
    """Batches a second, by the formula: T min(S(N) of a trainer's own, L P / (A + d)).

    S(N) is `Costs.speed_up` with the all-reduce as part of the update; a fixed lag of L with
    tickets in P parts has no more than L P parts to be worked on. The trainer with most slow
    workers sets the pace, and its slow ones count half; so does a slow trainer, of those without
    workers. Workers count for the share of the time for which they are up, trainers' failures by
    `uptime`. Spread has no part in it.
    """
    slow, costs = layout.num_slow(site), layout.costs(site)
    if slow and not layout.workers:
        costs = doubled(costs)
    up = 1.0 if site.lifetime == math.inf else site.lifetime / (site.lifetime + site.restart)
    costs = replace(costs, update=costs.update + site.all_reduce.seconds(layout.trainers))
    workers = max(0.0, layout.workers - math.ceil(slow / layout.trainers) / 2) * up
    alone = costs.speed_up(workers, helps=site.helps) / costs.serial
    if layout.workers:
        alone = min(alone, layout.lag * SPLIT / (costs.attack + costs.lease))
    return layout.trainers * alone * uptime(site, layout, alone)


def uptime(site: Site, layout: Layout, updates: float) -> float:
    """Share of the time that is not lost to trainers' failures, at so many updates a second.

    Any trainer's failure stops all: it costs the restart, and half of the time between two
    checkpoints is trained again. A worker's failure costs its lease alone.
    """
    if site.lifetime == math.inf:
        return 1.0
    lost = site.restart + CHECKPOINT / 2 / updates
    return 1 / (1 + layout.trainers * lost / site.lifetime)


def ceiling(site: Site, layout: Layout) -> float:
    """Batches a second of trainers that do nothing but update."""
    own = layout.costs(site).trainer + site.all_reduce.seconds(layout.trainers)
    return layout.trainers / own


def busiest(site: Site, layout: Layout) -> Bottleneck:
    """What takes most of an update that waits for nothing."""
    exchange = site.all_reduce.seconds(layout.trainers)
    costs = layout.costs(site)
    own = costs.trainer + (0 if layout.workers else costs.attack)
    if exchange > own:
        return "all-reduce"
    return "updates" if layout.workers else "attacks"
