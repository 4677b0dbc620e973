"""Small networks of all layers that have bounds, with weights of both signs."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from sparring.models import ModelKind, Normalised, SmallNetwork, WideResNet


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Residual(nn.Module):
    """A sum of two ways, pooled, in methods and functions; linear over features that come last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding="same", bias=False)
        self.channels, self.rows = nn.Linear(3, 5), nn.Linear(5, 3)
        self.last = nn.Linear(3 * 3 * 3, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.first(images))
        hidden = (hidden + self.second(hidden)).relu()
        pixels = self.channels(functional.max_pool2d(hidden, 2).permute(0, 2, 3, 1))
        return self.last(self.rows(pixels.reshape(-1, 9, 5)).flatten(1))


class Sized(nn.Module):
    """Shapes by the size of the batch; windows that overlap, and such that reach over the edge."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.max_pool2d(self.first(images), 3, 1, 1)
        hidden = functional.max_pool2d(torch.relu(hidden), 3, ceil_mode=True)
        hidden = functional.max_pool2d(hidden, 2, padding=0, stride=1)
        return (
            self.last(hidden).transpose(1, 2).reshape(images.shape[0], -1).view(images.size(0), 4)
        )


def layered() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 6, 3, stride=2, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """Weights, and statistics of BatchNorm, of both signs and unlike sizes."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not name.startswith("normalisation"):
            value.normal_(0.1, 0.5, generator=seeded(seed))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.3, 2, generator=seeded(seed))
    return network.eval()


def built_in(spec: ModelKind) -> Callable[[], nn.Module]:
    return lambda: spec.fitted((2, 6, 6), 4).build(0)


KINDS: list[Callable[[], nn.Module]] = [
    Residual,
    Sized,
    layered,
    built_in(Normalised(mean=(0.4, 0.6), std=(0.2, 0.3), network=SmallNetwork(width=2))),
    built_in(WideResNet(depth=10, width=1, dropout=0.3)),
]
"""For images of 2 channels and 6 x 6 pixels, with 4 classes."""
