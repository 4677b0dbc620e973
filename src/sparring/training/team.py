"""The trainers of a run that share each update, and what they tell one another.

A run has one trainer, `Solo`, or several, each a process (`sparring.training.several`). Between two
checkpoints they meet once an update, in `mean`; attacks are each trainer's own.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from signal import Signals
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.loader import Place
from sparring.models import chosen_device
from sparring.training.interruption import StopRequest

Thing = TypeVar("Thing")


class Launch(NamedTuple):
    """Who started the trainers, where they start them again once one has ended."""

    by: str = ""
    """A name that no other launcher has; empty where there is none."""
    again: bool = False
    """Whether this is not the first start."""


@runtime_checkable
class Team(Protocol):
    """All trainers of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Which one this is; the one of rank 0 leads."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def place(self) -> Place:
        """Which one this is on its machine."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes the run directory and is watched."""
        ...

    @property
    def launch(self) -> Launch:
        """Who started all, and whether after one had ended."""
        ...

    @property
    def heard(self) -> Signals | None:
        """The signal by which somebody was asked to stop, as far as all know of it."""
        ...

    def attend(self, stop: StopRequest) -> None:
        """Tell the others of this request once it comes."""
        ...

    def stopped(self) -> bool:
        """Whether one that waits for its batch is to stop now, and not after an update of all."""
        ...

    def device(self, name: str) -> torch.device:
        """Where this trainer computes, of what the settings name. Raises `ConfigError`."""
        ...

    def mean(self, flat: Tensor) -> Tensor:
        """The mean over all trainers' tensors, the same bits for each; writes into `flat`."""
        ...

    def align(self, network: nn.Module) -> None:
        """Give every trainer the leader's weights."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """A block that ends with an error for all if it does so for one."""
        ...

    def lead(self, work: Callable[[], Thing]) -> Thing:
        """What this gives the leader, for all; an error of it is an error for all."""
        ...

    def gather(self, thing: Thing) -> list[Thing]:
        """All trainers' things in order of rank, for the leader; the others get none."""
        ...

    def wait(self) -> None:
        """Until all are here."""
        ...

    def figures(self) -> Mapping[str, int | float | str]:
        """What a run's log should say of the last update's mean."""
        ...


@dataclass(kw_only=True, slots=True)
class Solo:
    """One trainer without others; with rank and size, one that a replay plays."""

    rank: int = 0
    size: int = 1
    place: Place = field(default_factory=Place)
    launch: Launch = field(default_factory=Launch)
    _stop: StopRequest = field(default_factory=StopRequest)

    @property
    def leads(self) -> bool:
        """It does."""
        return True

    @property
    def heard(self) -> Signals | None:
        """What it was asked itself."""
        return self._stop.signal

    def attend(self, stop: StopRequest) -> None:
        """There is nobody to be told."""
        self._stop = stop

    def stopped(self) -> bool:
        """Nobody else has to make an update with it."""
        return self._stop.signal is not None

    def device(self, name: str) -> torch.device:
        """The one of this name."""
        return chosen_device(name)

    def mean(self, flat: Tensor) -> Tensor:
        """Its own."""
        return flat

    def align(self, network: nn.Module) -> None:
        """They are its own."""

    def together(self) -> AbstractContextManager[None]:
        """Its own errors."""
        return nullcontext()

    def lead(self, work: Callable[[], Thing]) -> Thing:
        """What this gives."""
        return work()

    def gather(self, thing: Thing) -> list[Thing]:
        """Its own."""
        return [thing]

    def wait(self) -> None:
        """For nobody."""

    def figures(self) -> Mapping[str, int | float | str]:
        """Nothing: there is no mean."""
        return {}
