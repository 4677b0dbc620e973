"""The result of one trainer's part of a batch, and the mean over the trainers of a team.

An update of W trainers takes the mean of W shares, computed by one sum over one flat tensor. All
that the trainers exchange for an update is in it: gradients, BatchNorm's statistics, the loss, and
requests to stop.

Shapes: P numbers of all weights with a gradient, S of all floating-point buffers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.models import real_view
from sparring.training.team import SIGNALS

REQUESTS = len(SIGNALS)
"""Last places of a flat share, one for each signal that asks to stop; the team fills them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GradientShare:
    """Gradients and loss of one trainer's part of a batch, or the mean over all trainers."""

    gradients: tuple[Tensor | None, ...]
    """One for each weight that is trained, in the network's order; `None` where the loss does not
    depend on it."""
    statistics: tuple[Tensor, ...] = ()
    """The floating-point buffers as the pass left them."""
    changed: tuple[bool, ...] = ()
    """Which of them the pass changed, on this trainer or, in a mean, on any."""
    loss: float
    """The objective's mean value."""
    accuracy: float
    """Share of the trained-on images that were right."""
    staleness: tuple[int, ...]
    """That of each trainer's part, in updates."""


class Packing:
    """A share as one flat tensor: sums of flat tensors, divided, are the mean of shares.

    [P gradients, S statistics, a flag for each of either, loss, accuracy, a staleness for each
    trainer, `REQUESTS` zeros], in the widest of the weights' types.
    """

    def __init__(self, network: nn.Module, *, trainer: int, trainers: int) -> None:
        self._weights = [each for each in network.parameters() if each.requires_grad]
        self._buffers = floating_buffers(network)
        self._trainer, self._trainers = trainer, trainers
        like = [*self._weights, *self._buffers]
        self._sizes = [real_view(each).numel() for each in like]
        self._dtype = functools.reduce(
            torch.promote_types, (real_view(each).dtype for each in like)
        )

    def pack(self, share: GradientShare) -> Tensor:
        """One trainer's share. Cost: one copy of it."""
        like = [*self._weights, *self._buffers]
        values = [*share.gradients, *share.statistics]
        flat = [
            real_view(torch.zeros_like(place) if value is None else value)
            .reshape(-1)
            .to(self._dtype)
            for place, value in zip(like, values, strict=True)
        ]
        staleness = [0.0] * self._trainers
        staleness[self._trainer] = float(share.staleness[0])
        flags = [*(float(value is not None) for value in share.gradients), *share.changed]
        tail = [*flags, share.loss, share.accuracy, *staleness, *[0.0] * REQUESTS]
        return torch.cat([*flat, flat[0].new_tensor(tail)])

    def unpack(self, mean: Tensor) -> GradientShare:
        """The mean of all trainers' shares; its tensors are views of `mean`."""
        *flat, last = mean.split([*self._sizes, len(mean) - sum(self._sizes)])
        numbers = last.tolist()
        like = [*self._weights, *self._buffers]
        values = [_like(place, value) for place, value in zip(like, flat, strict=True)]
        flags = [flag > 0 for flag in numbers[: len(like)]]
        count = len(self._weights)
        gradients = zip(values[:count], flags[:count], strict=True)
        loss, accuracy, *rest = numbers[len(like) :]
        ages = rest[: self._trainers]
        return GradientShare(
            gradients=tuple(value if there else None for value, there in gradients),
            statistics=tuple(values[count:]),
            changed=tuple(flags[count:]),
            loss=loss,
            accuracy=accuracy,
            staleness=tuple(round(age * self._trainers) for age in ages),
        )


def _like(place: Tensor, flat: Tensor) -> Tensor:
    """Flat real numbers in the shape and type of `place`; a complex number has two of them."""
    view = real_view(place)
    value = flat.view(view.shape).to(view.dtype)
    return torch.view_as_complex(value.clone()) if place.is_complex() else value


def mean_of(flat: Sequence[Tensor]) -> Tensor:
    """The mean of flat shares, as a team computes it, bit for bit if there are two."""
    return torch.stack(list(flat)).sum(0).div_(len(flat))


def floating_buffers(network: nn.Module) -> list[Tensor]:
    """Buffers of real or complex numbers, such as BatchNorm's statistics."""
    return [each for each in network.buffers() if each.is_floating_point() or each.is_complex()]
