"""The trainer, as far as sources know it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch
from sparring.data import Images
from sparring.engine.attacker import Job
from sparring.training.team import Place


@runtime_checkable
class Desk(Protocol):
    """The trainer, as far as a source knows it."""

    @property
    def network(self) -> nn.Module:
        """The weights as they are now."""
        ...

    @property
    def version(self) -> int:
        """Updates that they have seen."""
        ...

    @property
    def images(self) -> Images:
        """The training images."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the trainer computes."""
        ...

    @property
    def place(self) -> Place:
        """Which of the trainers of this machine it is."""
        ...

    @property
    def job(self) -> Job:
        """How tickets are attacked."""
        ...

    def stopped(self) -> bool:
        """Whether a source should end rather than wait for a batch that is not ready."""
        ...

    def attack_now(self, number: int) -> AttackedBatch:
        """Attack the ticket of this number with the weights as they are now.

        Its fresh steps are left to `finish`.
        """
        ...

    def finish(self, batch: AttackedBatch) -> AttackedBatch:
        """Take the fresh steps of a batch's attack with the weights as they are now."""
        ...

    def logits_of(self, images: Tensor) -> Tensor:
        """Logits of the weights as they are now, for attacks."""
        ...

    def recall(self, number: int) -> AttackedBatch:
        """The ticket's images, not attacked: their own adversarial examples."""
        ...

    def eps_of(self, number: int) -> float:
        """ε of the attack on the ticket of this number."""
        ...
