"""Several trainers, each a process, that synchronise by torch.distributed.

What ends one trainer ends the others with an error message: an error by `together`, the death of a
process by its connections. On the CPU the backend is gloo. On CUDA, which is untested, it is NCCL
for gradients and gloo for everything else.

Units: seconds are wall-clock.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from typing_extensions import override

from sparring.errors import ConfigError, DataError, FailedElsewhere, SparringError, TrainerLost
from sparring.loader import Place
from sparring.models import bits, chosen_device
from sparring.records.environment import number_from_environment
from sparring.records.run import DataIdentity
from sparring.records.text import counted
from sparring.training.gradient_share import REQUESTS
from sparring.training.team import SIGNALS, Launch, SingleProcess, StopRequest, Team

Thing = TypeVar("Thing")
REASON = 120
"""Characters of an error of torch.distributed that are kept."""
_SOURCE = re.compile(r"\[\S+\.cc:\d+\] ")
"""A place in gloo's source, as its errors begin."""


@dataclass(kw_only=True, slots=True)
class DistributedTeam(Team):
    """All processes of torch.distributed's default group, as seen by this one."""

    rank: int = field(default_factory=dist.get_rank)
    size: int = field(default_factory=dist.get_world_size)
    place: Place
    launch: Launch = field(default_factory=Launch)
    _heard: Signals | None = None
    _stop: StopRequest = field(default_factory=StopRequest)
    _seconds: float = 0.0

    @property
    @override
    def heard(self) -> Signals | None:
        return self._heard

    @override
    def attend(self, stop: StopRequest) -> None:
        self._stop = stop

    @override
    def stopped(self) -> bool:
        # Never without the others. But a third request must end a trainer that still waits.
        self._stop.relent()
        return False

    @override
    def device(self, name: str) -> torch.device:
        kind = chosen_device(name)
        if kind.type != "cuda":
            return kind
        if kind.index is not None:
            raise ConfigError.expected(
                "device must be auto, cuda or cpu for several trainers", name, "Leave it at auto."
            )
        mine = chosen_device(f"cuda:{self.place.number}")
        torch.cuda.set_device(mine)
        return mine

    @override
    def mean(self, flat: Tensor) -> Tensor:
        # One all-reduce: `flat` goes twice over the wire, whatever the team's size.
        begun = time.perf_counter()
        requests = [float(self._stop.signal == number) for number in SIGNALS]
        flat[-REQUESTS:] = flat.new_tensor(requests)
        with _connection_errors():
            dist.all_reduce(flat)
        flat.div_(self.size)
        asked = flat[-REQUESTS:].tolist()
        self._heard = next((number for number, by in zip(SIGNALS, asked, strict=True) if by), None)
        self._seconds = time.perf_counter() - begun
        return flat

    @override
    def align(self, network: nn.Module) -> None:
        network.load_state_dict(self._from_the_leader(_on_cpu(network) if self.leads else None))

    @override
    @contextmanager
    def together(self) -> Iterator[None]:
        own: SparringError | None = None
        try:
            yield
        except SparringError as error:
            own = error
        mine = own and (str(own), own.exit_code)
        every: list[tuple[str, int] | None] = [None] * self.size
        with _connection_errors():
            dist.all_gather_object(every, mine)
        for rank, failure in enumerate(every):
            if failure is None:
                continue
            if own is not None and rank == self.rank:
                raise own
            raise FailedElsewhere(rank, *failure) from own

    @override
    def lead(self, work: Callable[[], Thing]) -> Thing:
        found: Thing | None = None
        with self.together():
            if self.leads:
                found = work()
        return self._from_the_leader(found)

    @override
    def gather(self, thing: Thing) -> list[Thing]:
        things: list[Thing] = [thing] * self.size if self.leads else []
        with _connection_errors():
            dist.gather_object(thing, things if self.leads else None)
        return things

    @override
    def wait(self) -> None:
        # Not `barrier`, which is NCCL's where gradients are.
        with _connection_errors():
            dist.all_gather_object([None] * self.size, None)

    @override
    def figures(self) -> Mapping[str, int | float | str]:
        return {"trainers": self.size, "averaging_seconds": self._seconds}

    def _from_the_leader(self, thing: Thing | None) -> Thing:
        box = [thing]
        with _connection_errors():
            dist.broadcast_object_list(box, src=0)
        return box[0]  # pyright: ignore[reportReturnType] - rank 0 has one


def present_team() -> Team:
    """The team of torch.distributed's default group; of this process alone if there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return SingleProcess()
    place = Place.local(dist.get_rank(), dist.get_world_size())
    return DistributedTeam(place=place, launch=_launch())


def check_size(team: Team, trainers: int, command: str) -> None:
    """Raise `ConfigError`, with the right command, for a team of another size than the run's."""
    if team.size != trainers:
        rule = f"this run needs {counted(trainers, 'trainer')}"
        raise ConfigError.expected(rule, team.size, f"Take: {command}")


def launched() -> int:
    """The number of trainers by torchrun's environment variables.

    Raises `ConfigError` for a variable that is not a number.
    """
    return number_from_environment("WORLD_SIZE", 1) if "RANK" in os.environ else 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group of all trainers for the block; does nothing for a single one.

    Raises `TrainerLost` if the others cannot be reached.
    """
    if launched() == 1:
        yield
        return
    # Functions of this module bind the default group as a default argument at import. A later
    # import, as by the first optimizer, would keep the group and its threads alive while the
    # interpreter ends, which can abort it.
    import_module("torch.distributed.nn.functional")
    with _connection_errors():
        store, rank, size = next(rendezvous("env://"))
        # A launcher's store outlives a restart, and keeps the addresses of processes that ended.
        own = PrefixStore(
            f"attempt {number_from_environment('TORCHELASTIC_RESTART_COUNT', 0)}", store
        )
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=own, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn an error of torch.distributed into a `TrainerLost` with its first sentence."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = _SOURCE.sub("", str(error)).strip().splitlines() or [type(error).__name__]
        raise TrainerLost(lines[0].split(". ")[0][:REASON]) from error


def check_same_data(team: Team, known: DataIdentity) -> None:
    """Raise `DataError` on a trainer with another digest of data than rank 0, and on all others
    `FailedElsewhere`.
    """
    if team.size == 1:
        return
    theirs = team.lead(lambda: known)
    with team.together():
        if known.digest != theirs.digest:
            what = "; ".join(theirs.differences(known))
            raise DataError.expected(
                "all trainers must have the same data",
                f"other data on trainer {team.rank} than on trainer 0: different are {what}",
                "Copy one set to every machine.",
            )


def other_weights(team: Team, network: nn.Module) -> list[int]:
    """On rank 0, the trainers whose weights differ from those of rank 0 in any bit.

    Empty if all machines compute alike. Cost: one pass over the weights.
    """
    if team.size == 1:
        return []
    digests = team.gather(_digest(network.state_dict().values()))
    return [rank for rank, digest in enumerate(digests) if digest != digests[0]]


def _digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of all their bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(bits(tensor).numpy().tobytes())
    return found.hexdigest()


def _on_cpu(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in network.state_dict().items()}


def _launch() -> Launch:
    """The launcher by its run's id, or by its process where the id was left at its default.

    With an id of your own, rank 0 may be on another machine after a restart.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return Launch()
    by = f"process {os.getppid()}" if run == "none" else f"run {run}"
    return Launch(by, number_from_environment("TORCHELASTIC_RESTART_COUNT", 0) > 0)
