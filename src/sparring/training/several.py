"""Several trainers, each a process, that meet by torch.distributed.

Whatever ends one of them ends the others with a sentence: an error that is met together by
`together`, a process that dies by the connection that ends with it. On the CPU they meet by gloo;
on CUDA, which is untested, gradients by NCCL and everything else by gloo.

Units: seconds are wall-clock.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from signal import Signals
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sparring.errors import (
    ConfigError,
    FailedElsewhere,
    SparringError,
    TrainerLost,
)
from sparring.loader import Place
from sparring.models import chosen_device
from sparring.training.interruption import SIGNALS, StopRequest
from sparring.training.share import REQUESTS
from sparring.training.team import Launch, Solo, Team

Thing = TypeVar("Thing")
REASON = 120
"""Characters of what torch.distributed says that are passed on."""
_SOURCE = re.compile(r"\[\S+\.cc:\d+\] ")
"""Where in its own source gloo found something."""


@dataclass(kw_only=True, slots=True)
class Several:
    """This process among all of torch.distributed's default group."""

    rank: int = field(default_factory=dist.get_rank)
    size: int = field(default_factory=dist.get_world_size)
    place: Place
    launch: Launch = field(default_factory=Launch)
    heard: Signals | None = None
    _stop: StopRequest = field(default_factory=StopRequest)
    _seconds: float = 0.0

    @property
    def leads(self) -> bool:
        """Rank 0 does."""
        return self.rank == 0

    def attend(self, stop: StopRequest) -> None:
        """Its signal goes with the next mean."""
        self._stop = stop

    def stopped(self) -> bool:
        """Never alone; but who was asked twice and still waits can be ended by a third request."""
        self._stop.relent()
        return False

    def device(self, name: str) -> torch.device:
        """The CPU, or each trainer the CUDA device of its place on its machine.

        Raises `ConfigError` where that is not there, and for the name of a single CUDA device.
        """
        kind = chosen_device(name)
        if kind.type != "cuda":
            return kind
        if kind.index is not None:
            raise ConfigError(
                "device must be auto, cuda or cpu under several trainers, because each needs a "
                f"device of its own; got {name}. Leave it at auto."
            )
        mine = chosen_device(f"cuda:{self.place.number}")
        torch.cuda.set_device(mine)
        return mine

    def mean(self, flat: Tensor) -> Tensor:
        """One all-reduce; whose cost is `flat` twice over the wire, whatever the team's size."""
        begun = time.perf_counter()
        requests = [float(self._stop.signal == number) for number in SIGNALS]
        flat[-REQUESTS:] = flat.new_tensor(requests)
        with _told():
            dist.all_reduce(flat)
        flat.div_(self.size)
        asked = flat[-REQUESTS:].tolist()
        self.heard = next((number for number, by in zip(SIGNALS, asked, strict=True) if by), None)
        self._seconds = time.perf_counter() - begun
        return flat

    def align(self, network: nn.Module) -> None:
        """One broadcast of the weights."""
        network.load_state_dict(self._from_the_leader(_on_cpu(network) if self.leads else None))

    @contextmanager
    def together(self) -> Iterator[None]:
        """The first one's error is raised by it, and a `FailedElsewhere` by all others."""
        own: SparringError | None = None
        try:
            yield
        except SparringError as error:
            own = error
        mine = own and (str(own), own.exit_code)
        every: list[tuple[str, int] | None] = [None] * self.size
        with _told():
            dist.all_gather_object(every, mine)
        for rank, failure in enumerate(every):
            if failure is None:
                continue
            if own is not None and rank == self.rank:
                raise own
            raise FailedElsewhere(rank, *failure) from own

    def lead(self, work: Callable[[], Thing]) -> Thing:
        """One broadcast of what it gives, pickled."""
        given: Thing | None = None
        with self.together():
            if self.leads:
                given = work()
        return self._from_the_leader(given)

    def gather(self, thing: Thing) -> list[Thing]:
        """By pickle."""
        things: list[Thing] = [thing] * self.size if self.leads else []
        with _told():
            dist.gather_object(thing, things if self.leads else None)
        return things

    def wait(self) -> None:
        """A barrier, over gloo also where gradients go by NCCL."""
        with _told():
            dist.all_gather_object([None] * self.size, None)

    def figures(self) -> Mapping[str, int | float | str]:
        """How many, and the time until the last one had come and the mean was there."""
        return {"trainers": self.size, "averaging_seconds": self._seconds}

    def _from_the_leader(self, thing: Thing | None) -> Thing:
        box = [thing]
        with _told():
            dist.broadcast_object_list(box, src=0)
        return box[0]  # pyright: ignore[reportReturnType] - the leader's, who has one


def present_team() -> Team:
    """All processes of torch.distributed's default group; alone if there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Solo()
    place = Place(
        number=_number("LOCAL_RANK", dist.get_rank()),
        of=_number("LOCAL_WORLD_SIZE", dist.get_world_size()),
    )
    return Several(place=place, launch=_launch())


def check_size(team: Team, trainers: int, command: str) -> None:
    """Refuse a team of another size than the run's. Raises `ConfigError`, which has the command."""
    if team.size != trainers:
        raise ConfigError(
            f"this run needs {trainers} trainer{'s' if trainers > 1 else ''}, because each has its "
            f"own part of every batch and of the checkpoint; got {team.size}. Take: {command}"
        )


def launched() -> int:
    """How many trainers torchrun, or whoever sets its environment, started together.

    Raises `ConfigError` if the environment says what cannot be.
    """
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the trainers that were started together, while the block lasts.

    Raises `TrainerLost` if the others cannot be reached.
    """
    if launched() == 1:
        yield
        return
    # Some functions of this module take the default group as the default of an argument, as it is
    # when the module is imported. An import after the group exists, by the first optimizer say,
    # would keep the group and its threads alive while the interpreter ends, which can abort it.
    import_module("torch.distributed.nn.functional")
    with _told():
        store, rank, size = next(rendezvous("env://"))
        # A launcher's store outlives a restart, and with it the addresses of those who are gone.
        own = PrefixStore(f"attempt {_number('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=own, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Say in a sentence what torch.distributed found."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = _SOURCE.sub("", str(error)).strip().splitlines() or [type(error).__name__]
        raise TrainerLost(lines[0].split(". ")[0][:REASON]) from error


def _on_cpu(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in network.state_dict().items()}


def _launch() -> Launch:
    """A launcher is known by its run's id, or by its process where that was left at its default.

    With an id of one's own the leader of a later start may be another machine's.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return Launch()
    by = f"process {os.getppid()}" if run == "none" else f"run {run}"
    return Launch(by, _number("TORCHELASTIC_RESTART_COUNT", 0) > 0)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise ConfigError(
            f"{name} must be a number, because it says which of several trainers this is; the "
            f"environment has {text!r}. Start them with torchrun, or unset it."
        )
    return int(text)
