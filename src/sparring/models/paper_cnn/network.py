"""The paper's network: two 5x5 convolutions, each with max-pooling, and two dense layers.

Shapes: B batch.  Units: pixels in [0, 1].
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from sparring.records.typed import typed

Initialisation = Literal["madry", "torch", "small"]


class PaperCNN(nn.Module):
    """Classifier of 28x28 grey images into ten classes, 3.27 million weights.

    conv 5x5x32, pool, conv 5x5x64, pool, dense 1024, dense 10, ReLU between (paper, section 6).
    Convolutions keep the image size (TensorFlow's SAME: two pixels of padding), and features enter
    the first dense layer in the order height, width, channel, as they do in mnist_challenge: its
    weights can be copied tensor by tensor. ReLU comes after pooling, with which it commutes, and so
    works on a quarter of the numbers.

    `initialisation`: "madry" draws weights from a normal of deviation 0.1 truncated at two
    deviations and sets biases to 0.1 (mnist_challenge, model.py); "torch" is PyTorch's default;
    "small" is PyTorch's with the first layer's weights at a quarter and no biases, which is
    best for short adversarial training (docs/decisions/0004).
    """

    num_classes = 10
    image_shape = (1, 28, 28)

    @typed
    def __init__(
        self, initialisation: Initialisation = "madry", *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        # Skips PyTorch's initial weights, which come from the global random state.
        self.conv1 = skip_init(nn.Conv2d, 1, 32, 5, padding=2)
        self.conv2 = skip_init(nn.Conv2d, 32, 64, 5, padding=2)
        self.fc1 = skip_init(nn.Linear, 7 * 7 * 64, 1024)
        self.fc2 = skip_init(nn.Linear, 1024, 10)
        INITIALISATIONS[initialisation](self, generator)

    def forward(self, images: Float[Tensor, " B 1 28 28"]) -> Float[Tensor, " B 10"]:
        """Logits, without softmax."""
        hidden = functional.max_pool2d(self.conv1(images), 2).relu()
        hidden = functional.max_pool2d(self.conv2(hidden), 2).relu()
        features = hidden.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(self.fc1(features).relu())


def _madry(network: PaperCNN, generator: torch.Generator | None) -> None:
    for weight, bias in _layers(network):
        nn.init.trunc_normal_(weight, std=0.1, a=-0.2, b=0.2, generator=generator)
        nn.init.constant_(bias, 0.1)


def _torch(network: PaperCNN, generator: torch.Generator | None) -> None:
    """As PyTorch's Conv2d and Linear: uniform within 1/sqrt(fan-in), weights and biases."""
    for weight, bias in _layers(network):
        bound = weight[0].numel() ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.uniform_(bias, -bound, bound, generator=generator)


def _small(network: PaperCNN, generator: torch.Generator | None) -> None:
    _torch(network, generator)
    (first, _), *_ = _layers(network)
    with torch.no_grad():
        first.mul_(0.25)
    for _, bias in _layers(network):
        nn.init.zeros_(bias)


def _layers(network: PaperCNN) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every layer, in order."""
    layers = (network.conv1, network.conv2, network.fc1, network.fc2)
    return [(weight, bias) for weight, bias in (layer.parameters() for layer in layers)]


INITIALISATIONS = {"madry": _madry, "torch": _torch, "small": _small}
