"""What the engine itself costs a batch: measured with attacks that take no time.

Units: microseconds, medians.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeVar

import torch

from sparring.engine.broker import Broker
from sparring.engine.emulation import ARRIVAL, EmulatedHome, EmulatedJob, workplace
from sparring.engine.engine import Engine
from sparring.engine.lease import Lease, Work, Worker
from sparring.engine.policies import FixedLag, Policy
from sparring.engine.transports import Died, Done, Transport, Up
from sparring.engine.transports.kinds import TransportKind
from sparring.errors import ConfigError

MICRO = 1e6
Told = TypeVar("Told", Up, Done)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overheads:
    """Microseconds of the engine's own work, each by itself, and of a batch in all."""

    broker: float
    """Every decision about one batch: lease, result, hand-over; no process is involved."""
    lease: float
    """A lease to a worker and its result back; nothing is done for it."""
    batch: float
    """A worker's copy of the attacked batch into its slot."""
    load: float
    """A worker's copy of the weights out of their buffer, for one batch of new weights."""
    handover: float
    """The trainer's way from a slot to a tensor it can train on."""
    publication: float
    """The trainer's copy of the weights into a buffer."""
    whole: float
    """A batch through everything at once, with one worker: publication, lease, hand-over."""


def measure_overheads(
    job: EmulatedJob | None = None, *, rounds: int = 400, kind: TransportKind | None = None
) -> Overheads:
    """Measure on this machine, for batches and weights of the paper's sizes unless told otherwise.

    Workers are processes unless another kind is given.

    Cost: some seconds. Raises `ConfigError` if the worker dies or does not answer.
    """
    job = job or EmulatedJob(seconds=0.0)
    policy = FixedLag(lag=3, split=1)
    whole = _whole(job, policy, rounds, kind)
    with workplace(job, policy, kind) as (arena, transport):
        home = EmulatedHome(job, arena)
        worker = transport.start()
        heard(transport, Up)
        same, new = (
            round_trips(transport, worker, rounds, new_weights=new) for new in (False, True)
        )
        slot = arena["attacked 0"]
        batch = torch.zeros_like(slot)
        copying = _timed(lambda: slot.copy_(batch), rounds)
        trips = [trip - overhead for trip, overhead in same]
        return Overheads(
            broker=_broker(policy, rounds),
            lease=MICRO * median(trips),
            batch=copying,
            load=MICRO * (median(o for _, o in new) - median(o for _, o in same)),
            handover=_timed(lambda: arena["attacked 0"].to("cpu"), rounds),
            publication=_timed(lambda: home.publish(0), rounds),
            whole=whole,
        )


def heard(transport: Transport, kind: type[Told]) -> Told:
    """The next event of this kind. Raises `ConfigError` if the worker dies, or is too late."""
    latest = time.perf_counter() + ARRIVAL
    while time.perf_counter() < latest:
        events = transport.poll(1.0)
        for death in (event for event in events if isinstance(event, Died)):
            raise ConfigError(
                "a worker must live while its overheads are measured; it died "
                f"({death.reason}). Call this from a module that can be imported, behind a main "
                "guard."
            )
        for event in (event for event in events if isinstance(event, kind)):
            return event
    raise ConfigError(
        f"a worker must answer within {ARRIVAL:.0f} s for its overheads to be measured; it did "
        "not. See what else this machine is busy with."
    )


def round_trips(
    transport: Transport, worker: Worker, rounds: int, *, new_weights: bool
) -> list[tuple[float, float]]:
    """Seconds of each lease there and back, and of the worker's own work in it.

    Raises `ConfigError` if the worker dies, or is too late.
    """
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        lease = _lease(worker, number, version=number if new_weights else 0)
        begun = time.perf_counter()
        transport.submit(lease)
        done = heard(transport, Done)
        found.append((time.perf_counter() - begun, done.work.attack + done.work.overhead))
    return found


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


def _whole(job: EmulatedJob, policy: Policy, rounds: int, kind: TransportKind | None) -> float:
    with workplace(job, policy, kind) as (arena, transport):
        broker = Broker(policy, tickets=10**9)
        engine = Engine(broker, transport, EmulatedHome(job, arena), workers=1, helps=False)
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
