"""Networks with something unusual, for images of 8x8 in four classes, and data for them."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sparring.data import Dataset, ImageSet

Use = Callable[[Any, Tensor], object]  # of an `Odd`, with attributes of any names


def noise() -> Dataset:
    pixels = torch.randint(256, (48, 1, 8, 8), dtype=torch.uint8, generator=Generator())
    images = ImageSet(pixels=pixels, labels=torch.arange(48) % 4, num_classes=4)
    return Dataset(name="noise", train=images, validation=images, test=images)


class Odd(nn.Module):
    """A linear layer, and what `use` makes of its logits with the tensors that are given."""

    def __init__(self, use: Use = lambda _, logits: logits, **tensors: Tensor) -> None:
        super().__init__()
        self.layer, self.use = nn.Linear(64, 4), use
        for name, value in tensors.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, images: Tensor) -> object:
        return self.use(self, self.layer(images.flatten(1).to(self.layer.weight.dtype)))


def odd(use: Use = lambda _, logits: logits, **tensors: Tensor) -> Callable[[], nn.Module]:
    """A factory, so that tensors are copied for each."""
    return lambda: Odd(use, **{name: value.clone() for name, value in tensors.items()})


def weight(value: Tensor, *, trained: bool = True) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=trained)


class WithExtraState(Odd):
    def get_extra_state(self) -> object:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        pass


class PartlyStored(Odd):
    def state_dict(self, *args, **kwargs):
        return {"layer.weight": super().state_dict(*args, **kwargs)["layer.weight"]}


class Locked(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Counting(Odd):
    """Its answers depend on how often it was trained, which nothing stores."""

    def __init__(self) -> None:
        super().__init__(lambda net, logits: logits * (1 + net.count))
        self.count = 0

    def forward(self, images: Tensor) -> object:
        self.count += self.training
        return super().forward(images)


class OwnMean(nn.Module):
    """Statistics in a buffer that is not stored."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        if self.training:
            self.mean.lerp_(logits.detach().mean(0), 0.1)
        return logits - self.mean


class Filter(nn.Module):
    """A filter by frequency with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5, dtype=torch.complex64))
        self.layer = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = torch.fft.irfft2(torch.fft.rfft2(images[:, 0].float()) * self.weight, s=(8, 8))
        return self.layer(found.flatten(1).to(self.layer.weight.dtype))


class Keeping(nn.Module):
    """Keeps what its last pass computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(64, 8), nn.Linear(8, 4), []

    def forward(self, images: Tensor) -> Tensor:
        self.kept = [self.first(images.flatten(1)).relu()]
        return self.last(self.kept[0])


class Mixture(nn.Sequential):
    """Layers of many kinds, any of which may be frozen or put into evaluation mode."""

    def __init__(self, evaluation: str = "", frozen: str = "") -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Dropout2d(0.3)),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.BatchNorm1d(8, affine=False),
            nn.Dropout(0.4),
            nn.Linear(8, 4),
        )
        for name in filter(None, evaluation.split(";")):
            self.get_submodule(name).eval()
        for name in filter(None, frozen.split(";")):
            self.get_parameter(name).requires_grad = False


def in_training(change: Callable[[Tensor], object]) -> Callable[[], nn.Module]:
    """A network whose logits are changed in training mode only."""
    return odd(lambda net, logits: change(logits) if net.training else logits)
