"""A small convolutional network with BatchNorm, for images of any size of 8 pixels on.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

from jaxtyping import Float
from torch import Tensor, nn

from sparring.models.renormalised import BatchRenorm2d

STAGES = 3
"""Halvings of the image."""


class SmallCNN(nn.Module):
    """Three stages of two 3x3 convolutions, each with BatchNorm and ReLU, then one dense layer.

    The second convolution of a stage halves the image; widths are `width`, twice and four times
    that. Features are averaged over the image before the dense layer, so that any size will do.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in range(STAGES):
            wide = width * 2**stage
            layers += [*_convolution(channels, wide, 1), *_convolution(wide, wide, 2)]
            channels = wide
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        """Logits, without softmax."""
        return self.classifier(self.features(images))


def _convolution(channels: int, wide: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, wide, 3, stride=stride, padding=1, bias=False)
    return [convolution, BatchRenorm2d(wide), nn.ReLU()]
