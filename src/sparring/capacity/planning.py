"""Which layout to use on a number of devices, and beyond which number more of them gain nothing.

The formula rates every layout. The best of them are simulated. Nothing is trained, and no number
here says how a larger global batch, or staleness, changes accuracy. Loads no torch. Units: seconds;
staleness in updates; rates in batches per second of all trainers together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparring.capacity.formula import (
    SPARE,
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
from sparring.capacity.simulation import MultiTrainerResult, MultiTrainerSimulation, Simulation
from sparring.errors import ConfigError
from sparring.records.checks import at_least

SAMPLED = 12_000
"""Batches that are simulated, over all trainers, within the following two limits."""
FEWEST, MOST = 24, 600
"""Updates that are simulated after the first ones, which fill the pipeline."""
FULL = 0.97
"""Share of a limit from which on the limit counts as reached."""
HELD_UP = 0.1
"""Share of the trainers' time spent at the barrier, above which the barrier is the bottleneck."""
MOST_DEVICES = 10_000
"""Largest number of devices; a simulation of more takes minutes."""
GAIN = 0.02
"""A relative gain in throughput below which more devices are not worth it."""
CLOSE = 0.9
"""Share of the best layout's rate, by the formula, from which on a layout is simulated."""
UP = 0.9
"""Uptime below which failures are what ends growth."""
SIMULATED = 6
"""Numbers of workers that are simulated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Expected speed and staleness of a layout."""

    layout: Layout
    formula: float
    """Batches per second, by the formula."""
    simulated: float
    """The same, simulated; failures of trainers by the formula."""
    staleness_mean: float
    """Simulated."""
    staleness_max: int
    """Simulated."""
    worker_busy: float
    """Share of the workers' time spent on attacks; 0 without workers."""
    trainer_updates: float
    """Share of the trainers' time spent on updates, engine and exchange."""
    trainer_helps: float
    """Share of the trainers' time spent on attacks."""
    trainer_barrier: float
    """Share of the trainers' time spent waiting for other trainers."""
    bottleneck: Bottleneck
    """What keeps the layout from being faster."""
    updates: int
    """Updates that were simulated."""
    deaths: int
    """Workers that died during them."""

    @property
    def device_seconds(self) -> float:
        """Time of all devices together, per batch."""
        return self.layout.devices / self.simulated

    def price(self, device_hour: float) -> float:
        """Price of a million batches, at this price of a device for an hour."""
        return device_hour * self.device_seconds * 1e6 / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """The devices to plan for, and the limits of the plan."""

    site: Site
    devices: int = 8
    max_staleness: int = 32
    """The largest staleness of a batch, in updates; the paper, whose attacks have no fresh steps,
    finds up to 32 harmless."""
    period: int = 1
    """Updates between two publications of the weights."""
    max_trainers: int = 32
    """The largest global batch, in batches of one trainer. Goyal et al. (2017) scaled from 256 to
    8,192 images, a factor of 32, by the linear-scaling rule without loss; not tested here."""
    seed: int = 0
    sampled: int = SAMPLED
    """Batches to simulate of each layout; at least 24 of each trainer."""

    def __post_init__(self) -> None:
        at_least("devices", self.devices, 1)
        at_least("max_staleness", self.max_staleness, 0)
        at_least("max_trainers", self.max_trainers, 1)
        at_least("period", self.period, 1)
        if self.period > max(1, self.max_staleness):
            raise ConfigError.expected(
                "weights must be published before a batch is as stale as allowed",
                f"every {self.period} updates, and {self.max_staleness} at most",
                "Allow a larger staleness, or publish more often.",
            )
        if max(self.devices, self.max_trainers) > MOST_DEVICES:
            rule = f"a plan is for at most {MOST_DEVICES:,} devices or trainers"
            got = f"{self.devices:,} devices and up to {self.max_trainers:,} trainers"
            raise ConfigError.expected(rule, got)

    @property
    def max_lag(self) -> int:
        """The largest lag whose staleness, which a period adds to, is allowed."""
        return self.max_staleness - self.period + 1

    @property
    def single(self) -> float:
        """The baseline: batches per second of one device that attacks and updates in turn."""
        return 1 / self.site.costs.serial


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """The layout beyond which more devices gain less than 2 % in all, by the formula."""

    layout: Layout
    """The layout with the fewest devices that is as fast as that."""
    rate: float
    """Its batches per second."""
    why: Literal["trainers", "all-reduce", "failures"]
    """Why more trainers gain nothing: they are not allowed, or exchange or fail for too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The layout to use, and others to compare it with."""

    request: PlanRequest
    chosen: Forecast
    """The layout with the fewest devices within 2 % of the largest simulated throughput."""
    forecasts: tuple[Forecast, ...]
    """Layouts to compare it with, including it, sorted by trainers and workers."""
    saturation: Saturation

    def speed_up(self, batches_per_second: float) -> float:
        """A rate relative to one device that attacks and updates in turn."""
        return batches_per_second / self.request.single


