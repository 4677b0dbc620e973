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
from sparring.attacks.losses import divergence
from sparring.errors import ConfigError
from sparring.records.checks import positive, within
from sparring.records.custom import Custom, PythonObject, made, own_errors

LogitsOf = Callable[[Tensor], Tensor]
"""A network during an update: images to logits."""


class Loss(NamedTuple):
    """What an objective returns for one batch."""

    value: Tensor
    """The mean loss to minimise, a scalar."""
    correct: Tensor
    """[B]: whether each image that was trained on, attacked or clean, is classified right."""


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
        within("natural_weight", self.natural_weight, "(0, 1)")

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
    """Cross-entropy on clean images, plus the divergence of predictions on adversarial images.

    The second term is the Kullback-Leibler divergence of the predictions on the adversarial image
    from those on the clean one. The attack of the run should maximise it (`attack.loss` "kl").
    Source: Zhang et al. 2019, equation 5; there the search starts beside the clean image, here
    where the attack's `start` says.
    """

    beta: float = 6.0
    """Weight of the second term, 1/λ in the paper; above 0."""

    def __post_init__(self) -> None:
        positive("beta", self.beta, "The paper has 1 and 6.")

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """One pass over clean and adversarial images together."""
        logits = logits_of(torch.cat([batch.images, batch.adversarial]))
        natural, adversarial = logits.split(len(batch.labels))
        on_natural = _cross_entropy(natural, batch.labels).value
        moved = divergence(adversarial, natural).mean()
        correct = adversarial.detach().argmax(1) == batch.labels
        return Loss(on_natural + self.beta * moved, correct)


Own = Custom | PythonObject | Callable[[LogitsOf, AttackedBatch], tuple[Tensor, Tensor]]
Objective = Adversarial | Natural | Mixed | TRADES | Own


def loss_of(objective: Objective, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
    """The loss of a batch. Raises `ConfigError` if an objective of your own returns none."""
    if isinstance(objective, Adversarial | Natural | Mixed | TRADES):
        return objective(logits_of, batch)
    with own_errors("the objective"):
        found = made(objective, "objective")(logits_of, batch)
    value, correct = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        raise ConfigError.expected(
            "an objective must return a scalar tensor that depends on the weights",
            _shape(value),
            "Take the mean over the batch.",
        )
    if not isinstance(correct, Tensor) or correct.shape != batch.labels.shape:
        raise ConfigError.expected(
            f"an objective must also return whether each of {len(batch.labels)} images is right",
            _shape(correct),
            "Return (loss, logits.argmax(1) == labels).",
        )
    return Loss(value, correct)


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _cross_entropy(logits: Float[Tensor, " B K"], labels: Int[Tensor, " B"]) -> Loss:
    return Loss(cross_entropy(logits, labels), logits.detach().argmax(1) == labels)
