"""An exponential moving average of a network's weights: the network that is evaluated."""

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn


class Average:
    """Weights averaged over the updates, with a decay that grows to its value at the start.

    After update t each weight moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to its
    current value, so that early weights are soon forgotten. So do floating-point buffers, such as
    BatchNorm's statistics, so that they fit the weights; others are copied.
    A decay of 0 keeps the current weights. Cost: one pass over the weights an update.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, version: int) -> None:
        """Take in the weights that have seen `version` updates."""
        decay = min(self._decay, (1 + version) / (10 + version))
        for averaged, value in zip(_tensors(self.network), _tensors(network), strict=True):
            if averaged.is_floating_point():
                averaged.lerp_(value, 1 - decay)
            else:
                averaged.copy_(value)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers, each once, also one that several layers share."""
    return chain(network.parameters(), network.buffers())
