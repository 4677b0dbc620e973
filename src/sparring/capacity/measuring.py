"""Measurements on this machine: costs of a batch, the engine's overheads, speed-up, a soak test.

Units: seconds, unless a name or docstring says otherwise.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeVar, cast

import torch

from sparring.capacity.assumptions import BatchCosts, preset_flags
from sparring.capacity.emulation import (
    ARRIVAL,
    EmulatedJob,
    EmulatedTrainer,
    emulate,
    emulated_workers,
)
from sparring.capacity.engine_stats import WARM_UP, costs_from_log
from sparring.capacity.formula import Costs
from sparring.capacity.simulation import Simulation
from sparring.engine.broker import Broker
from sparring.engine.engine import Engine
from sparring.engine.lease import Lease, Work, Worker
from sparring.engine.policies import FixedLag, Newest, Policy
from sparring.engine.transports import Died, Done, Transport, Up
from sparring.engine.transports.kinds import TransportKind
from sparring.engine.transports.process import ProcessTransport
from sparring.errors import ConfigError, Interrupted
from sparring.records import MetricsLog
from sparring.records.files import temporary_folder
from sparring.records.text import counted
from sparring.training import Fresh, TrainConfig, Validation, presets, train

TIMED = 30
"""Updates that are timed."""
SECONDS_PER_POINT = 6.0
"""Duration of the measurement of each emulated point, once all workers are up."""
PAPERS_PERIOD = 100
"""Updates between two publications in the paper (section 5)."""
FAR_STEPS = (8, 16, 32, 64, 128)
"""Attack steps in the simulations of many workers."""
FAR_WORKERS = 512
"""Most workers in these simulations."""
SAMPLES = 20
"""Samples of memory and speed during a soak test."""
MICRO = 1e6
"""Microseconds of a second."""
Expected = TypeVar("Expected", Up, Done)


def timed_costs(config: TrainConfig, *, updates: int = TIMED) -> Costs:
    """Median times of an attack and an update of this configuration, in turn on one thread.

    The run directory is temporary. Cost: `updates` updates and five more. Raises what `train`
    raises.
    """
    config = replace(
        config,
        source=Fresh(),
        threads=1,
        validation=Validation(every=0, alarm_every=0),
        early_steps=(),
    )
    with temporary_folder() as folder:
        try:
            done = train(config, folder / "timed", until=WARM_UP + updates)
        except Interrupted as stopped:  # its message advises to resume from the temporary folder
            stopped.again()
            raise
        return costs_from_log(MetricsLog(done.run.metrics).rows(), where="the timed run")


@dataclass(frozen=True, kw_only=True, slots=True)
class Overheads:
    """The engine's own work in microseconds, medians: each piece, and all of a batch."""

    broker: float
    """All decisions about one batch: lease, result, hand-over; without any process."""
    lease: float
    """A lease to a worker and its result back, without work."""
    batch: float
    """A worker's copy of the attacked batch into its slot."""
    load: float
    """A worker's copy of new weights from their buffer."""
    handover: float
    """The trainer's conversion of a slot into a tensor to train on."""
    publication: float
    """The trainer's copy of the weights into a buffer."""
    whole: float
    """A batch with one worker: publication, lease and hand-over together."""

    def added_to(self, costs: Costs) -> Costs:
        """Costs of a batch with these overheads: one lease, hand-over and publication."""
        return replace(
            costs,
            lease=max(0.0, self.lease + self.batch + self.load) / MICRO,
            handover=(self.handover + self.broker) / MICRO,
            publication=self.publication / MICRO,
        )


def measure_costs(kappa: int, batch: int, *, progress: Callable[[str], None]) -> BatchCosts:
    """Costs of the preset paper on one core, and the engine's overheads. Cost: half a minute."""
    config = presets.paper()
    config = replace(config, attack=replace(config.pgd, steps=kappa), batch_size=batch)
    progress(
        f"timing {TIMED} updates of the preset paper on one core, kappa {kappa}, batch {batch}"
    )
    costs = timed_costs(config)
    progress("measuring the engine's own work")
    return BatchCosts(
        costs=measure_overheads().added_to(costs),
        origin="measured here, a core",
        measured=True,
        engine_origin="measured here",
        kappa=kappa,
        batch=batch,
        train_flags=preset_flags(kappa, batch),
    )


