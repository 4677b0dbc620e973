"""What an attack maximises: one number per image, larger meaning worse for the model.

Shapes: B batch, K classes.
Numerics: logits of 16 bits are widened to float32, for they tie too often to be compared.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sparring.errors import ConfigError

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits and labels to one loss per image."""

LossName = Literal["cross-entropy", "margin", "dlr", "kl"]
"""The losses an attack can be told to maximise."""

SMALLEST_SPREAD = 1e-12
"""Least denominator of the logit ratio: far below any spread of real logits, yet its square is
still a float32, so that the gradient stays finite."""


def cross_entropy(
    logits: Float[Tensor, " B K"], labels: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Minus the log-probability of the true class: the loss of training (Madry et al. 2018)."""
    return F.cross_entropy(_widened(logits), labels, reduction="none")


def margin(logits: Float[Tensor, " B K"], labels: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Largest other logit minus the true one: above 0 the model errs, below 0 it is right.

    At 0 the two tie, and the model predicts the class of the lower number.
    Unlike the cross-entropy it does not saturate on confident models.
    Source: Carlini & Wagner 2017, objective f6 with the sign turned round and no confidence.
    """
    logits = _widened(logits)
    return others(logits, labels).amax(1) - _at(logits, labels)


def others(logits: Float[Tensor, " B K"], classes: Int64[Tensor, " B"]) -> Float[Tensor, " B K"]:
    """The logits with that of each row's class as minus infinity: it is never the largest."""
    return logits.scatter(1, classes[:, None], -torch.inf)


def difference_of_logits_ratio(
    logits: Float[Tensor, " B K"], labels: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The margin over the spread of the three largest logits: blind to their scale and shift.

    Logits without any spread count as spread by `SMALLEST_SPREAD`: the loss is then finite, and 0
    if the true class is among them. Raises `ConfigError` below three classes.
    Source: Croce & Hein 2020, the untargeted DLR loss of section 4.
    """
    num_classes = logits.shape[1]
    if num_classes < 3:
        raise ConfigError(
            "loss dlr needs logits of at least 3 classes because it divides by the spread of the "
            f'three largest; got {num_classes} classes. Use loss "margin".'
        )
    largest = _widened(logits).topk(3, dim=1).values
    spread = (largest[:, 0] - largest[:, 2]).clamp_min(SMALLEST_SPREAD)
    return margin(logits, labels) / spread


def targeted_margin(
    logits: Float[Tensor, " B K"], labels: Int64[Tensor, " B"], targets: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The target's logit minus the true one."""
    logits = _widened(logits)
    return _at(logits, targets) - _at(logits, labels)


def targeted_ratio(
    logits: Float[Tensor, " B K"], labels: Int64[Tensor, " B"], targets: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The targeted margin over the largest logit's lead on the mean of the third and fourth.

    Raises `ConfigError` below four classes. Source: Croce & Hein 2020, the targeted DLR loss.
    """
    num_classes = logits.shape[1]
    if num_classes < 4:
        raise ConfigError(
            "the targeted loss dlr needs logits of at least 4 classes because it divides by the "
            f"lead on the third and fourth; got {num_classes} classes. Use the margin."
        )
    largest = _widened(logits).topk(4, dim=1).values
    lead = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return targeted_margin(logits, labels, targets) / lead.clamp_min(SMALLEST_SPREAD)


def divergence(
    logits: Float[Tensor, " B K"], natural: Float[Tensor, " B K"]
) -> Float[Tensor, " B"]:
    """Kullback-Leibler divergence of what the model says from what it says of the clean image.

    Zero, with a gradient of zero, at the clean image itself. Source: Zhang et al. 2019 (TRADES).
    """
    here, there = (F.log_softmax(_widened(given), 1) for given in (logits, natural))
    return F.kl_div(here, there, reduction="none", log_target=True).sum(1)


LOSSES: Mapping[LossName, LossFunction] = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": difference_of_logits_ratio,
}
"""The formula behind each name that compares logits with labels."""
RELATIVE: Mapping[LossName, LossFunction] = {"kl": divergence}
"""Behind each that compares them with the logits of the clean images."""


def bound(
    name: LossName, logits_of: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> Callable[[Tensor], Tensor]:
    """The loss of this name as a function of logits alone, for these clean images.

    Cost: a forward pass over them if the loss is relative to what the model says of them.
    """
    if name in LOSSES:
        return lambda logits: LOSSES[name](logits, labels)
    with torch.no_grad():
        natural = logits_of(images)
    return lambda logits: RELATIVE[name](logits, natural)


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
