"""What one update minimises, as records whose call is the loss of a batch.

Shapes: B batch, K classes, C H W image.  Units: pixels in [0, 1].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparring.attacks import PGD, AttackedBatch, Linf
from sparring.attacks.losses import divergence
from sparring.bounds import Box, NetworkBounds
from sparring.errors import ConfigError
from sparring.evaluation.certificates import check_arithmetic
from sparring.records.checks import positive, within
from sparring.records.custom import Custom, PythonObject, made, own_errors
from sparring.records.text import kind_text

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """Cross-entropy of the lowest margins that interval bounds allow within the batch's ε.

    The network is trained to be proved robust: to have bounds that a certificate can use. Needs no
    attack: give it no steps. ε is that of `attack.threat`, as `eps_schedule` raises it; it must
    begin near 0. Layers are bounded as in evaluation mode.
    Sources: Gowal et al. 2018, "On the effectiveness of interval bound propagation"; with
    `attacked_weight`, De Palma et al. 2024, "Expressive losses for verified robustness via convex
    combinations" (MTL-IBP).
    """

    attacked_weight: float = 0.0
    """Share of the cross-entropy on adversarial images, in [0, 1); they are clean ones where the
    attack has no steps. `0` leaves that pass out."""

    def __post_init__(self) -> None:
        within("attacked_weight", self.attacked_weight, "[0, 1)")

    def check(self, attack: object) -> None:
        """Raise `ConfigError` for a training attack without a box, or whose images go unused."""
        if not isinstance(attack, PGD) or type(attack.threat) is not Linf:
            raise ConfigError.expected(
                "objective certified needs the attack pgd under the threat linf, whose eps is that "
                "of the bounds",
                attack.threat if isinstance(attack, PGD) else type(attack).__name__,
                "Leave out --attack and --threat.",
            )
        if attack.steps and not self.attacked_weight:
            raise ConfigError.expected(
                "objective certified uses adversarial images only with an attacked_weight above 0",
                f"{attack.steps} attack steps and weight 0",
                "Add --steps 0, or --set objective.attacked_weight=0.5.",
            )


class CertifiedLoss:
    """The loss of `Certified` for one network, whose bounds are computed in `dtype`.

    Raises `ConfigError` for a network without known bounds.
    """

    def __init__(self, objective: Certified, network: nn.Module, dtype: torch.dtype) -> None:
        self._weight, self._dtype = objective.attacked_weight, dtype
        device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
        with _refused():
            self._bounds = NetworkBounds(network)
            check_arithmetic(network, device)  # of the certificates during the run
        # Only a pass in training mode moves running statistics.
        self._has_statistics = any(value.is_floating_point() for value in network.buffers())

    def __call__(self, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
        """Cost: two passes, and one over `batch.adversarial` where that is needed."""
        ends = (batch.images - batch.eps).clamp_min(0), (batch.images + batch.eps).clamp_max(1)
        layout = torch.channels_last
        box = Box(*(end.to(dtype=self._dtype, memory_format=layout) for end in ends))
        with _refused():
            margins = self._bounds.through(box).margins(batch.labels)
        lowest = margins.scatter(1, batch.labels[:, None], torch.inf).amin(1)
        value = cross_entropy(-margins, batch.labels)
        if self._weight:
            attacked = _cross_entropy(logits_of(batch.adversarial), batch.labels).value
            value = self._weight * attacked + (1 - self._weight) * value
        elif self._has_statistics:
            with torch.no_grad():
                logits_of(batch.adversarial)
        return Loss(value, lowest.detach() > 0)


@contextmanager
def _refused() -> Iterator[None]:
    """Name the objective in a refusal of bounds."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"objective certified: {error} Take another network, or --objective adversarial."
        ) from error


Own = Custom | PythonObject | Callable[[LogitsOf, AttackedBatch], tuple[Tensor, Tensor]]
Objective = Adversarial | Natural | Mixed | TRADES | Certified | Own


def loss_function(
    objective: Objective, network: nn.Module, dtype: torch.dtype
) -> Callable[[LogitsOf, AttackedBatch], Loss]:
    """The loss of batches for one network; bounds, where there are any, are computed in `dtype`.

    Raises `ConfigError` for a network that the objective cannot train. So does the function if an
    objective of your own returns no loss.
    """
    if isinstance(objective, Certified):
        return CertifiedLoss(objective, network, dtype)
    if isinstance(objective, Adversarial | Natural | Mixed | TRADES):
        return objective
    return partial(_own_loss, objective)


def _own_loss(objective: Own, logits_of: LogitsOf, batch: AttackedBatch) -> Loss:
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
    return kind_text(value)


def _cross_entropy(logits: Float[Tensor, " B K"], labels: Int[Tensor, " B"]) -> Loss:
    return Loss(cross_entropy(logits, labels), logits.detach().argmax(1) == labels)
