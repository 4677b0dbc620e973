"""Normalisation as a network's first layer, so that attacks and ε stay in pixels.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalisation(nn.Module):
    """Subtracts a mean from each channel and divides by a deviation, constants of single precision.

    They are stored with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B C H W"]:
        """Images of mean 0 and deviation 1, if the constants are those of the data."""
        return ((images - self.mean) / self.deviation).to(images.dtype)


class NormalisedNetwork(nn.Module):
    """A normalisation, then a network."""

    network: nn.Module

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalisation = Normalisation(mean, std)
        self.network = network

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        """Logits, without softmax."""
        return self.network(self.normalisation(images))
