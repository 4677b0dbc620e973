"""Residual networks for small images, their blocks normalised before each convolution.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
Sources: He et al. 2016, "Identity Mappings in Deep Residual Networks" (pre-activation);
Zagoruyko & Komodakis 2016, "Wide Residual Networks".
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sparring.models.renormalised import BatchRenorm2d


class PreActBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; BatchNorm and ReLU before each."""

    def __init__(self, before: int, wide: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = BatchRenorm2d(before)
        self.conv1 = nn.Conv2d(before, wide, 3, stride=stride, padding=1, bias=False)
        self.norm2 = BatchRenorm2d(wide)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        same = before == wide and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, wide, 1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features, halved in size where the stride is 2."""
        active = self.norm1(images).relu()
        beside = images if self.shortcut is None else self.shortcut(active)
        hidden = self.dropout(self.norm2(self.conv1(active)).relu())
        return beside + self.conv2(hidden)


class ResidualNetwork(nn.Module):
    """A 3x3 convolution, stages of pre-activation blocks, and a dense layer on averaged features.

    Each stage but the first halves the image. Weights of convolutions begin as in He et al. 2015
    (fan-out), so that activations keep their size.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        stem: int,
        stages: Sequence[tuple[int, int]],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        blocks, before = list[nn.Module](), stem
        for stage, (wide, count) in enumerate(stages):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(PreActBlock(before, wide, stride, dropout))
                before = wide
        self.blocks = nn.Sequential(*blocks)
        self.norm = BatchRenorm2d(before)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        """Logits, without softmax."""
        features = self.norm(self.blocks(self.stem(images))).relu()
        return self.classifier(self.pool(features))


def preact_resnet_18(channels: int, num_classes: int) -> ResidualNetwork:
    """18 layers: 8 blocks in stages of 64, 128, 256 and 512 channels; 11.2 million weights."""
    stages = [(64, 2), (128, 2), (256, 2), (512, 2)]
    return ResidualNetwork(channels, num_classes, stem=64, stages=stages)


def wide_resnet(
    channels: int, num_classes: int, *, depth: int = 28, width: int = 10, dropout: float = 0.0
) -> ResidualNetwork:
    """`depth` = 6n + 4 layers: n blocks in each of three stages of 16, 32 and 64 · `width`."""
    count = (depth - 4) // 6
    stages = [(16 * width, count), (32 * width, count), (64 * width, count)]
    return ResidualNetwork(channels, num_classes, stem=16, stages=stages, dropout=dropout)
