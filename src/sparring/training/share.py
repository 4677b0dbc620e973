"""What each of several trainers makes of its part of a batch, and how that is averaged.

An update of W trainers is the mean of W shares, computed by one sum over one flat tensor.
Everything that all must know travels in it, so that nothing else need be agreed on: gradients,
BatchNorm's statistics, the loss, and who was asked to stop.

Shapes: P numbers of all weights with a gradient, S of all floating-point buffers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.models import real_view
from sparring.training.interruption import SIGNALS

REQUESTS = len(SIGNALS)
"""Last places of a flat share, for the team itself: who was asked to stop, by which signal."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Share:
    """What an update knows before the weights are touched; of one trainer, or the mean of all."""

    gradients: tuple[Tensor | None, ...]
    """Of each weight that has one, in the network's order; none where a pass did not meet it."""
    statistics: tuple[Tensor | None, ...] = ()
    """Floating-point buffers that the pass changed, as it left them; none for the others."""
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

    def pack(self, share: Share) -> Tensor:
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
        flags = [float(value is not None) for value in values]
        told = [*flags, share.loss, share.accuracy, *staleness, *[0.0] * REQUESTS]
        return torch.cat([*flat, flat[0].new_tensor(told)])

    def unpack(self, mean: Tensor) -> Share:
        """The mean of all trainers' shares; its tensors are views of `mean`."""
        *flat, last = mean.split([*self._sizes, len(mean) - sum(self._sizes)])
        told = last.tolist()
        like = [*self._weights, *self._buffers]
        values = [
            _like(place, value) if flag > 0 else None
            for place, value, flag in zip(like, flat, told[: len(like)], strict=True)
        ]
        loss, accuracy, *rest = told[len(like) :]
        ages = rest[: self._trainers]
        return Share(
            gradients=tuple(values[: len(self._weights)]),
            statistics=tuple(values[len(self._weights) :]),
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
