"""A job that is small enough for tests of engines: its attacks are real, and some may go wrong."""

import time
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, AttackedBatch, Classifier, Crafter, Linf, Recipe
from sparring.data import ImageSet, Order
from sparring.engine import Lease, LocalExecutor, Work
from sparring.engine.attacker import Attacker, AttackJob, layout, publish
from sparring.engine.memory import Arena
from sparring.engine.policies import Policy
from sparring.engine.transports import Died, Done, Transport, Up

IMAGES = ImageSet(
    pixels=(torch.arange(40 * 16) % 256).to(torch.uint8).view(40, 1, 4, 4),
    labels=torch.arange(40) % 3,
    num_classes=3,
)
CPU = torch.device("cpu")
Kind = TypeVar("Kind", Up, Done, Died)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


ATTACK = PGD(threat=Linf(eps=0.3), steps=2)
RECIPE = Recipe(attack=ATTACK, batch_size=8, updates=100, seed=5)


@dataclass(frozen=True)
class Disturbed:
    """The attack, but for some tickets, which it knows by their seeds."""

    raises_at: int
    hangs_at: int

    def __call__(
        self, model: Classifier, images: Tensor, labels: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        order = Order(num_images=len(IMAGES), batch_size=8, seed=5)
        known = {order.ticket(n).seed: n for n in (self.raises_at, self.hangs_at) if n >= 0}
        number = known.get(generator.initial_seed())
        if number is not None and number == self.raises_at:
            raise ArithmeticError(f"ticket {number} cannot be attacked")
        if number is not None:
            time.sleep(1000)
        return ATTACK(model, images, labels, generator=generator)


def build() -> nn.Module:
    return network(0)


def small_job(raises_at: int = -1, hangs_at: int = -1) -> AttackJob:
    """Eight images a ticket and a linear network; some tickets may be hard to attack."""
    attack = Disturbed(raises_at, hangs_at) if max(raises_at, hangs_at) >= 0 else ATTACK
    return AttackJob(recipe=replace(RECIPE, attack=attack), build=build, precision="fp32")


def expected_batch(number: int, model: nn.Module, version: int) -> AttackedBatch:
    """What a worker should make of a ticket."""
    crafter = Crafter(RECIPE, IMAGES, CPU)
    return crafter.craft(crafter.clean(number), model, version=version)


def small_arena(policy: Policy, job: AttackJob) -> Arena:
    return Arena(
        layout(job.build(), (1, 4, 4), batch=8, buffers=policy.buffers, slots=policy.window)
    )


def lease(worker: object, ticket: int, **more: Any) -> Lease:
    """The first lease of all, unless told otherwise."""
    first = Lease(
        number=1,
        worker=worker,
        ticket=ticket,
        part=0,
        parts=1,
        stage="whole",
        version=0,
        buffer=0,
        slot=0,
        since=0,
        trained=0,
    )
    return replace(first, **more)


def until(transport: Transport, kind: type[Kind], seconds: float = 500) -> Kind:
    """The next event of this kind; that a worker is up may come before it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in transport.poll(1.0):
            if isinstance(event, kind):
                return event
            assert isinstance(event, Up), event
    raise TimeoutError(f"no {kind.__name__} within {seconds} seconds")


class Home(LocalExecutor):
    """A trainer whose update is a known step, so that a run has a known end."""

    def __init__(self, arena: Arena, job: AttackJob) -> None:
        self.network, self._arena = network(1), arena
        self._attacker = Attacker(job, arena, IMAGES, CPU)

    def publish(self, buffer: int) -> None:
        publish(self.network, self._arena, buffer)

    def attack(self, lease: Lease) -> Work:
        return self._attacker(lease)

    @torch.no_grad()
    def update(self, adversarial: Tensor) -> None:
        for value in self.network.parameters():
            value.add_(adversarial.mean() * 0.01 + value.roll(1) * 0.1)
