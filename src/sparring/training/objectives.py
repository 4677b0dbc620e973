"""What one update minimises, as records whose call is the loss of a batch.

Shapes: B batch, K classes, C H W image.  Units: pixels in [0, 1].
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.attacks import AttackedBatch
from sparring.attacks.losses import divergence
from sparring.errors import ConfigError
from sparring.records.own_code import arguments, imported, own_code

LogitsOf = Callable[[Tensor], Tensor]
"""A network during an update: images to logits."""


class Loss(NamedTuple):
    """What an objective says of one batch."""

    value: Tensor
    """The mean loss to minimise, a scalar."""
    correct: Tensor
    """[B]: whether the image that was trained on (attacked, where there was one) is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversarial:
    """Cross-entropy on the adversarial images alone (Madry et al. 2018; paper, equation 6)."""

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over the adversarial images."""
        return _cross_entropy(logits_of(batch.adversarial), batch.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Natural:
    """Cross-entropy on the clean images alone (paper, equation 1)."""

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over the clean images."""
        return _cross_entropy(logits_of(batch.images), batch.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed:
    """A weighted mean of the cross-entropies on clean and on adversarial images.

    Source: Goodfellow et al. 2015, equation of section 6.
    """

    natural_weight: float = 0.5
    """Share of the clean images' loss, in (0, 1)."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.natural_weight < 1:
            raise ConfigError(
                f"natural_weight must lie in (0, 1) because it mixes two losses; got "
                f"{self.natural_weight:g}. For one loss alone take Natural or Adversarial."
            )

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over clean and adversarial images together."""
        logits = logits_of(torch.cat([batch.images, batch.adversarial]))
        natural, adversarial = logits.split(len(batch.labels))
        on_natural = _cross_entropy(natural, batch.labels).value
        value, correct = _cross_entropy(adversarial, batch.labels)
        weight = self.natural_weight
        return Loss(weight * on_natural + (1 - weight) * value, correct)


@dataclass(frozen=True, kw_only=True, slots=True)
class TRADES:
    """Cross-entropy on clean images, plus how far the adversarial ones move what is said of them.

    The second term is the Kullback-Leibler divergence of the answers to the adversarial image from
    those to the clean one, which the attack of the same run should maximise (`attack.loss` "kl").
    Source: Zhang et al. 2019, equation 5; there the search starts beside the clean image, here
    where the attack's `start` says.
    """

    beta: float = 6.0
    """Weight of the second term, 1/λ in the paper; above 0."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.beta < math.inf:
            raise ConfigError(
                f"beta must be finite and above 0 because it weighs robustness; got {self.beta:g}. "
                "The paper has 1 and 6; for none at all take Natural."
            )

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over clean and adversarial images together."""
        logits = logits_of(torch.cat([batch.images, batch.adversarial]))
        natural, adversarial = logits.split(len(batch.labels))
        on_natural = _cross_entropy(natural, batch.labels).value
        moved = divergence(adversarial, natural).mean()
        correct = adversarial.detach().argmax(1) == batch.labels
        return Loss(on_natural + self.beta * moved, correct)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnObjective:
    """An objective of the user's own: what `factory` makes is called as those above are."""

    factory: str
    """package.module:name or path/to/file.py:name."""
    arguments: tuple[str, ...] = ()
    """Given to the factory by name, each as name=value; a value is JSON or else plain text."""

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """What the user's objective says. Raises `ConfigError` if that is no scalar loss."""
        value, correct = _made(self)(logits_of, batch)
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            raise ConfigError(
                f"an objective must return a scalar tensor that depends on the weights; "
                f"{self.factory} returned {_shape(value)}. Take the mean over the batch."
            )
        if not isinstance(correct, Tensor) or correct.shape != batch.labels.shape:
            raise ConfigError(
                "an objective must say of each image whether it is right, a tensor of "
                f"{len(batch.labels)}; {self.factory} returned {_shape(correct)}. Return "
                "(loss, logits.argmax(1) == labels)."
            )
        return Loss(value, correct)


Objective = Adversarial | Natural | Mixed | TRADES | OwnObjective


@functools.cache
def _made(objective: OwnObjective) -> Callable[[LogitsOf, AttackedBatch], Any]:
    factory = imported(objective.factory, "the objective")
    if not callable(factory):
        raise ConfigError(
            f"the objective must be a class or function that makes one; {objective.factory} is a "
            f"{type(factory).__name__}."
        )
    words = arguments(objective.arguments, "objective.arguments")
    with own_code(f"{objective.factory} must make an objective; it failed", objective.factory):
        made = factory(**words)
    if not callable(made):
        raise ConfigError(
            f"{objective.factory} must make something to call with (logits_of, batch); it made a "
            f"{type(made).__name__}."
        )
    return made


def forget_objectives() -> None:
    """Make every own objective anew when it is called next; it may have a state."""
    _made.cache_clear()


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _cross_entropy(logits: Float[Tensor, " B K"], labels: Int[Tensor, " B"]) -> Loss:
    return Loss(cross_entropy(logits, labels), logits.detach().argmax(1) == labels)