def plan(request: PlanRequest, *, progress: Callable[[str], None] = lambda _: None) -> Plan:
    """Search for the best layout.

    `progress` receives a line per step. Cost: a second for 8 devices, a minute for 4,096 trainers.
    """
    limit = min(request.devices, request.max_trainers)
    progress("comparing layouts by the formula")
    rates = _rates(request, limit, request.devices)
    candidates = _candidates(request, rates)
    shown = _landmarks(rates, limit)
    forecasts: dict[Layout, Forecast] = {}
    for layout in dict.fromkeys([*candidates, *shown]):
        progress(f"simulating {layout.trainers} x (1 + {layout.workers}) devices")
        forecasts[layout] = forecast(
            request.site, layout, seed=request.seed, sampled=request.sampled
        )
    chosen = _smallest({layout: found.simulated for layout, found in forecasts.items()})
    by_size = sorted({chosen, *shown}, key=lambda at: (at.trainers, at.workers, at.lag))
    progress("searching for the saturation")
    return Plan(
        request=request,
        chosen=forecasts[chosen],
        forecasts=tuple(forecasts[layout] for layout in by_size),
        saturation=saturation(request),
    )


def saturation(request: PlanRequest) -> Saturation:
    """The fewest devices that no number of devices outdoes by 2 %, within the request's limits."""
    site = request.site
    rates = _rates(request, request.max_trainers, devices=math.inf)
    layout = _smallest(rates)
    if layout.trainers * (1 + GAIN) >= request.max_trainers:
        why = "trainers"
    elif site.lifetime < math.inf and uptime(site, layout, rates[layout] / layout.trainers) < UP:
        why = "failures"
    else:
        why = "all-reduce"
    return Saturation(layout=layout, rate=rates[layout], why=why)