def measure_overheads(
    job: EmulatedJob | None = None, *, rounds: int = 400, kind: TransportKind | None = None
) -> Overheads:
    """Measure the engine's own work, by default with batches and weights of the paper's sizes.

    Workers are processes unless another kind is given. Cost: some seconds. Raises `ConfigError` if
    the worker dies or does not answer.
    """
    job = job or EmulatedJob(seconds=0.0)
    policy = FixedLag(lag=3, split=1)
    whole = _whole_batch(job, policy, rounds, kind)
    with emulated_workers(job, policy, kind) as (arena, transport):
        trainer = EmulatedTrainer(job, arena)
        worker = transport.start()
        next_event(transport, Up)
        same, new = (
            round_trips(transport, worker, rounds, new_weights=new) for new in (False, True)
        )
        slot = arena["attacked 0"]
        batch = torch.zeros_like(slot)
        return Overheads(
            broker=_broker(policy, rounds),
            lease=MICRO * median(trip - work for trip, work in same),
            batch=_timed(lambda: slot.copy_(batch), rounds),
            load=MICRO * (median(work for _, work in new) - median(work for _, work in same)),
            handover=_timed(lambda: arena["attacked 0"].to("cpu"), rounds),
            publication=_timed(lambda: trainer.publish(0), rounds),
            whole=whole,
        )


def next_event(transport: Transport, kind: type[Expected]) -> Expected:
    """The next event of this kind. Raises `ConfigError` if the worker dies, or is too late."""
    latest = time.perf_counter() + ARRIVAL
    while time.perf_counter() < latest:
        events = transport.poll(1.0)
        for death in (event for event in events if isinstance(event, Died)):
            raise ConfigError(
                f"the worker died ({death.reason}). Call this from a module that can be imported, "
                "behind a main guard."
            )
        for event in (event for event in events if isinstance(event, kind)):
            return event
    raise ConfigError(
        f"the worker did not answer within {ARRIVAL:.0f} s. Look for other work on this machine."
    )


def round_trips(
    transport: Transport, worker: Worker, rounds: int, *, new_weights: bool
) -> list[tuple[float, float]]:
    """Time of each lease from submission to result, and the worker's own work in it.

    Raises `ConfigError` if the worker dies, or is too late.
    """
    trips: list[tuple[float, float]] = []
    for number in range(rounds):
        lease = _lease(worker, number, version=number if new_weights else 0)
        begun = time.perf_counter()
        transport.submit(lease)
        done = next_event(transport, Done)
        trips.append((time.perf_counter() - begun, done.work.attack + done.work.overhead))
    return trips


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedUp:
    """Speed-up of a number of devices, one of them the trainer's."""

    devices: int
    helps: bool
    emulated: float
    simulated: float
    formula: float


def measure_speed_up(
    costs: Costs, workers: int, *, helps: bool, seconds: float = SECONDS_PER_POINT
) -> SpeedUp:
    """Speed-up of the paper's engine: emulated, simulated, and by the formula.

    Cost: `seconds` once all workers are up, and some seconds for the start of each.
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
    return SpeedUp(
        devices=workers + 1,
        helps=helps,
        emulated=emulated.speed_up,
        simulated=simulate_speed_up(costs, workers, helps=helps),
        formula=formula,
    )


def simulate_speed_up(costs: Costs, workers: int, *, helps: bool) -> float:
    """Speed-up of the paper's engine on a virtual clock."""
    policy = _papers_policy(workers)
    return Simulation(costs=costs, workers=workers, policy=policy, helps=helps).run().speed_up


def _papers_policy(workers: int) -> Newest:
    """The newest weights, rarely published, with a queue in which no worker waits for room."""
    return Newest(credits=2 * workers + 4, period=PAPERS_PERIOD)


@dataclass(frozen=True, kw_only=True, slots=True)
class FarSpeedUp:
    """Simulated speed-up of many workers beside a trainer that helps."""

    steps: int
    workers: int
    formula: float
    even: float
    """All workers are alike."""
    slow: float
    """A quarter of the workers take twice the time."""
    failing: float
    """Workers die after about 200 attacks each."""
    staleness_mean: float
    """Where all workers are alike."""
    staleness_max: int
    """Where all workers are alike."""


