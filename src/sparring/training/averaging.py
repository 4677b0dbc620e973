"""An exponential moving average of a network's weights: the network that is evaluated."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from sparring.models import copied


class Average:
    """Weights averaged over the updates, with a decay that grows to its value at the start.

    After update t each weight moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to its
    current value, so that early weights are soon forgotten. So do buffers of real or complex
    numbers, such as BatchNorm's statistics, so that they fit the weights. Integers are copied, and
    so is what is not finite, such as the -inf of a mask.
    A decay of 0 keeps the current weights. Cost: one pass over the weights an update.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copied(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, version: int) -> None:
        """Include the weights that have seen `version` updates."""
        decay = min(self._decay, (1 + version) / (10 + version))
        for averaged, value in zip(_tensors(self.network), _tensors(network), strict=True):
            if not (averaged.is_floating_point() or averaged.is_complex()):
                averaged.copy_(value)
            elif value.requires_grad:
                averaged.lerp_(value, 1 - decay)
            else:
                finite = averaged.isfinite() & value.isfinite()
                averaged.copy_(torch.where(finite, averaged.lerp(value, 1 - decay), value))


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers, each once, also one that several layers share."""
    return chain(network.parameters(), network.buffers())
