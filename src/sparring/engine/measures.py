"""What `sparring bench engine` measures: overheads, emulated and simulated devices, a soak.

Units: seconds, unless a name says otherwise.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from sparring.engine.broker import Broker
from sparring.engine.emulation import EmulatedHome, EmulatedJob, emulate, workplace
from sparring.engine.engine import Engine
from sparring.engine.overheads import Overheads, measure_overheads
from sparring.engine.policies import FixedLag, Newest
from sparring.engine.simulation import Simulation
from sparring.engine.speed import Costs
from sparring.engine.transports.process import ProcessTransport

POINT = 6.0
"""Seconds for which each emulated point is measured, once all its workers are up."""
PERIOD = 100
"""Updates between two publications: the paper's (its section 5)."""
FAR_STEPS = (8, 16, 32, 64, 128)
"""Attack steps of the simulated far end."""
FAR_WORKERS = 512
"""Most workers there."""
SAMPLES = 20
"""Looks at memory and speed during a soak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Speed-up of so many devices, one of them the trainer's."""

    devices: int
    helps: bool
    emulated: float
    simulated: float
    formula: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Far:
    """Simulated speed-up of many workers, the trainer helping: even, uneven and failing ones."""

    steps: int
    workers: int
    formula: float
    even: float
    slow: float
    failing: float
    staleness_mean: float
    staleness_max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything that the bench found."""

    steps: int
    """Steps of an emulated attack."""
    step: float
    """Time of a step and of an update."""
    overheads: Overheads
    curve: tuple[Point, ...]
    far: tuple[Far, ...]

    def as_json(self) -> dict[str, object]:
        """The same, for machines."""
        return asdict(self)


def measure(*, steps: int, step: float, devices: int, progress: Callable[[str], None]) -> Measured:
    """Measure all of it. Cost: ten seconds a point and some seconds for each worker's start."""
    progress("measuring the engine's own work")
    overheads = measure_overheads()
    costs = Costs(attack=steps * step, update=step)
    curve = []
    for helps in (False, True):
        for count in range(1, devices + 1):
            point = measure_point(costs, count - 1, helps=helps)
            curve.append(point)
            progress(
                f"{count} emulated devices, trainer {'helps' if helps else 'waits'}: "
                f"{point.emulated:.2f}, formula {point.formula:.2f}"
            )
    far = []
    for far_steps in FAR_STEPS:
        progress(f"simulating up to {FAR_WORKERS} workers, {far_steps} steps")
        counts = (far_steps // 2, far_steps, FAR_WORKERS)
        far += [simulate_far(far_steps, workers) for workers in counts]
    return Measured(steps=steps, step=step, overheads=overheads, curve=tuple(curve), far=tuple(far))


def measure_point(costs: Costs, workers: int, *, helps: bool, seconds: float = POINT) -> Point:
    """The paper's engine with so many workers, asleep, on a virtual clock, and by the formula.

    Cost: `seconds` once all workers are up, and some seconds for each one's start.
    """
    formula = costs.speed_up(workers, helps=helps)
    rounds = max(3, round(seconds * formula / costs.serial / max(workers, 1)))
    emulated = emulate(
        costs,
        workers=workers,
        policy=_papers_policy(workers),
        helps=helps,
        tickets=rounds * max(workers, 1),
    )
    return Point(
        devices=workers + 1,
        helps=helps,
        emulated=emulated.speed_up,
        simulated=simulate_point(costs, workers, helps=helps),
        formula=formula,
    )


def simulate_point(costs: Costs, workers: int, *, helps: bool) -> float:
    """Speed-up of the paper's engine with so many workers, on a virtual clock."""
    policy = _papers_policy(workers)
    return Simulation(costs=costs, workers=workers, policy=policy, helps=helps).play().speed_up


def _papers_policy(workers: int) -> Newest:
    """The newest weights, seldom published; a queue that lets no worker wait for room."""
    return Newest(credits=2 * workers + 4, period=PERIOD)


def simulate_far(steps: int, workers: int) -> Far:
    """Many workers on a virtual clock, with weights published after every update.

    Cost: a second or a few.
    """
    costs = Costs(attack=float(steps), update=1.0)
    run = Simulation(
        costs=costs,
        workers=workers,
        policy=Newest(credits=2 * workers + 2),
        spread=0.05,
        tickets=max(1000, 8 * workers),
    )
    even = run.play()
    ages = even.ledger.staleness
    return Far(
        steps=steps,
        workers=workers,
        formula=costs.speed_up(workers, helps=True),
        even=even.speed_up,
        slow=replace(run, slow=0.25).play().speed_up,
        failing=replace(run, lifetime=200.0 * steps, arrival=5.0).play().speed_up,
        staleness_mean=sum(age * count for age, count in ages.items()) / sum(ages.values()),
        staleness_max=max(ages),
    )


def soak(tickets: int, *, progress: Callable[[str], None]) -> list[dict[str, float]]:
    """Put so many tiny batches through one worker, and look at memory and speed now and then.

    The worker attacks nothing, the trainer never helps: every batch goes through pipe, slot and
    buffers. Reads /proc, so it needs Linux. Cost: some 0.2 ms a ticket.
    """
    job = EmulatedJob(seconds=0.0, batch_size=2, side=4, weights=16)
    policy = FixedLag(lag=3, split=1)
    every = max(1, tickets // SAMPLES)
    samples: list[dict[str, float]] = []
    with workplace(job, policy) as (arena, transport):
        broker = Broker(policy, tickets=tickets)
        engine = Engine(broker, transport, EmulatedHome(job, arena), workers=1, helps=False)
        mark = time.perf_counter()
        for ready in engine:
            if (ready.ticket + 1) % every:
                continue
            now = time.perf_counter()
            (worker,) = cast("ProcessTransport", transport).processes.values()
            sample = {
                "tickets": float(ready.ticket + 1),
                "tickets_per_second": every / (now - mark),
                "trainer_MB": _resident_megabytes(os.getpid()),
                "worker_MB": _resident_megabytes(worker),
                "descriptors": float(_descriptors(os.getpid()) + _descriptors(worker)),
            }
            samples.append(sample)
            progress(", ".join(f"{value:,.0f} {name}" for name, value in sample.items()))
            mark = time.perf_counter()
    return samples


def _resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors(process: int) -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
