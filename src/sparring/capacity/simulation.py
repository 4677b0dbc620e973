"""Training runs on a virtual clock: the real broker and engine, of one trainer or of several.

Nothing is attacked and no time passes, so hundreds of workers and thousands of batches take
seconds. Several trainers update together: an update begins when every trainer has its batch, so the
slowest makes all wait. Loads no torch. Units: seconds of the virtual clock; rates in batches per
second of all trainers together.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from typing_extensions import override

from sparring.capacity.formula import Costs
from sparring.capacity.virtual_clock import SimulatedTransport, VirtualClock
from sparring.engine.broker import Broker
from sparring.engine.engine import Engine, LocalExecutor
from sparring.engine.lease import Lease, Ledger, Work
from sparring.engine.policies import Policy
from sparring.engine.transports.slow_link import Link, SlowTransport
from sparring.errors import ConfigError
from sparring.records.checks import within


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """A run of one trainer: its workers, the duration of their work, and failures."""

    costs: Costs
    """Costs of a batch; hand-over and publication are the trainer's."""
    workers: int
    policy: Policy
    """Which weights a ticket is attacked with."""
    helps: bool = True
    """Whether the trainer attacks, too, while the next ticket is not ready."""
    tickets: int = 1000
    """Batches to train."""
    fresh: float = 0.0
    """Share of an attack's time that its fresh steps take; below 1."""
    spread: float = 0.0
    """Standard deviation of an attack's time, relative to its mean (normal, at least a tenth)."""
    slow: float = 0.0
    """Share of the workers that take twice the time."""
    lifetime: float = math.inf
    """Mean time after which a worker dies (exponential)."""
    arrival: float = 0.0
    """Time from a worker's start until it takes leases."""
    restart: float | None = None
    """The same for the replacement of a dead worker; by default `arrival`."""
    link: Link | None = None
    """A slow link between trainer and workers; none by default."""
    seed: int = 0
    numbered_from: int = 0
    """Number of its first worker among those of all trainers, which determines the slow ones."""

    def __post_init__(self) -> None:
        within("fresh", self.fresh, "[0, 1)")
        for name in ("spread", "slow"):
            within(name, getattr(self, name), "[0, 1]")

    def run(self) -> "SimulationResult":
        """Simulate. Cost: 0.2 ms per ticket with 16 workers."""
        with worker_deaths_unlogged():
            trainer = SimulatedTrainer(self)
            while trainer.fetch():
                trainer.update()
            return trainer.result()


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationResult:
    """The outcome of a simulation of one trainer."""

    seconds: float
    """Duration of the run."""
    speed_up: float
    """Against one device that attacks and updates in turn, without overheads."""
    worker_busy: float
    """Share of the workers' time spent on attacks that they finished."""
    trainer_wait: float
    """Share of the time that the trainer was idle."""
    ledger: Ledger
    """Counts of leases, tickets and deaths."""
    trace: tuple[tuple[int, int], ...]
    """(ticket, version) in order of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTrainerSimulation:
    """A run of several trainers that update together, each with its own workers.

    Each trainer contributes one batch to a global batch. An all-reduce averages the gradients once
    per update.
    """

    trainers: tuple[Simulation, ...]
    """One for each trainer; all have the same number of tickets."""
    all_reduce: float = 0.0
    """Seconds that the exchange of gradients adds to every update."""

    def __post_init__(self) -> None:
        tickets = {trainer.tickets for trainer in self.trainers}
        if len(tickets) != 1:
            found = ", ".join(map(str, sorted(tickets))) or "no trainer"
            raise ConfigError.expected("trainers must have equal numbers of tickets", found)
        within("all_reduce", self.all_reduce, "[0, inf)")

    @classmethod
    def uniform(
        cls, trainer: Simulation, trainers: int, *, all_reduce: float = 0.0
    ) -> "MultiTrainerSimulation":
        """Copies of one trainer, with their own seeds; slow workers are spread over all evenly."""
        copies = (
            replace(
                trainer,
                seed=trainer.seed + place,
                numbered_from=trainer.numbered_from + place * trainer.workers,
            )
            for place in range(trainers)
        )
        return cls(trainers=tuple(copies), all_reduce=all_reduce)

    def run(self) -> "MultiTrainerResult":
        """Simulate. Cost: 0.1 ms per ticket of each trainer."""
        with worker_deaths_unlogged():
            return self._run()

    def _run(self) -> "MultiTrainerResult":
        trainers = [SimulatedTrainer(trainer) for trainer in self.trainers]
        ends: list[float] = []
        idle = 0.0
        while all([trainer.fetch() for trainer in trainers]):  # a list: every trainer must fetch
            begin = max(trainer.clock.now for trainer in trainers)
            for trainer in trainers:
                idle += begin - trainer.clock.now
                trainer.clock.now = begin
                trainer.update(self.all_reduce)
            ends.append(max(trainer.clock.now for trainer in trainers))
        seconds = max(trainer.clock.now for trainer in trainers)
        helped = sum(trainer.engine.timings.help for trainer in trainers)
        return MultiTrainerResult(
            seconds=seconds,
            barrier=idle / (seconds * len(trainers)),
            help=helped / (seconds * len(trainers)),
            ends=tuple(ends),
            trainers=tuple(trainer.result() for trainer in trainers),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTrainerResult:
    """The outcome of a simulation of several trainers."""

    seconds: float
    """Duration of the run."""
    barrier: float
    """Share of the trainers' time between having a batch and the update that waits for others."""
    help: float
    """Share of the trainers' time spent on attacks."""
    ends: tuple[float, ...]
    """When each update ended."""
    trainers: tuple[SimulationResult, ...]
    """The outcome of each trainer."""

    def rate(self, first: int, last: int) -> float:
        """Batches per second from the end of update `first` to that of `last`, from 0."""
        return len(self.trainers) * (last - first) / (self.ends[last] - self.ends[first])

    def staleness(self, first: int, last: int) -> Sequence[int]:
        """Staleness of every batch of updates `first` to `last` (exclusive), in updates."""
        return [
            ticket - version
            for trainer in self.trainers
            for ticket, version in trainer.trace[first:last]
        ]

    @property
    def wait(self) -> float:
        """Share of the trainers' time spent idle until their own batch is ready."""
        return sum(trainer.trainer_wait for trainer in self.trainers) / len(self.trainers)

    @property
    def worker_busy(self) -> float:
        """Share of the workers' time spent on attacks that they finished."""
        return sum(trainer.worker_busy for trainer in self.trainers) / len(self.trainers)


