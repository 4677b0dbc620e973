"""Training runs on paper: the real broker and engine on a virtual clock.

Nothing is attacked and no time passes, so hundreds of workers and thousands of batches take
seconds. Units: seconds of the virtual clock.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from sparring.engine.broker import Broker
from sparring.engine.engine import Engine
from sparring.engine.lease import Lease, Ledger, Work
from sparring.engine.policies import Policy
from sparring.engine.speed import Costs
from sparring.engine.transports import SimulatedTransport, VirtualClock
from sparring.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """One run: who works, how long things take, and what goes wrong."""

    costs: Costs
    """What a batch takes; its hand-over and publication are the trainer's."""
    workers: int
    """Workers beside the trainer."""
    policy: Policy
    """Which weights a ticket is attacked with."""
    helps: bool = True
    """Whether the trainer attacks too where the next ticket is not ready."""
    tickets: int = 1000
    """Batches to train."""
    fresh: float = 0.0
    """Share of an attack's time that is its fresh steps."""
    spread: float = 0.0
    """Standard deviation of an attack's time, as a share of it (normal, no less than a tenth)."""
    slow: float = 0.0
    """Share of the workers that take twice the time."""
    lifetime: float = math.inf
    """Mean time after which a worker dies (exponential)."""
    arrival: float = 0.0
    """Time from a worker's start until it takes leases."""
    restart: float | None = None
    """The same, of a worker that replaces a dead one; not given, as of the first."""
    seed: int = 0
    """Of all that is random."""
    numbered_from: int = 0
    """Number of its first worker among those of all trainers, which decides who of them is slow."""

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        for name in ("fresh", "spread", "slow"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} must lie in [0, 1] because it is a share; got {getattr(self, name):g}."
                )

    def play(self) -> "Played":
        """Let it happen. Cost: 0.2 ms a ticket for 16 workers, here."""
        with silent():
            trainer = TrainerOnPaper(self)
            while trainer.fetch():
                trainer.update()
            return trainer.played()


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What came of a simulation."""

    seconds: float
    """How long the run took."""
    speed_up: float
    """Against one device that attacks and trains in turn, without overheads."""
    worker_busy: float
    """Share of the time that workers spent on attacks that they finished, of all workers."""
    trainer_wait: float
    """Share of the time that the trainer had nothing to do."""
    ledger: Ledger
    """What happened, in numbers."""
    trace: tuple[tuple[int, int], ...]
    """(ticket, version) in order of training."""


@contextmanager
def silent() -> Iterator[None]:
    """What dies on paper is no news."""
    logger = logging.getLogger("sparring.engine")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class TrainerOnPaper:
    """The trainer's own process, on paper, and its workers; whoever drives it says when it updates.

    Each has a clock of its own.
    """

    def __init__(self, run: Simulation) -> None:
        self.run, self.clock, self.random = run, VirtualClock(), Random(run.seed)
        self.transport = SimulatedTransport(
            self.clock, self.cost, arrival=run.arrival, lifetime=self.lifetime
        )
        self.broker = Broker(run.policy, tickets=run.tickets, fresh=run.fresh > 0)
        self.trace: list[tuple[int, int]] = []
        self.engine = Engine(
            self.broker,
            self.transport,
            self,
            workers=run.workers,
            helps=run.helps,
            patience=math.inf,
            clock=self.clock,
        )
        if run.restart is not None:
            self.transport.arrival = run.restart  # the first workers are started by now

    def fetch(self) -> bool:
        """Let time pass until the next ticket is ready; false if every one is trained."""
        ready = next(self.engine, None)
        if ready is None:
            return False
        self.trace.append((ready.ticket, ready.version))
        return True

    def update(self, more: float = 0.0) -> None:
        """Train on the ticket that was fetched; `more` is what an update takes beside its costs."""
        self.clock.advance(self.run.costs.update + self.run.costs.handover + more)

    def played(self) -> Played:
        """What came of it."""
        run, seconds = self.run, self.clock.now
        return Played(
            seconds=seconds,
            speed_up=run.tickets * run.costs.serial / seconds,
            worker_busy=self.transport.busy_seconds / (seconds * max(run.workers, 1)),
            trainer_wait=self.engine.timings.wait / seconds,
            ledger=replace(self.broker.ledger),
            trace=tuple(self.trace),
        )

    def publish(self, buffer: int) -> None:
        """The trainer's time for it; the costs say it a batch."""
        self.clock.advance(self.run.costs.publication * self.run.policy.period)

    def attack(self, lease: Lease) -> Work:
        """The trainer attacks, and need not load any weights."""
        seconds = self.run.costs.attack * self.share(lease)
        self.clock.advance(seconds)
        return Work(attack=seconds)

    def cost(self, lease: Lease) -> float:
        """What a worker takes for a lease."""
        costs, slow = self.run.costs, self.run.slow
        number = lease.worker if isinstance(lease.worker, int) else 0
        number += self.run.numbered_from
        is_slow = math.floor((number + 1) * slow) > math.floor(number * slow)  # evenly spread
        time = costs.attack * self.share(lease) + costs.lease / lease.parts
        return 2 * time if is_slow else time

    def share(self, lease: Lease) -> float:
        """How much of a whole attack the lease is, more or less."""
        fresh, spread = self.run.fresh, self.run.spread
        steps = {"whole": 1.0, "first": 1.0 - fresh, "last": fresh}[lease.stage]
        jitter = max(0.1, self.random.gauss(1.0, spread)) if spread else 1.0
        return steps * jitter / lease.parts

    def lifetime(self) -> float:
        """Of the next worker."""
        mean = self.run.lifetime
        return self.random.expovariate(1 / mean) if mean < math.inf else math.inf