def forecast(site: Site, layout: Layout, *, seed: int = 0, sampled: int = SAMPLED) -> Forecast:
    """Simulate `sampled` batches of a layout, at least 24 per trainer. Cost: 0.1 ms per batch."""
    updates = max(FEWEST, min(MOST, sampled // layout.trainers))
    filled = 2 * layout.lag + 4
    # Identical trainers end each update together, so one of them represents all.
    simulated = layout.trainers if site.is_uneven or site.spread else 1
    tickets = filled + updates + layout.lag + 1
    result = _simulation(site, layout, trainers=simulated, tickets=tickets, seed=seed).run()
    per_trainer = result.rate(filled, filled + updates) / simulated
    staleness = result.staleness(filled, filled + updates)
    return Forecast(
        layout=layout,
        formula=rate(site, layout),
        simulated=layout.trainers * per_trainer * uptime(site, layout, per_trainer),
        staleness_mean=sum(staleness) / len(staleness),
        staleness_max=max(staleness),
        worker_busy=result.worker_busy if layout.workers else 0.0,
        trainer_updates=max(0.0, 1 - result.help - result.wait - result.barrier),
        trainer_helps=result.help,
        trainer_barrier=result.barrier,
        bottleneck=_bottleneck(site, layout, per_trainer, result),
        updates=updates,
        deaths=sum(trainer.ledger.deaths for trainer in result.trainers),
    )


def _simulation(
    site: Site, layout: Layout, *, trainers: int, tickets: int, seed: int
) -> MultiTrainerSimulation:
    """The first trainers of a layout, with their workers.

    Slow devices are workers, evenly spread, or trainers if there are no workers.
    """
    slow, workers = layout.num_slow(site), layout.trainers * layout.workers
    trainer = Simulation(
        costs=site.costs if layout.workers else layout.costs(site),
        fresh=site.fresh if layout.workers else 0.0,
        workers=layout.workers,
        policy=layout.policy,
        helps=site.helps,
        tickets=tickets,
        spread=site.spread,
        slow=slow / workers if workers else 0.0,
        lifetime=site.lifetime,
        restart=site.restart,
        seed=seed,
    )
    uniform = MultiTrainerSimulation.uniform(
        trainer, trainers, all_reduce=site.all_reduce.seconds(layout.trainers)
    )
    if workers:
        return uniform
    slowed = (replace(each, costs=doubled(each.costs)) for each in uniform.trainers[:slow])
    return replace(uniform, trainers=(*slowed, *uniform.trainers[slow:]))


def _bottleneck(
    site: Site, layout: Layout, per_trainer: float, result: MultiTrainerResult
) -> Bottleneck:
    even = replace(site, slow=0.0, lifetime=math.inf)
    throughput = layout.trainers * per_trainer
    if result.barrier > HELD_UP and throughput < FULL * rate(even, layout):
        return "barrier"
    if not layout.workers or throughput >= FULL * ceiling(site, layout):
        return busiest(site, layout)
    costs = layout.costs(site)
    window = layout.lag * SPLIT / (costs.attack + costs.lease)
    return "staleness" if per_trainer >= 0.9 * window else "attacks"


def _rates(request: PlanRequest, most_trainers: int, devices: float) -> dict[Layout, float]:
    """Rates by the formula of all layouts whose last worker still gains something."""
    rates: dict[Layout, float] = {}
    for trainers in range(1, most_trainers + 1):
        alone = Layout(trainers=trainers, workers=0)
        rates[alone] = rate(request.site, alone)
        workers, before = 1, 0.0
        while request.max_lag > 0 and trainers * (1 + workers) <= devices:
            lag = min(workers + SPARE, request.max_lag)
            layout = Layout(trainers=trainers, workers=workers, lag=lag, period=request.period)
            now = rate(request.site, layout)
            if now <= before * (1 + 1e-9):
                break
            rates[layout] = before = now
            workers += 1
    return rates


def _smallest(rates: Mapping[Layout, float]) -> Layout:
    """The fewest devices, then the fewest trainers, within 2 % of the best."""
    best = max(rates.values())
    enough = [layout for layout, now in rates.items() if now * (1 + GAIN) >= best]
    return min(enough, key=lambda at: (at.devices, at.trainers, -rates[at]))


def _candidates(request: PlanRequest, rates: Mapping[Layout, float]) -> Sequence[Layout]:
    """The layouts to choose from: the best of each number of workers, if it is close to the best.

    If some devices are slow or fail, each comes with a longer lag, too: a longer lag lets the other
    workers continue with later tickets while a slow worker finishes.
    """
    best = max(rates.values())
    of_size: dict[int, Layout] = {}
    for layout in sorted(rates, key=lambda at: (-round(rates[at] / best, 3), at.devices)):
        if rates[layout] >= CLOSE * best:
            of_size.setdefault(layout.workers, layout)
    chosen = [_smallest(rates), *list(of_size.values())[:SIMULATED]]
    if request.site.is_uneven:
        longer = {at: min(2 * at.workers + SPARE, request.max_lag) for at in chosen}
        chosen += [replace(at, lag=lag) for at, lag in longer.items() if at.workers]
    return list(dict.fromkeys(chosen))


def _landmarks(rates: Mapping[Layout, float], limit: int) -> list[Layout]:
    """The best layout of 1, 2, 4, … trainers, and as many trainers as possible without workers."""
    counts = [2**power for power in range(limit.bit_length())]
    shown = [
        _smallest({at: now for at, now in rates.items() if at.trainers == trainers})
        for trainers in dict.fromkeys([*counts, limit])
    ]
    return list(dict.fromkeys([*shown, Layout(trainers=limit, workers=0)]))
