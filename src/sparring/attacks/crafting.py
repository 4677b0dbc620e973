"""How an adversarial batch is made: in the trainer, in a worker and in a replay.

A *ticket* is a batch's place in the order of training. Its batch is a pure function of the ticket,
the attacked weights and the recipe: everything random comes from the ticket's own seed, so that the
same ticket attacked again with the same weights gives the same bytes (at equal device kind,
precision and thread count).

Shapes: B batch, C H W image.  Units: pixels in [0, 1], ε in pixel units, seconds are wall-clock.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from typing_extensions import override

from sparring.attacks.batch_attack import (
    BUILT_IN,
    BatchAttack,
    StepwiseAttack,
    attacked_images,
    searched_images,
    stepwise,
)
from sparring.attacks.checks import Classifier
from sparring.attacks.own import threat_of
from sparring.attacks.own_threat import FEW, check_threat, is_own
from sparring.data import Augmentation, Crop, Flip, Images, Order, Ticket, augmented, rows
from sparring.errors import ConfigError
from sparring.models import drawing_from
from sparring.records.checks import at_least, within
from sparring.records.custom import own_errors
from sparring.records.stage import Stage
from sparring.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttackedBatch:
    """One batch: clean images, their adversarial examples, labels, and which weights they attack.

    With `images` as `adversarial` it is a batch that has not been attacked yet.
    """

    number: int
    """Its place in the order of training, counted from 0."""
    images: Float[Tensor, " B C H W"]
    """The clean images, augmented if augmentation is set."""
    adversarial: Float[Tensor, " B C H W"]
    """Their adversarial examples."""
    labels: Int[Tensor, " B"]
    """The true classes."""
    indices: Int[Tensor, " B"]
    """The images' positions in the training set."""
    version: int
    """Number of updates before the attacked weights."""
    eps: float
    """ε of the attack; NaN for an attack without a threat."""
    attack_seconds: float
    """Time of the attack, summed over all parts."""

    @property
    def staleness(self) -> int:
        """Updates between the attacked weights and those that the batch trains."""
        return self.number - self.version

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @override
    def __repr__(self) -> str:
        shape, device = tuple(self.images.shape), self.images.device
        return (
            f"AttackedBatch({self.number}: images {shape} on {device}, eps {self.eps:.4g}, "
            f"staleness {self.staleness})"
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "AttackedBatch":
        """The same batch on another device; itself if it is there already."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("images", "adversarial", "labels")
        }
        same = all(value is getattr(self, name) for name, value in moved.items())
        return self if same else replace(self, **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlySteps:
    """Fewer attack steps early in training; the step size grows, so their sum stays the same."""

    until: float
    """They apply before this share of training, in (0, 1)."""
    steps: int
    """Gradient steps until then, at least 1."""

    def __post_init__(self) -> None:
        within("until", self.until, "(0, 1)")
        at_least("early steps", self.steps, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackPlan:
    """How one ticket is attacked."""

    attack: BatchAttack
    """The attack, at the ticket's ε and number of steps."""
    eps: float
    """Its ε; NaN for an attack without a threat."""
    fresh_steps: int = 0
    """The last steps, taken with the weights that the batch trains."""

    @property
    def asked(self) -> tuple[float, int, int | None]:
        """All that may differ between the tickets of a training: ε, fresh steps and steps."""
        steps = self.attack.steps if isinstance(self.attack, StepwiseAttack) else None
        return self.eps, self.fresh_steps, steps

    def at_stage(self, stage: Stage) -> BatchAttack:
        """The attack with the steps of one stage only."""
        if stage == "whole" or not self.fresh_steps:
            return self.attack
        attack, fresh = self.attack, self.fresh_steps
        assert isinstance(attack, StepwiseAttack)  # checked where the recipe is made
        steps = fresh if stage == "last" else attack.steps - fresh
        return stepwise(attack, "only", lambda: attack.only(steps))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recipe:
    """How all batches of one training are made; a worker gets it by pickle.

    Raises `ConfigError` for settings that contradict each other.
    """

    attack: BatchAttack
    """The attack at full size."""
    batch_size: int
    """Images of a whole batch, of all ranks together."""
    updates: int
    """Batches of the whole training."""
    seed: int
    """Determines the order of the images, augmentation and every attack's start."""
    eps_schedule: Callable[[float], float] | None = None
    """Factor of ε at each place of training in [0, 1); `None` is 1 throughout."""
    early_steps: tuple[EarlySteps, ...] = ()
    """Shorter attacks early in training, in order of `until`."""
    fresh_steps: int = 0
    """The last steps, taken with the weights that a batch trains."""
    augmentation: tuple[Augmentation, ...] = ()
    """Changes to the images before they are attacked, in order."""
    split: int = 1
    """Parts of a batch that are attacked separately, each from random starts of its own."""
    rank: int = 0
    """The part of every batch that is made here, of several processes that train together."""
    world_size: int = 1
    """Processes that train together."""

    def __post_init__(self) -> None:
        """Check the ranges, and that the attack supports the other settings."""
        at_least("batch_size", self.batch_size, 1)
        at_least("updates", self.updates, 1)
        at_least("seed", self.seed, 0)
        at_least("world_size", self.world_size, 1)
        if not 0 <= self.rank < self.world_size:
            raise ConfigError.expected(f"rank must lie in [0, {self.world_size})", self.rank)
        if self.batch_size % self.world_size:
            raise ConfigError.expected(
                f"batch_size must be a multiple of {self.world_size}, the number of processes",
                self.batch_size,
                f"Take {-(-self.batch_size // self.world_size) * self.world_size}.",
            )
        if self.split > self.rank_batch_size:
            raise ConfigError.expected(
                f"source.policy.split must be at most {self.rank_batch_size}, the images of a "
                "trainer's batch",
                self.split,
            )
        ends = [early.until for early in self.early_steps]
        if ends != sorted(set(ends)):
            raise ConfigError.expected(
                "early_steps must be sorted by until", ", ".join(f"{end:g}" for end in ends)
            )
        self._check_attack()

    def _check_attack(self) -> None:
        asked = {
            "eps_schedule": self.eps_schedule is not None,
            "early_steps": bool(self.early_steps),
            "fresh_steps": bool(self.fresh_steps),
        }
        wanted = [name for name, is_set in asked.items() if is_set]
        if wanted and not isinstance(self.attack, StepwiseAttack):
            given = [name for name in wanted if name != "fresh_steps"]
            remedies = [f"leave out {' and '.join(given)}"] * bool(given)
            remedies += ["pass fresh_steps=0 to the source"] * bool(self.fresh_steps)
            need = "needs" if len(wanted) == 1 else "need"
            raise ConfigError.expected(
                f"{' and '.join(wanted)} {need} an attack that is a StepwiseAttack",
                type(self.attack).__name__,
                f"Take PGD, or {' and '.join(remedies)}.",
            )
        restarts = self.attack.restarts if isinstance(self.attack, StepwiseAttack) else 1
        if self.fresh_steps and restarts > 1:
            raise ConfigError.expected(
                "source.fresh_steps must be 0 if attack.restarts is above 1",
                f"fresh_steps {self.fresh_steps} and restarts {restarts}",
            )

    @property
    def rank_batch_size(self) -> int:
        """Images of this rank's part of a batch."""
        return self.batch_size // self.world_size

    def progress(self, number: int) -> float:
        """The place of ticket or update `number` in training, in (0, 1)."""
        return (number + 0.5) / self.updates

    def _factor(self, progress: float) -> float:
        """What ε is multiplied by. Raises `ConfigError` for what is no factor."""
        if self.eps_schedule is None:
            return 1.0
        with own_errors("the schedule of ε"):
            found: Any = self.eps_schedule(progress)
            factor = float(found)
        if not 0 < factor < math.inf:
            raise ConfigError.expected(
                "the schedule of ε must return a number above 0, the share of ε",
                f"{factor:g} at {progress:.3g} of the training",
                "Begin near 0, such as at 0.001.",
            )
        return factor

    def plan(self, number: int) -> AttackPlan:
        """How the ticket of this number is attacked."""
        attack = self.attack
        if not isinstance(attack, StepwiseAttack):
            threat = threat_of(attack)
            return AttackPlan(attack=attack, eps=threat.eps if threat else math.nan)
        here = self.progress(number)
        factor = self._factor(here)
        early = (early.steps for early in self.early_steps if here < early.until)
        steps = min(next(early, attack.steps), attack.steps)
        eps = attack.threat.eps * factor
        fresh = max(0, min(self.fresh_steps, steps - 1))
        sized = stepwise(attack, "at", lambda: attack.at(eps, steps))
        return AttackPlan(attack=sized, eps=eps, fresh_steps=fresh)


class Crafter:
    """Makes the batches of a recipe from a set of images."""

    def __init__(self, recipe: Recipe, images: Images, device: torch.device) -> None:
        self.recipe, self.images, self.device = recipe, images, device
        threat = threat_of(recipe.attack)
        has_own_threat = threat is not None and is_own(threat)
        self._has_own = (
            has_own_threat
            or type(recipe.attack) not in BUILT_IN
            or not all(isinstance(step, Flip | Crop) for step in recipe.augmentation)
        )
        if threat is not None and has_own_threat:
            some = torch.arange(min(FEW, len(images)))
            check_threat(threat, images.batch(some)[0].to(device))
        self._order = Order(num_images=len(images), batch_size=recipe.batch_size, seed=recipe.seed)

    def clean(
        self,
        number: int,
        *,
        part: int = 0,
        parts: int = 1,
        images: Float[Tensor, " B C H W"] | None = None,
    ) -> AttackedBatch:
        """This rank's batch of a ticket, or one of its equal parts, not attacked yet.

        Cost: the images are gathered and augmented, unless they are passed as `images`.
        """
        ticket = self._ticket(number, part, parts)
        self._read_ahead(number)
        if images is None:
            gathered, labels = self.images.batch(ticket.indices)
            with self._drawing(ticket.seed, "augmentation"):
                images = augmented(gathered.to(self.device), self.recipe.augmentation, ticket)
        else:
            labels = self.images.labels[ticket.indices]
        return AttackedBatch(
            number=number,
            images=images,
            adversarial=images,
            labels=labels.to(self.device),
            indices=ticket.indices,
            version=0,
            eps=0.0,
            attack_seconds=0.0,
        )

    def craft(  # noqa: PLR0913 - a batch and weights, and which share of its attack by keyword
        self,
        batch: AttackedBatch,
        model: Classifier,
        *,
        version: int,
        stage: Stage = "whole",
        part: int = 0,
        parts: int = 1,
    ) -> AttackedBatch:
        """Take the steps of one stage of a batch's attack.

        `batch` is this part of a ticket as `clean` gave it, or for the stage "last" as "first" left
        it. `version` is the number of updates that the weights of `model` have seen; in the stage
        "last" the batch keeps that of its first steps. With equal weights both stages together are
        the whole attack, bit for bit, unless the attack draws from the global random states, which
        are seeded for each stage.
        """
        plan = self.recipe.plan(batch.number)
        if stage == "last" and not plan.fresh_steps:
            return batch
        attack = plan.at_stage(stage)
        begun = time.perf_counter()
        seed = self._ticket(batch.number, part, parts).seed
        with self._drawing(seed, stage):
            if stage == "last":
                assert isinstance(attack, StepwiseAttack)  # nothing else has fresh steps
                adversarial = searched_images(
                    attack, batch.adversarial, model, batch.images, batch.labels
                )
                version = batch.version
            else:
                generator = Generator().manual_seed(seed)
                adversarial = attacked_images(
                    attack, model, batch.images, batch.labels, generator=generator
                )
        seconds = batch.attack_seconds + time.perf_counter() - begun
        return replace(
            batch, adversarial=adversarial, version=version, eps=plan.eps, attack_seconds=seconds
        )

    def craft_in_parts(
        self, batch: AttackedBatch, model: Classifier, *, version: int, stage: Stage
    ) -> AttackedBatch:
        """`craft` of a whole batch, in the parts in which workers make it."""
        if stage == "last" and not self.recipe.plan(batch.number).fresh_steps:
            return batch
        parts = self.recipe.split
        if parts == 1:
            return self.craft(batch, model, version=version, stage=stage)
        pieces = [
            self.craft(
                _part(batch, part, parts),
                model,
                version=version,
                stage=stage,
                part=part,
                parts=parts,
            )
            for part in range(parts)
        ]
        return replace(
            batch,
            adversarial=torch.cat([piece.adversarial for piece in pieces]),
            version=pieces[0].version,
            eps=pieces[0].eps,
            attack_seconds=batch.attack_seconds + sum(piece.attack_seconds for piece in pieces),
        )

    def _drawing(self, seed: int, what: str) -> AbstractContextManager[None]:
        """Global random states for code of your own; nothing else draws from them."""
        return drawing_from(derive_seed(seed, what)) if self._has_own else nullcontext()

    def _ticket(self, number: int, part: int, parts: int) -> Ticket:
        """A part of this rank's part of a ticket."""
        rank, ranks = self.recipe.rank, self.recipe.world_size
        return self._order.ticket(number).part(rank * parts + part, ranks * parts)

    def _read_ahead(self, number: int) -> None:
        """Let images of this ticket and the next ones begin to be read if they are streamed."""
        ahead = self.images.reads_ahead
        for n in range(ahead + 1) if ahead else ():
            self.images.expect(self._ticket(number + n, 0, 1).indices)


def _part(batch: AttackedBatch, part: int, parts: int) -> AttackedBatch:
    mine = rows(len(batch.labels), part, parts)
    names: Sequence[str] = ("images", "adversarial", "labels", "indices")
    return replace(
        batch, **{name: getattr(batch, name)[mine] for name in names}, attack_seconds=0.0
    )
