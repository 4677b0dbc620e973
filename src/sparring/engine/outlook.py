"""What is to be expected of a layout: the formula beside the simulation, and what holds it back.

Units: seconds; staleness in updates; rates in batches a second of all trainers together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sparring.engine.fleet import Fleet, FleetPlayed
from sparring.engine.layouts import (
    SPLIT,
    Bottleneck,
    Layout,
    Site,
    busiest,
    ceiling,
    doubled,
    rate,
    uptime,
)
from sparring.engine.simulation import Simulation

SAMPLED = 12_000
"""Batches of all trainers that are simulated, within the two limits below."""
FEWEST, MOST = 24, 600
"""Updates that are simulated, after the first ones have filled the pipeline."""
FULL = 0.97
"""Share of its ceiling, or of what even devices would do, that is as good as the whole."""
HELD_UP = 0.1
"""Share of the trainers' time that they may wait for one another before that is what holds them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """How a layout is to do."""

    layout: Layout
    formula: float
    """Batches a second, by the formula."""
    simulated: float
    """The same, simulated; trainers' failures by the formula."""
    staleness_mean: float
    """Simulated."""
    staleness_max: int
    """Simulated."""
    worker_busy: float
    """Share of the workers' time that goes into attacks; 0 without workers."""
    trainer_updates: float
    """Share of the trainers' time that goes into updates, engine and exchange."""
    trainer_helps: float
    """Share of it that goes into attacks."""
    trainer_barrier: float
    """Share of it for which a trainer has its batch and others have not."""
    bottleneck: Bottleneck
    """What keeps it from being faster."""
    updates: int
    """Updates that were simulated for this."""
    deaths: int
    """Workers that died meanwhile."""

    @property
    def device_seconds(self) -> float:
        """Of all devices together, for a batch."""
        return self.layout.devices / self.simulated


def look(site: Site, layout: Layout, *, seed: int = 0, sampled: int = SAMPLED) -> Outlook:
    """Simulate a layout over so many batches, or 24 of each trainer. Cost: 0.1 ms a batch."""
    updates = max(FEWEST, min(MOST, sampled // layout.trainers))
    filled = 2 * layout.lag + 4
    # Trainers that are alike in everything end each update together: one stands for all.
    simulated = layout.trainers if site.is_uneven or site.spread else 1
    run = fleet(
        site, layout, trainers=simulated, tickets=filled + updates + layout.lag + 1, seed=seed
    )
    played = run.play()
    alone = played.rate(filled, filled + updates) / simulated
    ages = played.ages(filled, filled + updates)
    found = Outlook(
        layout=layout,
        formula=rate(site, layout),
        simulated=layout.trainers * alone * uptime(site, layout, alone),
        staleness_mean=sum(ages) / len(ages),
        staleness_max=max(ages),
        worker_busy=played.worker_busy if layout.workers else 0.0,
        trainer_updates=max(0.0, 1 - played.help - played.wait - played.barrier),
        trainer_helps=played.help,
        trainer_barrier=played.barrier,
        bottleneck="attacks",
        updates=updates,
        deaths=sum(trainer.ledger.deaths for trainer in played.trainers),
    )
    return replace(found, bottleneck=_bottleneck(site, layout, alone, played))


def fleet(site: Site, layout: Layout, *, trainers: int, tickets: int, seed: int = 0) -> Fleet:
    """The first so many trainers of a layout, with their workers, to be simulated.

    Slow devices are workers, evenly spread, or trainers where there are no workers.
    """
    slow, every = layout.num_slow(site), layout.trainers * layout.workers
    run = Simulation(
        costs=layout.costs(site),
        workers=layout.workers,
        policy=layout.policy,
        helps=site.helps,
        tickets=tickets,
        spread=site.spread,
        slow=slow / every if every else 0.0,
        lifetime=site.lifetime,
        restart=site.restart,
        seed=seed,
    )
    even = Fleet.even(run, trainers, all_reduce=site.all_reduce.seconds(layout.trainers))
    return even if every else replace(even, trainers=tuple(_slowed(even.trainers, slow)))


def _slowed(trainers: tuple[Simulation, ...], slow: int) -> Iterator[Simulation]:
    """The first so many take twice the time for everything."""
    for place, run in enumerate(trainers):
        yield replace(run, costs=doubled(run.costs)) if place < slow else run


def _bottleneck(site: Site, layout: Layout, alone: float, played: FleetPlayed) -> Bottleneck:
    even = replace(site, slow=0.0, lifetime=math.inf)
    if played.barrier > HELD_UP and layout.trainers * alone < FULL * rate(even, layout):
        return "barrier"
    if not layout.workers or layout.trainers * alone >= FULL * ceiling(site, layout):
        return busiest(site, layout)
    costs = layout.costs(site)
    window = layout.lag * SPLIT / (costs.attack + costs.lease)
    return "staleness" if alone >= 0.9 * window else "attacks"
