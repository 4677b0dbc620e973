"""Carries out leases: the same code in a worker's process and in the trainer's.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch, Classifier, Crafter, Recipe
from sparring.data import Images, first_images, rows
from sparring.engine.device_copy import DeviceCopy
from sparring.engine.lease import Lease, Work
from sparring.engine.memory import Arena, Shape
from sparring.models import PROBES, Precision, drawing_from, possible_precision, working_copy
from sparring.records.stage import Stage

FINISHED = "finished"
"""Name of the batch after its fresh steps."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttackJob:
    """What a worker needs to attack, apart from the images; pickled to it once, when it starts."""

    recipe: Recipe
    """How batches are made."""
    build: Callable[[], nn.Module]
    """Makes a network like the trainer's; its weights do not matter. May raise `OtherNetwork`."""
    precision: Precision
    """The arithmetic of attacks."""

    def network(self) -> nn.Module:
        """A network like the trainer's; random state of this process is as before."""
        with drawing_from(0):
            return self.build()


def layout(
    network: nn.Module, image_shape: Sequence[int], *, batch: int, buffers: int, slots: int
) -> dict[str, Shape]:
    """What the trainer and its workers share: weights, and batches of clean and attacked images.

    A slot is of one ticket: its clean images, and as the lease for the first or for all steps left
    them. Only the next ticket to train has leases for fresh steps, so that one batch of `finished`
    images is enough.
    """
    weights = {
        _weight(buffer, name): Shape(sizes=tuple(value.shape), dtype=value.dtype)
        for buffer in range(buffers)
        for name, value in network.state_dict().items()
    }
    names = [f"{what} {slot}" for what in ("clean", "attacked") for slot in range(slots)]
    images = Shape(sizes=(batch, *image_shape))
    return weights | dict.fromkeys([*names, FINISHED], images)


def images_of(arena: Arena, stage: Stage, slot: int) -> Tensor:
    """The batch that leases of this stage write to."""
    return arena[FINISHED if stage == "last" else f"attacked {slot}"]


def publish(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Write a network's weights and statistics to a buffer. Cost: one copy."""
    for name, value in network.state_dict().items():
        arena[_weight(buffer, name)].copy_(value)


def load(network: nn.Module, arena: Arena, buffer: int) -> None:
    """Read a buffer's weights into a network of the same kind. Cost: one copy."""
    for name, value in network.state_dict().items():
        value.copy_(arena[_weight(buffer, name)])


def weights(network: nn.Module, arena: Arena, buffer: int) -> Tensor:
    """A buffer's bytes, the same for every arena that is laid out for such a network."""
    return arena.block([_weight(buffer, name) for name in network.state_dict()])


def part_of(slot: Tensor, lease: Lease) -> Tensor:
    """The rows of a slot that belong to a lease's part."""
    return slot[rows(len(slot), lease.part, lease.parts)]


class Attacker:
    """Attacks leased tickets with the weights that the lease names, into the lease's slot."""

    def __init__(self, job: AttackJob, arena: Arena, images: Images, device: torch.device) -> None:
        self._arena = arena
        self.device_copy = DeviceCopy(arena, device)
        self._network = job.network().to(device)
        few = first_images(images, PROBES)
        precision = possible_precision(self._network, job.precision, few)
        self._copy = working_copy(self._network, precision)
        self._crafter = Crafter(job.recipe, images, device)
        self._version: int | None = None

    @property
    def arithmetic(self) -> str:
        """Name of the form in which passes are computed; two forms differ in bits."""
        return self._copy.name

    def __call__(self, lease: Lease, model: Classifier | None = None) -> Work:
        """Attack; `model` has the lease's weights, so that they need not be loaded.

        Cost: the attack, copies of the images, and of the weights if they are new.
        """
        started = time.perf_counter()
        clean = part_of(self._arena[f"clean {lease.slot}"], lease)
        if lease.stage == "last":
            begun = part_of(images_of(self._arena, "first", lease.slot), lease)
            batch = self._clean(lease, self.device_copy.take(clean))
            batch = replace(batch, adversarial=self.device_copy.take(begun))
        else:
            batch = self._clean(lease)
            self.device_copy.put(batch.images, clean)
        attacked = self._crafter.craft(
            batch,
            model or self._load(lease),
            version=lease.version,
            stage=lease.stage,
            part=lease.part,
            parts=lease.parts,
        )
        there = images_of(self._arena, lease.stage, lease.slot)
        self.device_copy.put(attacked.adversarial, part_of(there, lease))
        seconds = time.perf_counter() - started
        return Work(attack=attacked.attack_seconds, overhead=seconds - attacked.attack_seconds)

    def gather(self, lease: Lease) -> None:
        """Put a lease's clean images where its last stage expects them, if they are not there."""
        clean = part_of(self._arena[f"clean {lease.slot}"], lease)
        self.device_copy.put(self._clean(lease).images, clean)

    def _clean(self, lease: Lease, images: Tensor | None = None) -> AttackedBatch:
        return self._crafter.clean(lease.ticket, part=lease.part, parts=lease.parts, images=images)

    def _load(self, lease: Lease) -> Classifier:
        if lease.version != self._version:
            load(self._network, self._arena, lease.buffer)
            self._copy.refresh()
            self._version = lease.version
        return self._copy.attacked


def _weight(buffer: int, name: str) -> str:
    return f"weights {buffer} {name}"
