"""How the learning rate, the threat's ε and the attack's steps move over a run.

A schedule is a record whose call gives a factor in [0, 1] at a place of the run: `progress` runs
from 0 before the first update to just under 1 before the last. Being a pure function of the place,
it needs no state to resume, and every process that attacks a ticket can compute its ε.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from typing_extensions import override

from sparring.errors import ConfigError
from sparring.records.checks import within


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

    A full-sized ε or step before the network knows anything often ends in a dead start: a loss
    stuck at ln(classes).
    """

    share: float = 0.15
    """Share of the run that the rise takes, in (0, 1]."""
    start: float = 0.0
    """Factor at the first update, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        within("share", self.share, "(0, 1]")
        within("start", self.start, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        return min(1.0, self.start + (1 - self.start) * progress / self.share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Triangular(Schedule):
    """Linear from 0 to the full value at `peak_at`, then linear back to 0."""

    peak_at: float = 0.4
    """Share of the run at which the full value is reached, in (0, 1)."""

    def __post_init__(self) -> None:
        """Check the range."""
        within("peak_at", self.peak_at, "(0, 1)")

    @override
    def __call__(self, progress: float) -> float:
        return min(progress / self.peak_at, (1 - progress) / (1 - self.peak_at))


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
        """Check the ranges."""
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
        """Check the ranges."""
        for place in self.at:
            within("at", place, "(0, 1)")
        if list(self.at) != sorted(set(self.at)):
            raise ConfigError(
                f"at must rise, because each place comes after the one before; got {self.at}. "
                f"Sort it."
            )
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
        """Check the ranges."""
        within("share", self.share, "(0, 1]")
        within("start", self.start, "[0, 1]")

    @override
    def __call__(self, progress: float) -> float:
        risen = min(1.0, self.start + (1 - self.start) * progress / self.share)
        return risen * self.then(progress)


LearningRateSchedule = Constant | WarmUp | Triangular | OneCycle | Steps | Gradual
EpsSchedule = Constant | WarmUp


def _cosine(start: float, end: float, place: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2