@contextmanager
def worker_deaths_unlogged() -> Iterator[None]:
    """Silence the engine's warnings: deaths of simulated workers are expected."""
    logger = logging.getLogger("sparring.engine")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class SimulatedTrainer(LocalExecutor):
    """A trainer's process with its workers, on a clock of its own.

    The caller alternates `fetch` and `update`, and may move the clock forward in between.
    """

    def __init__(self, run: Simulation) -> None:
        self.clock = VirtualClock()
        self._run, self._random = run, Random(run.seed)
        self._transport = SimulatedTransport(
            self.clock, self._worker_seconds, arrival=run.arrival, lifetime=self._lifetime
        )
        self._broker = Broker(run.policy, tickets=run.tickets, fresh=run.fresh > 0)
        self._costs, self._fresh = run.costs, run.fresh
        if self._broker.fresh_by == "trainer":
            self._costs, self._fresh = run.costs.finished_by_trainer(run.fresh), 0.0
        self._trace: list[tuple[int, int]] = []
        transport = self._transport
        if run.link is not None:
            transport = SlowTransport(transport, run.link, self.clock)
        self.engine = Engine(
            self._broker,
            transport,
            self,
            workers=run.workers,
            helps=run.helps,
            patience=math.inf,
            clock=self.clock,
        )
        if run.restart is not None:
            self._transport.arrival = run.restart  # the first workers are started by now

    def fetch(self) -> bool:
        """Let time pass until the next ticket is ready; `False` if all are trained."""
        ready = next(self.engine, None)
        if ready is None:
            return False
        self._trace.append((ready.ticket, ready.version))
        return True

    def update(self, more: float = 0.0) -> None:
        """Train on the fetched ticket, for `more` seconds beyond the costs of an update."""
        self.clock.advance(self._costs.update + self._costs.handover + more)

    def result(self) -> SimulationResult:
        """The outcome so far."""
        run, seconds = self._run, self.clock.now
        return SimulationResult(
            seconds=seconds,
            speed_up=run.tickets * run.costs.serial / seconds,
            worker_busy=self._transport.busy_seconds / (seconds * max(run.workers, 1)),
            trainer_wait=self.engine.timings.wait / seconds,
            ledger=replace(self._broker.ledger),
            trace=tuple(self._trace),
        )

    @override
    def publish(self, buffer: int) -> None:
        # The costs have a publication's time per batch.
        self.clock.advance(self._costs.publication * self._run.policy.period)

    @override
    def attack(self, lease: Lease) -> Work:
        seconds = self._costs.attack * self._share(lease)  # no weights need loading
        self.clock.advance(seconds)
        return Work(attack=seconds)

    def _worker_seconds(self, lease: Lease) -> float:
        costs, slow = self._costs, self._run.slow
        number = lease.worker if isinstance(lease.worker, int) else 0
        number += self._run.numbered_from
        is_slow = math.floor((number + 1) * slow) > math.floor(number * slow)  # evenly spread
        seconds = costs.attack * self._share(lease) + costs.lease / lease.parts
        return 2 * seconds if is_slow else seconds

    def _share(self, lease: Lease) -> float:
        """The lease's share of a whole attack, with random spread."""
        fresh, spread = self._fresh, self._run.spread
        steps = {"whole": 1.0, "first": 1.0 - fresh, "last": fresh}[lease.stage]
        jitter = max(0.1, self._random.gauss(1.0, spread)) if spread else 1.0
        return steps * jitter / lease.parts

    def _lifetime(self) -> float:
        mean = self._run.lifetime
        return self._random.expovariate(1 / mean) if mean < math.inf else math.inf
