"""The trainers of one run: the protocol of a team, the team of one, and requests to stop.

A run has one trainer (`SingleProcess`) or several, each a process
(`sparring.training.distributed`). Between two checkpoints the trainers of a team synchronise once
an update, in `mean`. Each computes or requests its own attacks.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from signal import Signals
from types import FrameType
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.loader import Place
from sparring.models import chosen_device

Thing = TypeVar("Thing")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a run to stop at the next safe place."""


class Launch(NamedTuple):
    """The launcher of the trainers, if it restarts all of them after one has ended."""

    by: str = ""
    """Its unique name; empty without a launcher."""
    again: bool = False
    """Whether this is a restart."""


class StopRequest:
    """The signal that has asked the run to stop, if any."""

    def __init__(self, *, patient: bool = False) -> None:
        self.signal: Signals | None = None
        self._patient, self._times = patient, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the first request; the next one reaches the earlier handler.

        A patient request also notes later ones until `relent`, because a launcher sends one more
        signal to processes that stop together.
        """
        self.signal = Signals(number)
        self._times += 1
        if not self._patient:
            self.restore()

    def relent(self) -> None:
        """After two requests, restore the earlier handlers for the next one."""
        if self._times > 1:
            self.restore()

    def install(self) -> None:
        """Handle the signals that are not ignored, as under nohup; remember their handlers."""
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self) for number in heard}

    def restore(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def stop_request(*, patient: bool = False) -> Iterator[StopRequest]:
    """Collect requests to stop while the block runs; if `patient`, any number of them.

    Only the main thread can handle signals. In another thread the request never comes, and Ctrl-C
    does what it did before.
    """
    request = StopRequest(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    request.install()
    try:
        yield request
    finally:
        request.restore()


@runtime_checkable
class Team(Protocol):
    """All trainers of a run, as seen by one of them."""

    rank: int
    """The number of this trainer; rank 0 leads."""
    size: int
    """Trainers of the run."""
    place: Place
    """The position of this trainer on its machine."""
    launch: Launch
    """The launcher of all trainers."""

    @property
    def leads(self) -> bool:
        """Whether this trainer writes the run directory and has the sinks."""
        return self.rank == 0

    @property
    def heard(self) -> Signals | None:
        """The signal that asked a trainer to stop, once all trainers know of it."""
        ...

    def attend(self, stop: StopRequest) -> None:
        """Pass this request to all trainers once it arrives."""
        ...

    def stopped(self) -> bool:
        """Whether a trainer that waits for a batch may stop without a common update."""
        ...

    def device(self, name: str) -> torch.device:
        """The device of this trainer, from the name in the settings. Raises `ConfigError`."""
        ...

    def mean(self, flat: Tensor) -> Tensor:
        """The mean of all trainers' tensors, the same bits for each; overwrites `flat`."""
        ...

    def align(self, network: nn.Module) -> None:
        """Load the weights of rank 0 into every trainer's network."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """A block that raises on all trainers if it raises a `SparringError` on one."""
        ...

    def lead(self, work: Callable[[], Thing]) -> Thing:
        """Call `work` on rank 0 and return its result, or raise its error, on all."""
        ...

    def gather(self, thing: Thing) -> list[Thing]:
        """All trainers' things in order of rank on rank 0; an empty list on the others."""
        ...

    def wait(self) -> None:
        """Block until all trainers are here."""
        ...

    def figures(self) -> Mapping[str, int | float | str]:
        """Columns for the update's row: the cost of the last `mean`."""
        ...


@dataclass(kw_only=True, slots=True)
class SingleProcess(Team):
    """A trainer that synchronises with no other process.

    A replay computes all trainers of a run in one process, each with its rank and the run's size.
    """

    rank: int = 0
    size: int = 1
    place: Place = field(default_factory=Place)
    launch: Launch = field(default_factory=Launch)
    _stop: StopRequest = field(default_factory=StopRequest)

    @property
    @override
    def heard(self) -> Signals | None:
        return self._stop.signal

    @override
    def attend(self, stop: StopRequest) -> None:
        self._stop = stop

    @override
    def stopped(self) -> bool:
        return self._stop.signal is not None

    @override
    def device(self, name: str) -> torch.device:
        return chosen_device(name)

    @override
    def mean(self, flat: Tensor) -> Tensor:
        return flat

    @override
    def align(self, network: nn.Module) -> None:
        pass

    @override
    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    @override
    def lead(self, work: Callable[[], Thing]) -> Thing:
        return work()

    @override
    def gather(self, thing: Thing) -> list[Thing]:
        return [thing]

    @override
    def wait(self) -> None:
        pass

    @override
    def figures(self) -> Mapping[str, int | float | str]:
        return {}
