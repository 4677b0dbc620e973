"""The paper's network in plain PyTorch: the baseline that arithmetic is measured against.

Single precision, layer by layer, ReLU before pooling, contiguous tensors. It still is attacked by
this library, which asks for no gradient of the weights there: most code does, and is slower.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sparring.models import PaperCNN, PaperNetwork


class PlainCNN(PaperCNN):
    """The same function of the same weights; its passes are nobody's business but PyTorch's.

    `working_copy` finds faster passes for the paper's network alone, not for what derives from it.
    """

    def forward(self, images: Float[Tensor, " B 1 28 28"]) -> Float[Tensor, " B 10"]:
        """Logits, without softmax."""
        hidden = functional.max_pool2d(self.conv1(images).relu(), 2)
        hidden = functional.max_pool2d(self.conv2(hidden).relu(), 2)
        features = hidden.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(self.fc1(features).relu())


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNetwork(PaperNetwork):
    """Builds it; to be trained in precision fp32."""

    def build(self, seed: int) -> PlainCNN:
        """A freshly initialised network, of the weights that `PaperNetwork` draws."""
        return PlainCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))
