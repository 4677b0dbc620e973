"""Emulated devices: the real engine, processes, pipes and slots, where attacks and updates sleep.

What this shows is the engine, not any device: a machine of two cores can sleep in as many processes
as it likes. Everything that comes of it must be labelled as emulated. Units: seconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sparring.attacks import Classifier, Recipe
from sparring.data import ImageSet
from sparring.engine.attacker import Attacker, AttackJob, layout, publish
from sparring.engine.broker import Broker
from sparring.engine.engine import Engine, LocalExecutor
from sparring.engine.lease import Lease, Ledger, Work
from sparring.engine.memory import Arena
from sparring.engine.policies import Policy
from sparring.engine.speed import Costs
from sparring.engine.transports import Transport
from sparring.engine.transports.kinds import Processes, TransportKind
from sparring.errors import ConfigError
from sparring.models import working_copy

ARRIVAL = 300.0
"""Longest wait for all workers to be up."""
IMAGES = 1024
"""Images of the emulated training set: they are shared, never looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sleep:
    """Returns the clean images after some time; nothing is computed."""

    seconds_per_image: float

    def __call__(
        self, model: Classifier, images: Tensor, labels: Tensor, *, generator: Generator
    ) -> Tensor:
        """Sleep for these images' share of an attack."""
        if self.seconds_per_image:
            time.sleep(self.seconds_per_image * len(images))
        return images


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedJob:
    """A job whose attacks only take time."""

    seconds: float
    """What an attack takes."""
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
        """What workers get."""
        recipe = Recipe(
            attack=_Sleep(seconds_per_image=self.seconds / self.batch_size),
            batch_size=self.batch_size,
            updates=1,
            seed=0,
        )
        return AttackJob(recipe=recipe, build=self.network, precision="fp32")


@contextmanager
def workplace(
    job: EmulatedJob, policy: Policy, kind: TransportKind | None = None
) -> Iterator[tuple[Arena, Transport]]:
    """Memory and a transport for emulated workers, by default processes; gone with the block."""
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
    cpu = [torch.device("cpu")]
    transport = (kind or Processes()).open(
        job.attack_job(), arena, images, neighbours=cpu, threads=1
    )
    try:
        yield arena, transport
    finally:
        transport.stop()
        arena.close()


class EmulatedHome(LocalExecutor):
    """The trainer's own process: it publishes for real, and sleeps for its attacks."""

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
class Emulated:
    """What an emulated run came to, once all workers were up."""

    speed_up: float
    """Against one device that attacks and updates in turn, without overheads."""
    trainer_wait: float
    """Share of the time that the trainer had nothing to do."""
    ledger: Ledger
    """What happened over the whole run."""


def emulate(
    costs: Costs, *, workers: int, policy: Policy, helps: bool, tickets: int = 200
) -> Emulated:
    """Train so many batches of sleep with real workers, after as many as it takes to begin.

    Of the costs only attack and update are slept; overheads are what they are. Cost: the time of
    these batches, and some seconds for each worker's start. Raises `ConfigError` if workers do not
    come up.
    """
    job = EmulatedJob(seconds=costs.attack)
    with workplace(job, policy) as (arena, transport):
        broker = Broker(policy, tickets=10**9)
        home = EmulatedHome(job, arena)
        engine = Engine(broker, transport, home, workers=workers, helps=helps)
        full, begun, waited, latest = 0, 0.0, 0.0, time.perf_counter() + ARRIVAL
        for ready in engine:
            if engine.num_workers < workers or not full:
                # Until the pipeline has been filled by all.
                is_up = engine.num_workers == workers
                if not is_up and time.perf_counter() > latest:
                    raise ConfigError(
                        f"all {workers} emulated workers must be up within {ARRIVAL:.0f} s for "
                        f"their speed to be measured; {engine.num_workers} are. Take fewer, or "
                        "call this from a module that can be imported, behind a main guard."
                    )
                full = ready.ticket + policy.window + 2 * workers if is_up else 0
            elif ready.ticket == full:
                begun, waited = time.perf_counter(), engine.timings.wait
            elif ready.ticket == full + tickets:
                break
            time.sleep(costs.update)
        seconds = time.perf_counter() - begun
        engine.close()
    return Emulated(
        speed_up=tickets * costs.serial / seconds,
        trainer_wait=(engine.timings.wait - waited) / seconds,
        ledger=broker.ledger,
    )
