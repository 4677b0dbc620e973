"""How a run attacks its tickets: all that a worker must know of it.

Shapes: B batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch, TicketAttack
from sparring.data import ImageSet, Order
from sparring.models import Precision
from sparring.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunTickets:
    """Attacks tickets by their number, at the ε and in the steps that are theirs in the run."""

    config: TrainConfig
    """Says both."""
    order: Order
    """Which images a ticket has."""
    attack: TicketAttack
    """Attacks them."""

    def __call__(
        self, number: int, *, version: int, logits_of: Callable[[Tensor], Tensor]
    ) -> AttackedBatch:
        """The ticket's batch, attacked with these weights, which have seen `version` updates."""
        return self.attack(
            self.order.ticket(number),
            eps=self.config.eps_of(number),
            steps=self.config.steps_of(number),
            version=version,
            logits_of=logits_of,
        )

    def recall(self, number: int) -> AttackedBatch:
        """The ticket's images as they are, for a source that kept what became of them."""
        return self.attack.recall(self.order.ticket(number))


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackJob:
    """A run's attacks, wherever they are computed; it pickles, the images do not go with it."""

    config: TrainConfig
    """The run's settings."""

    @property
    def precision(self) -> Precision:
        """The arithmetic of attacks."""
        return self.config.precision

    @property
    def batch_size(self) -> int:
        """Images of a ticket."""
        return self.config.batch_size

    def network(self) -> nn.Module:
        """A network of the run's kind; its weights do not matter."""
        return self.config.model.build(0)

    def attacks(self, images: ImageSet, device: torch.device) -> RunTickets:
        """How the tickets of these training images are attacked."""
        config = self.config
        order = Order(num_images=len(images), batch_size=config.batch_size, seed=config.seed)
        attack = TicketAttack(images=images, attack=config.attack, device=device)
        return RunTickets(config=config, order=order, attack=attack)
