"""Carries out leases: the same code in a worker's process and in the trainer's.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch
from sparring.data import Images, first_images, rows
from sparring.engine.delivery import Delivery
from sparring.engine.lease import Lease, Stage, Work
from sparring.engine.memory import Arena, Shape
from sparring.models import PROBES, Precision, possible_precision, working_copy


@runtime_checkable
class AttackTicket(Protocol):
    """Attacks the ticket of a number: a pure function of (number, weights)."""

    def __call__(  # noqa: PLR0913 - a ticket, and by keyword which share of its attack
        self,
        number: int,
        *,
        version: int,
        logits_of: Callable[[Tensor], Tensor],
        part: int = 0,
        parts: int = 1,
        stage: Stage = "whole",
        begun: Tensor | None = None,
    ) -> AttackedBatch:
        """The ticket's batch, or one of its equal parts, attacked.

        With the stage "last", what became of `begun` after the first steps.
        """
        ...


@runtime_checkable
class Job(Protocol):
    """What a worker must know of a run; handed over once, when it starts, so it must pickle."""

    @property
    def precision(self) -> Precision:
        """The arithmetic of attacks."""
        ...

    @property
    def batch_size(self) -> int:
        """Images of a ticket."""
        ...

    def network(self) -> nn.Module:
        """A network of the run's kind; its weights do not matter."""
        ...

    def attacks(self, images: Images, device: torch.device) -> AttackTicket:
        """How tickets of these training images are attacked."""
        ...


def layout(
    network: nn.Module, image_shape: Sequence[int], *, batch: int, buffers: int, slots: int
) -> dict[str, Shape]:
    """What passes between the trainer and its workers: weights and attacked batches."""
    weights = {
        _weight(buffer, name): Shape(sizes=tuple(value.shape), dtype=value.dtype)
        for buffer in range(buffers)
        for name, value in network.state_dict().items()
    }
    attacked = {
        f"{what} {slot}": Shape(sizes=(batch, *image_shape))
        for what in ("slot", "begun")
        for slot in range(slots)
    }
    return weights | attacked


def publish(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Write a network's weights and statistics to a buffer. Cost: one copy."""
    for name, value in network.state_dict().items():
        arena[_weight(buffer, name)].copy_(value)


def load(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Read them back into another network of the same kind. Cost: one copy."""
    for name, value in network.state_dict().items():
        value.copy_(arena[_weight(buffer, name)])


def weights(network: nn.Module, arena: Arena, buffer: int) -> Tensor:
    """A buffer's bytes, the same for every arena that is laid out for such a network."""
    return arena.block([_weight(buffer, name) for name in network.state_dict()])


class Attacker:
    """Attacks leased tickets with the weights that the lease names, into the lease's slot."""

    def __init__(self, job: Job, arena: Arena, images: Images, device: torch.device) -> None:
        self._arena = arena
        self.delivery = Delivery(arena, device)
        self._network = job.network().to(device)
        few = first_images(images, PROBES)
        precision = possible_precision(self._network, job.precision, few)
        self._copy = working_copy(self._network, precision)
        self._attack = job.attacks(images, device)
        self._version: int | None = None

    @property
    def arithmetic(self) -> str:
        """The form in which it computes passes: bits differ between two of them."""
        return self._copy.name

    def __call__(self, lease: Lease, logits_of: Callable[[Tensor], Tensor] | None = None) -> Work:
        """Cost: the attack, a copy of the batch, and of the weights where they are new.

        Who has the lease's weights at hand gives them as `logits_of`, and none are copied.
        """
        started = time.perf_counter()
        here = self._arena[f"begun {lease.slot}"][self._rows(lease)]
        batch = self._attack(
            lease.ticket,
            version=lease.version,
            logits_of=logits_of or self._load(lease),
            part=lease.part,
            parts=lease.parts,
            stage=lease.stage,
            begun=self.delivery.take(here) if lease.stage == "last" else None,
        )
        there = here if lease.stage == "first" else self._slot(lease)
        self.delivery.put(batch.adversarial, there)
        seconds = time.perf_counter() - started
        return Work(attack=batch.attack_seconds, overhead=seconds - batch.attack_seconds)

    def _load(self, lease: Lease) -> Callable[[Tensor], Tensor]:
        if lease.version != self._version:
            load(self._network, self._arena, lease.buffer)
            self._copy.refresh()
            self._version = lease.version
        return self._copy.attacked

    def _slot(self, lease: Lease) -> Tensor:
        return self._arena[f"slot {lease.slot}"][self._rows(lease)]

    def _rows(self, lease: Lease) -> slice:
        return rows(len(self._arena["slot 0"]), lease.part, lease.parts)


def _weight(buffer: int, name: str) -> str:
    return f"weights {buffer} {name}"
