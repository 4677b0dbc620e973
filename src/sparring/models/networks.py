"""The built-in networks other than the paper's, and the layers that they are made of.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
Sources: Ioffe 2017, "Batch Renormalization: Towards Reducing Minibatch Dependence in
Batch-Normalized Models", algorithm 1; He et al. 2016, "Identity Mappings in Deep Residual
Networks" (pre-activation); Zagoruyko & Komodakis 2016, "Wide Residual Networks"; Shi et al. 2021,
"Fast certified robust training with short warmup" (initial weights for bounds).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm

LARGEST_RATIO = 3.0
"""Limit of the ratio of the batch's deviation to the running one; r_max in Ioffe 2017."""
LARGEST_SHIFT = 5.0
"""Limit of the difference of the means in running deviations; d_max in Ioffe 2017."""
STAGES = 3
"""Halvings of the image in a `SmallCNN`."""


class BatchRenorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` with the running statistics in training too, and the batch's in gradients.

    Attacks see a network in evaluation mode. With `BatchNorm2d` an update trains another function,
    and at a high learning rate the two diverge: the trained one classifies every example correctly
    that fools the evaluated one, and the evaluated one learns nothing. Weights, buffers and
    evaluation mode are those of `BatchNorm2d`. Early running statistics are means over the batches
    so far, so that the first batch is normalised as by `BatchNorm2d`.
    """

    def forward(self, input: Float[Tensor, " B C H W"]) -> Float[Tensor, " B C H W"]:
        """Normalised images; in training mode the running statistics are updated first."""
        running_mean, running_variance = self.running_mean, self.running_var
        batches, momentum = self.num_batches_tracked, self.momentum
        if not self.training or running_mean is None or running_variance is None:
            return super().forward(input)
        if batches is None or momentum is None:
            return super().forward(input)
        with torch.no_grad():
            own_mean, own_variance = self._statistics(input)
            new = torch.clamp(1 / (batches + 1.0), min=momentum).to(running_mean.dtype)
            mean = running_mean.lerp(own_mean, new)
            variance = running_variance.lerp(own_variance, new)
            count = input.numel() // input.shape[1]
            own_variance = own_variance * ((count - 1) / count)
            ratio = ((own_variance + self.eps) / (variance + self.eps)).sqrt()
            shift = (own_mean - mean) / (variance + self.eps).sqrt()
            ratio = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
            shift = shift.clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        weight, bias = self.weight * ratio, self.bias + self.weight * shift
        normalised = batch_norm(input, None, None, weight, bias, training=True, eps=self.eps)
        with torch.no_grad():
            running_mean.copy_(mean)
            running_variance.copy_(variance)
            batches.add_(1)
        return normalised

    def _statistics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of each channel."""
        # `batch_norm` is many times faster than `torch.var_mean`.
        mean, variance = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        weight, bias = self.weight.detach(), self.bias.detach()
        batch_norm(input, mean, variance, weight, bias, training=True, momentum=1.0)
        return mean, variance


class Normalisation(nn.Module):
    """Subtracts a mean from each channel and divides by a deviation; both are buffers."""

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


class SmallCNN(nn.Module):
    """Three stages of two 3x3 convolutions, each with BatchNorm and ReLU, then one dense layer.

    The second convolution of a stage halves the image; widths are `width`, twice and four times
    that. Features are averaged over the image before the dense layer, for images of any size.
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


def saturating(channels: int, margin: float) -> nn.Sequential:
    """Pixels up to `margin` become 0, from 1 - `margin` on 1, and those between go in a line.

    Black and white pixels then stay the same under any change of up to `margin`. `margin` is below
    0.5. Made of layers whose bounds are exact.
    """

    def shifted(mean: float, deviation: float) -> Normalisation:
        return Normalisation([mean] * channels, [deviation] * channels)

    below_white = shifted(1.0, -1.0), nn.ReLU(), shifted(1.0, -1.0)
    return nn.Sequential(shifted(margin, 1 - 2 * margin), nn.ReLU(), *below_white)


class StridedCNN(nn.Module):
    """Two 5x5 convolutions of stride 2 and two dense layers, with few layers for tight bounds.

    For images of one size, of at least `SMALLEST` pixels a side. With a `saturation` above 0 they
    first pass `saturating`.
    """

    SMALLEST = 13

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        hidden: int,
        saturation: float = 0.0,
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        places = math.prod(((side - 3) // 2 - 3) // 2 for side in sides)
        self.features = nn.Sequential(
            *([saturating(channels, saturation)] if saturation else []),
            nn.Conv2d(channels, width, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(2 * width * places, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        """Logits, without softmax."""
        return self.classifier(self.features(images))


def draw_for_bounds(network: nn.Module) -> None:
    """Draw initial weights with which interval bounds keep their width from layer to layer.

    Weights of dense layers and convolutions are normal with a deviation of √(2π) divided by the
    number of inputs (Shi et al. 2021), and their biases 0.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


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
