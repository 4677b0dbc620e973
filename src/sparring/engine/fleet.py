"""Several trainers on paper, each with workers of its own, that update together.

Each trainer's part of a global batch is one batch. Gradients are averaged by an all-reduce once an
update, so an update begins when every trainer has its batch: the slowest makes all wait. Broker and
engine of each are the real ones. Units: seconds of the virtual clocks; rates in batches a second,
of all trainers together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring.engine.simulation import Played, Simulation, TrainerOnPaper, silent
from sparring.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """One run of trainers that update together."""

    trainers: tuple[Simulation, ...]
    """Each with its workers; all train as many tickets."""
    all_reduce: float = 0.0
    """Seconds by which the exchange of gradients lengthens every update."""

    def __post_init__(self) -> None:
        """Refuse what cannot update together."""
        tickets = {run.tickets for run in self.trainers}
        if len(tickets) != 1:
            given = ", ".join(map(str, sorted(tickets))) or "no trainer"
            raise ConfigError(
                "a fleet must have a trainer or more, all of as many tickets, because they update "
                f"together; got {given}. Give them the same number."
            )
        if not 0 <= self.all_reduce < float("inf"):
            raise ConfigError(
                f"all_reduce must be a time of 0 seconds or more; got {self.all_reduce:g}."
            )

    @classmethod
    def even(cls, run: Simulation, trainers: int, *, all_reduce: float = 0.0) -> "Fleet":
        """So many trainers like this one; slow workers are spread evenly over all of them."""
        each = (
            replace(
                run, seed=run.seed + place, numbered_from=run.numbered_from + place * run.workers
            )
            for place in range(trainers)
        )
        return cls(trainers=tuple(each), all_reduce=all_reduce)

    def play(self) -> "FleetPlayed":
        """Let it happen. Cost: 0.1 ms a ticket of each trainer, here."""
        with silent():
            return self._play()

    def _play(self) -> "FleetPlayed":
        trainers = [TrainerOnPaper(run) for run in self.trainers]
        ends: list[float] = []
        idle = 0.0
        while all([trainer.fetch() for trainer in trainers]):  # every one of them, so a list
            begin = max(trainer.clock.now for trainer in trainers)
            for trainer in trainers:
                idle += begin - trainer.clock.now
                trainer.clock.now = begin
                trainer.update(self.all_reduce)
            ends.append(max(trainer.clock.now for trainer in trainers))
        seconds = max(trainer.clock.now for trainer in trainers)
        helped = sum(trainer.engine.timings.help for trainer in trainers)
        return FleetPlayed(
            seconds=seconds,
            barrier=idle / (seconds * len(trainers)),
            help=helped / (seconds * len(trainers)),
            ends=tuple(ends),
            trainers=tuple(trainer.played() for trainer in trainers),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetPlayed:
    """What came of it."""

    seconds: float
    """How long the run took."""
    barrier: float
    """Share of the trainers' time for which they had their batch and others had not."""
    help: float
    """Share of the trainers' time for which they attacked themselves."""
    ends: tuple[float, ...]
    """When each update ended."""
    trainers: tuple[Played, ...]
    """Each trainer by itself."""

    def rate(self, first: int, last: int) -> float:
        """Batches a second from the end of update `first` to that of `last`, from 0."""
        return len(self.trainers) * (last - first) / (self.ends[last] - self.ends[first])

    def ages(self, first: int, last: int) -> Sequence[int]:
        """Staleness of every batch of these updates, in updates."""
        return [
            ticket - version
            for trainer in self.trainers
            for ticket, version in trainer.trace[first:last]
        ]

    @property
    def wait(self) -> float:
        """Share of the trainers' time for which they waited for their own batch."""
        return sum(trainer.trainer_wait for trainer in self.trainers) / len(self.trainers)

    @property
    def worker_busy(self) -> float:
        """Share of the workers' time that went into attacks that they finished."""
        return sum(trainer.worker_busy for trainer in self.trainers) / len(self.trainers)
