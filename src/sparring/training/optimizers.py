"""Optimisers as records that build PyTorch's own, fused where the device has such a kernel."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sparring.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam:
    """Adam (Kingma & Ba 2015), the paper's optimiser."""

    learning_rate: float = 1e-4
    """Largest step size; the learning-rate schedule multiplies it."""
    beta1: float = 0.9
    """Decay of the mean of gradients, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_rate(self.learning_rate)
        _check_decay("beta1", self.beta1)
        _check_decay("beta2", self.beta2)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """PyTorch's Adam over these parameters."""
        betas, weights = (self.beta1, self.beta2), list(parameters)
        fused = _can_be_fused(weights)
        return torch.optim.Adam(weights, lr=self.learning_rate, betas=betas, fused=fused)


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD:
    """Stochastic gradient descent with momentum and weight decay."""

    learning_rate: float = 0.01
    """Largest step size; the learning-rate schedule multiplies it."""
    momentum: float = 0.9
    """Decay of the velocity, in [0, 1)."""
    weight_decay: float = 0.0
    """Pull of every weight towards zero, per unit of learning rate."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_rate(self.learning_rate)
        _check_decay("momentum", self.momentum)
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(
                f"weight_decay must be 0 or more because it shrinks weights; got "
                f"{self.weight_decay:g}. Take 0 for none."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """PyTorch's SGD over these parameters."""
        weights = list(parameters)
        return torch.optim.SGD(
            weights,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=_can_be_fused(weights),
        )


OptimizerKind = Adam | SGD


def _can_be_fused(weights: Iterable[nn.Parameter]) -> bool:
    """PyTorch has fused kernels for real numbers only."""
    return all(weight.is_floating_point() for weight in weights)


def _check_rate(rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise ConfigError(
            f"learning_rate must be a positive number because it is a step's length; got {rate:g}. "
            f"The paper takes 0.0001 for Adam."
        )


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(
            f"{name} must lie in [0, 1) because it is the share kept of a running mean; got "
            f"{value:g}. 0.9 is usual."
        )
