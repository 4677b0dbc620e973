"""What attacks must find, by formulas of their own: slow, in float64, one image at a time."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

BISECTIONS = 200
"""Halvings of a bracket: more than float64 can tell apart."""


class LinearClassifier(nn.Module):
    """Two logits W x + b in float64."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.rows = nn.Parameter(torch.empty(2, *shape, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))
        nn.init.normal_(self.rows, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.rows.flatten(1).t() + self.bias

    def uphill(self, labels: Tensor) -> Tensor:
        """Gradient of each image's margin: the other class's row minus the true one's."""
        return self.rows.detach()[1 - labels] - self.rows.detach()[labels]


def worst_in_cube(images: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """Where a linear function is largest: every pixel at the end of its own interval."""
    upper, lower = (images + eps).clamp(max=1), (images - eps).clamp(min=0)
    return torch.where(gradient > 0, upper, lower)


def worst_in_ball(images: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """Where a linear function is largest in ball and pixel range.

    By the conditions of Karush, Kuhn and Tucker a multiple of the gradient, clipped to the room
    that each pixel has; the multiple is the largest that the ball permits.
    """
    return _each(images, gradient, lambda x, g: _longest(x, g, eps, at_most=1e9))


def nearest_in_ball(x: Tensor, images: Tensor, eps: float) -> Tensor:
    """The point of ball and pixel range next to `x`: the same conditions, the offset's multiple."""
    return _each(images, x - images, lambda c, offset: _longest(c, offset, eps, at_most=1.0))


def _each(images: Tensor, directions: Tensor, find: Callable[..., np.ndarray]) -> Tensor:
    pairs = zip(images.double().numpy(), directions.double().numpy(), strict=True)
    return torch.from_numpy(np.stack([find(c, d) for c, d in pairs]))


def _longest(centre: np.ndarray, direction: np.ndarray, eps: float, at_most: float) -> np.ndarray:
    """The clipped multiple of the direction at distance eps, or the one `at_most` allows."""

    def point(multiple: float) -> np.ndarray:
        return np.clip(centre + multiple * direction, 0, 1)

    low, high = 0.0, at_most
    if np.linalg.norm(point(high) - centre) <= eps:
        return point(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        inside = np.linalg.norm(point(middle) - centre) <= eps
        low, high = (middle, high) if inside else (low, middle)
    return point(low)


def cross_entropy(logits: list[float], label: int) -> float:
    """log Σ exp(z_i), minus z_y."""
    top = max(logits)
    return top + math.log(math.fsum(math.exp(z - top) for z in logits)) - logits[label]


def margin(logits: list[float], label: int) -> float:
    """max over i ≠ y of z_i, minus z_y (Carlini & Wagner 2017)."""
    return max(z for i, z in enumerate(logits) if i != label) - logits[label]


def dlr(logits: list[float], label: int) -> float:
    """The margin over the largest logit minus the third largest (Croce & Hein 2020)."""
    first, _, third = sorted(logits, reverse=True)[:3]
    return margin(logits, label) / (first - third)


def is_wrong(logits: list[float], label: int) -> bool:
    """Whether the true class is not the first among the largest."""
    return logits.index(max(logits)) != label
