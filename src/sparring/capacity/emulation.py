"""Emulated devices: the real engine, processes, pipes and slots, but attacks and updates sleep.

This measures the engine, not any device: two cores can sleep in any number of processes. Every
result must be labelled as emulated. Units: seconds.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sparring.attacks import BatchAttack, Classifier, Recipe
from sparring.capacity.formula import Costs
from sparring.data import ImageSet
from sparring.engine.attacker import Attacker, AttackJob, layout, publish
from sparring.engine.broker import Broker
from sparring.engine.engine import Engine, LocalExecutor
from sparring.engine.lease import Lease, Ledger, Work
from sparring.engine.memory import Arena
from sparring.engine.policies import Policy
from sparring.engine.transports import Transport
from sparring.engine.transports.kinds import Processes, TransportKind
from sparring.errors import ConfigError
from sparring.models import working_copy

ARRIVAL = 300.0
"""Longest time until all workers are up."""
IMAGES = 1024
"""Images of the emulated training set, which are shared but never used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sleep(BatchAttack):
    """Returns the clean images after some time; nothing is computed."""

    seconds_per_image: float

    @override
    def __call__(
        self, model: Classifier, images: Tensor, labels: Tensor, *, generator: Generator
    ) -> Tensor:
        if self.seconds_per_image:
            time.sleep(self.seconds_per_image * len(images))
        return images


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedJob:
    """A job whose attacks only take time."""

    seconds: float
    """Time of an attack."""
    batch_size: int = 128
    """Images of a ticket."""
    side: int = 28
    """Pixels of an image's side; they are black."""
    weights: int = 3_274_634
    """Numbers of the network that is published, at least 1: those of the paper's."""

    def network(self) -> nn.Module:
        """One layer with that many weights, which is never called."""
        return nn.Linear(1, self.weights, bias=False)

    def images(self) -> ImageSet:
        """Black images of one class."""
        pixels = torch.zeros(IMAGES, 1, self.side, self.side, dtype=torch.uint8)
        labels = torch.zeros(IMAGES, dtype=torch.int64)
        return ImageSet(pixels=pixels, labels=labels, num_classes=2)

    def attack_job(self) -> AttackJob:
        """The job of the workers."""
        recipe = Recipe(
            attack=_Sleep(seconds_per_image=self.seconds / self.batch_size),
            batch_size=self.batch_size,
            updates=1,
            seed=0,
        )
        return AttackJob(recipe=recipe, build=self.network, precision="fp32")


@contextmanager
def emulated_workers(
    job: EmulatedJob, policy: Policy, kind: TransportKind | None = None
) -> Iterator[tuple[Arena, Transport]]:
    """Memory and a transport for emulated workers, by default processes.

    Both are closed at the end of the block.
    """
    images = job.images()
    arena = Arena(
        layout(
            job.network(),
            images.image_shape,
            batch=job.batch_size,
            buffers=policy.buffers,
            slots=policy.window,
        )
    )
    transport = (kind or Processes()).open(job.attack_job(), arena, images, ["cpu"], 1)
    try:
        yield arena, transport
    finally:
        transport.stop()
        arena.close()


class EmulatedTrainer(LocalExecutor):
    """The trainer's process: it really publishes its weights, but sleeps for its attacks."""

    def __init__(self, job: EmulatedJob, arena: Arena) -> None:
        self._network, self._arena = job.network(), arena
        self._logits_of = working_copy(self._network, "fp32").attacked
        self._attacker = Attacker(job.attack_job(), arena, job.images(), torch.device("cpu"))

    @override
    def publish(self, buffer: int) -> None:
        publish(self._network, self._arena, buffer)

    @override
    def attack(self, lease: Lease) -> Work:
        return self._attacker(lease, self._logits_of)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulationResult:
    """The outcome of an emulated run, measured once all workers were up."""

    speed_up: float
    """Against one device that attacks and updates in turn, without overheads."""
    trainer_wait: float
    """Share of the time that the trainer was idle."""
    ledger: Ledger
    """Counts of leases, tickets and deaths over the whole run."""


def emulate(  # noqa: PLR0913 - costs, and by keyword the engine's settings
    costs: Costs,
    *,
    workers: int,
    policy: Policy,
    helps: bool,
    tickets: int = 200,
    kind: TransportKind | None = None,
) -> EmulationResult:
    """Train `tickets` batches with real workers that sleep, once the pipeline is full.

    Only the times of attack and update are slept; the overheads are real. Workers are processes
    unless another kind is given. Cost: the time of these batches, and some seconds for the start of
    each worker. Raises `ConfigError` if a worker is not up in time.
    """
    job = EmulatedJob(seconds=costs.attack)
    with emulated_workers(job, policy, kind) as (arena, transport):
        broker = Broker(policy, tickets=10**9)
        trainer = EmulatedTrainer(job, arena)
        engine = Engine(broker, transport, trainer, workers=workers, helps=helps, patience=math.inf)
        full, begun, waited, latest = 0, 0.0, 0.0, time.perf_counter() + ARRIVAL
        for ready in engine:
            if engine.num_workers < workers or not full:
                # Nothing is measured before all workers have filled the pipeline.
                is_up = engine.num_workers == workers
                if not is_up and time.perf_counter() > latest:
                    raise ConfigError(
                        f"only {engine.num_workers} of {workers} emulated workers are up after "
                        f"{ARRIVAL:.0f} s. Use fewer workers, or call this from a module that can "
                        "be imported, behind a main guard."
                    )
                full = ready.ticket + policy.window + 2 * workers if is_up else 0
            elif ready.ticket == full:
                begun, waited = time.perf_counter(), engine.timings.wait
            elif ready.ticket == full + tickets:
                break
            time.sleep(costs.update)
        seconds = time.perf_counter() - begun
        engine.close()
    return EmulationResult(
        speed_up=tickets * costs.serial / seconds,
        trainer_wait=(engine.timings.wait - waited) / seconds,
        ledger=broker.ledger,
    )