def simulate_far(steps: int, workers: int) -> FarSpeedUp:
    """Many workers on a virtual clock; weights are published after every update.

    Cost: a second or a few.
    """
    costs = Costs(attack=float(steps), update=1.0)
    simulation = Simulation(
        costs=costs,
        workers=workers,
        policy=Newest(credits=2 * workers + 2),
        spread=0.05,
        tickets=max(1000, 8 * workers),
    )
    even = simulation.run()
    staleness = even.ledger.staleness
    return FarSpeedUp(
        steps=steps,
        workers=workers,
        formula=costs.speed_up(workers, helps=True),
        even=even.speed_up,
        slow=replace(simulation, slow=0.25).run().speed_up,
        failing=replace(simulation, lifetime=200.0 * steps, arrival=5.0).run().speed_up,
        staleness_mean=sum(age * count for age, count in staleness.items()) / staleness.total(),
        staleness_max=max(staleness),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineBenchmark:
    """All results of `sparring bench engine`."""

    steps: int
    """Steps of an emulated attack."""
    step: float
    """Time of a step and of an update."""
    overheads: Overheads
    curve: tuple[SpeedUp, ...]
    far: tuple[FarSpeedUp, ...]

    def as_json(self) -> dict[str, object]:
        """All results as JSON values."""
        return asdict(self)


def benchmark_engine(
    *, steps: int, step: float, devices: int, progress: Callable[[str], None]
) -> EngineBenchmark:
    """Measure the overheads, the speed-up of 1 to `devices` emulated devices, and simulate more.

    Cost: ten seconds per point, and some seconds for the start of each worker.
    """
    progress("measuring the engine's own work")
    overheads = measure_overheads()
    costs = Costs(attack=steps * step, update=step)
    curve = []
    for helps in (False, True):
        for count in range(1, devices + 1):
            point = measure_speed_up(costs, count - 1, helps=helps)
            curve.append(point)
            progress(
                f"{counted(count, 'emulated device')}, trainer {'helps' if helps else 'waits'}: "
                f"{point.emulated:.2f}, formula {point.formula:.2f}"
            )
    far = []
    for far_steps in FAR_STEPS:
        progress(f"simulating up to {FAR_WORKERS} workers, {far_steps} steps")
        counts = (far_steps // 2, far_steps, FAR_WORKERS)
        far += [simulate_far(far_steps, workers) for workers in counts]
    return EngineBenchmark(
        steps=steps, step=step, overheads=overheads, curve=tuple(curve), far=tuple(far)
    )


def soak(tickets: int, *, progress: Callable[[str], None]) -> list[dict[str, float]]:
    """Pass tiny batches through one worker, and sample memory and speed twenty times.

    The worker attacks nothing and the trainer never helps: every batch goes through pipe, slot and
    buffers. Reads /proc, so it needs Linux. Cost: about 0.2 ms per ticket.
    """
    job = EmulatedJob(seconds=0.0, batch_size=2, side=4, weights=16)
    policy = FixedLag(lag=3, split=1)
    every = max(1, tickets // SAMPLES)
    samples: list[dict[str, float]] = []
    with emulated_workers(job, policy) as (arena, transport):
        broker = Broker(policy, tickets=tickets)
        engine = Engine(broker, transport, EmulatedTrainer(job, arena), workers=1, helps=False)
        mark = time.perf_counter()
        for ready in engine:
            if (ready.ticket + 1) % every:
                continue
            now = time.perf_counter()
            (worker,) = cast("ProcessTransport", transport).processes.values()
            sample = {
                "tickets": float(ready.ticket + 1),
                "tickets_per_second": every / (now - mark),
                "trainer_MB": resident_megabytes(os.getpid()),
                "worker_MB": resident_megabytes(worker),
                "descriptors": float(_descriptors(os.getpid()) + _descriptors(worker)),
            }
            samples.append(sample)
            progress(", ".join(f"{value:,.0f} {name}" for name, value in sample.items()))
            mark = time.perf_counter()
    return samples


def resident_megabytes(process: int) -> float:
    """Memory of a process in MB; Linux only."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors(process: int) -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def _lease(worker: Worker, number: int, *, version: int) -> Lease:
    return Lease(
        number=number,
        worker=worker,
        ticket=number,
        part=0,
        parts=1,
        stage="whole",
        version=version,
        buffer=0,
        slot=0,
        since=0.0,
        trained=0,
    )


def _broker(policy: Policy, rounds: int) -> float:
    broker = Broker(policy, tickets=10**9)
    broker.join(0)

    def batch() -> None:
        if broker.due:
            broker.published(broker.free_buffer() or 0, broker.trained)
        lease = broker.lease(0, 0.0)
        broker.done(lease.number if lease else 0, Work(attack=0.0))
        if broker.ready:
            broker.commit()

    return _timed(batch, rounds)


def _whole_batch(
    job: EmulatedJob, policy: Policy, rounds: int, kind: TransportKind | None
) -> float:
    with emulated_workers(job, policy, kind) as (arena, transport):
        broker = Broker(policy, tickets=10**9)
        engine = Engine(broker, transport, EmulatedTrainer(job, arena), workers=1, helps=False)
        marks = []
        for ready in engine:
            marks.append(time.perf_counter())
            if ready.ticket == 2 * rounds:
                break
        engine.close()
    gaps = [later - earlier for earlier, later in pairwise(marks)]
    return MICRO * median(gaps[rounds:])


def _timed(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return MICRO * median(times)
