"""Carries out leases: the same code in a worker's process and in the trainer's.

Shapes: B batch, N training images, C H W image.  Units: pixels in [0, 1].
"""

import pickle
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch
from sparring.data import Images, ImageSet, rows
from sparring.engine.delivery import Delivery
from sparring.engine.lease import Lease, Stage, Work
from sparring.engine.memory import Arena, Shape
from sparring.errors import DataError
from sparring.models import Precision, working_copy


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
    network: nn.Module, images: Images, *, batch: int, buffers: int, slots: int
) -> dict[str, Shape]:
    """What the trainer and its workers share: weights, attacked batches, the training images.

    Images that are streamed are not shared: every process reads them itself.
    """
    weights = {
        _weight(buffer, name): Shape(sizes=tuple(value.shape), dtype=value.dtype)
        for buffer in range(buffers)
        for name, value in network.state_dict().items()
    }
    attacked = {
        f"{what} {slot}": Shape(sizes=(batch, *images.image_shape))
        for what in ("slot", "begun")
        for slot in range(slots)
    }
    if not isinstance(images, ImageSet):
        return weights | attacked
    pixels = Shape(sizes=tuple(images.pixels.shape), dtype=torch.uint8)
    labels = Shape(sizes=tuple(images.labels.shape), dtype=torch.int64)
    return weights | attacked | {"pixels": pixels, "labels": labels}


def share(images: Images, arena: Arena) -> Images | None:
    """Copy the training images to the arena; if they are streamed, what reads them instead.

    Cost: one copy. Raises `DataError` for what cannot be sent to other processes.
    """
    if not isinstance(images, ImageSet):
        try:
            pickle.dumps(images)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise DataError(
                "Images that are streamed must pickle, because every worker reads them itself; "
                f"got: {error}. Define their class at the top of a module, hold no open files in "
                "it, or raise data_memory so that they are held in memory."
            ) from error
        return images
    arena["pixels"].copy_(images.pixels)
    arena["labels"].copy_(images.labels)
    return None


def publish(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Write a network's weights and statistics to a buffer. Cost: one copy."""
    for name, value in network.state_dict().items():
        arena[_weight(buffer, name)].copy_(value)


def load(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Read them back into another network of the same kind. Cost: one copy."""
    for name, value in network.state_dict().items():
        value.copy_(arena[_weight(buffer, name)])


class Attacker:
    """Attacks leased tickets with the weights that the lease names, into the lease's slot.

    The training images are those of the arena, unless they are `streamed`.
    """

    def __init__(
        self,
        job: Job,
        arena: Arena,
        num_classes: int,
        device: torch.device,
        streamed: Images | None = None,
    ) -> None:
        self._arena = arena
        self.delivery = Delivery(arena, device)
        self._network = job.network().to(device).train()
        self._copy = working_copy(self._network, job.precision)
        images = streamed or ImageSet(
            pixels=arena["pixels"], labels=arena["labels"], num_classes=num_classes
        )
        self._attack = job.attacks(images, device)
        self._version: int | None = None

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
