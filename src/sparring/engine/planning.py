"""Which layout to take on so many devices, and from where on more of them gain nothing.

The formula goes through every layout, the simulation through those that it finds best. Nothing is
trained, and no number here tells what a larger global batch, or staleness, does to accuracy.
Units: seconds; rates in batches a second of all trainers together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparring.engine.layouts import SPARE, Layout, Site, rate, uptime
from sparring.engine.outlook import SAMPLED, Outlook, look
from sparring.errors import ConfigError
from sparring.records.ranges import at_least

MOST_DEVICES = 10_000
"""Devices beyond which simulating takes longer than a minute or two."""
GAIN = 0.02
"""A gain in throughput below which more devices are not worth taking."""
CLOSE = 0.9
"""Share of the best layout's rate by the formula from which on one is simulated."""
UP = 0.9
"""Share of the time that trainers must be up for their failures not to be what ends growth."""
SIMULATED = 6
"""Numbers of workers that are simulated to choose from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to plan for."""

    site: Site
    """What the devices are like."""
    devices: int = 8
    """How many there are."""
    max_staleness: int = 32
    """The largest staleness of a batch, in updates; up to 32 the paper finds harmless."""
    max_trainers: int = 32
    """The largest global batch, in batches of one trainer. Goyal et al. (2017) went from 256 to
    8,192 images, 32 times as many, by the linear-scaling rule without loss; not shown here."""
    seed: int = 0
    """Of the simulation."""
    sampled: int = SAMPLED
    """Batches that are simulated of each layout; never fewer than 24 of each trainer."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("devices", self.devices, 1)
        at_least("max_staleness", self.max_staleness, 0)
        at_least("max_trainers", self.max_trainers, 1)
        if max(self.devices, self.max_trainers) > MOST_DEVICES:
            raise ConfigError(
                f"a plan is for {MOST_DEVICES:,} devices and trainers at most, because simulating "
                f"more takes minutes; got {self.devices:,} and {self.max_trainers:,}."
            )

    @property
    def single(self) -> float:
        """Batches a second of one device that attacks and updates in turn: the baseline."""
        return 1 / self.site.costs.serial


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """From where on more devices gain less than 2 %, all together, by the formula."""

    layout: Layout
    """The one with the fewest devices that is as fast as that."""
    rate: float
    """Its batches a second."""
    why: Literal["trainers", "all-reduce", "failures"]
    """More trainers may not be, or would exchange and fail for longer than they gain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What came of it."""

    order: Order
    chosen: Outlook
    """The layout to take: the most throughput, by the fewest devices within 2 % of it."""
    outlooks: tuple[Outlook, ...]
    """Layouts to compare it with, by trainers and workers; it is one of them."""
    saturation: Saturation

    def speed_up(self, batches_a_second: float) -> float:
        """Against one device that attacks and updates in turn."""
        return batches_a_second / self.order.single


def plan(order: Order, *, progress: Callable[[str], None] = lambda _: None) -> Plan:
    """Look for the best layout. Cost: a second for 8 devices, a minute for 4,096 trainers."""
    limit = min(order.devices, order.max_trainers)
    progress("comparing layouts by the formula")
    rates = _rates(order, limit, order.devices)
    candidates = _candidates(order, rates)
    shown = _landmarks(rates, limit)
    found: dict[Layout, Outlook] = {}
    for layout in dict.fromkeys([*candidates, *shown]):
        progress(f"simulating {layout.trainers} x (1 + {layout.workers}) devices")
        found[layout] = look(order.site, layout, seed=order.seed, sampled=order.sampled)
    chosen = _choose([found[layout] for layout in candidates])
    by_size = sorted({chosen.layout, *shown}, key=lambda at: (at.trainers, at.workers, at.lag))
    progress("looking for where it saturates")
    return Plan(
        order=order,
        chosen=chosen,
        outlooks=tuple(found[layout] for layout in by_size),
        saturation=saturation(order),
    )


def saturation(order: Order) -> Saturation:
    """The fewest devices that no number of devices outdoes by 2 %, under the order's limits."""
    site = order.site
    rates = _rates(order, order.max_trainers, devices=math.inf)
    layout = _smallest(rates)
    if layout.trainers * (1 + GAIN) >= order.max_trainers:
        why = "trainers"
    elif site.lifetime < math.inf and uptime(site, layout, rates[layout] / layout.trainers) < UP:
        why = "failures"
    else:
        why = "all-reduce"
    return Saturation(layout=layout, rate=rates[layout], why=why)


def _rates(order: Order, most_trainers: int, devices: float) -> dict[Layout, float]:
    """Every layout on so many devices, by the formula, with no more workers than gain something."""
    found: dict[Layout, float] = {}
    for trainers in range(1, most_trainers + 1):
        alone = Layout(trainers=trainers, workers=0)
        found[alone] = rate(order.site, alone)
        workers, before = 1, 0.0
        while order.max_staleness and trainers * (1 + workers) <= devices:
            lag = min(workers + SPARE, order.max_staleness)
            layout = Layout(trainers=trainers, workers=workers, lag=lag)
            now = rate(order.site, layout)
            if now <= before * (1 + 1e-9):
                break
            found[layout] = before = now
            workers += 1
    return found


def _smallest(rates: Mapping[Layout, float]) -> Layout:
    """The fewest devices, then the fewest trainers, within 2 % of the best."""
    best = max(rates.values())
    enough = [layout for layout, now in rates.items() if now * (1 + GAIN) >= best]
    return min(enough, key=lambda at: (at.devices, at.trainers, -rates[at]))


def _candidates(order: Order, rates: Mapping[Layout, float]) -> Sequence[Layout]:
    """What is simulated to choose from: the best of each number of workers, if it is close.

    Where some devices are slow or fail, each with a longer lag too: who waits for a slow worker may
    then go on with what comes after.
    """
    best = max(rates.values())
    of_size: dict[int, Layout] = {}
    for layout in sorted(rates, key=lambda at: (-round(rates[at] / best, 3), at.devices)):
        if rates[layout] >= CLOSE * best:
            of_size.setdefault(layout.workers, layout)
    chosen = [_smallest(rates), *list(of_size.values())[:SIMULATED]]
    if order.site.is_uneven:
        longer = {at: min(2 * at.workers + SPARE, order.max_staleness) for at in chosen}
        chosen += [replace(at, lag=lag) for at, lag in longer.items() if at.workers]
    return list(dict.fromkeys(chosen))


def _landmarks(rates: Mapping[Layout, float], limit: int) -> list[Layout]:
    """For 1, 2, 4 … trainers what is best of them, and as many trainers as there may be, alone."""
    counts = [2**power for power in range(limit.bit_length())]
    shown = [
        _smallest({at: now for at, now in rates.items() if at.trainers == trainers})
        for trainers in dict.fromkeys([*counts, limit])
    ]
    return list(dict.fromkeys([*shown, Layout(trainers=limit, workers=0)]))


def _choose(outlooks: Sequence[Outlook]) -> Outlook:
    chosen = _smallest({found.layout: found.simulated for found in outlooks})
    return next(found for found in outlooks if found.layout == chosen)
