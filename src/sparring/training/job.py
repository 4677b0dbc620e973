"""How a run attacks its tickets: all that a worker must know of it.

Shapes: B batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.attacks import AttackedBatch, TicketAttack
from sparring.data import Images, Order, Ticket, rows
from sparring.engine.lease import Stage
from sparring.models import Precision, built_network
from sparring.models.trained import Fingerprint, check_fingerprint, fingerprint, network_seed
from sparring.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunTickets:
    """Attacks tickets by their number, at the ε and in the steps that are theirs in the run.

    Of several trainers each has an equal part of every ticket, and that is what a ticket is here.
    """

    config: TrainConfig
    """Says both."""
    order: Order
    """Which images a ticket has."""
    attack: TicketAttack
    """Attacks them."""
    trainer: int = 0
    """Whose part of them."""

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
        """The ticket's batch, or a part of it, attacked with weights of so many updates.

        With the stage "first", but for its fresh steps; with "last", `begun` after those.
        """
        ticket = self._ticket(number, part, parts)
        eps, steps = self.config.eps_of(number), self.config.steps_of(number)
        fresh = self.config.fresh_steps_of(number)
        if begun is not None:
            clean = replace(self.attack.recall(ticket), version=version, eps=eps)
            batch = replace(clean, adversarial=begun)
            return self.attack.finish(batch, logits_of=logits_of, steps=steps, left=fresh)
        return self.attack(
            ticket,
            eps=eps,
            steps=steps,
            left=fresh if stage == "first" else 0,
            version=version,
            logits_of=logits_of,
        )

    def begin(
        self, number: int, *, version: int, logits_of: Callable[[Tensor], Tensor]
    ) -> AttackedBatch:
        """The ticket's batch after all but the fresh steps, in the parts that workers attack."""
        split = self.config.source.split
        pieces = [
            self(number, version=version, logits_of=logits_of, part=p, parts=split, stage="first")
            for p in range(split)
        ]
        return self._joined(number, pieces)

    def finish(
        self, batch: AttackedBatch, *, logits_of: Callable[[Tensor], Tensor]
    ) -> AttackedBatch:
        """The batch after its fresh steps too, in the same parts; its version stays."""
        if not self.config.fresh_steps_of(batch.number):
            return batch
        split = self.config.source.split
        pieces = [
            self(
                batch.number,
                version=batch.version,
                logits_of=logits_of,
                part=part,
                parts=split,
                stage="last",
                begun=batch.adversarial[rows(len(batch.labels), part, split)],
            )
            for part in range(split)
        ]
        joined = self._joined(batch.number, pieces)
        return replace(joined, attack_seconds=batch.attack_seconds + joined.attack_seconds)

    def recall(self, number: int) -> AttackedBatch:
        """The ticket's images as they are, for a source that kept what became of them."""
        return self.attack.recall(self._ticket(number, 0, 1))

    def _ticket(self, number: int, part: int, parts: int) -> Ticket:
        """A part of the trainer's part of a ticket.

        The trainer's images of the next tickets begin to be read, where they are streamed.
        """
        images, trainers = self.attack.images, self.config.trainers
        tickets = [self.order.ticket(number + n) for n in range(images.reads_ahead + 1)]
        for ticket in tickets if images.reads_ahead else ():
            images.expect(ticket.part(self.trainer, trainers).indices)
        return tickets[0].part(self.trainer * parts + part, trainers * parts)

    def _joined(self, number: int, pieces: Sequence[AttackedBatch]) -> AttackedBatch:
        if len(pieces) == 1:
            return pieces[0]
        return replace(
            self.recall(number),
            adversarial=torch.cat([piece.adversarial for piece in pieces]),
            version=pieces[0].version,
            eps=pieces[0].eps,
            attack_seconds=sum(piece.attack_seconds for piece in pieces),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Known:
    """The trainer's weights at one time, and what its network answers with them."""

    weights: Mapping[str, Tensor]
    """The weights."""
    fingerprint: Fingerprint
    """The answers."""

    @classmethod
    def of(cls, network: nn.Module, image_shape: tuple[int, int, int]) -> "Known":
        """Cost: a copy of the weights and a pass."""
        weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
        return cls(weights=weights, fingerprint=fingerprint(network, image_shape))

    def check(self, network: nn.Module) -> None:
        """Raises `OtherNetwork` for another network than the trainer's; replaces its weights."""
        network.load_state_dict(self.weights)
        check_fingerprint(network, self.fingerprint, "a network that attacks")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackJob:
    """A run's attacks, wherever they are computed; it pickles, the images do not go with it."""

    config: TrainConfig
    """The run's settings."""
    given: nn.Module | None = None
    """Its network, where that is no record but an object, which must pickle for workers."""
    trainer: int = 0
    """Rank of the trainer whose part of every ticket is attacked."""
    known: Known | None = None
    """By what the network is known, where a factory of the user's builds it."""

    @property
    def precision(self) -> Precision:
        """The arithmetic of attacks."""
        return self.config.precision

    @property
    def batch_size(self) -> int:
        """Images of the trainer's part of a ticket."""
        return self.config.batch_size // self.config.trainers

    def network(self) -> nn.Module:
        """A network of the run's kind; its weights do not matter.

        Raises `OtherNetwork` if the factory makes another one here than for the trainer.
        """
        built = built_network(self.config.model, self.given, network_seed(self.config.seed))
        if self.known is not None:
            self.known.check(built)
        return built

    def attacks(self, images: Images, device: torch.device) -> RunTickets:
        """How the tickets of these training images are attacked."""
        config = self.config
        order = Order(num_images=len(images), batch_size=config.batch_size, seed=config.seed)
        attack = TicketAttack(
            images=images,
            attack=config.attack,
            device=device,
            augmentation=config.augmentation,
        )
        return RunTickets(config=config, order=order, attack=attack, trainer=self.trainer)
