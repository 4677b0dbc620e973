"""Optimizers, and schedules of the learning rate and of the threat's ε, as records.

An optimizer's record builds PyTorch's own, fused where the device has such a kernel. A schedule's
call gives a factor in [0, 1] at a place of the run: `progress` runs from 0 before the first update
to just under 1 before the last. As a pure function of the place it needs no state to resume, and
every process that attacks a ticket can compute its ε.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records.checks import positive, within
from sparring.records.custom import Custom, PythonObject, made, own_errors
from sparring.records.own_code import arguments
from sparring.records.text import counted, kind_text


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
        positive("learning_rate", self.learning_rate)
        within("beta1", self.beta1, "[0, 1)", "0.9 is usual.")
        within("beta2", self.beta2, "[0, 1)", "0.999 is usual.")

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
        positive("learning_rate", self.learning_rate)
        within("momentum", self.momentum, "[0, 1)", "0.9 is usual.")
        within("weight_decay", self.weight_decay, "[0, inf)", "0 is none.")

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


OptimizerKind = (
    Adam | SGD | Custom | PythonObject | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
)
"""Of your own: a factory that is called with the parameters, or such a function."""


def built_optimizer(
    kind: OptimizerKind, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer of these parameters. Raises `ConfigError` for what is none."""
    if isinstance(kind, Adam | SGD):
        return kind.build(parameters)
    weights = list(parameters)
    found = kind.call(weights) if isinstance(kind, Custom) else made(kind, "optimizer")(weights)
    if not isinstance(found, torch.optim.Optimizer):
        raise ConfigError.expected(
            "an optimizer of your own must be a torch.optim.Optimizer of the parameters that are "
            "passed",
            kind_text(found),
        )
    passed = set(map(id, weights))
    others = [one for one in held_parameters(found) if id(one) not in passed]
    if others:
        raise ConfigError.expected(
            "an optimizer of your own must hold only parameters that are passed to it, because "
            "only those get a gradient",
            f"{counted(len(others), 'parameter')} beside them, the first of shape "
            f"{tuple(others[0].shape)}",
            "Build it from the parameters that its factory is called with; what else is to be "
            "trained belongs into the network.",
        )
    if not all("lr" in group for group in found.param_groups):
        raise ConfigError("each parameter group of an optimizer must have a learning rate, lr.")
    return found


def held_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that an optimizer updates, of all its groups."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def _can_be_fused(weights: Iterable[nn.Parameter]) -> bool:
    """PyTorch has fused kernels for real numbers only."""
    return all(weight.is_floating_point() for weight in weights)


def scaled_optimizer(kind: OptimizerKind, factor: float) -> OptimizerKind:
    """The optimizer with its learning rate multiplied; one of your own must have an argument lr.

    Raises `ConfigError` for a Python object.
    """
    if isinstance(kind, Adam | SGD):
        return replace(kind, learning_rate=kind.learning_rate * factor)
    words = arguments(kind.arguments, "arguments") if isinstance(kind, Custom) else {}
    rate = words.get("lr")
    if not isinstance(kind, Custom) or not isinstance(rate, int | float):
        raise ConfigError(
            "the learning rate of an optimizer of your own is scaled for several trainers only if "
            "it is an argument lr. Add --lr, or take --scaling none."
        )
    return kind.given(lr=rate * factor)


@runtime_checkable
class Schedule(Protocol):
    """A factor in [0, 1] at every place of a run."""

    def __call__(self, progress: float) -> float:
        """The factor at `progress` in [0, 1)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Schedule):
    """The full value throughout: the paper's learning rate and ε."""

    @override
    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Schedule):
    """Linear from `start` to the full value over the first share of the run, then constant.

    The full ε or learning rate from the first update on often ends in a dead start: a loss stuck
    at ln(classes).
    """

    share: float = 0.15
    """Share of the run that the rise takes, in (0, 1]."""
    start: float = 0.0
    """Factor at the first update, in [0, 1]."""

    def __post_init__(self) -> None:
        within("share", self.share, "(0, 1]")
        within("start", self.start, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        return min(1.0, self.start + (1 - self.start) * progress / self.share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Triangular(Schedule):
    """Linear from `start` to the full value at `peak_at`, then linear to 0."""

    peak_at: float = 0.4
    """Share of the run at which the full value is reached, in (0, 1)."""
    start: float = 0.0
    """Factor at the first update, in [0, 1]."""

    def __post_init__(self) -> None:
        within("peak_at", self.peak_at, "(0, 1)")
        within("start", self.start, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        rising = self.start + (1 - self.start) * progress / self.peak_at
        return min(rising, 1.0, (1 - progress) / (1 - self.peak_at))


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycle(Schedule):
    """Half a cosine up from `start` to the full value at `peak_at`, half a cosine down to `end`.

    Source: Smith & Topin 2019, with the cosine form that PyTorch's OneCycleLR uses.
    """

    peak_at: float = 0.3
    """Share of the run at which the full value is reached, in (0, 1)."""
    start: float = 0.04
    """Factor at the first update, in [0, 1]."""
    end: float = 4e-6
    """Factor that the end approaches, in [0, 1]."""

    def __post_init__(self) -> None:
        within("peak_at", self.peak_at, "(0, 1)")
        within("start", self.start, "[0, 1]")
        within("end", self.end, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        if progress < self.peak_at:
            return _cosine(self.start, 1.0, progress / self.peak_at)
        return _cosine(1.0, self.end, (progress - self.peak_at) / (1 - self.peak_at))


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps(Schedule):
    """The full value, multiplied by `factor` at each of the given places."""

    at: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run, rising, each in (0, 1)."""
    factor: float = 0.1
    """What each place multiplies by, in (0, 1)."""

    def __post_init__(self) -> None:
        for place in self.at:
            within("at", place, "(0, 1)")
        if list(self.at) != sorted(set(self.at)):
            raise ConfigError.expected("at must rise", self.at, "Sort it.")
        within("factor", self.factor, "(0, 1)")

    @override
    def __call__(self, progress: float) -> float:
        return self.factor ** sum(progress >= place for place in self.at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradual(Schedule):
    """Another schedule, approached from `start` of it by a linear rise early in the run.

    Source: Goyal et al. 2017, section 2.2, gradual warm-up: 5 of 90 epochs, from the rate of one
    trainer.
    """

    share: float = 5 / 90
    """Share of the run that the rise takes, in (0, 1]."""
    start: float = 0.5
    """Factor at the first update, in [0, 1]."""
    then: Constant | WarmUp | Triangular | OneCycle | Steps = field(default_factory=Constant)
    """What it is a factor of, and what is left of it after the rise."""

    def __post_init__(self) -> None:
        within("share", self.share, "(0, 1]")
        within("start", self.start, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        risen = min(1.0, self.start + (1 - self.start) * progress / self.share)
        return risen * self.then(progress)


Own = Custom | PythonObject | Callable[[float], float]
LearningRateSchedule = Constant | WarmUp | Triangular | OneCycle | Steps | Gradual | Own
EpsSchedule = Constant | WarmUp | Own


def factor(schedule: LearningRateSchedule, progress: float) -> float:
    """The factor of the learning rate at a place of the run. Raises `ConfigError`."""
    with own_errors("the schedule"):
        found = made(schedule, "schedule")(progress)
        found = found.item() if hasattr(found, "item") else found  # a number of NumPy or a tensor
    if not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise ConfigError.expected(
            f"a schedule must return a number of 0 or more at {progress:g} of the run", found
        )
    return float(found)


def _cosine(start: float, end: float, place: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2
