"""A job that is small enough for tests of engines: its attacks are real, and some may go wrong."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparring.attacks import PGD, AttackedBatch, Linf, TicketAttack
from sparring.data import Images, ImageSet, Order
from sparring.engine import Lease, Work
from sparring.engine.attacker import Attacker, layout, publish
from sparring.engine.memory import Arena
from sparring.engine.policies import Policy
from sparring.engine.transports import Died, Done, Transport, Up
from sparring.models import Precision

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


@dataclass(frozen=True)
class Attack:
    images: Images
    device: torch.device

    def __call__(  # noqa: PLR0913 - the protocol's
        self,
        number: int,
        *,
        version: int,
        logits_of: Callable[[Tensor], Tensor],
        part: int = 0,
        parts: int = 1,
        stage: str = "whole",
        begun: Tensor | None = None,
    ) -> AttackedBatch:
        assert (stage, begun) == ("whole", None)
        order = Order(num_images=len(self.images), batch_size=8, seed=5)
        attack = TicketAttack(
            images=self.images, attack=PGD(threat=Linf(eps=0.3), steps=2), device=self.device
        )
        ticket = order.ticket(number).part(part, parts)
        return attack(ticket, eps=0.3, version=version, logits_of=logits_of)


@dataclass(frozen=True)
class SmallJob:
    """Eight images a ticket and a linear network; some tickets may be hard to attack."""

    raises_at: int = -1
    hangs_at: int = -1
    precision: Precision = "fp32"
    batch_size: int = 8

    def network(self) -> nn.Module:
        return network(0)

    def attacks(self, images: Images, device: torch.device) -> Callable[..., AttackedBatch]:
        attack = Attack(images, device)

        def disturbed(number: int, **more: Any) -> AttackedBatch:
            if number == self.raises_at:
                raise ArithmeticError(f"ticket {number} cannot be attacked")
            if number == self.hangs_at:
                time.sleep(1000)
            return attack(number, **more)

        return disturbed


def small_arena(policy: Policy, job: SmallJob) -> Arena:
    return Arena(
        layout(job.network(), (1, 4, 4), batch=8, buffers=policy.buffers, slots=policy.window)
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


def until(transport: Transport, kind: type[Kind], seconds: float = 60) -> Kind:
    """The next event of this kind; that a worker is up may come before it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in transport.poll(1.0):
            if isinstance(event, kind):
                return event
            assert isinstance(event, Up), event
    raise TimeoutError(f"no {kind.__name__} within {seconds} seconds")


class Home:
    """A trainer whose update is a known step, so that a run has a known end."""

    def __init__(self, arena: Arena, job: SmallJob) -> None:
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
