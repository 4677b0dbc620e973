"""What one update minimises, as records whose call is the loss of a batch.

Shapes: B batch, K classes, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.attacks import AttackedBatch
from sparring.errors import ConfigError

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


Objective = Adversarial | Natural | Mixed


def _cross_entropy(logits: Float[Tensor, " B K"], labels: Int[Tensor, " B"]) -> Loss:
    return Loss(cross_entropy(logits, labels), logits.detach().argmax(1) == labels)
