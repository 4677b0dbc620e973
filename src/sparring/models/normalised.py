"""Normalisation as a network's first layer, so that attacks and ε stay in pixels.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class NormalisedNetwork(nn.Module):
    """Subtracts a mean from each channel, divides by a deviation, and hands over to a network.

    Mean and deviation are constants that are stored with the weights.
    """

    mean: Tensor
    deviation: Tensor
    network: nn.Module

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(std).view(-1, 1, 1))
        self.network = network

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        """Logits, without softmax."""
        normalised = (images - self.mean) / self.deviation
        return self.network(normalised.to(images.dtype))
