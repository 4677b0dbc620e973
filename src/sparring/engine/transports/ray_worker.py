"""A worker in a Ray actor. Imports no Ray: the transport makes an actor of it.

Shapes: C H W image.  Units: pixels in [0, 1].
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.data import Images, ImageSet
from sparring.engine.attacker import Attacker, AttackJob, images_of, layout, part_of, weights
from sparring.engine.lease import Lease, Work
from sparring.engine.memory import Arena
from sparring.errors import ConfigError
from sparring.records.environment import installed_version

Handed = tuple[np.ndarray, np.ndarray, int] | Images
"""Training images in the object store: grey levels, labels and number of classes; or streamed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySetup:
    """What a worker gets when it starts, apart from the images."""

    job: AttackJob
    device: str
    threads: int
    version: str
    """The trainer's version of sparring; a worker's must be the same."""


class RayWorker:
    """Attacks leases with weights that come with them; nothing is shared with the trainer."""

    def prepare(self, setup: RaySetup, handed: Handed) -> str:
        """Build the network and take the images; return the form of its arithmetic.

        Raises `ConfigError` if this node has another version of sparring than the trainer's.
        """
        here = installed_version("sparring")
        if setup.version != here:
            rule = f"a worker must run the trainer's version of sparring, {setup.version}"
            raise ConfigError.expected(rule, here, "Install the same version on every node.")
        torch.set_num_threads(setup.threads)
        images = _images(handed)
        self._probe = setup.job.network()
        shape = images.image_shape
        self._arena = Arena(
            layout(self._probe, shape, batch=setup.job.recipe.rank_batch_size, buffers=1, slots=1)
        )
        self._attacker = Attacker(setup.job, self._arena, images, torch.device(setup.device))
        self._version: int | None = None
        return self._attacker.arithmetic

    def attack(
        self, lease: Lease, published: np.ndarray, begun: np.ndarray | None
    ) -> tuple[Work, np.ndarray]:
        """Time of the lease, and its attacked images; `begun` are those of its first steps."""
        lease = replace(lease, buffer=0, slot=0)
        if lease.version != self._version:
            weights(self._probe, self._arena, 0).copy_(readable(published))
            self._version = lease.version
        if begun is not None:
            part_of(images_of(self._arena, "first", 0), lease).copy_(readable(begun))
            self._attacker.gather(lease)
        work = self._attacker(lease)
        return work, part_of(images_of(self._arena, lease.stage, 0), lease).numpy()


def readable(array: np.ndarray) -> Tensor:
    """A read-only array of the object store as a tensor; no copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def handed(images: Images) -> Any:
    """Training images in the form of which a node keeps one copy for all of its workers."""
    if isinstance(images, ImageSet):
        return images.pixels.numpy(), images.labels.numpy(), images.num_classes
    return images


def _images(handed: Handed) -> Images:
    if not isinstance(handed, tuple):
        return handed
    pixels, labels, num_classes = handed
    return ImageSet(pixels=readable(pixels), labels=readable(labels), num_classes=num_classes)
