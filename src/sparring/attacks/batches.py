"""One ticket attacked: what every source hands to the trainer, wherever it was made.

Shapes: B batch, C H W image.  Units: pixels in [0, 1].
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparring.attacks.pgd import PGD
from sparring.data import Augmentation, Images, Ticket, augmented


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttackedBatch:
    """One ticket's images, their adversarial examples, and the version that was attacked."""

    number: int
    """The ticket's place in the order of training."""
    images: Float[Tensor, " B C H W"]
    """The clean images, augmented where the run asks for it."""
    adversarial: Float[Tensor, " B C H W"]
    """Their adversarial examples."""
    labels: Int[Tensor, " B"]
    """The true classes."""
    indices: Int[Tensor, " B"]
    """The images' places in the training set."""
    version: int
    """Number of updates that the attacked weights had seen."""
    eps: float
    """The threat's size when the batch was attacked, in pixel units."""
    attack_seconds: float
    """Wall-clock time of the attack."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TicketAttack:
    """Attacks tickets: a pure function of (ticket, ε, weights), whoever calls it and when.

    Everything random comes from the ticket's own seed, so the same ticket attacked again at the
    same version gives the same bytes (at equal device kind, precision and thread count).
    """

    images: Images
    """The training images that tickets point into."""
    attack: PGD
    """The attack at full size; the caller says at which ε and steps a ticket meets it."""
    device: torch.device
    """Where the images are attacked."""
    augmentation: tuple[Augmentation, ...] = ()
    """What is done to the images before, one after the other."""

    def recall(self, ticket: Ticket) -> AttackedBatch:
        """The ticket's images, augmented but not attacked: their own adversarial examples."""
        images, labels = self.images.batch(ticket.indices)
        images, labels = images.to(self.device), labels.to(self.device)
        images = augmented(images, self.augmentation, ticket)
        return AttackedBatch(
            number=ticket.number,
            images=images,
            adversarial=images,
            labels=labels,
            indices=ticket.indices,
            version=0,
            eps=0.0,
            attack_seconds=0.0,
        )

    def __call__(  # noqa: PLR0913 - a ticket, and how it is attacked by keyword
        self,
        ticket: Ticket,
        *,
        eps: float,
        version: int,
        logits_of: Callable[[Tensor], Tensor],
        steps: int | None = None,
        left: int = 0,
    ) -> AttackedBatch:
        """Attack one ticket, by `PGD.at(eps, steps)` but for its last `left` steps.

        Cost: as many passes as steps, each to the images and back.
        """
        clean = self.recall(ticket)
        attack = self.attack.at(eps, steps)
        if left:
            attack = replace(attack, steps=attack.steps - left, step_size=attack.step_length)
        generator = torch.Generator().manual_seed(ticket.seed)
        begun = time.perf_counter()
        adversarial = attack(logits_of, clean.images, clean.labels, generator=generator)
        seconds = time.perf_counter() - begun
        return replace(
            clean, adversarial=adversarial, version=version, eps=eps, attack_seconds=seconds
        )

    def finish(
        self,
        batch: AttackedBatch,
        *,
        logits_of: Callable[[Tensor], Tensor],
        steps: int | None = None,
        left: int,
    ) -> AttackedBatch:
        """Take the last `left` steps of an attack of so many, with these weights.

        With the weights of the other steps, it is the whole attack bit for bit; `attack_seconds`
        is the time of these steps only. Cost: `left` passes to the images and back.
        """
        if not left:
            return replace(batch, attack_seconds=0.0)
        attack = self.attack.at(batch.eps, steps)
        attack = replace(attack, steps=left, step_size=attack.step_length)
        begun = time.perf_counter()
        adversarial = attack.search_from(batch.adversarial, logits_of, batch.images, batch.labels)
        seconds = time.perf_counter() - begun
        return replace(batch, adversarial=adversarial, attack_seconds=seconds)
